// What a sequence holds, taken out of its cache: a handle to native memory that can be cut, joined, converted, sent, and given to another
// sequence of the same model.
import { constants } from "node:buffer";
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { checkInteger, checkKeys, checkOneOf, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import { native } from "../native.js";
import type { NativeFields, NativeKv, NativeKvInfo, NativeKvWriter } from "../native-kv.js";
import { Latent } from "../spaces/latent.js";
import type { Space } from "../spaces/space.js";
import { Tensor } from "../tensor.js";
import { chunkPositions } from "./chain.js";
import { codecsOf, encodeOutside, type KvCodecChoice, type ResolvedCodecs } from "./codec.js";
import { requireSameIdentity, type KvIdentity } from "./identity.js";
import { notesOf, RecordStream, type RecordStreamOptions } from "./records.js";
import { KvShared, machineIdentity, requireSameMachine } from "./shared.js";
import { signerOf, type KvSigner } from "./signature.js";

/** How numbers of keys and values are stored: `f32`, `f16`, `bf16`, or ggml's blocks of 32 with 8.5 (`q8_0`) or 4.5 bits a number (`q4_0`). */
export type KvFormat = "f32" | "f16" | "bf16" | "q8_0" | "q4_0";

/** @internal */
export const kvFormats: readonly KvFormat[] = ["f32", "f16", "bf16", "q8_0", "q4_0"];

/** Rows of keys or values of a layer. `rotation`: block of the Walsh-Hadamard rotation that they are stored under, 0 for none. */
export interface KvRows {
  readonly format: KvFormat;
  /** Numbers of a row, of all heads. */
  readonly channels: number;
  readonly rotation: number;
}

/** Facts of a {@link KvHandle}. */
export interface KvInfo {
  readonly positions: number;
  /** Positions that hold a latent instead of a token. */
  readonly latents: number;
  /** Of keys and values. */
  readonly bytes: number;
  /** Whether layers of the model are left out: then no cache takes it. */
  readonly partial: boolean;
  /** In the order of the model; `layer` is the number of each, from 0. Some may be left out ({@link ExportKvOptions.layers}). */
  readonly layers: readonly { readonly layer: number; readonly keys: KvRows; readonly values: KvRows }[];
}

/** Where a part of a sequence lies, `to` excluded. */
export interface KvRange {
  readonly from: number;
  readonly to: number;
}

/** Keys or values of one layer for up to 256 neighbouring positions: one tile of the stream. */
export interface KvTile extends KvRange {
  readonly layer: number;
  readonly part: "keys" | "values";
  /**
   * The numbers, f32 `[to - from, channels]`, rotary positions in keys as they are.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  tensor(): Promise<Tensor>;
}

/** What a handle is called in logs and JSON: small, and not enough to use it. */
export interface KvReference extends Omit<KvInfo, "layers" | "partial"> {
  readonly kind: "kv";
  readonly layers: number;
  readonly format: KvFormat;
  readonly label: string;
  readonly identity: KvIdentity;
}

/** Content on its way to another thread of this process: a plain object for `postMessage`. Made by {@link KvHandle.ticket}. */
export interface KvTicket {
  readonly kind: "kv-ticket";
  readonly ticket: string;
  readonly label: string;
  readonly identity: KvIdentity;
  readonly mixedFrom: number;
}

/** Made by `sequence.exportKv` and `pool.readKv`. */
export class KvHandle {
  readonly #handle: NativeKv;
  /** What the numbers mean; equal in every pool that can take them. */
  readonly identity: KvIdentity;
  /** What the sender called it; "" if nothing. It decides about nothing, and travels along. */
  readonly label: string;
  /** How many positions, in which formats, how many bytes. */
  readonly info: KvInfo;

  /** @internal The first entry of which it is not known that it was made by reading the entries before it, all of them and nothing else. */
  readonly mixedFrom: number;

  /** @internal Whether its rows lie in memory that another process filled. */
  readonly isShared: boolean;

  /** @internal */
  constructor(handle: NativeKv, identity: KvIdentity, label: string, mixedFrom = Number.POSITIVE_INFINITY, isShared = false) {
    this.#handle = handle;
    this.identity = identity;
    this.label = label;
    this.mixedFrom = mixedFrom;
    this.isShared = isShared;
    const info: NativeKvInfo = handle.info();
    this.info = Object.freeze(info);
  }

  /**
   * The content of a ticket, in whatever thread of the process it was made in: the same memory, and nothing is copied.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED` (the handle that made it is disposed, or lives in another process)
   */
  static fromTicket(ticket: KvTicket): KvHandle {
    checkKeys("ticket", ticket, ["kind", "ticket", "label", "identity", "mixedFrom"]);
    checkOneOf("ticket.kind", ticket.kind, ["kv-ticket"]);
    const name = checkString("ticket.ticket", ticket.ticket);
    if (typeof ticket.mixedFrom !== "number") throw invalid("ticket.mixedFrom", "a number", ticket.mixedFrom);
    const kv = LatentError.translate(() => native().kvOfTicket(name));
    return new KvHandle(kv, Object.freeze({ ...ticket.identity }), checkLabel(ticket.label), ticket.mixedFrom);
  }

  /**
   * For another thread: pass it to a worker and call {@link KvHandle.fromTicket} there. It keeps nothing alive, so hold on to this handle until the
   * other thread has its own.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`
   */
  ticket(): KvTicket {
    const ticket = LatentError.translate(() => this.#handle.ticket());
    return { kind: "kv-ticket", ticket, label: this.label, identity: this.identity, mixedFrom: this.mixedFrom };
  }

  /** Positions held. */
  get length(): number {
    return this.info.positions;
  }

  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /** Token ids; -1 where a latent stands. */
  tokens(): Int32Array {
    return LatentError.translate(() => this.#handle.tokens());
  }

  /** The positions that the keys are turned to. */
  positions(): Int32Array {
    return LatentError.translate(() => this.#handle.positions());
  }

  /** @internal The latents among the entries, in order; null if there are none. */
  latents(space: Space): Latent | null {
    const rows = LatentError.translate(() => this.#handle.rows());
    return rows === null ? null : new Latent(space, "embeds", Tensor.fromNative(rows));
  }

  /** The tiles, chunk by chunk of 256 positions, in the order of the layers. No number is copied before {@link KvTile.tensor}. */
  *tiles(): Generator<KvTile, void, undefined> {
    for (let from = 0; from < this.length; from += chunkPositions) {
      const to = Math.min(from + chunkPositions, this.length);
      for (const [place, { layer }] of this.info.layers.entries()) {
        for (const [index, part] of (["keys", "values"] as const).entries()) {
          const tensor = async (): Promise<Tensor> =>
            Tensor.fromNative(await run(LatentError.translate(() => this.#handle.part(2 * place + index, from, to))));
          yield { layer, part, from, to, tensor };
        }
      }
    }
  }

  /** The same entries [from, to) as a handle of their own: no key or value is copied, and the memory of all of them is kept. */
  slice(range: KvRange): KvHandle {
    const { from, to } = this.#range(range);
    return this.#with(
      LatentError.translate(() => this.#handle.slice(from, to)),
      Math.max(0, this.mixedFrom - from),
    );
  }

  /** All but the entries [from, to); no key or value is copied. Their neighbours keep their positions, with a gap between; import them `at` or `append` to close it. */
  drop(range: KvRange): KvHandle {
    const { from, to } = this.#range(range);
    using before = this.slice({ from: 0, to: from });
    using behind = this.slice({ from: to, to: this.length });
    return before.concat(behind);
  }

  /**
   * This and then `next`; no key or value is copied. Neither has read the other: the joint content is an approximation of having read both.
   * @throws {@link LatentError} `ERR_LATENT_KV_MODEL_MISMATCH`, `ERR_LATENT_KV_LAYOUT` (another format: see {@link convert}; or other layers)
   */
  concat(next: KvHandle): KvHandle {
    if (!(next instanceof KvHandle)) throw invalid("next", "a KvHandle", next);
    requireSameIdentity(next.identity, this.identity);
    const mixedFrom = this.length === 0 ? next.mixedFrom : next.length === 0 ? this.mixedFrom : Math.min(this.mixedFrom, this.length);
    return this.#with(
      LatentError.translate(() => this.#handle.concat(next.#handle)),
      mixedFrom,
    );
  }

  /**
   * Puts the content into memory that other processes of this host can take it from, by a small reference and without a copy of theirs. It is sealed:
   * nobody can change it any more. Linux only, and for processes of the same user and container; what {@link records} send goes everywhere. The
   * memory goes with its last user, however that one ends.
   * @throws {@link LatentError} `ERR_LATENT_KV_UNREACHABLE` (not on this system), `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DISPOSED`
   */
  async share(options: { readonly sign?: KvSigner; readonly signal?: AbortSignal } = {}): Promise<KvShared> {
    checkKeys("options", options, ["sign", "signal"]);
    const sign = options.sign === undefined ? undefined : signerOf(options.sign);
    const machine = machineIdentity();
    requireSameMachine(machine);
    const nonce = randomBytes(16);
    const notes = notesFor(this, sign !== undefined);
    const shared = LatentError.translate(() => native().kvSegment(this.#handle, Object.entries(this.identity), notes, nonce));
    const segment = await run(shared, options.signal);
    try {
      const signature = sign === undefined ? new Uint8Array(0) : sign(await sealOf(this, notes, options.signal));
      return new KvShared(segment, machine, nonce, signature);
    } catch (error) {
      segment.dispose();
      throw error;
    }
  }

  /**
   * A copy with numbers of another format; what has it already keeps its bits. Quantised rows are rotated as llama.cpp does it (Walsh-Hadamard, where
   * heads are multiples of 64), so that a large channel does not take the precision of its neighbours.
   * @throws {@link LatentError} `ERR_LATENT_NON_FINITE` (a number that the format cannot hold), `ERR_LATENT_INVALID_ARGUMENT` (rows that are no whole blocks)
   */
  async convert(format: KvFormat, options: { readonly signal?: AbortSignal } = {}): Promise<KvHandle> {
    checkOneOf("format", format, kvFormats);
    checkKeys("options", options, ["signal"]);
    return this.#with(
      await run(
        LatentError.translate(() => this.#handle.convert(format)),
        options.signal,
      ),
      // what was rounded is not what was read
      isOfFormat(this.info, format) ? this.mixedFrom : 0,
    );
  }

  /** @internal One more handle to the same content, for another owner; no bytes move. */
  alias(): KvHandle {
    return this.slice({ from: 0, to: this.length });
  }

  /** @internal Some layers only, by their numbers, ascending; no key or value is copied. */
  select(layers: readonly number[]): KvHandle {
    return this.#with(
      LatentError.translate(() => this.#handle.select(Int32Array.from(layers))),
      this.mixedFrom,
    );
  }

  /** A small reference for logs; the content itself goes by {@link KvHandle.records}. */
  toJSON(): KvReference {
    const { positions, latents, bytes, layers } = this.info;
    const format = layers[0]?.keys.format ?? "f16";
    return { kind: "kv", positions, latents, bytes, layers: layers.length, format, label: this.label, identity: this.identity };
  }

  /** @internal */
  [inspect.custom](): string {
    const { positions, latents, bytes, layers, format } = this.toJSON();
    const state = this.disposed ? ", disposed" : "";
    return `KvHandle { ${positions} positions (${latents} latents), ${layers} layers of ${format}, ${bytes} bytes${state} }`;
  }

  /** @internal */
  toNative(): NativeKv {
    return this.#handle;
  }

  /** Frees the memory, unless another handle shares it. Idempotent. */
  dispose(): void {
    this.#handle.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #with(handle: NativeKv, mixedFrom: number): KvHandle {
    return new KvHandle(handle, this.identity, this.label, mixedFrom, this.isShared);
  }

  #range(range: KvRange): KvRange {
    checkKeys("range", range, ["from", "to"]);
    const to = checkInteger("to", range.to, 0, this.length);
    return { from: checkInteger("from", range.from, 0, to), to };
  }

  /**
   * The content as a stream of verified records (docs/kv-transfer.md has the format), in buffers of about `bufferBytes`; iterate over it, or pass
   * it to `Readable.from`. Nothing is written before it is asked for, so a slow reader holds the writer back. Records of which the receiver says
   * that it holds them already ({@link KvReceiver.held}) are left out. With `sign`, the stream says who made it. With `codec`, keys and values travel
   * in fewer bytes, and arrive as about what they were; records of one content must then be of one codec.
   * @throws {@link LatentError} `ERR_LATENT_DISPOSED`, `ERR_LATENT_INVALID_ARGUMENT` (also for rows that the codec has no blocks for),
   * `ERR_LATENT_NON_FINITE` (numbers that the codec cannot hold), `ERR_LATENT_KV_MODEL_MISMATCH` (a {@link Kvtc} of another model),
   * `ERR_LATENT_KV_LIMIT` (a plug-in made more bytes than a receiver takes)
   */
  async *records(options: KvRecordsOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    yield* this.recordsIn(options, false);
  }

  /** @internal The same; with `reuse`, in memory that is used again from when the third one after it is asked for. */
  async *recordsIn(options: KvRecordsOptions, reuse: boolean): AsyncGenerator<Uint8Array, void, undefined> {
    yield* this.recordsOf(recordPlan(this, options), reuse);
  }

  /** @internal */
  async *recordsOf(plan: RecordPlan, reuse: boolean): AsyncGenerator<Uint8Array, void, undefined> {
    const { held, codecs, signal } = plan;
    const stream = new RecordStream(this, {
      ...plan.stream,
      reuse,
      ...(codecs.plugins.size > 0 && { encode: (writer, from, to) => this.#encodeOutside(writer, from, to, codecs, signal) }),
    });
    try {
      yield* stream.write(held, signal);
    } finally {
      stream.dispose();
    }
  }

  async #encodeOutside(
    writer: NativeKvWriter,
    from: number,
    to: number,
    { plugins, native: codecs }: ResolvedCodecs,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    for (const place of LatentError.translate(() => writer.outside(from, to))) {
      const codec = codecs[place.part];
      const name = typeof codec === "object" && codec !== null && "outside" in codec ? codec.outside : "";
      using numbers = Tensor.fromNative(
        await run(
          LatentError.translate(() => this.#handle.part(place.part, place.from, place.to)),
          signal,
        ),
      );
      const bytes = encodeOutside(plugins.get(name), numbers.toFloat32(), place, this.info.layers.length);
      LatentError.translate(() => {
        writer.provide(place.record, bytes);
      });
    }
  }

  /**
   * All of {@link records} in one piece: a file of the content.
   * @throws {@link LatentError} `ERR_LATENT_KV_LIMIT` (larger than a buffer can be: write the records to a file instead)
   */
  async toBytes(
    options: { readonly codec?: KvCodecChoice; readonly sign?: KvSigner; readonly signal?: AbortSignal } = {},
  ): Promise<Uint8Array> {
    checkKeys("options", options, ["codec", "sign", "signal"]);
    const pieces: Uint8Array[] = [];
    let size = 0;
    for await (const piece of this.records({ ...options, bufferBytes: 64 << 20 })) {
      pieces.push(piece);
      size += piece.length;
      if (size > constants.MAX_LENGTH)
        throw new LatentError("ERR_LATENT_KV_LIMIT", `more than the ${constants.MAX_LENGTH} bytes that a buffer can hold`);
    }
    const [only] = pieces;
    return pieces.length === 1 && only !== undefined ? only : Buffer.concat(pieces, size);
  }
}

/** Options of {@link KvHandle.records}. */
export interface KvRecordsOptions {
  /** What a receiver holds already, {@link KvReceiver.held}. Default: nothing. */
  readonly held?: Uint8Array;
  /** Size of the buffers that are yielded; a single record may be larger. Default 1 MiB. */
  readonly bufferBytes?: number;
  /** What keys and values travel in. Default: as they are stored. A fitted codec and a plug-in must be named to the receiver as well. */
  readonly codec?: KvCodecChoice;
  /** Default: no signature. The seal that is signed takes about twice the time of the rest. */
  readonly sign?: KvSigner;
  readonly signal?: AbortSignal;
}

/** @internal */
export interface RecordPlan {
  readonly stream: Omit<RecordStreamOptions, "encode" | "reuse">;
  readonly held: Uint8Array;
  readonly codecs: ResolvedCodecs;
  readonly signal: AbortSignal | undefined;
}

/** @internal Options of records, checked, and what a {@link RecordStream} is told of such content. */
export function recordPlan(
  kv: Described & { readonly info: KvInfo; readonly identity: KvIdentity },
  options: KvRecordsOptions,
): RecordPlan {
  checkKeys("options", options, ["held", "bufferBytes", "codec", "sign", "signal"]);
  const bufferBytes = checkBufferBytes(options.bufferBytes);
  const held = fallback(options.held, new Uint8Array(0));
  if (!(held instanceof Uint8Array)) throw invalid("held", "a Uint8Array", held);
  if (options.codec !== undefined && kv.info.partial)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "content of some layers only travels without a codec");
  const { sign, signal } = options;
  const codecs = codecsOf(options.codec, kv.info.layers.length, kv.identity);
  const notes = notesFor(kv, sign !== undefined, options.codec !== undefined);
  return { stream: { entries: kv.length, notes, sign, bufferBytes, codecs: codecs.native }, held, codecs, signal };
}

interface Described {
  readonly label: string;
  readonly mixedFrom: number;
  readonly length: number;
}

/** @internal What is said of a content besides its identity. What a codec has rounded is not what was read. */
export function notesFor(kv: Described, isSigned: boolean, isRounded = false): NativeFields {
  return notesOf(kv.label, isSigned ? (isRounded ? 0 : Math.min(kv.mixedFrom, kv.length)) : undefined);
}

/** @internal What a signature of this content signs, as its stream would have it. */
export async function sealOf(kv: KvHandle, notes: NativeFields, signal: AbortSignal | undefined): Promise<Uint8Array> {
  const writer = LatentError.translate(() => native().kvWriter(kv.toNative(), Object.entries(kv.identity), notes, true, kv.length, []));
  try {
    const passed = LatentError.translate(() => writer.passOver(0, writer.sizes().length - 1));
    await run(passed, signal);
    return writer.seal();
  } finally {
    writer.dispose();
  }
}

/**
 * @internal
 * In characters.
 */
export const labelLimit = 1024;

/** @internal */
export function checkBufferBytes(bytes: unknown): number {
  return checkInteger("bufferBytes", fallback(bytes, 1 << 20), 1, 1 << 30);
}

/** @internal Whether all keys and values are stored so. */
export function isOfFormat(info: KvInfo, format: KvFormat): boolean {
  return info.layers.every(({ keys, values }) => keys.format === format && values.format === format);
}

/** @internal */
export function checkLabel(label: unknown): string {
  const text = checkString("label", label);
  if (text.length > labelLimit) throw invalid("label", `at most ${labelLimit} characters`, text);
  return text;
}
