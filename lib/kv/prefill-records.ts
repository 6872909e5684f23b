// A sender that does not wait until it has read everything: what is read goes on its way while the rest is being read.
import { checkInteger, checkKeys, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import type { PrefillInput, Sequence } from "../models/sequence.js";
import type { Latent } from "../spaces/latent.js";
import type { Tensor } from "../tensor.js";
import { chunkPositions } from "./chain.js";
import { codecsOf, type KvCodecName } from "./codec.js";
import { checkBufferBytes, checkLabel } from "./handle.js";
import type { Kvtc } from "./kvtc.js";
import { notesOf, RecordStream } from "./records.js";
import { signerOf, type KvSigner } from "./signature.js";

/** What {@link Sequence.prefillRecords} reads: its positions are known before they are read. */
export type PrefillText = Exclude<PrefillInput, Latent | Tensor>;

/** Options of {@link Sequence.prefillRecords}. */
export interface PrefillRecordsOptions {
  /** The first position that is sent. Default 0: all that the sequence holds in the end. */
  readonly from?: number;
  /** A name for people, at most 1024 characters; it travels along. */
  readonly label?: string;
  /** Size of the buffers that are yielded; a single record may be larger. Default 1 MiB. */
  readonly bufferBytes?: number;
  /** In which codec it travels; a plug-in does not work here. Default: as the cache has it. */
  readonly codec?: KvCodecName | Kvtc;
  /** Default: no signature. */
  readonly sign?: KvSigner;
  /** Of the prefill, as in {@link PrefillOptions}. */
  readonly priority?: number;
  readonly signal?: AbortSignal;
}

const nothingHeld = new Uint8Array(0);

/** @internal */
export async function* prefillRecords(
  sequence: Sequence,
  input: PrefillText,
  options: PrefillRecordsOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  checkKeys("options", options, ["from", "label", "bufferBytes", "codec", "sign", "priority", "signal"]);
  const before = sequence.length;
  const from = checkInteger("from", fallback(options.from, 0), 0, before);
  const priority = checkInteger("priority", fallback(options.priority, 0), -1000, 1000);
  const label = checkLabel(fallback(options.label, ""));
  const bufferBytes = checkBufferBytes(options.bufferBytes);
  if (options.sign !== undefined) signerOf(options.sign);
  const codecs = codecsOf(options.codec, sequence.pool.model.info.layers, sequence.pool.kvIdentity);
  if (codecs.plugins.size > 0 || typeof options.codec === "function") throw invalid("codec", "a built-in codec or a Kvtc", options.codec);
  const tokens = sequence.tokensOf(input);
  const { batch, contextLength } = sequence.pool.info;
  // before the first byte: a stream that cannot end is of no use to anybody
  if (sequence.nextPosition + tokens.length > contextLength) {
    throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `${tokens.length} more positions do not fit in the context of ${contextLength}`, {
      details: { need: sequence.nextPosition + tokens.length, have: contextLength },
    });
  }

  const left = new AbortController();
  const signal = options.signal === undefined ? left.signal : AbortSignal.any([options.signal, left.signal]);
  const step = Math.max(chunkPositions, Math.floor(batch / chunkPositions) * chunkPositions);
  let stream: RecordStream | undefined;
  let reading: Promise<unknown> | undefined;
  let read = before;
  try {
    using held = await sequence.exportKv({ range: { from, to: before }, label, signal });
    const entries = before + tokens.length - from;
    const notes = notesOf(
      label,
      options.sign === undefined ? undefined : options.codec === undefined ? Math.min(held.mixedFrom, entries) : 0,
    );
    stream = new RecordStream(held, { entries, notes, sign: options.sign, bufferBytes, codecs: codecs.native });
    while (read < before + tokens.length) {
      // chunks of the stream end where pieces do, so that each piece can be sent whole
      const to = Math.min(read + step - ((read - from) % chunkPositions), before + tokens.length);
      reading = sequence.prefill(tokens.subarray(read - before, to - before), { priority, signal });
      reading.catch(() => undefined); // it is awaited below, unless the consumer leaves
      yield* stream.write(nothingHeld, signal);
      await reading;
      requireSame(sequence.length, to);
      using piece = await sequence.exportKv({ range: { from: read, to }, ...withSignal(signal) });
      // the stream says of itself what this sequence was meant to read
      requireSame(piece.mixedFrom, held.mixedFrom === Number.POSITIVE_INFINITY ? Number.POSITIVE_INFINITY : 0);
      stream.append(piece.toNative());
      read = to;
    }
    yield* stream.write(nothingHeld, signal);
  } finally {
    stream?.dispose();
    if (read < before + tokens.length) {
      left.abort();
      await reading?.catch(() => undefined);
      // what went wrong is what the caller hears of
      if (!sequence.disposed && sequence.length > before) await sequence.truncate(before).catch(() => undefined);
    }
  }
}

/** Between two pieces the sequence is not busy, and somebody else may have used it. */
function requireSame(found: number, wanted: number): void {
  if (found !== wanted) throw new LatentError("ERR_LATENT_SEQUENCE_BUSY", "the sequence was used for something else while it was sent");
}
