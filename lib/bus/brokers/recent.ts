// What was lately, by a key: of bounded size, and as fast when it is full as when it is empty. Two generations, of which the older one is dropped as a whole, because
// to drop the first key of a Map again and again takes longer the more have been dropped.
export class Recent<V> {
  #young = new Map<string, V>();
  #old = new Map<string, V>();
  #since = performance.now();

  /** The last `most` are known for `keptMs` milliseconds at least, and never more than twice as many. */
  constructor(
    readonly most: number,
    readonly keptMs: number,
  ) {}

  get size(): number {
    return this.#young.size + this.#old.size;
  }

  has(key: string): boolean {
    return this.#young.has(key) || this.#old.has(key);
  }

  get(key: string): V | undefined {
    return this.#young.get(key) ?? this.#old.get(key);
  }

  set(key: string, value: V): void {
    this.age();
    this.#young.set(key, value);
  }

  delete(key: string): void {
    this.#young.delete(key);
    this.#old.delete(key);
  }

  /** Drops what is old, which is also done when something new comes. */
  age(): void {
    const now = performance.now();
    if (this.#young.size < this.most && now - this.#since < this.keptMs) return;
    this.#old = this.#young;
    this.#young = new Map();
    this.#since = now;
  }

  clear(): void {
    this.#young.clear();
    this.#old.clear();
  }
}

/** For ids of messages that came already, for as long as they could come again. */
export const seenLately = (): Recent<true> => new Recent(65_536, 600_000);

/** False if it was there before. */
export function addNew(seen: Recent<true>, id: string): boolean {
  if (seen.has(id)) return false;
  seen.set(id, true);
  return true;
}
