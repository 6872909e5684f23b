// The receiving end of a stream of records: it verifies each one as it comes, keeps what is whole when a sender is lost, and has nothing to
// use before the root has come.
import { Readable, type Duplex } from "node:stream";
import { setImmediate } from "node:timers/promises";
import { checkInteger, checkKeys, fallback } from "../check.js";
import { runOn } from "../devices.js";
import { LatentError } from "../errors.js";
import { run, withSignal } from "../jobs.js";
import type { NativeJob } from "../native.js";
import type { NativeDeviceKv, NativeFields, NativeKv, NativeKvReader, NativeSegmentName } from "../native-kv.js";
import { decodeOutside, knownCodecs, type KvPlugin, type ResolvedCodecs } from "./codec.js";
import { DeviceKv, devicePlaceOf, type DeviceKvReference } from "./device-kv.js";
import { KvHandle, labelLimit, sealOf } from "./handle.js";
import type { KvIdentity } from "./identity.js";
import type { Kvtc } from "./kvtc.js";
import { keep, receiveOver, repeatAnswer, type KvReceived, type KvReceiveOptions } from "./link.js";
import { placeOf, requireSameMachine, type KvSharedReference } from "./shared.js";
import { verifierOf, type KvVerifier } from "./signature.js";
import { iteratorOf, requirePiece, type KvSource } from "./source.js";

/**
 * So much is verified at a time, a fraction of a millisecond unless it travels in a codec; after `turn` bytes, or `turnMs`, the event loop gets its
 * turn.
 */
const step = 64 << 10;
const turn = 1 << 20;
const turnMs = 4;

/** Options of {@link Pool.kvReceiver}. */
export interface KvReceiverOptions {
  /** Take only what one of these has signed. Default: whatever is sound. */
  readonly verify?: KvVerifier;
  /** Those that content may travel in besides the built-in ones. Default: none. */
  readonly codecs?: readonly (Kvtc | KvPlugin)[];
}

/** Options of {@link KvReceiver.read}. */
export interface KvReadOptions {
  /** The longest silence of the sender, in milliseconds. Default: no limit. */
  readonly idleMs?: number;
  readonly signal?: AbortSignal;
}

/** @internal What a receiver asks of its pool. */
export interface KvEntrance {
  readonly identity: KvIdentity;
  readonly layers: number;
  reader(sealed: boolean, codecs: ResolvedCodecs["native"]): NativeKvReader;
  segment(name: NativeSegmentName, nonce: Uint8Array): NativeJob<{ readonly kv: NativeKv; readonly notes: NativeFields }>;
  deviceSegment(handle: Uint8Array, nonce: Uint8Array): NativeJob<{ readonly kv: NativeDeviceKv; readonly notes: NativeFields }>;
}

/** Made by `pool.kvReceiver`. One stream at a time; after a lost one, the next goes on where it broke off. */
export class KvReceiver {
  readonly #reader: NativeKvReader;
  readonly #entrance: KvEntrance;
  readonly #codecs: ResolvedCodecs;
  readonly #verify: ((seal: Uint8Array, signature: Uint8Array) => void) | undefined;
  #reading = false;
  #taken = false;

  /** @internal */
  constructor(entrance: KvEntrance, options: KvReceiverOptions) {
    checkKeys("options", options, ["verify", "codecs"]);
    this.#codecs = knownCodecs(options.codecs, entrance.identity);
    this.#verify = options.verify === undefined ? undefined : verifierOf(options.verify);
    this.#reader = LatentError.translate(() => entrance.reader(this.#verify !== undefined, this.#codecs.native));
    this.#entrance = entrance;
  }

  /** True when all of the content has come and was verified. */
  get done(): boolean {
    return this.#reader.done;
  }

  /** Payload bytes of the whole records that came, without those that came twice. */
  get bytes(): number {
    return this.#reader.bytes;
  }

  /** @internal Those of {@link bytes} that are keys and values. */
  get tileBytes(): number {
    return this.#reader.tileBytes;
  }

