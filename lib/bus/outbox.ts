// What a sender must keep until its receiver has it: memory that is shared instead of sent. It is bounded, so that a slow receiver holds the sender back,
// and goes when the receiver says so, or after a while.
import { LatentError } from "../errors.js";

interface Held {
  readonly bytes: number;
  readonly timer: NodeJS.Timeout;
  readonly release: () => void;
}

export class Outbox {
  readonly #held = new Map<string, Held>();
  #bytes = 0;
  #wake = new Set<() => void>();
  #closed = false;

  constructor(readonly windowBytes: number) {}

  /** Bytes that are kept for receivers. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Resolves when so many bytes may be kept. What is larger than the window may have it to itself. */
  async room(bytes: number, signal: AbortSignal): Promise<void> {
    while (this.#bytes > 0 && this.#bytes + bytes > this.windowBytes) {
      signal.throwIfAborted();
      await new Promise<void>((resolve) => {
        const wake = (): void => {
          this.#wake.delete(wake);
          signal.removeEventListener("abort", wake);
          resolve();
        };
        this.#wake.add(wake);
        signal.addEventListener("abort", wake);
      });
    }
    signal.throwIfAborted();
    if (this.#closed) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the bus was closed");
  }

  /** Keeps it for the receiver of the message `id`. */
  hold(id: string, bytes: number, keptMs: number, release: () => void): void {
    const timer = setTimeout(() => {
      this.release(id);
    }, keptMs).unref();
    this.#bytes += bytes;
    this.#held.set(id, { bytes, timer, release });
  }

  release(id: string): void {
    const held = this.#held.get(id);
    if (held === undefined) return;
    this.#held.delete(id);
    this.#bytes -= held.bytes;
    clearTimeout(held.timer);
    held.release();
    for (const wake of [...this.#wake]) wake();
  }

  close(): void {
    this.#closed = true;
    for (const id of [...this.#held.keys()]) this.release(id);
    for (const wake of [...this.#wake]) wake();
  }
}
