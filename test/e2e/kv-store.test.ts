// The store: what was read once is found by its tokens, in memory, on disk and from other processes, and whatever goes wrong is a miss and never a
// wrong answer. The numbers in the titles are those of the conformance list of KV transfer.
import { fork, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { open } from "lmdb";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  KvStore,
  loadModel,
  pipe,
  team,
  type KvHandle,
  type KvStoreOptions,
  type Model,
  type Pool,
  type Sequence,
} from "../../lib/index.js";
import { codeOf, folder, greedy } from "./helpers.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const built = pathToFileURL(path.join(root, "dist", "index.js")).href;
const script = fileURLToPath(new URL("kv-store-process.mjs", import.meta.url));

let model: Model;
let pool: Pool;
/** What the keys and values of a chunk take: 256 positions, f16. */
let chunkBytes: number;

beforeAll(async () => {
  model = await loadModel(bundledModel("wren"));
  pool = await model.createPool({ contextLength: 8192, maxSequences: 32 });
  const { layers, heads, kvHeads, embeddingLength } = model.info;
  chunkBytes = 256 * layers * kvHeads * (embeddingLength / heads) * 2 * 2;
});

afterEach(async () => {
  for (const sequence of opened.splice(0)) await sequence.dispose();
});

afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

const newFolder = (): string => mkdtempSync(path.join(folder, "store-"));
const prefix = (number: number, length = 512): Int32Array => Int32Array.from({ length }, (_, i) => 5 + ((number + i * 7) % 90));

/** What a test left open. */
const opened: Sequence[] = [];

function empty(where = pool): Sequence {
  const sequence = where.sequence();
  opened.push(sequence);
  return sequence;
}

async function read(tokens: Int32Array, where = pool): Promise<Sequence> {
  const sequence = empty(where);
  await sequence.prefill(tokens);
  return sequence;
}

/** Reads a prefix and puts it. */
async function putPrefix(store: KvStore, tokens: Int32Array, prefillMs?: number): ReturnType<KvStore["put"]> {
  const sequence = await read(tokens);
  try {
    return await store.put(sequence, prefillMs === undefined ? {} : { prefillMs });
  } finally {
    await sequence.dispose();
  }
}

async function positions(store: KvStore, tokens: Int32Array, where = pool): Promise<number> {
  using lease = await store.find(where, tokens);
  return lease?.positions ?? 0;
}

const bytesOf = async (kv: KvHandle): Promise<Buffer> => Buffer.from(await kv.toBytes());

/** What the files of a store hold, seen without the store: pieces, and those that its records name. */
async function audit(where: string): Promise<{ pieces: number; named: number; chunks: number; parents: number }> {
  const files = open<unknown, string>({ path: where, noSubdir: false, maxDbs: 8, readOnly: true });
  const pieces = files.openDB<Buffer, Buffer>({ name: "pieces", encoding: "binary", keyEncoding: "binary" });
  const entries = files.openDB<{ parent: string | null; payload: { count: number } | null }, string>({ name: "chunks", encoding: "json" });
  const all = [...entries.getRange()];
  const live = all.filter(({ value }) => value.payload !== null);
  const result = {
    pieces: [...pieces.getKeys()].length,
    named: live.reduce((total, { value }) => total + (value.payload?.count ?? 0), 0),
    chunks: live.length,
    parents: live.filter(({ value }) => value.parent === null || entries.get(value.parent) !== undefined).length,
  };
  await files.close();
  return result;
}

interface Said {
  readonly put?: number;
  readonly puts?: number;
  readonly failed?: { readonly code: string; readonly reason?: string };
  readonly inMemory?: number;
  readonly disk?: number;
  readonly found?: number;
  readonly quarantined?: number;
}

const start = (what: string, where: string, options: Parameters<typeof fork>[2] = {}): ChildProcess =>
  fork(script, [built, what, where], { stdio: ["ignore", "ignore", "ignore", "ipc"], ...options });

const said = async (child: ChildProcess): Promise<Said> => ((await once(child, "message")) as [Said])[0];

