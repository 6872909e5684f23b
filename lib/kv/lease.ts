// What a store lends: content that stays whatever happens to the store, until whoever asked for it gives it back.
import type { KvHandle } from "./handle.js";

/** A prefix that {@link KvStore.find} found. Until it is disposed, its chunks are not evicted, and its content stays whatever happens to the store. */
export class KvLease {
  readonly #release: () => void;
  #disposed = false;

  /** @internal */
  constructor(
    /** The content, for {@link Sequence.importKv} with `positions: "keep"`. The lease disposes it. */
    readonly handle: KvHandle,
    /** Positions that came from memory. */
    readonly fromRam: number,
    /** Positions that came from disk. */
    readonly fromDisk: number,
    release: () => void,
  ) {
    this.#release = release;
  }

  /** Positions held: the first ones of the tokens, a multiple of 256. */
  get positions(): number {
    return this.fromRam + this.fromDisk;
  }

  /** Of keys and values. */
  get bytes(): number {
    return this.handle.info.bytes;
  }

  /** Gives the content back. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.handle.dispose();
    this.#release();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
