// What a sender must keep until its receiver has it: memory that is shared instead of sent. It is bounded, so that a slow receiver holds the sender back,
// and goes when the receiver says so, or after a while.
import { LatentError } from "../errors.js";

interface Waiting {
  readonly bytes: number;
  readonly admit: () => void;
}

interface Held {
  readonly timer: NodeJS.Timeout;
  readonly release: () => void;
}

export class Outbox {
  readonly #held = new Map<string, Held>();
  /** In the order in which they came. */
  readonly #waiting: Waiting[] = [];
  #bytes = 0;
  #closed = false;

  constructor(readonly windowBytes: number) {}

  /** Bytes that are kept for receivers, or are about to be. */
  get bytes(): number {
    return this.#bytes;
  }

  /**
   * Resolves when so many bytes may be kept, with what to call when they no longer are. What is larger than the window may have it to itself. Who asked
   * first is served first, so that what is large gets its turn. `isMore`: part of something that has room already, for which it must not wait.
   */
  async reserve(bytes: number, signal: AbortSignal, isMore = false): Promise<() => void> {
    signal.throwIfAborted();
    if (isMore) this.#bytes += bytes;
    else await this.#room(bytes, signal);
    let left = bytes;
    const free = (): void => {
      this.#bytes -= left;
      left = 0;
      this.#admit();
    };
    if (!this.#closed) return free;
    free();
    throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the bus was closed");
  }

  async #room(bytes: number, signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const waiting = {
        bytes,
        admit: () => {
          signal.removeEventListener("abort", abort);
          resolve();
        },
      };
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(waiting), 1);
        reject(signal.reason as Error);
        this.#admit();
      };
      signal.addEventListener("abort", abort, { once: true });
      this.#waiting.push(waiting);
      this.#admit();
    });
  }

  /** Keeps something for the receiver of the message `id`. */
  hold(id: string, keptMs: number, release: () => void): void {
    if (this.#closed) {
      release();
      return;
    }
    const timer = setTimeout(() => {
      this.release(id);
    }, keptMs).unref();
    this.#held.set(id, { timer, release });
  }

  release(id: string): void {
    const held = this.#held.get(id);
    if (held === undefined) return;
    this.#held.delete(id);
    clearTimeout(held.timer);
    held.release();
  }

  close(): void {
    this.#closed = true;
    for (const id of [...this.#held.keys()]) this.release(id);
    this.#admit();
  }

  #admit(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      if (!this.#closed && this.#bytes > 0 && this.#bytes + next.bytes > this.windowBytes) return;
      this.#waiting.shift();
      this.#bytes += next.bytes;
      next.admit();
    }
  }
}
