// Draws by SplitMix64, in integers: the same seed gives the same draws on every platform. The twin of CounterRandom in native/fit/random.h.
const mask = (1n << 64n) - 1n;

export class SeededDraws {
  #state: bigint;

  constructor(seed: number) {
    this.#state = BigInt(seed);
  }

  #next(): bigint {
    this.#state = (this.#state + 0x9e3779b97f4a7c15n) & mask;
    let z = this.#state;
    z = ((z ^ (z >> 30n)) * 0xbf58476d1ce4e5b9n) & mask;
    z = ((z ^ (z >> 27n)) * 0x94d049bb133111ebn) & mask;
    return z ^ (z >> 31n);
  }

  /** In [0, n), n > 0, without bias. */
  below(n: number): number {
    const bound = BigInt(n);
    const refused = (1n << 64n) % bound;
    let x = this.#next();
    while (x < refused) x = this.#next();
    return Number(x % bound);
  }

  /** `count` of the elements, without replacement, in the order they are drawn. */
  sample<T>(from: readonly T[], count: number): T[] {
    const left = [...from];
    for (let i = 0; i < count; i++) {
      const j = i + this.below(left.length - i);
      [left[i], left[j]] = [left[j] as T, left[i] as T];
    }
    return left.slice(0, count);
  }
}

export const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