  /** A bit a record: what a new stream of the same content may leave out ({@link KvRecordsOptions.held}). */
  held(): Uint8Array {
    return LatentError.translate(() => this.#reader.held());
  }

  /**
   * Reads a stream to the end of its source and resolves with the content. When it rejects, whole records are kept for the next stream; only a stream
   * whose signature does not hold costs all of them, and disposes the receiver.
   * @throws {@link LatentError} `ERR_LATENT_KV_TRUNCATED` (it ended early), `ERR_LATENT_KV_PEER_LOST` (it failed), `ERR_LATENT_KV_STALLED` (`idleMs`),
   * `ERR_LATENT_KV_FORMAT`, `ERR_LATENT_KV_CHECKSUM`, `ERR_LATENT_KV_VERSION`, `ERR_LATENT_KV_MODEL_MISMATCH`, `ERR_LATENT_KV_LAYOUT`,
   * `ERR_LATENT_KV_LIMIT`, `ERR_LATENT_KV_POSITION`, `ERR_LATENT_KV_CODEC`, `ERR_LATENT_KV_AUTH`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`
   */
  async read(source: KvSource, options: KvReadOptions = {}): Promise<KvHandle> {
    checkKeys("options", options, ["idleMs", "signal"]);
    const idleMs = checkInteger("idleMs", fallback(options.idleMs, 0), 0, 2 ** 31 - 1);
    this.#begin();
    let pieces: AsyncIterator<unknown> | Iterator<unknown> | undefined;
    let ended = false;
    try {
      LatentError.translate(() => {
        this.#reader.restart();
      });
      pieces = iteratorOf(source);
      // to its very end: what follows the root is an error wherever the pieces are cut
      for (let [unseen, since] = [0, performance.now()]; ;) {
        options.signal?.throwIfAborted();
        const piece = await within(pieces, idleMs, options.signal);
        ended = piece.done === true;
        if (ended) break;
        const bytes = requirePiece(piece.value);
        for (let at = 0; at < bytes.length; at += step) {
          this.#feed(bytes.subarray(at, at + step));
          unseen += step;
          if (unseen < turn && performance.now() - since < turnMs) continue;
          await setImmediate();
          [unseen, since] = [0, performance.now()];
          options.signal?.throwIfAborted();
        }
      }
      const { kv, notes, seal, signature } = LatentError.translate(() => this.#reader.finish());
      return await this.#give(this.#handleOf(kv, notes, false), () => seal, signature);
    } finally {
      this.#reading = false;
      if (!ended) leave(source, pieces);
    }
  }

  /**
   * Takes the content of {@link KvHandle.share} from the memory of its process: nothing is copied. All but the numbers is verified now, and the numbers
   * when they are imported.
   * @throws {@link LatentError} `ERR_LATENT_KV_UNREACHABLE` (another machine or container, no right to look into the process, gone, or not sealed), and
   * what {@link read} throws of content
   */
  async open(reference: KvSharedReference, options: { readonly signal?: AbortSignal } = {}): Promise<KvHandle> {
    checkKeys("options", options, ["signal"]);
    const place = placeOf(reference);
    this.#begin();
    try {
      requireSameMachine(place.machine);
      const opened = LatentError.translate(() => this.#entrance.segment(place.name, place.nonce));
      const { kv, notes } = await run(opened, options.signal);
      const handle = this.#handleOf(kv, notes, true);
      return await this.#give(handle, () => sealOf(handle, notes, options.signal), place.signature);
    } finally {
      this.#reading = false;
    }
  }

  /** @internal The same of {@link DeviceKv.share}: a copy on the GPU. A signature costs a copy to the host. */
  async openOnDevice(reference: DeviceKvReference, options: { readonly signal?: AbortSignal } = {}): Promise<DeviceKv> {
    const place = devicePlaceOf(reference);
    this.#begin();
    try {
      requireSameMachine(place.machine);
      const opened = LatentError.translate(() => this.#entrance.deviceSegment(place.handle, place.nonce));
      const { kv, notes } = await runOn("cuda", opened, options.signal);
      const content = new DeviceKv(kv, this.#entrance.identity, ...this.#saidOf(kv, notes));
      const seal = async (): Promise<Uint8Array> => {
        using host = await content.toHandle(withSignal(options.signal));
        return await sealOf(host, notes, options.signal);
      };
      return await this.#give(content, seal, place.signature);
    } finally {
      this.#reading = false;
    }
  }

  /**
   * Takes what {@link sendKv} sends over a link, by whatever way the two agree on. When the link breaks, whole records are kept, and the next link goes on
   * from there. Resolves with null if the content came before and only the answer to the sender was lost: the sender is told now.
   * @throws {@link LatentError} what {@link read} throws; `ERR_LATENT_KV_STALLED` also for `deadlineMs`
   */
  async receive(duplex: Duplex, options: KvReceiveOptions = {}): Promise<KvReceived | null> {
    return this.#taken ? await repeatAnswer(duplex, options) : await receiveOver(duplex, () => this, options, keep);
  }

  #begin(): void {
    if (this.#reading) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "this receiver is reading another stream");
    if (this.#taken) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "this receiver has already given its content away");
    this.#reading = true;
  }

  #handleOf(kv: NativeKv, notes: NativeFields, isShared: boolean): KvHandle {
    return new KvHandle(kv, this.#entrance.identity, ...this.#saidOf(kv, notes), isShared);
  }

  /** Label and `mixedFrom`, as the sender has them. */
  #saidOf(kv: NativeKv | NativeDeviceKv, notes: NativeFields): [string, number] {
    const noteOf = (wanted: string): string => notes.find(([name]) => name === wanted)?.[1] ?? "";
    // only who is known is believed: it decides what a store takes for content of its tokens
    const mixedFrom = this.#verify === undefined ? 0 : mixedFromOf(noteOf("asRead"), kv.info().positions);
    return [noteOf("label").slice(0, labelLimit), mixedFrom];
  }

  async #give<T extends { dispose(): void }>(kv: T, seal: () => Uint8Array | Promise<Uint8Array>, signature: Uint8Array): Promise<T> {
    if (this.#verify) {
      let sealed: Uint8Array | undefined;
      try {
        sealed = await seal();
        this.#verify(sealed, signature);
      } catch (error) {
        kv.dispose();
        // what was only aborted may come again
        if (sealed !== undefined) this.dispose();
        throw error;
      }
    }
    this.#taken = true;
    return kv;
  }

  #feed(bytes: Uint8Array): void {
    LatentError.translate(() => {
      this.#reader.feed(bytes);
      for (let tile = this.#reader.outside(); tile !== null; tile = this.#reader.outside())
        this.#reader.decoded(decodeOutside(this.#codecs.plugins.get(tile.codec), tile.bytes, tile, this.#entrance.layers));
    });
  }

  /** Frees what has come. Idempotent. */
  dispose(): void {
    this.#reader.dispose();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** From the sender's word on how many of the first entries were made by reading the ones before them, all of them and nothing else. */
function mixedFromOf(asRead: string, entries: number): number {
  if (!/^\d{1,10}$/.test(asRead)) return 0;
  return Number(asRead) >= entries ? Number.POSITIVE_INFINITY : Number(asRead);
}

/** A source that was left early may hold a socket or a file. While its next piece is awaited, its iterator would not listen, so nobody waits. */
function leave(source: unknown, pieces: AsyncIterator<unknown> | Iterator<unknown> | undefined): void {
  void Promise.resolve(pieces?.return?.()).catch(() => undefined);
  if (source instanceof Readable) source.destroy();
}

/** The next piece, unless the sender stays silent, fails, or the signal aborts. */
async function within(
  pieces: AsyncIterator<unknown> | Iterator<unknown>,
  idleMs: number,
  signal: AbortSignal | undefined,
): Promise<IteratorResult<unknown>> {
  let timer: NodeJS.Timeout | undefined;
  let abort: (() => void) | undefined;
  const stalled = new Promise<never>((_, reject) => {
    if (idleMs > 0) {
      timer = setTimeout(() => {
        reject(new LatentError("ERR_LATENT_KV_STALLED", `nothing came from the sender for ${idleMs} ms`, { details: { idleMs } }));
      }, idleMs);
    }
    abort = () => {
      reject(signal?.reason as Error);
    };
    signal?.addEventListener("abort", abort, { once: true });
  });
  const next = (async () => {
    try {
      return await pieces.next();
    } catch (cause) {
      if (LatentError.isInstance(cause)) throw cause;
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new LatentError("ERR_LATENT_KV_PEER_LOST", `the sender was lost: ${why}`, { cause });
    }
  })();
  try {
    return await Promise.race([next, stalled]);
  } finally {
    clearTimeout(timer);
    if (abort) signal?.removeEventListener("abort", abort);
    // whoever lost the race must not end the process
    next.catch(() => undefined);
  }
}