describe("a prefix that was put", () => {
  it("is found in memory, and on disk after the store was closed, bit for bit, and goes on with the same greedy tokens", async () => {
    const where = newFolder();
    const tokens = prefix(0, 700);
    const sequence = await read(tokens);
    using whole = await sequence.exportKv({ range: { from: 0, to: 512 } });
    const want = await bytesOf(whole);
    const next = await greedy(sequence, 16);
    const store = await KvStore.open({ path: where });
    expect(await store.put(sequence)).toEqual({ positions: 512, chunks: 2, added: 2, bytes: 2 * chunkBytes });
    expect(await store.put(sequence)).toEqual({ positions: 512, chunks: 2, added: 0, bytes: 0 });
    const again = await KvStore.open({ path: where, ramBytes: 0 });
    for (const [from, tier] of [
      [store, "fromRam"],
      [again, "fromDisk"],
    ] as const) {
      using lease = await from.find(pool, tokens);
      expect(lease).toMatchObject({ positions: 512, [tier]: 512, bytes: 2 * chunkBytes });
      if (lease === undefined) throw new Error("not found");
      expect((await bytesOf(lease.handle)).equals(want)).toBe(true);
      const target = empty();
      await target.importKv(lease.handle, { positions: "keep" });
      await target.prefill(tokens.subarray(512));
      expect(await greedy(target, 16)).toEqual(next);
    }
    expect(store.stats()).toMatchObject({ ram: { chunks: 2, bytes: 2 * chunkBytes, found: 2 }, disk: { chunks: 2 }, hits: 1, leases: 0 });
    await store.close();
    await again.close();
  });

  it("is kept once, however many go on from it, and found as far as it goes", async () => {
    const where = newFolder();
    await using store = await KvStore.open({ path: where });
    const head = prefix(1, 256);
    await putPrefix(store, Int32Array.of(...head, ...prefix(2, 300)));
    expect(await putPrefix(store, Int32Array.of(...head, ...prefix(3, 300)))).toMatchObject({ chunks: 2, added: 1, bytes: chunkBytes });
    expect(store.stats().ram.chunks).toBe(3);
    expect(await positions(store, Int32Array.of(...head, ...prefix(2, 256)))).toBe(512);
    expect(await positions(store, Int32Array.of(...head, ...prefix(4, 256)))).toBe(256);
    expect(await positions(store, head.subarray(0, 255))).toBe(0);
    expect(await positions(store, prefix(4))).toBe(0);
    // the same tokens behind other ones are other content
    expect(await positions(store, prefix(2))).toBe(0);
    expect(await audit(where)).toMatchObject({ chunks: 3, parents: 3 });
  });

  it("29. is not found with another salt, by another model, or for another number format", async () => {
    const where = newFolder();
    await using store = await KvStore.open({ path: where, salt: "ours" });
    await putPrefix(store, prefix(0));
    await using theirs = await KvStore.open({ path: where, salt: "theirs" });
    expect(await positions(theirs, prefix(0))).toBe(0);
    expect(theirs.stats()).toMatchObject({ disk: { chunks: 0, bytes: 0 }, misses: 1 });
    const small = await model.createPool({ contextLength: 512, kvType: "q8_0" });
    const plain = await loadModel(bundledModel("wren"), { template: "plain" });
    const other = await plain.createPool({ contextLength: 512 });
    expect(await positions(store, prefix(0), small)).toBe(0);
    expect(await positions(store, prefix(0), other)).toBe(0);
    const sequence = await read(prefix(0), small);
    expect(await store.put(sequence)).toMatchObject({ added: 2 });
    expect(await positions(store, prefix(0), small)).toBe(512);
    await theirs.clear();
    expect(await positions(store, prefix(0))).toBe(512);
    for (const one of [small, other, plain]) await one.dispose();
  });

  it("ends before the first latent, and before what was moved or joined", async () => {
    await using store = await KvStore.open();
    const chunks = async (source: Sequence | KvHandle): Promise<number> => {
      const { chunks } = await store.put(source);
      await store.clear();
      return chunks;
    };
    const one = await read(prefix(0, 600));
    await one.think({ steps: 2 });
    await one.prefill(prefix(1, 600));
    expect(await chunks(one)).toBe(2);
    const two = await read(prefix(1, 600));
    expect(await chunks(two)).toBe(2);
    using kv = await two.exportKv();
    expect(await chunks(kv)).toBe(2);
    using later = kv.slice({ from: 256, to: 600 });
    expect(await chunks(later)).toBe(0);
    using twice = kv.concat(kv);
    expect(await chunks(twice)).toBe(2);
    using cut = kv.drop({ from: 300, to: 400 });
    expect(await chunks(cut)).toBe(1);
    using same = await cut.convert("f16");
    expect(await chunks(same)).toBe(1);
    using smaller = await cut.convert("q8_0");
    expect(await chunks(smaller)).toBe(0);
    using back = await smaller.convert("f16");
    expect(await chunks(back)).toBe(0);
    using sent = await pool.readKv(cut.records());
    expect(await chunks(sent)).toBe(0);
    const restored = await pool.restore(await cut.toBytes());
    opened.push(restored);
    expect(await chunks(restored)).toBe(0);
    const continued = empty();
    await continued.importKv(kv);
    await continued.prefill(prefix(6, 300));
    expect(await chunks(continued)).toBe(3);
    const appended = await read(prefix(2, 300));
    await appended.importKv(kv);
    expect(await chunks(appended)).toBe(1);
    const fork = await appended.fork();
    expect(await chunks(fork)).toBe(1);
    await fork.truncate(300);
    await fork.prefill(prefix(5, 300));
    expect(await chunks(fork)).toBe(2);
    const shifted = await read(prefix(3, 256));
    await shifted.append(two, { mode: "shift" });
    expect(await chunks(shifted)).toBe(1);
    const moved = empty();
    await moved.importKv(later, { positions: "append" });
    expect(await chunks(moved)).toBe(0);
    const recomputed = await read(prefix(3, 256));
    await recomputed.append(await read(prefix(4, 256)), { mode: "recompute" });
    expect(await chunks(recomputed)).toBe(2);
    await two.keepLast(512);
    expect(await chunks(two)).toBe(0);
    const adopted = empty();
    await adopted.adopt(two);
    expect(await chunks(adopted)).toBe(0);
    const dropped = await read(prefix(6, 700));
    await dropped.drop({ from: 600, to: 700 });
    expect(await chunks(dropped)).toBe(2);
    await dropped.drop({ from: 100, to: 200 });
    expect(await chunks(dropped)).toBe(0);
    await fork.dispose();
  });

  it("is removed by its tokens, and what goes on from it is found again when it comes back", async () => {
    const where = newFolder();
    await using store = await KvStore.open({ path: where });
    const long = Int32Array.of(...prefix(1, 256), ...prefix(2, 512));
    await putPrefix(store, long);
    expect(await store.delete(pool, long.subarray(0, 512))).toBe(2);
    expect(await positions(store, long)).toBe(0);
    expect(await store.delete(pool, long.subarray(0, 512))).toBe(0);
    expect(await putPrefix(store, long.subarray(0, 512))).toMatchObject({ added: 2 });
    expect(await positions(store, long)).toBe(768);
    await store.clear();
    expect(await positions(store, long)).toBe(0);
    expect(await audit(where)).toEqual({ pieces: 0, named: 0, chunks: 0, parents: 0 });
  });
});

