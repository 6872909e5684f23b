// The disk tier of a store: chunks in an lmdb environment that several processes may use at once. A chunk becomes visible, with all of its pieces,
// by one transaction or not at all; whoever reads has a snapshot that nobody can take away.
import { randomBytes } from "node:crypto";
import { ftruncateSync, openSync, closeSync, fstatSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import { getSystemErrorName } from "node:util";
import type { Database, RootDatabase, RootDatabaseOptionsWithPath, Transaction } from "lmdb";
import { LatentError } from "../errors.js";
import { Ledger, type Admission, type ChunkOffer, type LedgerLimits, type LiveChunk } from "./ledger.js";
import { LmdbTable, type PieceList } from "./lmdb-table.js";

/** A chunk as a writer brings it: without the place of its pieces. */
export type DiskOffer = Omit<ChunkOffer<PieceList>, "payload">;

/** What happened in a disk tier since it was opened, by this process. */
export interface DiskCounts {
  evicted: number;
  expired: number;
  quarantined: number;
}

/** What its declarations leave out: in which snapshot. The buffer is lmdb's, longer than its `length` says, and filled anew by the next read of anything. */
interface LendingReads {
  getBinaryFast(key: Buffer, options: { readonly transaction: Transaction }): Buffer | undefined;
}

type Lmdb = (options: RootDatabaseOptionsWithPath) => RootDatabase<unknown, string>;

const lmdbVersion = "3.5.6";
const pieceIndexBytes = 4;

export class DiskTier {
  readonly #root: RootDatabase<unknown, string>;
  readonly #pieces: Database<Buffer, Buffer>;
  readonly #table: LmdbTable;
  readonly #ledger: Ledger<PieceList>;
  readonly #tenant: string;
  readonly readOnly: boolean;
  readonly counts: DiskCounts = { evicted: 0, expired: 0, quarantined: 0 };

  /** @throws {@link LatentError} `ERR_LATENT_PACKAGE_MISSING`, `ERR_LATENT_KV_DISK_FULL` (nothing can be written there, and there is nothing to read) */
  static async open(folder: string, limits: LedgerLimits, tenant: string): Promise<DiskTier> {
    const open = await loadLmdb();
    try {
      await mkdir(folder, { recursive: true, mode: 0o700 });
      return new DiskTier(open, folder, limits, tenant, false);
    } catch (cause) {
      // what another process wrote can still be read
      try {
        return new DiskTier(open, folder, limits, tenant, true);
      } catch {
        throw diskError(cause, `the store in ${folder} cannot be opened`);
      }
    }
  }

  private constructor(open: Lmdb, folder: string, limits: LedgerLimits, tenant: string, readOnly: boolean) {
    // Both are off because of what lmdb does when a commit fails: of the batch of an event turn it rejects a promise that nobody can handle, and
    // for a flush that is to follow the commit it waits for ever when it is closed.
    const whenCommitsFail = { eventTurnBatching: false, overlappingSync: false };
    const root = open({ path: folder, noSubdir: false, maxDbs: 8, readOnly, ...whenCommitsFail });
    try {
      this.#pieces = root.openDB<Buffer, Buffer>({ name: "pieces", encoding: "binary", keyEncoding: "binary" });
      this.#table = new LmdbTable(root);
      if (!readOnly)
        root.transactionSync(() => {
          restoreLength(root, path.join(folder, "data.mdb"));
        });
    } catch (error) {
      void root.close();
      throw error;
    }
    this.#root = root;
    this.#tenant = tenant;
    this.readOnly = readOnly;
    this.#ledger = new Ledger(this.#table, limits, (list) => {
      this.#forget(list);
    });
  }

  /** The latest time that any process has seen here. */
  get time(): number {
    return this.#table.time;
  }

  /** Bytes and chunks of this tenant. */
  get held(): { readonly chunks: number; readonly bytes: number } {
    return { chunks: this.#table.chunks(this.#tenant), bytes: this.#table.bytes(this.#tenant) };
  }

  live(key: string, now: number): LiveChunk<PieceList> | undefined {
    return this.#ledger.live(key, now);
  }

  /**
   * Writes a chunk, in one transaction with what must go for it.
   * @throws {@link LatentError} `ERR_LATENT_KV_DISK_FULL`; nothing has changed then
   */
  async write(key: string, offer: DiskOffer, pieces: readonly Uint8Array[], kept: ReadonlySet<string>, now: number): Promise<void> {
    this.#requireWritable();
    const list = { id: randomBytes(8).toString("hex"), count: pieces.length };
    const counts = { evicted: 0, expired: 0 };
    const content = pieces.map((piece, index) => [pieceKey(list.id, index), piece as Buffer] as const);
    const admission = await this.#transaction((): Admission => {
      this.#table.time = Math.max(this.#table.time, now);
      counts.expired = this.#ledger.expire(now);
      if (this.#ledger.fits(offer.bytes, offer.tenant, kept)) this.#reclaim(offer.bytes);
      const result = this.#ledger.admit(key, { ...offer, payload: list }, kept, (chunks) => {
        counts.evicted = chunks;
      });
      if (result !== "added") this.#forget(list);
      return result;
    }, content);
    this.counts.evicted += counts.evicted;
    this.counts.expired += counts.expired;
    if (admission === "full") {
      const { bytes, tenantBytes } = this.#ledger.limits;
      throw new LatentError(
        "ERR_LATENT_KV_DISK_FULL",
        `a chunk of ${offer.bytes} bytes and those that it builds on exceed the store's ${Math.min(bytes, tenantBytes)} bytes`,
        {
          details: { reason: "quota" },
        },
      );
    }
  }

  /**
   * Calls `use` with the pieces of a chunk, in order and out of one snapshot, and resolves with what it does; undefined if there is no such chunk.
   * A piece is good until the next one is asked for. Another thread brings the pages in before they are read here.
   */
  async read<T>(key: string, use: (pieces: AsyncIterable<Uint8Array>, list: PieceList) => Promise<T>): Promise<T | undefined> {
    const transaction = this.#root.useReadTransaction();
    const pieces = this.#pieces;
    let open = true;
    const inOrder = async function* (list: PieceList): AsyncGenerator<Uint8Array, void, undefined> {
      const names = Array.from({ length: list.count }, (_, index) => pieceKey(list.id, index));
      await pieces.prefetch(names);
      // a buffer a piece would be a garbage collection every few of them
      let room = Buffer.alloc(0);
      for (const name of names) {
        // a reader that left while pages came in must not see the snapshot after its end
        const lent = open ? (pieces as LendingReads).getBinaryFast(name, { transaction }) : undefined;
        if (lent === undefined) return;
        if (room.length < lent.length) room = Buffer.allocUnsafeSlow(lent.length);
        const piece = room.subarray(0, lent.length);
        piece.set(lent.subarray(0, lent.length));
        yield piece;
      }
    };
    try {
      const list = this.#table.get(key, transaction)?.payload ?? null;
      return list === null ? undefined : await use(inOrder(list), list);
    } finally {
      open = false;
      transaction.done();
    }
  }

  /** Counts a use of chunks. */
  async touch(keys: readonly string[], now: number): Promise<void> {
    await this.#transaction(() => {
      this.#table.time = Math.max(this.#table.time, now);
      for (const key of keys) this.#ledger.touch(key);
    });
  }

  /** Puts the end of chunks off to `expires`, where it is nearer. */
  async extend(keys: readonly string[], expires: number | null, now: number): Promise<void> {
    if (!keys.some((key) => this.#ledger.endsBefore(key, expires))) return;
    await this.#transaction(() => {
      this.#table.time = Math.max(this.#table.time, now);
      for (const key of keys) this.#ledger.extend(key, expires);
    });
  }

  /** Puts a chunk aside whose pieces could not be verified: it is not found any more, and stays until its room is needed. */
  async quarantine(key: string, { id }: PieceList, code: string): Promise<void> {
    this.counts.quarantined++;
    await this.#transaction(() => {
      const entry = this.#table.get(key);
      // it may have been put anew meanwhile
      if (entry?.payload?.id !== id) return;
      this.#ledger.take(key);
      this.#table.quarantine({ ...entry.payload, tenant: entry.tenant, bytes: entry.bytes, code });
    });
  }

  /** Removes chunks; returns how many there were. */
  async delete(keys: readonly string[]): Promise<number> {
    return await this.#transaction(() => {
      const there = keys.filter((key) => (this.#table.get(key)?.payload ?? null) !== null);
      for (const key of there) this.#ledger.remove(key);
      return there.length;
    });
  }

  /** Removes everything of this tenant. */
  async clear(): Promise<void> {
    await this.#transaction(() => {
      for (const key of this.#table.keysOf(this.#tenant)) this.#ledger.remove(key);
      this.#table.reclaim(Number.POSITIVE_INFINITY, this.#tenant, (list) => {
        this.#forget(list);
      });
    });
  }

  /** Removes what has ended. */
  async expire(now: number): Promise<void> {
    this.counts.expired += await this.#transaction(() => this.#ledger.expire(Math.max(this.#table.time, now)));
  }

  async close(): Promise<void> {
    await this.#root.close();
  }

  #requireWritable(): void {
    if (!this.readOnly) return;
    throw new LatentError("ERR_LATENT_KV_DISK_FULL", "the store was opened for reading: nothing can be written there", {
      details: { reason: "read-only" },
    });
  }

  /** What was put aside goes before anything of use does. */
  #reclaim(bytes: number): void {
    this.#table.reclaim(this.#table.bytes() + bytes - this.#ledger.limits.bytes, undefined, (list) => {
      this.#forget(list);
    });
  }

  #forget(list: PieceList): void {
    for (let index = 0; index < list.count; index++) this.#pieces.removeSync(pieceKey(list.id, index));
  }

  /** Runs `work` in a write transaction, after `content` was written in it by lmdb's own thread. */
  async #transaction<T>(work: () => T, content: readonly (readonly [Buffer, Buffer])[] = []): Promise<T> {
    this.#requireWritable();
    const outcome: { value?: T; error?: unknown } = {};
    try {
      // what is in a batch is in one transaction; promises of its parts mean nothing
      await this.#root.batch(() => {
        for (const [key, piece] of content) void this.#pieces.put(key, piece);
        void this.#root.transaction(() => {
          try {
            outcome.value = work();
          } catch (error) {
            outcome.error = error;
          }
        });
      });
    } catch (error) {
      throw diskError(await causeOf(error), "nothing could be written to the store");
    }
    if ("error" in outcome) throw diskError(outcome.error, "the store's records could not be changed");
    return outcome.value as T;
  }
}

