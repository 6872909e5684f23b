// One context and its scheduler: the sequences of a pool are decoded together and can hand cells to each other without moving a byte.
import type { Duplex } from "node:stream";
import { checkArray, checkInteger, checkKeys, checkNumber, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run, withSignal } from "../jobs.js";
import type { NativePool, NativePoolCounters, NativePoolInfo } from "../native-engine.js";
import { partOf, type KvPart, type KvPlugin } from "../kv/codec.js";
import type { DeviceKv, DeviceKvReference } from "../kv/device-kv.js";
import { KvHandle } from "../kv/handle.js";
import { kvIdentity, requireSameIdentity, type KvIdentity } from "../kv/identity.js";
import { Kvtc } from "../kv/kvtc.js";
import { keep, receiveOnce, type KvReceived, type KvReceiveOptions } from "../kv/link.js";
import { KvReceiver, type KvReadOptions, type KvReceiverOptions } from "../kv/receiver.js";
import { isSharedReference, type KvSharedReference } from "../kv/shared.js";
import type { KvVerifier } from "../kv/signature.js";
import type { KvSource } from "../kv/source.js";
import type { Model } from "./model.js";
import { Sequence } from "./sequence.js";

/** Number format of cached keys and values; `q8_0` and `q4_0` need a head dimension that is a multiple of 32. */
export type KvType = "f32" | "f16" | "bf16" | "q8_0" | "q4_0";

/** Exact counts since the pool was made. `refreshedPositions`: last positions decoded again because their outputs were out of date. */
export type PoolCounters = NativePoolCounters;

/** Facts of a pool. `kvBytesPerPosition`: bytes that one position takes in a saved state. */
export interface PoolInfo extends NativePoolInfo {
  readonly kvType: KvType;
}

/** Made by {@link Model.createPool}. A failure inside llama.cpp poisons this pool only: its calls then throw `ERR_LATENT_POOL_POISONED`. */
export class Pool {
  readonly info: PoolInfo;
  readonly #handle: NativePool;

  /** @internal */
  constructor(
    readonly model: Model,
    handle: NativePool,
    kvType: KvType,
  ) {
    this.#handle = handle;
    this.info = Object.freeze({ ...handle.info(), kvType });
  }

  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /** The counts as of the last decode call. */
  counters(): PoolCounters {
    return this.#handle.counters();
  }

