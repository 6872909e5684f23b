// Content that outlives its sequence: what was read once is kept by its tokens, in memory and then on disk, and whoever starts with the same tokens
// takes it from here and prefills only the rest.
import { checkInteger, checkKeys, checkNumber, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import type { NativeKv } from "../native-kv.js";
import { Pool } from "../models/pool.js";
import { Sequence } from "../models/sequence.js";
import { chainKeys, chainRoot, chunkPositions, tenantOf } from "./chain.js";
import { DiskTier } from "./disk.js";
import { KvHandle } from "./handle.js";
import type { KvIdentity } from "./identity.js";
import { KvLease } from "./lease.js";
import { Ledger, type ChunkOffer } from "./ledger.js";
import type { PieceList } from "./lmdb-table.js";
import { MemoryTable } from "./memory-table.js";

/** Options of {@link KvStore.open}. */
export interface KvStoreOptions {
  /** A folder for the disk tier, made if it is not there; it needs the package `lmdb`. Several processes may use one. Default: memory alone. */
  readonly path?: string;
  /** Most bytes of keys and values to keep in memory. Default 1 GiB; 0 for disk alone. */
  readonly ramBytes?: number;
  /** Most bytes of keys and values to keep in the folder, of all salts. Default 16 GiB. */
  readonly diskBytes?: number;
  /** Most of them of this salt. Default: `diskBytes`. */
  readonly saltBytes?: number;
  /** How long a chunk is kept after it was last put, in milliseconds. Default: until its room is needed. */
  readonly ttlMs?: number;
  /** Whose content it is: stores with another salt do not find it. A secret of a tenant, say. Default "". */
  readonly salt?: string;
  /** The time in milliseconds. Where it runs backwards, it stands still. Default: the system's at the start of the process, and a monotonic clock from then on. */
  readonly clock?: () => number;
}

/** Options of {@link KvStore.put}. */
export interface KvPutOptions {
  /** How long prefilling all of the content takes, in milliseconds: what it is worth to have it. Default: 1 for each position. */
  readonly prefillMs?: number;
  readonly signal?: AbortSignal;
}

/** What {@link KvStore.put} did. */
export interface KvPut {
  /** Positions of the content, from the first on, that can be found now: 256 for each of `chunks`. */
  readonly positions: number;
  readonly chunks: number;
  /** Chunks that were not there before. */
  readonly added: number;
  /** Keys and values of these. */
  readonly bytes: number;
}

/** What one tier of a {@link KvStore} holds, and what happened in it since the store was opened. */
export interface KvTierStats {
  /** Of this store's salt. */
  readonly chunks: number;
  /** Keys and values of these. */
  readonly bytes: number;
  /** Chunks that were found in it. */
  readonly found: number;
  /** Chunks that went to make room. */
  readonly evicted: number;
  /** Chunks that went because their time was over. */
  readonly expired: number;
}

/** Counts of a {@link KvStore}. */
export interface KvStoreStats {
  readonly ram: KvTierStats;
  /** Null without a path. */
  readonly disk: KvTierStats | null;
  /** Leases that are not disposed. */
  readonly leases: number;
  /** Calls of {@link KvStore.find} that found something. */
  readonly hits: number;
  /** Calls that found nothing. */
  readonly misses: number;
  /** Chunks on disk that could not be verified and were put aside. */
  readonly quarantined: number;
}

/** A prefix and the names of its whole chunks. */
interface Subject {
  readonly tokens: Int32Array;
  readonly keys: readonly string[];
}

/** A chunk on its way into the tiers. */
interface NewChunk {
  readonly key: string;
  readonly parent: string | null;
  readonly ms: number;
  readonly expires: number | null;
  readonly kv: KvHandle;
}

const gib = 2 ** 30;
/** What says something about the bytes on disk, and nothing about the pool that reads them. */
const rotten: ReadonlySet<string> = new Set(
  ["FORMAT", "TRUNCATED", "CHECKSUM", "VERSION", "POSITION"].map((what) => `ERR_LATENT_KV_${what}`).concat("ERR_LATENT_NON_FINITE"),
);
/** Of the stored pieces of a chunk. */
const pieceBytes = 1 << 20;

/**
 * Keeps content in chunks of 256 positions, named by a hash over everything that they depend on: the tokens from the first on, the model, the number
 * format, the salt. Made by {@link KvStore.open}; docs/kv-transfer.md says what is kept, for how long, and what goes first.
 */
export class KvStore {
  readonly #salt: string;
  readonly #tenant: string;
  readonly #ttlMs: number | null;
  readonly #clock: () => number;
  readonly #table = new MemoryTable<KvHandle>();
  readonly #ram: Ledger<KvHandle>;
  readonly #disk: DiskTier | undefined;
  /** How many leases and running calls hold a chunk. */
  readonly #pins = new Map<string, number>();
  readonly #running = new Set<Promise<unknown>>();
  readonly #counts = { ramFound: 0, ramEvicted: 0, ramExpired: 0, diskFound: 0, hits: 0, misses: 0, leases: 0 };
  #latest = 0;
  #closing: Promise<void> | undefined;

  private constructor(
    options: Required<Pick<KvStoreOptions, "ramBytes" | "salt" | "clock">>,
    ttlMs: number | null,
    disk: DiskTier | undefined,
  ) {
    this.#salt = options.salt;
    this.#tenant = tenantOf(options.salt);
    this.#ttlMs = ttlMs;
    this.#clock = options.clock;
    this.#disk = disk;
    const limits = { bytes: options.ramBytes, tenantBytes: options.ramBytes };
    this.#ram = new Ledger(this.#table, limits, (kv) => {
      kv.dispose();
    });
  }

  /**
   * Opens a store. Where the folder cannot be written, what it holds is still found.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_PACKAGE_MISSING` (a path, and no `lmdb`), `ERR_LATENT_KV_DISK_FULL`
   * (nothing can be written to the folder, and there is nothing to read)
   */
  static async open(options: KvStoreOptions = {}): Promise<KvStore> {
    checkKeys("options", options, ["path", "ramBytes", "diskBytes", "saltBytes", "ttlMs", "salt", "clock"]);
    const bytes = (name: "ramBytes" | "diskBytes" | "saltBytes", standard: number): number =>
      checkInteger(name, fallback(options[name], standard), 0, Number.MAX_SAFE_INTEGER);
    const diskBytes = bytes("diskBytes", 16 * gib);
    const limits = { bytes: diskBytes, tenantBytes: bytes("saltBytes", diskBytes) };
    const settings = {
      ramBytes: bytes("ramBytes", gib),
      salt: checkString("salt", fallback(options.salt, "")),
      clock: fallback(options.clock, () => performance.timeOrigin + performance.now()),
    };
    if (typeof settings.clock !== "function") throw invalid("clock", "a function", settings.clock);
    const ttlMs = options.ttlMs === undefined ? null : checkNumber("ttlMs", options.ttlMs, 0, Number.MAX_SAFE_INTEGER);
    if (options.path === undefined) return new KvStore(settings, ttlMs, undefined);
    const disk = await DiskTier.open(checkString("path", options.path), limits, tenantOf(settings.salt));
    const store = new KvStore(settings, ttlMs, disk);
    // a disk that is full is still read
    if (!disk.readOnly) await disk.expire(store.#now()).catch(() => undefined);
    return store;
  }

  /**
   * Keeps the whole chunks of what a sequence or a handle holds, from its first position on. The chain ends before the first latent, and before what
   * was moved, joined, or came in a stream that nobody known has signed: of that it is not known that it is content of its tokens alone. A sequence is busy while it is copied,
   * before anything is written.
   * @throws {@link LatentError} `ERR_LATENT_KV_DISK_FULL` (memory holds what it had room for all the same), `ERR_LATENT_KV_LAYOUT` (a cache that cannot be
   * read), `ERR_LATENT_SEQUENCE_BUSY`, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_INVALID_ARGUMENT`; `signal.reason` when aborted:
   * the chunks that are complete stay
   */
  async put(source: Sequence | KvHandle, options: KvPutOptions = {}): Promise<KvPut> {
    if (!(source instanceof Sequence) && !(source instanceof KvHandle)) throw invalid("source", "a Sequence or a KvHandle", source);
    checkKeys("options", options, ["prefillMs", "signal"]);
    const prefillMs = options.prefillMs === undefined ? undefined : checkNumber("prefillMs", options.prefillMs, 0, Number.MAX_SAFE_INTEGER);
    return await this.#run(() => this.#put(source, prefillMs, options.signal));
  }

  /**
   * The longest prefix of `tokens` that is held for the model and number format of `pool`, as a lease; undefined if there is none. A chunk on disk is
   * verified before it is used: one that is damaged counts as absent and is put aside. What comes from disk is kept in memory too, if there is room.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; `signal.reason` when aborted
   */
  async find(
    pool: Pool,
    tokens: Int32Array | readonly number[],
    options: { readonly signal?: AbortSignal } = {},
  ): Promise<KvLease | undefined> {
    const subject = this.#subject(pool, tokens);
    checkKeys("options", options, ["signal"]);
    return await this.#run(() => this.#find(pool, subject, options.signal));
  }

  /**
   * Removes the whole chunks of `tokens`, in both tiers; chunks of other content that go on from them stay, and are found again when these come back.
   * Leases keep what they hold. Freed pages of the file are used again but not overwritten.
   * @returns chunks that were there
   * @throws {@link LatentError} `ERR_LATENT_KV_DISK_FULL` (the folder cannot be written), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`
   */
  async delete(pool: Pool, tokens: Int32Array | readonly number[]): Promise<number> {
    const { keys } = this.#subject(pool, tokens);
    return await this.#run(async () => {
      const inRam = keys.filter((key) => this.#ram.live(key, this.#now()) !== undefined);
      const onDisk = (await this.#disk?.delete(keys)) ?? 0;
      for (const key of keys) this.#ram.remove(key);
      return Math.max(inRam.length, onDisk);
    });
  }

  /** Removes everything of this salt, also what was put aside. Leases keep what they hold. @throws {@link LatentError} what {@link delete} throws */
  async clear(): Promise<void> {
    await this.#run(async () => {
      await this.#disk?.clear();
      for (const [key] of [...this.#table.contents()]) this.#ram.remove(key);
    });
  }

  /** What is held now, and what happened since the store was opened, by this process. */
  stats(): KvStoreStats {
    this.#requireOpen();
    const counts = this.#counts;
    const disk = this.#disk;
    return {
      ram: {
        chunks: [...this.#table.contents()].length,
        bytes: this.#table.bytes(),
        found: counts.ramFound,
        evicted: counts.ramEvicted,
        expired: counts.ramExpired,
      },
      disk:
        disk === undefined ? null : { ...disk.held, found: counts.diskFound, evicted: disk.counts.evicted, expired: disk.counts.expired },
      leases: counts.leases,
      hits: counts.hits,
      misses: counts.misses,
      quarantined: disk?.counts.quarantined ?? 0,
    };
  }

  /** Waits for what runs, and frees the memory; what is on disk stays. Leases keep what they hold. Idempotent. */
  async close(): Promise<void> {
    this.#closing ??= (async () => {
      while (this.#running.size > 0) await Promise.allSettled(this.#running);
      for (const [key] of [...this.#table.contents()]) this.#ram.remove(key);
      await this.#disk?.close();
    })();
    await this.#closing;
  }

  /** Same as {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #put(source: Sequence | KvHandle, prefillMs: number | undefined, signal: AbortSignal | undefined): Promise<KvPut> {
    signal?.throwIfAborted();
    if (source instanceof KvHandle && source.info.partial)
      throw new LatentError("ERR_LATENT_KV_LAYOUT", "content of some layers only is not kept: no cache could take it");
    const { keys, tokens } = this.#chainOf(source);
    const now = this.#now();
    const expires = this.#ttlMs === null ? null : now + this.#ttlMs;
    const ms = prefillMs === undefined ? chunkPositions : (prefillMs * chunkPositions) / Math.max(1, source.length);
    this.#expireRam(now);
    const missing = keys.findIndex((key) => (this.#disk ?? this.#ram).live(key, now) === undefined);
    const first = missing === -1 ? keys.length : missing;
    const held = { positions: first * chunkPositions, chunks: first, added: 0, bytes: 0 };
    this.#pin(keys);
    try {
      // begun in the turn of the event loop in which the log was read, so that it is the content of these tokens
      using kv = first === keys.length ? undefined : await taken(source, held.positions, keys.length * chunkPositions, signal);
      const there = keys.slice(0, first);
      for (const key of there) this.#ram.extend(key, expires);
      // memory goes on without the disk, and the disk without what it refused: a chunk must not outlast those before it
      const failures: LatentError[] = [];
      if (this.#disk?.readOnly === false) await this.#disk.extend(there, expires, now).catch(collectInto(failures));
      const fits = kv !== undefined && holds(kv, tokens.subarray(held.positions), held.positions);
      const put = fits ? await this.#putChunks(kv, keys, first, { ms, expires }, failures, signal) : held;
      const [failure] = failures;
      if (failure !== undefined) throw failure;
      return put;
    } finally {
      this.#unpin(keys);
    }
  }

  /**
   * Puts the chunks from `first` on, which `kv` holds, one after the other: whatever ends this, whole prefixes are held. After a failure of the disk
   * it is left alone.
   */
  async #putChunks(
    kv: KvHandle,
    keys: readonly string[],
    first: number,
    worth: { readonly ms: number; readonly expires: number | null },
    failures: LatentError[],
    signal: AbortSignal | undefined,
  ): Promise<KvPut> {
    const put = { chunks: first, added: 0, bytes: 0 };
    for (const [index, key] of keys.entries()) {
      if (index < first) continue;
      signal?.throwIfAborted();
      const from = (index - first) * chunkPositions;
      using slice = kv.slice({ from, to: from + chunkPositions });
      // without the label: it is nobody's business but the sender's
      const chunk: NewChunk = { ...worth, key, parent: keys[index - 1] ?? null, kv: new KvHandle(slice.toNative(), kv.identity, "") };
      const had = this.#has(key);
      await this.#putInRam(chunk, signal);
      if (failures.length === 0) await this.#putOnDisk(chunk, signal).catch(collectInto(failures));
      if (!this.#has(key)) break;
      put.chunks++;
      if (had) continue;
      put.added++;
      put.bytes += slice.info.bytes;
    }
    return { positions: put.chunks * chunkPositions, ...put };
  }

  #has(key: string): boolean {
    const now = this.#now();
    return this.#ram.live(key, now) !== undefined || this.#disk?.live(key, now) !== undefined;
  }

  /** A copy of the chunk that shares no memory with the whole it was cut from, if there is room for it. */
  async #putInRam({ kv, key, ...offer }: NewChunk, signal: AbortSignal | undefined): Promise<void> {
    const { bytes } = kv.info;
    if (this.#ram.live(key, this.#now()) !== undefined || !this.#ram.fits(bytes, this.#tenant, this.#pinned())) return;
    this.#admit(key, { ...offer, bytes }, await kv.convert(kv.toJSON().format, withSignal(signal)));
  }

  /** Takes the copy into memory, or disposes it. */
  #admit(key: string, { parent, bytes, ms, expires }: Omit<ChunkOffer<unknown>, "tenant" | "payload">, copy: KvHandle): void {
    const offer = { parent, bytes, ms, expires, tenant: this.#tenant, payload: copy };
    const outcome = this.#ram.admit(key, offer, this.#pinned(), (evicted) => {
      this.#counts.ramEvicted += evicted;
    });
    if (outcome !== "added") copy.dispose();
  }

  async #putOnDisk({ kv, key, ...offer }: NewChunk, signal: AbortSignal | undefined): Promise<void> {
    const disk = this.#disk;
    const now = this.#now();
    if (disk === undefined || disk.live(key, now) !== undefined) return;
    const pieces: Uint8Array[] = [];
    for await (const piece of kv.records({ bufferBytes: pieceBytes, ...withSignal(signal) })) pieces.push(piece);
    const { bytes } = kv.info;
    await disk.write(key, { ...offer, bytes, tenant: this.#tenant }, pieces, this.#pinned(), now);
  }

  async #find(pool: Pool, { tokens, keys }: Subject, signal: AbortSignal | undefined): Promise<KvLease | undefined> {
    signal?.throwIfAborted();
    const now = this.#now();
    this.#expireRam(now);
    // native, because facts of each part are of no interest
    const parts: NativeKv[] = [];
    const fromDisk: string[] = [];
    const held = (): readonly string[] => keys.slice(0, parts.length);
    let lease: KvLease | undefined;
    try {
      for (const [index, key] of keys.entries()) {
        let part = this.#fromRam(key, now);
        if (part === undefined) {
          part = await this.#fromDisk(pool, key, tokens.subarray(index * chunkPositions, (index + 1) * chunkPositions), index, now, signal);
          if (part === undefined) break;
          fromDisk.push(key);
        }
        parts.push(part);
        this.#pin([key]);
      }
      lease = this.#lease(parts, pool.kvIdentity, held(), fromDisk.length);
    } finally {
      if (lease === undefined) this.#unpin(held());
      for (const part of parts) part.dispose();
    }
    this.#countFound(held(), fromDisk, now);
    return lease;
  }

  #lease(parts: readonly NativeKv[], identity: KvIdentity, keys: readonly string[], chunksFromDisk: number): KvLease | undefined {
    if (parts.length === 0) return undefined;
    // chunks of one chain were read in order: joining them makes the whole again, and no approximation of it
    const whole = new KvHandle(
      LatentError.translate(() => joined(parts)),
      identity,
      "",
    );
    this.#counts.leases++;
    return new KvLease(whole, (parts.length - chunksFromDisk) * chunkPositions, chunksFromDisk * chunkPositions, () => {
      this.#counts.leases--;
      this.#unpin(keys);
    });
  }

  /** A handle of its own to the memory of a chunk: the store may dispose its own at any time. */
  #fromRam(key: string, now: number): NativeKv | undefined {
    const kv = this.#ram.live(key, now)?.payload.toNative();
    return kv && LatentError.translate(() => kv.slice(0, chunkPositions));
  }

  async #fromDisk(
    pool: Pool,
    key: string,
    tokens: Int32Array,
    index: number,
    now: number,
    signal: AbortSignal | undefined,
  ): Promise<NativeKv | undefined> {
    const disk = this.#disk;
    const entry = disk?.live(key, now);
    if (disk === undefined || entry === undefined) return undefined;
    using receiver = pool.kvReceiver();
    let list: PieceList = entry.payload;
    let rot = "ERR_LATENT_KV_FORMAT";
    try {
      const kv = await disk.read(key, (pieces, read) => {
        list = read;
        return receiver.read(pieces, withSignal(signal));
      });
      if (kv === undefined) return undefined;
      if (kv.length === chunkPositions && holds(kv, tokens, index * chunkPositions) && kv.toJSON().format === pool.info.kvType) {
        if (this.#ram.fits(entry.bytes, this.#tenant, this.#pinned()))
          this.#admit(key, { ...entry, bytes: kv.info.bytes }, kv.slice({ from: 0, to: kv.length }));
        return kv.toNative();
      }
      kv.dispose();
    } catch (error) {
      signal?.throwIfAborted();
      if (!LatentError.isInstance(error) || !rotten.has(error.code)) throw error;
      rot = error.code;
    }
    // where the folder cannot be written it stays, and is a miss again next time
    await disk.quarantine(key, list, rot).catch(() => undefined);
    return undefined;
  }

  #countFound(keys: readonly string[], fromDisk: readonly string[], now: number): void {
    const counts = this.#counts;
    if (keys.length === 0) counts.misses++;
    else counts.hits++;
    counts.ramFound += keys.length - fromDisk.length;
    counts.diskFound += fromDisk.length;
    for (const key of keys) this.#ram.touch(key);
    // nobody waits for it, and a disk that cannot be written only forgets how often a chunk was used
    if (fromDisk.length > 0 && this.#disk?.readOnly === false) void this.#track(this.#disk.touch(fromDisk, now).catch(() => undefined));
  }

  /** The part of a source that is content of its tokens alone, named. */
  #chainOf(source: Sequence | KvHandle): Subject {
    const tokens = source instanceof Sequence ? source.log() : source.tokens();
    const [identity, format] =
      source instanceof Sequence ? [source.pool.kvIdentity, source.pool.info.kvType] : [source.identity, source.toJSON().format];
    const latent = tokens.findIndex((token) => token < 0);
    const end = Math.min(latent === -1 ? tokens.length : latent, source.mixedFrom);
    return { tokens, keys: chainKeys(chainRoot(identity, format, this.#salt), tokens.subarray(0, end)) };
  }

  #subject(pool: unknown, tokens: Int32Array | readonly number[]): Subject {
    if (!(pool instanceof Pool)) throw invalid("pool", "a Pool", pool);
    const checked = pool.model.checkTokens(tokens);
    return { tokens: checked, keys: chainKeys(chainRoot(pool.kvIdentity, pool.info.kvType, this.#salt), checked) };
  }

  #now(): number {
    const time = checkNumber("clock()", this.#clock(), 0, Number.MAX_SAFE_INTEGER);
    this.#latest = Math.max(this.#latest, time, this.#disk?.time ?? 0);
    return this.#latest;
  }

  #expireRam(now: number): void {
    this.#counts.ramExpired += this.#ram.expire(now);
  }

  #pinned(): ReadonlySet<string> {
    return new Set(this.#pins.keys());
  }

  #pin(keys: readonly string[]): void {
    for (const key of keys) this.#pins.set(key, (this.#pins.get(key) ?? 0) + 1);
  }

  #unpin(keys: readonly string[]): void {
    for (const key of keys) {
      const count = (this.#pins.get(key) ?? 0) - 1;
      if (count > 0) this.#pins.set(key, count);
      else this.#pins.delete(key);
    }
  }

  #requireOpen(): void {
    if (this.#closing !== undefined) throw new LatentError("ERR_LATENT_DISPOSED", "the store is closed");
  }

  async #run<T>(work: () => Promise<T>): Promise<T> {
    this.#requireOpen();
    return await this.#track(work());
  }

  /** What {@link close} waits for. */
  #track<T>(running: Promise<T>): Promise<T> {
    this.#running.add(running);
    const done = (): void => {
      this.#running.delete(running);
    };
    running.then(done, done);
    return running;
  }
}

