// The table of the disk tier: what a ledger remembers, in databases of an lmdb environment that several processes share. Everything that changes
// it runs inside a write transaction. A record that cannot be read any more counts as absent.
import type { Database, RootDatabase, Transaction } from "lmdb";
import type { ChunkEntry, LedgerTable } from "./ledger.js";

/** Where the content of a chunk lies: pieces that are numbered from 0. */
export interface PieceList {
  readonly id: string;
  readonly count: number;
}

interface TenantTotals {
  readonly bytes: number;
  readonly chunks: number;
}

/** A chunk that was put aside because it could not be verified. */
interface RottenChunk extends PieceList {
  readonly tenant: string;
  readonly bytes: number;
  /** What was wrong: the code of the error. */
  readonly code: string;
}

const none: TenantTotals = { bytes: 0, chunks: 0 };
const mark = Buffer.from([1]);
const tenantsFrom = "tenant ";
const tenantsTo = "tenant!";

export class LmdbTable implements LedgerTable<PieceList> {
  readonly #entries: Database<ChunkEntry<PieceList>, string>;
  /** Tenant, value and name of the chunks that nothing builds on: the first of a tenant is the next to be evicted. */
  readonly #leaves: Database<Buffer, Buffer>;
  /** End and name of the chunks that end. */
  readonly #ends: Database<Buffer, Buffer>;
  readonly #state: Database<unknown, string>;
  readonly #rotten: Database<RottenChunk, string>;

  constructor(root: RootDatabase<unknown, string>) {
    this.#entries = root.openDB<ChunkEntry<PieceList>, string>({ name: "chunks", encoding: "json" });
    this.#leaves = root.openDB<Buffer, Buffer>({ name: "leaves", encoding: "binary", keyEncoding: "binary" });
    this.#ends = root.openDB<Buffer, Buffer>({ name: "ends", encoding: "binary", keyEncoding: "binary" });
    this.#state = root.openDB<unknown, string>({ name: "state", encoding: "json" });
    this.#rotten = root.openDB<RottenChunk, string>({ name: "rotten", encoding: "json" });
  }

  get(key: string, transaction?: Transaction): ChunkEntry<PieceList> | undefined {
    try {
      const entry = transaction === undefined ? this.#entries.get(key) : this.#entries.get(key, { transaction });
      return isEntry(entry) ? entry : undefined;
    } catch {
      return undefined;
    }
  }

  set(key: string, entry: ChunkEntry<PieceList>): void {
    this.delete(key);
    this.#entries.putSync(key, entry);
    if (isLeaf(entry)) this.#leaves.putSync(leafKey(key, entry), mark);
    if (entry.payload === null) return;
    if (entry.expires !== null) this.#ends.putSync(endKey(key, entry.expires), mark);
    this.#addTo(entry.tenant, entry.bytes, 1);
  }

  delete(key: string): void {
    const entry = this.get(key);
    if (entry === undefined) return;
    this.#entries.removeSync(key);
    if (isLeaf(entry)) this.#leaves.removeSync(leafKey(key, entry));
    if (entry.payload === null) return;
    if (entry.expires !== null) this.#ends.removeSync(endKey(key, entry.expires));
    this.#addTo(entry.tenant, -entry.bytes, -1);
  }

  lowest(tenant: string | undefined, kept: ReadonlySet<string>): string | undefined {
    let found: { readonly key: string; readonly value: number } | undefined;
    for (const one of tenant === undefined ? this.#tenants() : [tenant]) {
      const first = this.#lowestOf(one, kept);
      if (first !== undefined && (found === undefined || first.value < found.value)) found = first;
    }
    return found?.key;
  }

