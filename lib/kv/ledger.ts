// The bookkeeping of one tier of a store: which chunks it holds, what they are worth, when they end, and which one goes when room is needed. It is
// the same for memory and for disk; only the table differs in which it is kept.

/** What is remembered of a chunk. `Payload` is where its content lies. */
export interface ChunkEntry<Payload> {
  /** The chunk before it; null for the first of a chain. */
  readonly parent: string | null;
  /** Whose it is: a digest of the salt. */
  readonly tenant: string;
  /** Of keys and values. */
  readonly bytes: number;
  /** What prefilling it again takes, in milliseconds. */
  readonly ms: number;
  /** 1, and one more for each time that it was found. */
  readonly uses: number;
  /** What decides about eviction; see {@link Ledger}. */
  readonly value: number;
  /** On the store's clock, in milliseconds; null for never. */
  readonly expires: number | null;
  /** Chunks that build on it and are held. */
  readonly children: number;
  /** Null when it is gone but others still build on it: then it stays as a placeholder, so that they are found again when it comes back. */
  readonly payload: Payload | null;
}

/** Where entries are kept, with what must be found quickly among them. All of it is synchronous: on disk it runs inside one transaction. */
export interface LedgerTable<Payload> {
  get(key: string): ChunkEntry<Payload> | undefined;
  set(key: string, entry: ChunkEntry<Payload>): void;
  delete(key: string): void;
  /** The chunk of least value among those that nothing builds on; of one tenant, or of all. `kept` are passed over. */
  lowest(tenant: string | undefined, kept: ReadonlySet<string>): string | undefined;
  /** Chunks that end at `now` or before. */
  due(now: number): readonly string[];
  /** Bytes of the chunks of a tenant, or of all. */
  bytes(tenant?: string): number;
  /** The value of what was evicted last. */
  inflation: number;
}

/** What a ledger may hold. */
export interface LedgerLimits {
  readonly bytes: number;
  /** Of one tenant. */
  readonly tenantBytes: number;
}

/** A chunk with content. */
export interface LiveChunk<Payload> extends ChunkEntry<Payload> {
  readonly payload: Payload;
}

/** A chunk on its way in. */
export type ChunkOffer<Payload> = Pick<ChunkEntry<Payload>, "parent" | "tenant" | "bytes" | "ms" | "expires"> & {
  readonly payload: Payload;
};

/** `held`: it was there already. `orphan`: the chunk that it builds on is not there. `full`: there is no room, and nothing was changed. */
export type Admission = "added" | "held" | "orphan" | "full";

/** When room is needed, eviction goes on down to this share of the limit, so that the next chunks come in without. */
const lowWatermark = 0.95;

/**
 * Evicts by GreedyDual-Size-Frequency: a chunk's value is L + uses * ms / bytes, with L the value of what was evicted last when the chunk was last
 * used, so that what is not used falls behind. Only chunks that nothing builds on are evicted: what is held is whole prefixes.
 * Chunks that are `kept` (leased, or part of a prefix that is being put) are given with all chunks that they build on.
 */
export class Ledger<Payload> {
  constructor(
    readonly table: LedgerTable<Payload>,
    readonly limits: LedgerLimits,
    /** Called with the content of each chunk that goes. */
    readonly discard: (payload: Payload) => void,
  ) {}

  /** The entry, if there is content for it and it has not ended. */
  live(key: string, now: number): LiveChunk<Payload> | undefined {
    const entry = this.table.get(key);
    if (entry === undefined || entry.payload === null || (entry.expires !== null && entry.expires <= now)) return undefined;
    return { ...entry, payload: entry.payload };
  }

  /** Removes what has ended; returns how many chunks. */
  expire(now: number): number {
    const due = this.table.due(now);
    for (const key of due) this.remove(key);
    return due.length;
  }