function pieceKey(id: string, index: number): Buffer {
  const number = Buffer.alloc(pieceIndexBytes);
  number.writeUInt32BE(index);
  return Buffer.concat([Buffer.from(id, "hex"), number]);
}

/** An error of a commit carries the promise of its cause. */
async function causeOf(error: unknown): Promise<unknown> {
  try {
    await (error instanceof Error ? (Reflect.get(error, "commitError") as Promise<void> | undefined) : undefined);
    return error;
  } catch (cause) {
    return cause;
  }
}

const reasons: Readonly<Record<string, string>> = {
  ENOSPC: "full",
  EDQUOT: "quota",
  EROFS: "read-only",
  EACCES: "read-only",
  EPERM: "read-only",
};

function diskError(cause: unknown, what: string): LatentError {
  const message = cause instanceof Error ? cause.message : String(cause);
  const code: unknown = cause instanceof Error ? Reflect.get(cause, "code") : undefined;
  // lmdb has numbers: those of the operating system, and its own, which are negative
  const name = typeof code === "number" && code > 0 ? getSystemErrorName(-code) : code;
  const reason = (typeof name === "string" ? reasons[name] : undefined) ?? "failed";
  return new LatentError("ERR_LATENT_KV_DISK_FULL", `${what}: ${message}`, { cause, details: { reason } });
}

async function loadLmdb(): Promise<Lmdb> {
  try {
    return (await import("lmdb")).open;
  } catch (cause) {
    const hint = `Run \`npm install lmdb@${lmdbVersion}\`, or open the store without a path.`;
    throw new LatentError("ERR_LATENT_PACKAGE_MISSING", "a store on disk needs the package lmdb, which cannot be loaded", { cause, hint });
  }
}

/**
 * A file that was cut off gets its length back, with zeros: reading behind the end of a mapped file would end the process, and zeros are found by
 * their digests. Runs in a write transaction, so no other process is about to write there.
 */
function restoreLength(root: RootDatabase<unknown, string>, file: string): void {
  const { lastPageNumber, pageSize } = root.getStats() as { readonly lastPageNumber: number; readonly pageSize: number };
  const length = (lastPageNumber + 1) * pageSize;
  const descriptor = openSync(file, "r+");
  try {
    if (fstatSync(descriptor).size < length) ftruncateSync(descriptor, length);
  } finally {
    closeSync(descriptor);
  }
}
