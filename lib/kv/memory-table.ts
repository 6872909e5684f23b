// The table of the memory tier: a map. It holds some thousands of chunks at most, each of hundreds of kilobytes, so what must be found is searched.
import type { ChunkEntry, LedgerTable } from "./ledger.js";

export class MemoryTable<Payload> implements LedgerTable<Payload> {
  readonly #entries = new Map<string, ChunkEntry<Payload>>();
  readonly #bytes = new Map<string, number>();
  inflation = 0;

  get(key: string): ChunkEntry<Payload> | undefined {
    return this.#entries.get(key);
  }

  set(key: string, entry: ChunkEntry<Payload>): void {
    this.delete(key);
    this.#entries.set(key, entry);
    this.#bytes.set(entry.tenant, this.bytes(entry.tenant) + entry.bytes);
  }

  delete(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    this.#entries.delete(key);
    this.#bytes.set(entry.tenant, this.bytes(entry.tenant) - entry.bytes);
  }

  lowest(tenant: string | undefined, kept: ReadonlySet<string>): string | undefined {
    let found: string | undefined;
    let least = Number.POSITIVE_INFINITY;
    for (const [key, entry] of this.#entries) {
      if (entry.payload === null || entry.children > 0 || entry.value >= least || kept.has(key)) continue;
      if (tenant !== undefined && entry.tenant !== tenant) continue;
      found = key;
      least = entry.value;
    }
    return found;
  }

  due(now: number): readonly string[] {
    return [...this.#entries]
      .filter(([, { payload, expires }]) => payload !== null && expires !== null && expires <= now)
      .map(([key]) => key);
  }

  bytes(tenant?: string): number {
    if (tenant !== undefined) return this.#bytes.get(tenant) ?? 0;
    return [...this.#bytes.values()].reduce((total, bytes) => total + bytes, 0);
  }

  /** Chunks with content, and how to reach them. */
  *contents(): Generator<readonly [string, Payload], void, undefined> {
    for (const [key, { payload }] of this.#entries) if (payload !== null) yield [key, payload];
  }
}
