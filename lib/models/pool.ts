// One context and its scheduler: the sequences of a pool are decoded together and can hand cells to each other without moving a byte.
import { checkInteger, checkKeys } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import type { NativePool, NativePoolCounters, NativePoolInfo } from "../native-engine.js";
import { readSavedState } from "../kv/saved-state.js";
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

  /**
   * A new sequence with the content of {@link Sequence.save}, from this or another process. Everything is verified before the cache is touched.
   * @throws {@link LatentError} `ERR_LATENT_STATE_FORMAT` (cut off, malformed), `ERR_LATENT_STATE_DIGEST` (altered), `ERR_LATENT_STATE_MISMATCH`
   * (other model, engine or cache type), `ERR_LATENT_NON_FINITE`, `ERR_LATENT_CONTEXT_OVERFLOW`
   */
  async restore(bytes: Uint8Array, options: { readonly signal?: AbortSignal } = {}): Promise<Sequence> {
    checkKeys("options", options, ["signal"]);
    const saved = await readSavedState(bytes, this, options.signal);
    const sequence = this.sequence();
    try {
      await sequence.load(saved, options.signal);
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