/** The entries [from, to) of a source; those of a sequence are copied. */
async function taken(source: Sequence | KvHandle, from: number, to: number, signal: AbortSignal | undefined): Promise<KvHandle> {
  return source instanceof KvHandle ? source.slice({ from, to }) : await source.exportKv({ range: { from, to }, ...withSignal(signal) });
}

/** Whether these are entries of `tokens`, at the positions from `from` on that they have in a sequence that starts at its first token. */
function holds(kv: KvHandle, tokens: Int32Array, from: number): boolean {
  return kv.positions().every((position, i) => position === from + i) && kv.tokens().every((token, i) => token === tokens[i]);
}

function collectInto(failures: LatentError[]): (error: unknown) => void {
  return (error) => {
    if (!LatentError.isInstance(error) || error.code !== "ERR_LATENT_KV_DISK_FULL") throw error;
    failures.push(error);
  };
}

function joined(parts: readonly NativeKv[]): NativeKv {
  const [only] = parts;
  if (only !== undefined && parts.length === 1) return only.slice(0, chunkPositions);
  const middle = Math.ceil(parts.length / 2);
  const halves = [joined(parts.slice(0, middle)), joined(parts.slice(middle))] as const;
  const whole = halves[0].concat(halves[1]);
  for (const half of halves) half.dispose();
  return whole;
}