  /**
   * A new, empty sequence.
   * @throws {@link LatentError} `ERR_LATENT_SEQUENCE_LIMIT`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_POOL_POISONED`
   */
  sequence(): Sequence {
    return new Sequence(this, LatentError.translate(() => this.#handle.createSequence()));
  }

  /** What content of this pool's sequences means; equal for every pool that can take it. */
  get kvIdentity(): KvIdentity {
    return kvIdentity(this.model.info, this.info.keyPositions);
  }

  /**
   * The receiving end of a stream of {@link KvHandle.records}; it can take a stream that breaks off and go on with the next. With `verify` it gives
   * away nothing but what was signed.
   * @throws {@link LatentError} `ERR_LATENT_KV_LAYOUT` (a cache that cannot be read), `ERR_LATENT_DISPOSED`
   */
  kvReceiver(options: KvReceiverOptions = {}): KvReceiver {
    if (this.disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the pool is disposed");
    const identity = this.kvIdentity;
    const fields = Object.entries(identity);
    return new KvReceiver(
      {
        identity,
        layers: this.model.info.layers,
        reader: (sealed, codecs) => this.#handle.kvReader(fields, sealed, codecs),
        segment: (name, nonce) => this.#handle.openKv(fields, name, nonce),
        deviceSegment: (handle, nonce) => this.#handle.openDeviceKv(fields, handle, nonce),
      },
      options,
    );
  }

  /**
   * Fits a {@link Kvtc} to what sequences of this model held: some thousand positions of text of the kind that it will carry, fewer for small models.
   * `bits` is what it may spend on a number, 0 to 8, the same for all layers or by a function (few for layers that matter little). The samples are
   * coded in as many bits; other content takes about that.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (fewer than 2 entries behind the first four of each sample, samples of several formats),
   * `ERR_LATENT_KV_MODEL_MISMATCH`, `ERR_LATENT_POSITION_SCHEME` (keys of this model cannot be turned back), `ERR_LATENT_KV_LAYOUT`,
   * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DISPOSED`
   */
  async fitKvtc(
    samples: readonly KvHandle[],
    options: { readonly bits: number | ((part: KvPart) => number); readonly signal?: AbortSignal },
  ): Promise<Kvtc> {
    checkKeys("options", options, ["bits", "signal"]);
    if (this.disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the pool is disposed");
    const identity = this.kvIdentity;
    for (const sample of checkArray("samples", samples)) {
      if (!(sample instanceof KvHandle)) throw invalid("samples", "an array of KvHandles", sample);
      requireSameIdentity(sample.identity, identity);
    }
    const { layers } = this.model.info;
    const bits = Float64Array.from({ length: 2 * layers }, (_, index) => {
      const of = typeof options.bits === "function" ? options.bits(partOf(index, layers)) : options.bits;
      return checkNumber("bits", of, 0, 8);
    });
    const fitted = LatentError.translate(() =>
      this.#handle.fitKvtc(
        samples.map((sample) => sample.toNative()),
        Object.entries(identity),
        bits,
      ),
    );
    return new Kvtc(await run(fitted, options.signal));
  }

  /**
   * Reads a whole stream of {@link KvHandle.records}, a file of {@link KvHandle.toBytes}, or what a reference of {@link KvHandle.share} names. All that
   * comes is verified, and held against this pool's model, before it is used.
   * @throws {@link LatentError} what {@link KvReceiver.read} throws, for a reference what {@link KvReceiver.open} throws
   */
  async readKv(source: KvSource | KvSharedReference, options: KvReadOptions & KvReceiverOptions = {}): Promise<KvHandle> {
    checkKeys("options", options, ["verify", "codecs", "idleMs", "signal"]);
    const { idleMs, signal, ...expected } = options;
    using receiver = this.kvReceiver(expected);
    const reading = { ...(idleMs !== undefined && { idleMs }), ...withSignal(signal) };
    return isSharedReference(source) ? await receiver.open(source, withSignal(signal)) : await receiver.read(source, reading);
  }

  /**
   * Takes the content of {@link DeviceKv.share} from the memory of the GPU: a copy, which stays there. All but the numbers is verified now, and the
   * numbers when they are imported.
   * @throws {@link LatentError} `ERR_LATENT_DEVICE_UNAVAILABLE`, `ERR_LATENT_DEVICE_LOST`, and what {@link KvReceiver.open} throws
   */
  async openDeviceKv(reference: DeviceKvReference, options: { readonly verify?: KvVerifier; readonly signal?: AbortSignal } = {}): Promise<DeviceKv> {
    checkKeys("options", options, ["verify", "signal"]);
    const { signal, ...expected } = options;
    using receiver = this.kvReceiver(expected);
    return await receiver.openOnDevice(reference, withSignal(signal));
  }

  /**
   * Takes what {@link sendKv} sends over a link: any Duplex, a Unix socket, TCP, a pipe to a child. Between processes of one host it comes through shared
   * memory, else as a stream of records. The sender learns that it was taken, or why not. To go on after a link that broke, use
   * {@link KvReceiver.receive}; to tell the sender only when the content lies in a sequence, {@link Sequence.receiveKv}.
   * @throws {@link LatentError} what {@link KvReceiver.receive} throws
   */
  async receiveKv(duplex: Duplex, options: KvReceiveOptions & KvReceiverOptions = {}): Promise<KvReceived> {
    const { verify, codecs, ...receiving } = options;
    const expected = { ...(verify !== undefined && { verify }), ...(codecs !== undefined && { codecs }) };
    return await receiveOnce(duplex, () => this.kvReceiver(expected), receiving, keep);
  }

  /**
   * A new sequence with the content of {@link Sequence.save}, from this or another process.
   * @throws {@link LatentError} what {@link Sequence.importKv} throws, and `ERR_LATENT_SEQUENCE_LIMIT`
   */
  async restore(
    bytes: Uint8Array,
    options: { readonly verify?: KvVerifier; readonly codecs?: readonly (Kvtc | KvPlugin)[]; readonly signal?: AbortSignal } = {},
  ): Promise<Sequence> {
    checkKeys("options", options, ["verify", "codecs", "signal"]);
    if (!(bytes instanceof Uint8Array)) throw invalid("bytes", "a Uint8Array", bytes);
    const sequence = this.sequence();
    try {
      await sequence.importKv(bytes, { positions: "keep", ...options });
      return sequence;
    } catch (error) {
      await sequence.dispose();
      throw error;
    }
  }

  /** @internal Refuses a request that can never fit. */
  requireRoom(positions: number, what: string): void {
    checkInteger("positions", positions, 0, Number.MAX_SAFE_INTEGER);
    if (positions > this.info.contextLength) {
      throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `${what} needs ${positions} positions, the pool has ${this.info.contextLength}`, {
        details: { need: positions, have: this.info.contextLength },
      });
    }
  }

  /** Stops the scheduler and frees the cache; what still runs ends with `ERR_LATENT_DISPOSED`. Idempotent. */
  async dispose(): Promise<void> {
    await run(this.#handle.dispose());
  }

  /** Same as {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }
}
