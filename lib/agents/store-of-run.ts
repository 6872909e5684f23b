// The store that a run was given: prompts are taken from it and put back, and what that did is counted. A store that fails costs the run nothing but
// the prefill.
import { LatentError } from "../errors.js";
import { chunkPositions } from "../kv/chain.js";
import type { KvStore } from "../kv/store.js";
import type { Sequence } from "../models/sequence.js";
import type { StoredPositions, StoreUse } from "./events.js";

export class StoreOfRun {
  #use: StoreUse = { fromRam: 0, fromDisk: 0, added: 0, addedBytes: 0 };

  constructor(readonly store: KvStore) {}

  get use(): StoreUse {
    return this.#use;
  }

  /** Fills an empty sequence with what is held of `tokens`, up to one token before their end, which must be fed for an output to exist. */
  async take(sequence: Sequence, tokens: Int32Array, signal: AbortSignal): Promise<StoredPositions> {
    using lease = await this.store.find(sequence.pool, tokens.subarray(0, -1), { signal });
    if (lease === undefined) return { fromRam: 0, fromDisk: 0 };
    await sequence.importKv(lease.handle, { positions: "keep", signal });
    const { fromRam, fromDisk } = lease;
    this.#use = { ...this.#use, fromRam: this.#use.fromRam + fromRam, fromDisk: this.#use.fromDisk + fromDisk };
    return { fromRam, fromDisk };
  }

  /** Puts the prompt that the sequence holds, of which the last `fresh` positions were prefilled in `ms`, if that makes a whole chunk more. */
  async give(sequence: Sequence, fresh: number, ms: number, signal: AbortSignal): Promise<void> {
    const { length } = sequence;
    if (Math.floor(length / chunkPositions) === Math.floor((length - fresh) / chunkPositions)) return;
    try {
      const { added, bytes } = await this.store.put(sequence, { prefillMs: (ms * length) / fresh, signal });
      this.#use = { ...this.#use, added: this.#use.added + added, addedBytes: this.#use.addedBytes + bytes };
    } catch (error) {
      signal.throwIfAborted();
      if (!LatentError.isInstance(error)) throw error;
      this.#use = { ...this.#use, failed: error.code };
    }
  }
}