describe("what goes and what stays", () => {
  it("memory holds no more than it may, and what is cheap to read again goes first", async () => {
    await using store = await KvStore.open({ ramBytes: 4 * chunkBytes });
    await putPrefix(store, prefix(0), 10_000);
    for (let number = 1; number < 6; number++) {
      await putPrefix(store, prefix(number), 10);
      expect(store.stats().ram.bytes).toBeLessThanOrEqual(4 * chunkBytes);
    }
    expect(await positions(store, prefix(0))).toBe(512);
    expect(await positions(store, prefix(5))).toBe(512);
    expect(await positions(store, prefix(1))).toBe(0);
    expect(store.stats().ram).toMatchObject({ chunks: 4, evicted: 8 });
    // longer than all of the memory: the part that fits is a prefix of it
    await store.clear();
    expect(await putPrefix(store, prefix(9, 1280))).toMatchObject({ chunks: 4, positions: 1024 });
    expect(await positions(store, prefix(9, 1280))).toBe(1024);
  });

  it("a lease keeps its content from eviction, deletion and the end of the store", async () => {
    const where = newFolder();
    const store = await KvStore.open({ path: where, ramBytes: 4 * chunkBytes });
    await putPrefix(store, prefix(0), 1);
    const lease = await store.find(pool, prefix(0));
    if (lease === undefined) throw new Error("not found");
    const want = await bytesOf(lease.handle);
    for (let number = 1; number < 5; number++) await putPrefix(store, prefix(number), 1000);
    expect(store.stats()).toMatchObject({ leases: 1, ram: { chunks: 4 } });
    {
      using second = await store.find(pool, prefix(0));
      expect(second?.fromRam).toBe(512);
    }
    await store.delete(pool, prefix(0));
    expect(await positions(store, prefix(0))).toBe(0);
    expect((await bytesOf(lease.handle)).equals(want)).toBe(true);
    await store.close();
    expect((await bytesOf(lease.handle)).equals(want)).toBe(true);
    lease.dispose();
    lease.dispose();
    expect(lease.handle.disposed).toBe(true);
  });

  it("33. chunks end by a clock that never runs backwards, whatever the system's does", async () => {
    const where = newFolder();
    let time = 1_000_000;
    const options: KvStoreOptions = { path: where, ttlMs: 1000, clock: () => time };
    const store = await KvStore.open(options);
    await putPrefix(store, prefix(0));
    time -= 500_000;
    expect(await positions(store, prefix(0))).toBe(512);
    time += 500_999;
    expect(await positions(store, prefix(0))).toBe(512);
    await putPrefix(store, prefix(1));
    time -= 900_000;
    const late = await KvStore.open({ ...options, ramBytes: 0 });
    expect(await positions(late, prefix(0))).toBe(512);
    time += 900_001;
    expect(await positions(store, prefix(0))).toBe(0);
    expect(await positions(late, prefix(0))).toBe(0);
    expect(await positions(late, prefix(1))).toBe(512);
    // putting it again puts its end off
    await putPrefix(store, prefix(1));
    time += 999;
    expect(await positions(store, prefix(1))).toBe(512);
    time += 1;
    expect(await positions(store, prefix(1))).toBe(0);
    await store.close();
    await late.close();
    await (await KvStore.open(options)).close();
    expect(await audit(where)).toEqual({ pieces: 0, named: 0, chunks: 0, parents: 0 });
  });

  it("27. a prefix that exceeds the quota of its salt is refused on disk, served from memory, and others are as they were", async () => {
    const where = newFolder();
    await using other = await KvStore.open({ path: where, salt: "other", ramBytes: 0 });
    await putPrefix(other, prefix(0));
    await using store = await KvStore.open({ path: where, saltBytes: 3 * chunkBytes });
    const error: unknown = await putPrefix(store, prefix(1, 1024)).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ERR_LATENT_KV_DISK_FULL", details: { reason: "quota" } });
    using lease = await store.find(pool, prefix(1, 1024));
    expect(lease).toMatchObject({ fromRam: 1024 });
    lease?.dispose();
    expect(store.stats().disk).toMatchObject({ chunks: 3, bytes: 3 * chunkBytes });
    // several prefixes that do fit replace each other, and never those of another salt
    for (let number = 2; number < 5; number++) await putPrefix(store, prefix(number));
    expect(store.stats().disk?.bytes).toBeLessThanOrEqual(3 * chunkBytes);
    expect(await positions(other, prefix(0))).toBe(512);
    const { pieces, named, chunks, parents } = await audit(where);
    expect(pieces).toBe(named);
    expect(chunks).toBe(parents);
  });

  it("an aborted put leaves whole chunks, an aborted find nothing", async () => {
    const where = newFolder();
    await using store = await KvStore.open({ path: where, ramBytes: 0 });
    const reason = new Error("enough");
    const sequence = await read(prefix(0, 1024));
    for (let i = 0; i < 12; i++) {
      const controller = new AbortController();
      const work = store.put(sequence, { signal: controller.signal });
      setTimeout(() => {
        controller.abort(reason);
      }, i);
      await work.catch((error: unknown) => {
        if (error !== reason) throw error;
      });
      const { pieces, named, chunks, parents } = await audit(where);
      expect([pieces, chunks]).toEqual([named, parents]);
      expect(await positions(store, prefix(0, 1024))).toBe(256 * chunks);
    }
    await expect(store.find(pool, prefix(0), { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    expect(await store.put(sequence)).toMatchObject({ chunks: 4 });
    expect(store.stats().leases).toBe(0);
  });

  it("a closed store says so, and waits for what runs", async () => {
    const where = newFolder();
    const store = await KvStore.open({ path: where });
    const sequence = await read(prefix(0));
    const running = store.put(sequence);
    await store.close();
    expect(await running).toMatchObject({ added: 2 });
    await store.close();
    expect(await codeOf(() => store.put(sequence))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => store.find(pool, prefix(0)))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => store.stats())).toBe("ERR_LATENT_DISPOSED");
  });

  it("calls at once do not disturb each other", async () => {
    await using store = await KvStore.open({ path: newFolder(), ramBytes: 3 * chunkBytes, diskBytes: 5 * chunkBytes });
    const sequences = await Promise.all(Array.from({ length: 6 }, (_, number) => read(prefix(number % 4))));
    const want = await Promise.all(sequences.map(async (sequence) => await bytesOf(await sequence.exportKv())));
    const puts = sequences.map((sequence) => codeOf(() => store.put(sequence)));
    const finds = sequences.map(async (_, number) => {
      using lease = await store.find(pool, prefix(number % 4));
      if (lease?.positions === 512) expect((await bytesOf(lease.handle)).equals(want[number] ?? Buffer.alloc(0))).toBe(true);
    });
    for (const outcome of await Promise.all(puts)) expect(outcome).toMatch(/^(no error|ERR_LATENT_KV_DISK_FULL)$/);
    await Promise.all(finds);
    const { ram, disk, leases } = store.stats();
    expect(ram.bytes).toBeLessThanOrEqual(3 * chunkBytes);
    expect(disk?.bytes).toBeLessThanOrEqual(5 * chunkBytes);
    expect(leases).toBe(0);
  });
});

describe("faults", () => {
  it("21. kill -9 of a writer between and in its puts: readers see whole prefixes or none, also while it writes", async () => {
    const where = newFolder();
    for (const killAfter of [5, 60]) {
      const child = start("write", where);
      const killed = once(child, "exit");
      const reader = await said(child).then(() => KvStore.open({ path: where, ramBytes: 0 }));
      expect(await positions(reader, prefix(0))).toBe(512);
      await new Promise((resolve) => setTimeout(resolve, killAfter));
      child.kill("SIGKILL");
      await killed;
      let found = 0;
      for (let number = 0; number < 90; number++) {
        const held = await positions(reader, prefix(number));
        expect([0, 256, 512]).toContain(held);
        found += held / 256;
      }
      expect(reader.stats().quarantined).toBe(0);
      expect(found).toBeGreaterThan(1);
      const { pieces, named, chunks, parents } = await audit(where);
      expect([pieces, chunks, reader.stats().disk?.chunks]).toEqual([named, parents, chunks]);
      // and the folder can be written again
      await putPrefix(reader, prefix(89));
      await reader.clear();
      await reader.close();
    }
  });

  it("27. a disk that is full: a typed error, the memory's copy is served, no half chunk, and room makes it go on", async () => {
    const where = newFolder();
    // a limit on the size of files, in blocks of 1024 bytes, is a full disk for one process
    const line = 'ulimit -f 3000; exec "$0" "$@"';
    const child = fork(script, [built, "full", where], {
      execPath: "/bin/bash",
      execArgv: ["-c", line, process.execPath],
      stdio: ["ignore", "ignore", "ignore", "ipc"],
    });
    const exited = once(child, "exit");
    const { failed, puts = 0, inMemory, disk = 0 } = await said(child);
    // the store was closed, which waits for nothing that cannot come
    expect(await exited).toEqual([0, null]);
    expect(failed).toMatchObject({ code: "ERR_LATENT_KV_DISK_FULL" });
    expect(puts).toBeGreaterThan(1);
    expect(inMemory).toBe(512);
    expect(disk).toBeGreaterThanOrEqual(2 * puts);
    expect(await audit(where)).toEqual({ pieces: disk, named: disk, chunks: disk, parents: disk });
    await using store = await KvStore.open({ path: where });
    for (let number = 0; number < puts; number++) expect(await positions(store, prefix(number))).toBe(512);
    expect(await putPrefix(store, prefix(puts))).toMatchObject({ chunks: 2 });
  });

  it("27. a folder that cannot be written is read, and putting into it is refused", async () => {
    const where = newFolder();
    const writer = await KvStore.open({ path: where });
    await putPrefix(writer, prefix(0));
    await writer.close();
    // root may write anywhere, so it steps down for a moment
    chmodSync(folder, 0o755);
    for (const [name, mode] of [
      ["", 0o555],
      ["data.mdb", 0o444],
      ["lock.mdb", 0o666],
    ] as const)
      chmodSync(path.join(where, name), mode);
    const stepDown = process.getuid?.() === 0;
    if (stepDown) process.seteuid?.(65534);
    try {
      await using store = await KvStore.open({ path: where });
      const error: unknown = await putPrefix(store, prefix(1)).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "ERR_LATENT_KV_DISK_FULL", details: { reason: "read-only" } });
      expect(await positions(store, prefix(1))).toBe(512);
      using lease = await store.find(pool, prefix(0));
      expect(lease?.fromDisk).toBe(512);
      expect(await codeOf(() => store.clear())).toBe("ERR_LATENT_KV_DISK_FULL");
      expect(await positions(store, prefix(1))).toBe(512);
      const nowhere: unknown = await KvStore.open({ path: path.join(where, "new") }).catch((reason: unknown) => reason);
      expect(nowhere).toMatchObject({ code: "ERR_LATENT_KV_DISK_FULL", details: { reason: "read-only" } });
    } finally {
      if (stepDown) process.seteuid?.(0);
    }
  });

  it("28. bits that rot on disk: a miss, put aside and counted; the rest is served, and putting it again heals", async () => {
    const where = newFolder();
    const tokens = prefix(0, 768);
    const writer = await KvStore.open({ path: where });
    await putPrefix(writer, tokens);
    await writer.close();
    // the second chunk: its token ids stand in its stream
    const file = path.join(where, "data.mdb");
    const bytes = readFileSync(file);
    const second = tokens.subarray(256, 512);
    const at = bytes.indexOf(new Uint8Array(second.buffer, second.byteOffset, second.byteLength));
    expect(at).toBeGreaterThan(0);
    bytes[at + 100_000] = (bytes[at + 100_000] ?? 0) ^ 4;
    writeFileSync(file, bytes);
    const store = await KvStore.open({ path: where });
    expect(await positions(store, tokens)).toBe(256);
    expect(store.stats()).toMatchObject({ quarantined: 1, disk: { chunks: 2, bytes: 2 * chunkBytes } });
    expect(await positions(store, tokens)).toBe(256);
    expect(store.stats().quarantined).toBe(1);
    const { pieces, named } = await audit(where);
    expect(pieces).toBe(named + 1);
    expect(await putPrefix(store, tokens)).toMatchObject({ chunks: 3, added: 1 });
    expect(await positions(store, tokens)).toBe(768);
    await store.close();
    // what was put aside goes first when room is needed
    const small = await KvStore.open({ path: where, ramBytes: 0, diskBytes: 4 * chunkBytes });
    await putPrefix(small, prefix(1, 256));
    expect(small.stats().disk).toMatchObject({ chunks: 4, evicted: 0 });
    const after = await audit(where);
    expect(after.pieces).toBe(after.named);
    await small.close();
  });

  it("28. records that name other content, or cannot be read, are misses and never a wrong answer", async () => {
    const where = newFolder();
    const writer = await KvStore.open({ path: where });
    for (let number = 0; number < 3; number++) await putPrefix(writer, prefix(number, 256));
    await writer.close();
    const files = open<unknown, string>({ path: where, noSubdir: false, maxDbs: 8 });
    const entries = files.openDB<{ payload: unknown } | string, string>({ name: "chunks", encoding: "json" });
    const [first, second, third] = [...entries.getRange()].map(({ key, value }) => ({ key, value: value as { payload: unknown } }));
    if (!first || !second || !third) throw new Error("no records");
    await entries.put(first.key, { ...first.value, payload: second.value.payload });
    await entries.put(second.key, { ...second.value, payload: first.value.payload });
    await entries.put(third.key, "nothing that makes sense");
    await files.close();
    await using store = await KvStore.open({ path: where });
    for (let number = 0; number < 3; number++) expect(await positions(store, prefix(number, 256))).toBe(0);
    expect(store.stats().quarantined).toBe(2);
    for (let number = 0; number < 3; number++) await putPrefix(store, prefix(number, 256));
    for (let number = 0; number < 3; number++) expect(await positions(store, prefix(number, 256))).toBe(256);
  });

  it("28. a file that was cut off ends no process: what is gone is a miss", async () => {
    const where = newFolder();
    const writer = await KvStore.open({ path: where });
    for (let number = 0; number < 3; number++) await putPrefix(writer, prefix(number));
    await writer.close();
    const file = path.join(where, "data.mdb");
    truncateSync(file, Math.floor(statSync(file).size / 3));
    const child = start("read", where);
    const exited = once(child, "exit");
    const answer = await Promise.race([
      said(child),
      exited.then(([code, signal]) => ({ code: code as unknown, signal: signal as unknown })),
    ]);
    expect(answer).toHaveProperty("found");
    expect(await exited).toEqual([0, null]);
  });

  it("a path without the package is an error that names the command", () => {
    const where = newFolder();
    cpSync(path.join(root, "dist"), path.join(where, "dist"), { recursive: true });
    writeFileSync(path.join(where, "package.json"), '{ "type": "module", "version": "0.0.0" }');
    mkdirSync(path.join(where, "node_modules"));
    for (const name of ["@huggingface", "node-gyp-build"])
      symlinkSync(path.join(root, "node_modules", name), path.join(where, "node_modules", name));
    const source = `
      import { KvStore } from ${JSON.stringify(pathToFileURL(path.join(where, "dist", "index.js")).href)};
      await (await KvStore.open()).close();
      await KvStore.open({ path: "kept" }).catch(({ code, hint }) => console.log(JSON.stringify({ code, hint })));`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", source], { cwd: where, encoding: "utf8" });
    expect(stderr).toBe("");
    expect(JSON.parse(stdout)).toMatchObject({
      code: "ERR_LATENT_PACKAGE_MISSING",
      hint: expect.stringContaining("npm install lmdb@3.5.6") as string,
    });
  });
});

