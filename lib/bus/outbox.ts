// What a sender must keep until its receiver has it: memory that is shared instead of sent. It is bounded, so that a slow receiver holds the sender back,
// and goes when the receiver says so, or after a while.
import { LatentError } from "../errors.js";

interface Held {
  readonly timer: NodeJS.Timeout;
  readonly release: () => void;
}

export class Outbox {
  readonly #held = new Map<string, Held>();
  readonly #waiting = new Set<() => void>();
  #bytes = 0;
  #closed = false;

  constructor(readonly windowBytes: number) {}

  /** Bytes that are kept for receivers, or are about to be. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Resolves when so many bytes may be kept, with what to call when they no longer are. What is larger than the window may have it to itself. */
  async reserve(bytes: number, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    while (!this.#closed && this.#bytes > 0 && this.#bytes + bytes > this.windowBytes) {
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.#waiting.delete(wake);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        this.#waiting.add(wake);
        signal.addEventListener("abort", wake);
      });
      signal.throwIfAborted();
    }
    if (this.#closed) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the bus was closed");
    this.#bytes += bytes;
    let left = bytes;
    return () => {
      this.#bytes -= left;
      left = 0;
      this.#wake();
    };
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
    this.#wake();
  }

  #wake(): void {
    for (const wake of [...this.#waiting]) wake();
  }
}
