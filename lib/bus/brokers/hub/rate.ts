// How fast somebody may be: a bucket of tokens that fills evenly, and holds what comes in one second.

export class Rate {
  readonly #perSecond: number;
  #tokens: number;
  #at = performance.now();

  /** Infinity: as fast as it likes. */
  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#tokens = perSecond;
  }

  /** Takes so many tokens, also more than there are. @returns how long to wait before the next ones, in milliseconds */
  take(count: number): number {
    if (this.#perSecond === Infinity) return 0;
    const now = performance.now();
    this.#tokens = Math.min(this.#perSecond, this.#tokens + ((now - this.#at) / 1000) * this.#perSecond) - count;
    this.#at = now;
    return this.#tokens >= 0 ? 0 : (-this.#tokens / this.#perSecond) * 1000;
  }
}