describe("agents with a store", () => {
  const facts = "tom is in the red house. the key is in the box. ana has the blue ball. ".repeat(28);
  const agents = (): ReturnType<typeof pipe> =>
    pipe(
      model.agent({ name: "reader", system: facts, think: { policy: "hidden", steps: 4 } }),
      model.agent({ name: "solver", generate: { maxTokens: 24 } }),
    );

  it("answer as without one, skip what is held, and say what came from where", async () => {
    const where = newFolder();
    const plain = await agents().run("where is the key?", { pool });
    expect(plain.store).toBeUndefined();
    const prompt = plain.hops[0]?.prefillTokens ?? 0;
    const whole = Math.floor(prompt / 256);
    expect(whole).toBeGreaterThan(1);
    const store = await KvStore.open({ path: where });
    const first = await agents().run("where is the key?", { pool, store });
    expect(first.text).toBe(plain.text);
    expect(first.hops[0]).toMatchObject({ prefillTokens: prompt, fromRam: 0, fromDisk: 0 });
    expect(first.store).toEqual({ fromRam: 0, fromDisk: 0, added: whole, addedBytes: whole * chunkBytes });
    const second = await agents().run("where is the key?", { pool, store });
    expect(second.text).toBe(plain.text);
    expect(second.hops[0]).toMatchObject({ prefillTokens: prompt - 256 * whole, fromRam: 256 * whole, fromDisk: 0 });
    expect(second.totals.fromRam).toBe(256 * whole);
    expect(second.store).toEqual({ fromRam: 256 * whole, fromDisk: 0, added: 0, addedBytes: 0 });
    expect(second.asText).toEqual(plain.asText);
    await store.close();
    const later = await KvStore.open({ path: where });
    const stream = agents().stream("where is the key?", { pool, store: later });
    const prefills: unknown[] = [];
    for await (const event of stream) if (event.type === "prefill") prefills.push(event);
    const third = await stream.answer;
    expect(third.text).toBe(plain.text);
    expect(third.totals).toMatchObject({ fromRam: 0, fromDisk: 256 * whole });
    expect(prefills[0]).toMatchObject({ agent: "reader", tokens: prompt - 256 * whole, fromDisk: 256 * whole });
    await later.close();
  });

  it("leave a token to feed when the prompt is held to its end", async () => {
    await using store = await KvStore.open();
    const agent = model.agent({ name: "one", user: facts, generate: { maxTokens: 8 } });
    const length = model.tokenize(model.renderChat(agent.messages("", [], "inline"))).length;
    // words until the prompt is whole chunks, one of them the begin token
    let padding = "";
    const size = (): number => model.tokenize(model.renderChat([{ role: "user", content: facts + padding }])).length;
    const begin = model.info.addBos ? 1 : 0;
    while ((size() + begin) % 256 !== 0 && padding.length < 2000) padding += " tom";
    const padded = pipe(model.agent({ name: "one", user: facts + padding, generate: { maxTokens: 8 } }));
    const plain = await padded.run("", { pool });
    expect(length).toBeGreaterThan(256);
    await padded.run("", { pool, store });
    const again = await padded.run("", { pool, store });
    expect(again.text).toBe(plain.text);
    expect(again.totals.prefillTokens).toBeGreaterThan(0);
    expect(again.totals.fromRam + again.totals.prefillTokens).toBe(plain.totals.prefillTokens);
  });

  it("of a team share what they have in common, and a store that fails costs nothing but the prefill", async () => {
    const where = newFolder();
    await using store = await KvStore.open({ path: where, ramBytes: 0, diskBytes: chunkBytes });
    const expert = (name: string) => model.agent({ name, system: facts, think: { policy: "hidden", steps: 2 } });
    const both = team({ experts: [expert("a"), expert("b")], join: model.agent({ name: "join", generate: { maxTokens: 12 } }) });
    const plain = await both.run("where is ana?", { pool });
    const first = await both.run("where is ana?", { pool, store });
    expect(first.store).toMatchObject({ added: 0, failed: "ERR_LATENT_KV_DISK_FULL" });
    const second = await both.run("where is ana?", { pool, store });
    expect(second.store).toMatchObject({ fromDisk: 512 });
    expect([first.text, second.text]).toEqual([plain.text, plain.text]);
  });
});