  /** Whether a chunk of this size can be let in without touching what is `kept`. */
  fits(bytes: number, tenant: string, kept: ReadonlySet<string>): boolean {
    let all = bytes;
    let own = bytes;
    for (const key of kept) {
      const entry = this.table.get(key);
      all += entry?.bytes ?? 0;
      if (entry?.tenant === tenant) own += entry.bytes;
    }
    return all <= this.limits.bytes && own <= this.limits.tenantBytes;
  }

  /**
   * Lets a chunk in, evicting others for it; `evicted` is told how many. What has ended must have been removed, and `kept` must name the chunks that
   * the new one builds on.
   */
  admit(key: string, offer: ChunkOffer<Payload>, kept: ReadonlySet<string>, evicted: (chunks: number) => void): Admission {
    if ((this.table.get(key)?.payload ?? null) !== null) {
      this.extend(key, offer.expires);
      return "held";
    }
    if (offer.parent !== null && (this.table.get(offer.parent)?.payload ?? null) === null) return "orphan";
    if (!this.fits(offer.bytes, offer.tenant, kept)) return "full";
    evicted(this.#makeRoom(offer.bytes, offer.tenant, kept));
    const placeholder = this.table.get(key);
    this.table.set(key, { ...offer, uses: 1, value: this.#value(1, offer), children: placeholder?.children ?? 0 });
    if (placeholder === undefined && offer.parent !== null) this.#count(offer.parent, 1);
    return "added";
  }

  /** Counts a use. */
  touch(key: string): void {
    const entry = this.table.get(key);
    if (entry === undefined || entry.payload === null) return;
    const uses = entry.uses + 1;
    this.table.set(key, { ...entry, uses, value: this.#value(uses, entry) });
  }

  /** Puts the end of a chunk off; it never comes nearer. So a chunk ends no earlier than those that build on it. */
  extend(key: string, expires: number | null): void {
    const entry = this.table.get(key);
    if (entry !== undefined && this.endsBefore(key, expires)) this.table.set(key, { ...entry, expires });
  }

  endsBefore(key: string, expires: number | null): boolean {
    const end = this.table.get(key)?.expires ?? null;
    return end !== null && (expires === null || end < expires);
  }

  /** Removes a chunk; where others build on it, a placeholder stays. */
  remove(key: string): void {
    const payload = this.take(key);
    if (payload !== null) this.discard(payload);
  }

  /** Removes a chunk and leaves its content to the caller; null if there is none. */
  take(key: string): Payload | null {
    const entry = this.table.get(key);
    if (entry === undefined || entry.payload === null) return null;
    if (entry.children > 0) this.table.set(key, { ...entry, payload: null, bytes: 0 });
    else this.#drop(key, entry);
    return entry.payload;
  }

  #makeRoom(bytes: number, tenant: string, kept: ReadonlySet<string>): number {
    let evicted = 0;
    const evictDownTo = (limit: number, whose: string | undefined): void => {
      if (this.table.bytes(whose) + bytes <= limit) return;
      while (this.table.bytes(whose) + bytes > limit * lowWatermark) {
        const key = this.table.lowest(whose, kept);
        if (key === undefined) return;
        this.table.inflation = Math.max(this.table.inflation, this.table.get(key)?.value ?? 0);
        this.remove(key);
        evicted++;
      }
    };
    evictDownTo(this.limits.tenantBytes, tenant);
    evictDownTo(this.limits.bytes, undefined);
    return evicted;
  }

  #value(uses: number, chunk: { readonly ms: number; readonly bytes: number }): number {
    return this.table.inflation + (uses * chunk.ms) / Math.max(1, chunk.bytes);
  }

  /** Takes an entry out, and the placeholders that it was the last to build on. */
  #drop(key: string, entry: ChunkEntry<Payload>): void {
    this.table.delete(key);
    if (entry.parent !== null) this.#count(entry.parent, -1);
  }

  #count(key: string, change: number): void {
    const entry = this.table.get(key);
    if (entry === undefined) return;
    const children = entry.children + change;
    if (children === 0 && entry.payload === null) this.#drop(key, entry);
    else this.table.set(key, { ...entry, children });
  }
}