  due(now: number): readonly string[] {
    const ended: string[] = [];
    // the end of a range is not part of it, and what ends now has ended
    for (const key of this.#ends.getKeys({ start: endKey("", 0), end: endKey("ff".repeat(33), now) })) ended.push(nameIn(key));
    return ended;
  }

  bytes(tenant?: string): number {
    if (tenant !== undefined) return this.#totals(tenant).bytes;
    return this.#tenants().reduce((total, one) => total + this.#totals(one).bytes, this.#rottenBytes);
  }

  chunks(tenant: string): number {
    return this.#totals(tenant).chunks;
  }

  /** Names of all chunks of a tenant. */
  keysOf(tenant: string): readonly string[] {
    return [...this.#entries.getKeys()].filter((key) => this.get(key)?.tenant === tenant);
  }

  get inflation(): number {
    return this.#number("inflation");
  }

  set inflation(value: number) {
    this.#state.putSync("inflation", value);
  }

  /** The latest time that a writer has seen. */
  get time(): number {
    return this.#number("time");
  }

  set time(value: number) {
    this.#state.putSync("time", value);
  }

  /** Puts the content of a chunk aside. It stays until its room is needed. */
  quarantine(rotten: RottenChunk): void {
    this.#rotten.putSync(rotten.id, rotten);
    this.#state.putSync("rotten", this.#rottenBytes + rotten.bytes);
  }

  /** Gives up chunks that were put aside, of one tenant or of any, until so many bytes are free. */
  reclaim(bytes: number, tenant: string | undefined, discard: (list: PieceList) => void): void {
    let missing = bytes;
    const given = [...this.#rotten.getRange()].filter(({ value }) => tenant === undefined || value.tenant === tenant);
    for (const { key, value } of given) {
      if (missing <= 0) return;
      discard(value);
      this.#rotten.removeSync(key);
      this.#state.putSync("rotten", this.#rottenBytes - value.bytes);
      missing -= value.bytes;
    }
  }

  #lowestOf(tenant: string, kept: ReadonlySet<string>): { readonly key: string; readonly value: number } | undefined {
    const start = Buffer.from(tenant, "hex");
    const stale: Buffer[] = [];
    let found: { readonly key: string; readonly value: number } | undefined;
    for (const leaf of this.#leaves.getKeys({ start, end: Buffer.concat([start, Buffer.alloc(9, 0xff)]) })) {
      const key = nameIn(leaf);
      const entry = this.get(key);
      if (entry === undefined) stale.push(Buffer.from(leaf));
      else if (!kept.has(key)) {
        found = { key, value: entry.value };
        break;
      }
    }
    for (const leaf of stale) this.#leaves.removeSync(leaf);
    return found;
  }

  get #rottenBytes(): number {
    return this.#number("rotten");
  }

  #tenants(): readonly string[] {
    return [...this.#state.getKeys({ start: tenantsFrom, end: tenantsTo })].map((key) => key.slice(tenantsFrom.length));
  }

  #totals(tenant: string): TenantTotals {
    const totals = this.#read(tenantsFrom + tenant);
    if (typeof totals !== "object" || totals === null) return none;
    const { bytes, chunks } = totals as Partial<TenantTotals>;
    return typeof bytes === "number" && typeof chunks === "number" ? { bytes, chunks } : none;
  }

  #addTo(tenant: string, bytes: number, chunks: number): void {
    const before = this.#totals(tenant);
    this.#state.putSync(tenantsFrom + tenant, { bytes: before.bytes + bytes, chunks: before.chunks + chunks });
  }

  #number(key: string): number {
    const value = this.#read(key);
    return typeof value === "number" ? value : 0;
  }

  #read(key: string): unknown {
    try {
      return this.#state.get(key);
    } catch {
      return undefined;
    }
  }
}

function isEntry(value: unknown): value is ChunkEntry<PieceList> {
  if (typeof value !== "object" || value === null) return false;
  const { tenant, bytes, value: worth, children, payload } = value as Partial<Record<keyof ChunkEntry<PieceList>, unknown>>;
  return (
    typeof tenant === "string" &&
    typeof bytes === "number" &&
    typeof worth === "number" &&
    typeof children === "number" &&
    typeof payload === "object"
  );
}

function isLeaf(entry: ChunkEntry<PieceList>): boolean {
  return entry.payload !== null && entry.children === 0;
}

// numbers that are not negative sort by their bits
function bits(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeDoubleBE(value);
  return bytes;
}

const leafKey = (key: string, entry: ChunkEntry<PieceList>): Buffer =>
  Buffer.concat([Buffer.from(entry.tenant, "hex"), bits(entry.value), Buffer.from(key, "hex")]);

const endKey = (key: string, end: number): Buffer => Buffer.concat([bits(end), Buffer.from(key, "hex")]);

const nameIn = (key: Buffer): string => key.subarray(-32).toString("hex");
