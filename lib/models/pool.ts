// One context and its scheduler: the sequences of a pool are decoded together and can hand cells to each other without moving a byte.
import type { Duplex } from "node:stream";
import { checkInteger, checkKeys, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run, withSignal } from "../jobs.js";
import type { NativePool, NativePoolCounters, NativePoolInfo } from "../native-engine.js";
import type { KvHandle } from "../kv/handle.js";
import { kvIdentity, type KvIdentity } from "../kv/identity.js";
import { keep, receiveOver, type KvReceived, type KvReceiveOptions } from "../kv/link.js";
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
        reader: (sealed) => this.#handle.kvReader(fields, sealed),
        segment: (name, nonce) => this.#handle.openKv(fields, name, nonce),
      },
      options,
    );
  }

  /**
   * Reads a whole stream of {@link KvHandle.records}, a file of {@link KvHandle.toBytes}, or what a reference of {@link KvHandle.share} names. All that
   * comes is verified, and held against this pool's model, before it is used.
   * @throws {@link LatentError} what {@link KvReceiver.read} throws, for a reference what {@link KvReceiver.open} throws
   */
  async readKv(source: KvSource | KvSharedReference, options: KvReadOptions & KvReceiverOptions = {}): Promise<KvHandle> {
    checkKeys("options", options, ["verify", "idleMs", "signal"]);
    const { verify, ...reading } = options;
    using receiver = this.kvReceiver(verify === undefined ? {} : { verify });
    return isSharedReference(source) ? await receiver.open(source, withSignal(options.signal)) : await receiver.read(source, reading);
  }

  /**
   * Takes what {@link sendKv} sends over a link: any Duplex, a Unix socket, TCP, a pipe to a child. Between processes of one host it comes through shared
   * memory, else as a stream of records. The sender learns that it was taken, or why not. To go on after a link that broke, use
   * {@link KvReceiver.receive}; to tell the sender only when the content lies in a sequence, {@link Sequence.receiveKv}.
   * @throws {@link LatentError} what {@link KvReceiver.receive} throws
   */
  async receiveKv(duplex: Duplex, options: KvReceiveOptions & KvReceiverOptions = {}): Promise<KvReceived> {
    const { verify, ...receiving } = options;
    using receiver = this.kvReceiver(verify === undefined ? {} : { verify });
    return await receiveOver(duplex, receiver, receiving, keep);
  }

  /**
   * A new sequence with the content of {@link Sequence.save}, from this or another process.
   * @throws {@link LatentError} what {@link Sequence.importKv} throws, and `ERR_LATENT_SEQUENCE_LIMIT`
   */
  async restore(bytes: Uint8Array, options: { readonly verify?: KvVerifier; readonly signal?: AbortSignal } = {}): Promise<Sequence> {
    checkKeys("options", options, ["verify", "signal"]);
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
