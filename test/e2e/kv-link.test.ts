// The ways by which content gets to its receiver: cells of one pool, a copy in the process, memory that processes share, and a link that chooses between
// that and a stream of records. With processes that are killed or stopped. The numbers in the titles are those of the conformance list of KV transfer.
import { spawn, type ChildProcess } from "node:child_process";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import net from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import { Duplex, duplexPair } from "node:stream";
import { fileURLToPath, pathToFileURL } from "node:url";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  LatentError,
  loadModel,
  sendKv,
  type DeviceKvReference,
  type KvHandle,
  type KvReceived,
  type KvRecordsOptions,
  type KvSent,
  type KvSharedReference,
  type Model,
  type Pool,
  type Sequence,
} from "../../lib/index.js";
import { framesOf, headBytes, readHead, readPayload, type LinkMessage } from "../../lib/kv/frames.js";
import { runs } from "../helpers.js";
import { codeOf, filled, folder, greedy, tinyModel } from "./helpers.js";

const linux = process.platform === "linux";
const built = pathToFileURL(path.resolve("dist/index.js")).href;
const script = fileURLToPath(new URL("kv-link-process.mjs", import.meta.url));
const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";
const positions = 700;
const tokens = Int32Array.from({ length: positions }, (_, i) => 5 + ((i * 7) % 90));

let model: Model;
let pool: Pool;
let other: Pool;
let source: Sequence;
let kv: KvHandle;
let bytes: Buffer;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 2048, maxSequences: 12 });
  other = await model.createPool({ contextLength: 2048, maxSequences: 6 });
  source = pool.sequence();
  await source.prefill(tokens);
  kv = await source.exportKv({ label: "the reader" });
  bytes = Buffer.from(await kv.toBytes());
});

afterAll(async () => {
  kv.dispose();
  await pool.dispose();
  await other.dispose();
  await model.dispose();
});

const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());
/** Without the label, which is not what was read. */
const sameContent = async (received: KvHandle): Promise<boolean> => Buffer.from(await received.toBytes()).equals(bytes);

/** Two ends of a wire; `passes` sees, or changes, what goes from the first to the second. */
function wire(passes: (piece: Buffer) => Buffer | Promise<Buffer | undefined> | undefined = (piece) => piece): [Duplex, Duplex] {
  const end = (give: (piece: Buffer) => Promise<void>, over: () => void): Duplex =>
    new Duplex({
      read: () => undefined,
      writableHighWaterMark: 1 << 16,
      write(piece: Buffer, _encoding, done) {
        give(piece).then(
          () => {
            done();
          },
          (error: unknown) => {
            done(error as Error);
          },
        );
      },
      final(done) {
        over();
        done();
      },
    });
  /** Waits for the other end to have room. */
  const push = async (target: Duplex, piece: Buffer): Promise<void> => {
    while (target.readableLength > 1 << 16 && !target.destroyed) await new Promise((resolve) => setTimeout(resolve, 1));
    if (!target.destroyed) target.push(piece);
  };
  const first: Duplex = end(
    async (piece) => {
      const passed = await passes(piece);
      if (passed !== undefined) await push(second, passed);
    },
    () => second.push(null),
  );
  const second: Duplex = end(
    (piece) => push(first, piece),
    () => first.push(null),
  );
  return [first, second];
}

/** Both ends at once: what each resolved with, or the code it failed with. */
async function outcomes<A, B>(a: Promise<A>, b: Promise<B>): Promise<[A | string, B | string]> {
  const [one, two] = await Promise.all(
    [a, b].map(
      async (end) =>
        await end.then(
          (value) => ({ value }),
          (error: unknown) => ({ error }),
        ),
    ),
  );
  const told = (outcome: unknown): unknown => {
    if (typeof outcome !== "object" || outcome === null || !("error" in outcome)) return (outcome as { value: unknown }).value;
    return LatentError.isInstance(outcome.error) ? outcome.error.code : String(outcome.error);
  };
  return [told(one) as A | string, told(two) as B | string];
}

interface Peer {
  readonly child: ChildProcess;
  /** What it says, a line at a time. */
  readonly says: () => Promise<Record<string, unknown>>;
}

function startPeer(role: "send" | "receive", address: string, options: object = {}): Peer {
  const args = [script, built, role, address, `${positions}`, JSON.stringify(options)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  return { child, says: async () => JSON.parse(String((await lines.next()).value)) as Record<string, unknown> };
}

async function kill(child: ChildProcess): Promise<void> {
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  child.kill("SIGCONT");
  await gone;
}

let served = 0;
/** A server that is gone when the test is, and the next connection to it. */
async function serve(): Promise<{ address: string; connection: Promise<net.Socket>; server: net.Server } & AsyncDisposable> {
  const address = path.join(folder, `link-${served++}.sock`);
  const server = net.createServer().listen(address);
  await once(server, "listening");
  const connection = once(server, "connection").then(([socket]) => socket as net.Socket);
  return {
    address,
    server,
    connection,
    [Symbol.asyncDispose]: async () => {
      server.close();
      (await Promise.race([connection, Promise.resolve(undefined)]))?.destroy();
    },
  };
}

describe("in one process", () => {
  it("a sequence of the same pool gives its cells: no bytes move, and each goes its own way then", async () => {
    const reader = await filled(pool, text);
    await reader.think({ steps: 3 });
    const cells = pool.counters().usedCells;
    const solver = pool.sequence();
    expect(await solver.importKv(reader)).toMatchObject({ positions: reader.length, latents: 3, bytes: 0, moved: 0, way: "cells" });
    expect(pool.counters().usedCells).toBe(cells);
    expect((await bytesOf(solver)).equals(await bytesOf(reader))).toBe(true);
    const said = await greedy(solver, 12);
    expect(await greedy(reader, 12)).toEqual(said);
    await reader.dispose();
    expect((await solver.exportKv()).length).toBe(solver.length);
    await solver.dispose();
  });

  it("behind other content as well, if the positions fit, and else by a copy whose keys are turned", async () => {
    const whole = await filled(pool, text);
    const head = pool.sequence();
    using front = await whole.exportKv({ range: { from: 0, to: 10 } });
    await head.importKv(front);
    const tail = pool.sequence();
    using back = await whole.exportKv({ range: { from: 10, to: whole.length } });
    await tail.importKv(back, { positions: "keep" });
    // where it lies is where it goes
    const cells = pool.counters().usedCells;
    const joined = pool.sequence();
    await joined.importKv(head);
    expect(await joined.importKv(tail)).toMatchObject({ positions: whole.length - 10, way: "cells" });
    expect(pool.counters().usedCells).toBe(cells);
    expect((await bytesOf(joined)).equals(await bytesOf(whole))).toBe(true);
    expect(await greedy(joined, 8)).toEqual(await greedy(whole, 8));
    // content that is there already comes behind it, and moves
    const twice = pool.sequence();
    await twice.importKv(head);
    expect(await twice.importKv(head)).toMatchObject({ positions: 10, moved: 10, way: "copy" });
    expect(await twice.importKv(tail, { positions: { at: 30 } })).toMatchObject({ way: "copy" });
    const before = await bytesOf(twice);
    expect(await codeOf(() => twice.importKv(head, { positions: "keep" }))).toBe("ERR_LATENT_KV_POSITION");
    expect(await codeOf(() => twice.importKv(twice))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => twice.importKv(head, { verify: { keys: [randomBytes(32)] } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect((await bytesOf(twice)).equals(before)).toBe(true);
    const empty = pool.sequence();
    expect(await empty.importKv(pool.sequence())).toMatchObject({ positions: 0 });
    for (const sequence of [whole, head, tail, joined, twice, empty]) await sequence.dispose();
  });

  it("a sequence of another pool is copied as a handle is, and one of another model refused", async () => {
    const there = other.sequence();
    expect(await there.importKv(source)).toMatchObject({ positions, moved: 0, way: "copy" });
    expect((await bytesOf(there)).equals(await bytesOf(source))).toBe(true);
    await there.truncate(0);
    // a handle is a copy as well, and its records are a stream
    for (const [content, way] of [
      [kv, "copy"],
      [kv.records(), "stream"],
    ] as const) {
      const again = other.sequence();
      expect(await again.importKv(content)).toMatchObject({ positions, way });
      await again.dispose();
    }
    await using tiny = await tinyModel();
    await using own = await tiny.createPool({ contextLength: 1024, maxSequences: 2 });
    expect(await codeOf(() => own.sequence().importKv(source))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    await there.dispose();
  });

  it("what is mixed stays known to be mixed", async () => {
    const whole = await filled(pool, text);
    const clean = pool.sequence();
    await clean.importKv(whole);
    expect(clean.mixedFrom).toBe(Infinity);
    await clean.drop({ from: 4, to: 6 });
    const shared = pool.sequence();
    await shared.importKv(clean);
    expect(shared.mixedFrom).toBe(4);
    for (const sequence of [whole, clean, shared]) await sequence.dispose();
  });
});

describe.runIf(linux)("shared memory", () => {
  it("is the content, bit for bit, without a stream, and stays when its maker lets go", async () => {
    const shared = await kv.share();
    const reference = JSON.parse(JSON.stringify(shared.reference)) as KvSharedReference;
    expect(JSON.stringify(reference).length).toBeLessThan(500);
    using there = await other.readKv(reference);
    shared.dispose();
    shared.dispose();
    expect(shared.disposed).toBe(true);
    expect(await codeOf(() => other.readKv(reference))).toBe("ERR_LATENT_KV_UNREACHABLE");
    expect(there.label).toBe("the reader");
    expect(await sameContent(there)).toBe(true);
    const target = other.sequence();
    expect(await target.importKv(there)).toMatchObject({ positions, moved: 0, way: "shared-memory" });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    // of a cut, and at other positions, and into another format
    using cut = there.slice({ from: 100, to: 110 });
    expect(await target.importKv(cut)).toMatchObject({ positions: 10, moved: 10, way: "shared-memory" });
    await using small = await model.createPool({ contextLength: 1024, maxSequences: 2, kvType: "q8_0" });
    const quantised = small.sequence();
    using again = await kv.share();
    expect(await quantised.importKv(again.reference)).toMatchObject({ positions, way: "shared-memory" });
    await target.dispose();
  });

  it("holds what was cut, joined, converted, or is empty", async () => {
    using head = kv.slice({ from: 0, to: 3 });
    using tail = kv.slice({ from: 3, to: 300 });
    using joined = head.concat(tail);
    using quantised = await kv.convert("q4_0");
    using none = kv.slice({ from: 5, to: 5 });
    for (const content of [joined, quantised, none]) {
      using shared = await content.share();
      using there = await other.readKv(shared.reference);
      expect(Buffer.from(await there.toBytes()).equals(Buffer.from(await content.toBytes()))).toBe(true);
      const target = other.sequence();
      await target.importKv(there);
      expect(target.length).toBe(content.length);
      await target.dispose();
    }
  });

  it("is believed only as it was described", async () => {
    using shared = await kv.share();
    const { reference } = shared;
    const target = await filled(other, "ana is here.");
    const before = await bytesOf(target);
    const open = (change: object): Promise<string> => codeOf(() => target.importKv({ ...reference, ...change } as KvSharedReference));
    for (const [change, code] of [
      [{ machine: "elsewhere" }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ nonce: "0".repeat(32) }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ inode: reference.inode + 1 }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ device: reference.device + 1 }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ bytes: reference.bytes - 1 }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ bytes: 2 ** 50 }, "ERR_LATENT_KV_LIMIT"],
      [{ descriptor: 0 }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ process: 2 ** 31 - 1 }, "ERR_LATENT_KV_UNREACHABLE"],
      [{ process: 0 }, "ERR_LATENT_INVALID_ARGUMENT"],
      [{ descriptor: "3/../4" }, "ERR_LATENT_INVALID_ARGUMENT"],
      [{ nonce: "x" }, "ERR_LATENT_INVALID_ARGUMENT"],
      [{ signature: "?" }, "ERR_LATENT_INVALID_ARGUMENT"],
      [{ extra: 1 }, "ERR_LATENT_INVALID_ARGUMENT"],
    ] as const)
      expect(await open(change), JSON.stringify(change)).toBe(code);
    await using tiny = await tinyModel();
    await using own = await tiny.createPool({ contextLength: 1024, maxSequences: 2 });
    expect(await codeOf(() => own.readKv(reference))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    await using narrow = await model.createPool({ contextLength: 256, maxSequences: 2 });
    expect(await codeOf(() => narrow.readKv(reference))).toBe("ERR_LATENT_KV_LIMIT");
    expect((await bytesOf(target)).equals(before)).toBe(true);
    await target.dispose();
  });

  it("29. carries a signature as a stream does", async () => {
    const pair = generateKeyPairSync("ed25519");
    const sign = { key: pair.privateKey, context: "request 1" };
    const verify = { keys: [pair.publicKey], context: "request 1" };
    using signed = await kv.share({ sign });
    using there = await other.readKv(signed.reference, { verify });
    expect(await sameContent(there)).toBe(true);
    using unsigned = await kv.share();
    expect(await codeOf(() => other.readKv(unsigned.reference, { verify }))).toBe("ERR_LATENT_KV_AUTH");
    expect(await codeOf(() => other.readKv(signed.reference, { verify: { ...verify, context: "request 2" } }))).toBe("ERR_LATENT_KV_AUTH");
    // the signature of one content does not pass for another
    using cut = kv.slice({ from: 0, to: 10 });
    using shared = await cut.share();
    const forged = { ...shared.reference, signature: signed.reference.signature };
    expect(await codeOf(() => other.readKv(forged, { verify }))).toBe("ERR_LATENT_KV_AUTH");
    // and it is that of the stream
    using streamed = await other.readKv(kv.records({ sign }), { verify });
    expect(streamed.length).toBe(positions);
  });

  it("22. and 23. comes from another process, and is whole and unchanged after kill -9 of it", async () => {
    await using served = await serve();
    const { child, says } = startPeer("send", served.address, { share: true });
    const reference = (await says()) as unknown as KvSharedReference;
    expect(reference.process).toBe(child.pid);
    using there = await other.readKv(reference);
    await kill(child);
    // the name is gone with the process, and the memory is not
    expect(await codeOf(() => other.readKv(reference))).toBe("ERR_LATENT_KV_UNREACHABLE");
    const target = other.sequence();
    expect(await target.importKv(there)).toMatchObject({ positions, way: "shared-memory" });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    await target.dispose();
  });

  it("22. leaves nothing behind: no file, no descriptor, no mapping", async () => {
    const open = (): number => readdirSync("/proc/self/fd").length;
    const mapped = (): number => readFileSync("/proc/self/maps", "utf8").split("latentwire-kv").length - 1;
    const files = (): string[] => readdirSync("/dev/shm").filter((name) => name.includes("latentwire"));
    const descriptors = open();
    for (let i = 0; i < 5; i++) {
      using shared = await kv.share();
      using there = await other.readKv(shared.reference);
      expect(mapped()).toBeGreaterThan(0);
      expect(there.length).toBe(positions);
      await codeOf(() => other.readKv({ ...shared.reference, nonce: "0".repeat(32) }));
    }
    expect(files()).toEqual([]);
    expect(mapped()).toBe(0);
    expect(open()).toBe(descriptors);
  });
});

describe("a link", () => {
  const receive = (end: Duplex, options: object = {}): Promise<KvReceived> => other.receiveKv(end, { idleMs: 10_000, ...options });

  it("takes shared memory where it reaches, and the stream where it does not or is not wanted", async () => {
    for (const [sending, receiving, way, why] of [
      [{}, {}, linux ? "shared-memory" : "stream", /./],
      [{ sharedMemory: false }, {}, "stream", /sender shares no memory/],
      [{}, { sharedMemory: false }, "stream", linux ? /receiver shares no memory/ : /Linux/],
    ] as const) {
      const [a, b] = wire();
      const [sent, received] = await Promise.all([sendKv(a, kv, sending), receive(b, receiving)]);
      expect(sent).toMatchObject({ way });
      expect(received).toMatchObject({ way });
      expect(sent.why).toMatch(why);
      expect(received.why).toBe(sent.why);
      expect(sent.bytes > bytes.length / 2).toBe(way === "stream");
      expect(received.kv.label).toBe("the reader");
      expect(await sameContent(received.kv)).toBe(true);
      received.kv.dispose();
    }
  });

  it("is free for the next transfer, in either direction, and for other bytes after it", async () => {
    const [a, b] = wire();
    for (let i = 0; i < 3; i++) {
      const [from, to] = i % 2 === 0 ? [a, b] : [b, a];
      const [, received] = await Promise.all([sendKv(from, kv, { sharedMemory: i === 0 }), receive(to)]);
      expect(await sameContent(received.kv)).toBe(true);
      received.kv.dispose();
    }
    a.write("and now something else");
    const [piece] = (await once(b, "data")) as [Buffer];
    expect(piece.toString()).toBe("and now something else");
  });

  it("goes over Node's own pairs, Unix sockets and TCP", async () => {
    const pairs: [Duplex, Duplex][] = [duplexPair()];
    const servers: net.Server[] = [];
    for (const where of [path.join(folder, "ways.sock"), 0]) {
      const server = net.createServer().listen(where);
      servers.push(server);
      await once(server, "listening");
      const bound = server.address();
      const client = typeof bound === "string" ? net.connect(bound) : net.connect((bound as net.AddressInfo).port, "localhost");
      const [socket] = (await once(server, "connection")) as [net.Socket];
      pairs.push([client, socket]);
    }
    for (const [a, b] of pairs) {
      // with a small window the sender uses its buffers many times
      for (const options of [{}, { windowBytes: 1 << 16 }]) {
        const [sent, received] = await Promise.all([sendKv(a, kv, { sharedMemory: false }), receive(b, options)]);
        expect(sent.way).toBe("stream");
        expect(await sameContent(received.kv)).toBe(true);
        received.kv.dispose();
      }
      a.destroy();
      b.destroy();
    }
    for (const server of servers) server.close();
  });

  it("puts content right into a sequence, and tells the sender only then, or why not", async () => {
    const target = other.sequence();
    const [a, b] = wire();
    const [sent, receipt] = await Promise.all([sendKv(a, kv), target.receiveKv(b, { positions: "keep" })]);
    expect(receipt).toMatchObject({ positions, moved: 0, way: sent.way, why: sent.why });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    // there is no room for it a third time, and the sender hears so
    await target.importKv(kv);
    const before = await bytesOf(target);
    for (const sharedMemory of [true, false]) {
      const ends = wire();
      const [sent, received] = await outcomes(sendKv(ends[0], kv, { sharedMemory }), target.receiveKv(ends[1]));
      expect(received).toMatch(/^ERR_LATENT_(CONTEXT_OVERFLOW|KV_POSITION)$/);
      expect(sent).toBe(received);
    }
    expect((await bytesOf(target)).equals(before)).toBe(true);
    await target.dispose();
  });

  it("5. and 29. tells the sender why it was refused: another model, no signature", async () => {
    await using tiny = await tinyModel();
    await using own = await tiny.createPool({ contextLength: 1024, maxSequences: 2 });
    const verify = { keys: [randomBytes(32)] };
    for (const sharedMemory of [true, false]) {
      const [a, b] = wire();
      const error = sendKv(a, kv, { sharedMemory }).catch((reason: unknown) => reason);
      expect(await codeOf(() => own.receiveKv(b))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
      expect(await error).toMatchObject({ code: "ERR_LATENT_KV_MODEL_MISMATCH", details: { by: "peer" } });
      const [c, d] = wire();
      expect(await outcomes(sendKv(c, kv, { sharedMemory }), receive(d, { verify }))).toEqual(["ERR_LATENT_KV_AUTH", "ERR_LATENT_KV_AUTH"]);
      const [e, f] = wire();
      const [, received] = await Promise.all([
        sendKv(e, kv, { sharedMemory, sign: { key: verify.keys[0] ?? randomBytes(32) } }),
        receive(f, { verify }),
      ]);
      expect(await sameContent(received.kv)).toBe(true);
      received.kv.dispose();
    }
  });

  it.runIf(linux)("falls back to the stream when the memory cannot be reached, and both ends say so", async () => {
    // the process that the offer names is made one that is not there
    const [a, b] = wire((piece) =>
      Buffer.from(
        piece.toString("latin1").replace(/"process":\d+/, (found) => `"process":${"9".repeat(found.length - 10)}`),
        "latin1",
      ),
    );
    const [sent, received] = await Promise.all([sendKv(a, kv), receive(b)]);
    expect(sent.way).toBe("stream");
    expect(sent.why).toBe("the receiver cannot reach it");
    expect(received.why).toBe(sent.why);
    expect(await sameContent(received.kv)).toBe(true);
    received.kv.dispose();
  });

  it("24. a receiver of 1 MB/s holds the sender back: what is on its way stays within the window", async () => {
    // on the way: what the sender has let go of, and the receiver has not taken in
    const windowBytes = 128 << 10;
    let written = 0;
    let most = 0;
    let passed = 0;
    const [a, b] = wire(async (piece) => {
      await new Promise((resolve) => setTimeout(resolve, piece.length / 1000));
      passed += piece.length;
      return piece;
    });
    const write = a.write.bind(a) as (piece: Uint8Array, done?: () => void) => boolean;
    a.write = ((piece: Uint8Array, done?: () => void) => {
      written += piece.length;
      const accepted = write(piece, done);
      most = Math.max(most, written - passed);
      return accepted;
    }) as typeof a.write;
    const [sent, received] = await Promise.all([sendKv(a, kv, { sharedMemory: false }), receive(b, { windowBytes })]);
    expect(sent.bytes).toBe(bytes.length);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThan(windowBytes * 1.1);
    received.kv.dispose();
  });

  it("25. a slow peer that lives is not taken for a dead one", async () => {
    // all of it takes much longer than the silence that is borne
    const [a, b] = wire(async (piece) => {
      for (let at = 0; at < 3; at++) await new Promise((resolve) => setTimeout(resolve, 20));
      return piece;
    });
    const [sent, received] = await Promise.all([
      sendKv(a, kv, { sharedMemory: false, idleMs: 1000 }),
      other.receiveKv(b, { idleMs: 1000, windowBytes: 1 << 16 }),
    ]);
    expect(sent.way).toBe("stream");
    received.kv.dispose();
    // the sender is busy for longer than the receiver bears silence: the beats tell it
    const [c, d] = wire();
    const busy = Object.create(kv, {
      recordsIn: {
        value: async function* (options: KvRecordsOptions, reuse: boolean) {
          await new Promise((resolve) => setTimeout(resolve, 2000));
          yield* kv.recordsIn(options, reuse);
        },
      },
    }) as KvHandle;
    const [, later] = await Promise.all([
      sendKv(c, busy, { sharedMemory: false }),
      other.receiveKv(d, { idleMs: 500, windowBytes: 1 << 20 }),
    ]);
    expect(await sameContent(later.kv)).toBe(true);
    later.kv.dispose();
  });

  it("25. silence and deadlines have their code, on both ends", async () => {
    for (const options of [{ idleMs: 100 }, { deadlineMs: 100 }]) {
      // nobody answers
      const [a] = wire();
      expect(await codeOf(() => sendKv(a, kv, options))).toBe("ERR_LATENT_KV_STALLED");
      expect(a.writable).toBe(false);
      const [b] = wire();
      expect(await codeOf(() => other.receiveKv(b, options))).toBe("ERR_LATENT_KV_STALLED");
      // everything from the sender is swallowed after a while
      let left = 150_000;
      const [c, d] = wire((piece) => ((left -= piece.length) > 0 ? piece : undefined));
      const [sent, received] = await outcomes(
        sendKv(c, kv, { sharedMemory: false, deadlineMs: 8000 }),
        other.receiveKv(d, { sharedMemory: false, ...options }),
      );
      expect(received).toBe("ERR_LATENT_KV_STALLED");
      expect(sent).toMatch(/^ERR_LATENT_KV_(STALLED|PEER_LOST)$/);
    }
  });

  it("31. aborts end both sides, whenever they come, and leave nothing", async () => {
    const cells = other.counters().usedCells;
    const descriptors = linux ? readdirSync("/proc/self/fd").length : 0;
    const reason = new Error("enough");
    for (let i = 0; i < 24; i++) {
      const [a, b] = wire(async (piece) => {
        await new Promise((resolve) => setImmediate(resolve));
        return piece;
      });
      const controller = new AbortController();
      const bySender = i % 2 === 0;
      const sharedMemory = i % 4 < 2;
      const signal = { signal: controller.signal };
      const sending = sendKv(a, kv, { sharedMemory, ...(bySender && signal) });
      const receiving = other.receiveKv(b, bySender ? {} : signal);
      setTimeout(() => {
        controller.abort(reason);
      }, i);
      const [sent, received] = await Promise.all([sending, receiving].map((end) => end.catch((error: unknown) => error)));
      for (const [own, outcome] of [
        [bySender, sent],
        [!bySender, received],
      ] as const) {
        if (!(outcome instanceof Error)) continue;
        if (own && outcome === reason) continue;
        expect(outcome).toMatchObject({ code: "ERR_LATENT_KV_PEER_LOST" });
      }
      if (received instanceof Object && "kv" in received) (received as KvReceived).kv.dispose();
    }
    expect(other.counters().usedCells).toBe(cells);
    if (linux) await expect.poll(() => readdirSync("/proc/self/fd").length).toBeLessThanOrEqual(descriptors);
    const [a, b] = wire();
    expect(await codeOf(() => sendKv(a, kv, { signal: AbortSignal.abort(reason) }))).toBe(String(reason));
    expect(await codeOf(() => other.receiveKv(b, { signal: AbortSignal.abort(reason) }))).toBe(String(reason));
  });

  it("20. and 3. goes on after a link that broke, or brought damage, with what is missing", async () => {
    for (const kind of ["cut", "flip"] as const) {
      using receiver = other.kvReceiver();
      let seen = 0;
      const [a, b] = wire((piece) => {
        seen += piece.length;
        if (seen < bytes.length / 2) return piece;
        if (kind === "cut") throw new Error("the cable");
        const spoilt = Buffer.from(piece);
        if (spoilt.length > 1000) spoilt[500] = (spoilt[500] ?? 0) ^ 16;
        return spoilt;
      });
      const first = await outcomes(sendKv(a, kv, { sharedMemory: false }), receiver.receive(b, { idleMs: 2000 }));
      if (kind === "flip") expect(first).toEqual(["ERR_LATENT_KV_CHECKSUM", "ERR_LATENT_KV_CHECKSUM"]);
      else for (const end of first) expect(end).toMatch(/PEER_LOST|STALLED|the cable/);
      const before = receiver.bytes;
      expect(before).toBeGreaterThan(bytes.length / 4);
      const [c, d] = wire();
      const [sent, received] = await Promise.all([sendKv(c, kv, { sharedMemory: false }), receiver.receive(d)]);
      expect(sent.bytes).toBeLessThan(bytes.length - before + 40_000);
      expect(received !== null && (await sameContent(received.kv))).toBe(true);
      received?.kv.dispose();
    }
  });

  it("26. an answer that was lost is asked for again, and nothing is sent twice", async () => {
    for (const sharedMemory of [true, false]) {
      using receiver = other.kvReceiver();
      // the sender's end closes as soon as the receiver says that it has it
      const [a, b] = wire();
      const push = a.push.bind(a);
      a.push = (piece: Buffer | null) => {
        if (piece?.length === headBytes && readHead(piece).kind === "taken") {
          a.destroy();
          b.push(null);
          return false;
        }
        return push(piece);
      };
      const [sent, received] = await outcomes(sendKv(a, kv, { sharedMemory }), receiver.receive(b, { idleMs: 2000 }));
      expect(sent).toBe("ERR_LATENT_KV_PEER_LOST");
      expect(await sameContent((received as KvReceived).kv)).toBe(true);
      (received as KvReceived).kv.dispose();
      const [c, d] = wire();
      const again = await Promise.all([sendKv(c, kv, { sharedMemory }), receiver.receive(d)]);
      expect(again).toEqual([expect.objectContaining({ way: "none", bytes: 0 }) as KvSent, null]);
    }
  });

  it("a receiver that breaks the protocol ends the transfer with a typed error", async () => {
    const hello: LinkMessage = { kind: "hello", machine: "", device: false, held: new Uint8Array(0), windowBytes: 1 << 16, idleMs: 0 };
    for (const second of [
      { kind: "taken" },
      { kind: "credit", bytes: 1 },
      { kind: "end" },
      { kind: "decline", why: "" },
      { kind: "data", bytes: new Uint8Array(1) },
    ] as const satisfies LinkMessage[]) {
      const [a, b] = wire();
      b.resume();
      for (const piece of [hello, second].flatMap((one) => framesOf(one))) b.write(piece);
      expect(await codeOf(() => sendKv(a, kv, { idleMs: 5000 })), second.kind).toBe("ERR_LATENT_KV_FORMAT");
    }
    // and a sender that sends more than it may
    const [c, d] = wire();
    c.resume();
    for (const piece of framesOf({ kind: "stream", idleMs: 0, why: "" })) c.write(piece);
    for (let i = 0; i < 40; i++) for (const piece of framesOf({ kind: "data", bytes: new Uint8Array(1 << 16) })) c.write(piece);
    expect(await codeOf(() => other.receiveKv(d, { windowBytes: 1 << 16 }))).toMatch(/^ERR_LATENT_KV_(FORMAT|CHECKSUM)$/);
  });

  it("checks what it is given", async () => {
    const [a, b] = wire();
    for (const call of [
      () => sendKv({} as unknown as Duplex, kv),
      () => sendKv(a, {} as unknown as KvHandle),
      () => sendKv(a, kv, { idleMs: -1 }),
      () => sendKv(a, kv, { deadlineMs: 0.5 }),
      () => sendKv(a, kv, { window: 5 } as object),
      () => sendKv(a, kv, { sharedMemory: "no" as unknown as boolean }),
      () => sendKv(a, kv, { sign: { key: new Uint8Array(3) } }),
      () => other.receiveKv(b, { windowBytes: 1 }),
      () => other.receiveKv(b, { positions: "keep" } as object),
      () => other.sequence().receiveKv(b, { positions: { at: -1 } }),
      () => other.sequence().receiveKv(b, { window: 5 } as object),
    ])
      expect(await codeOf(call), String(call)).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(a.destroyed || b.destroyed).toBe(false);
    const gone = kv.slice({ from: 0, to: 1 });
    gone.dispose();
    const [c, d] = wire();
    const [sent] = await outcomes(sendKv(c, gone), other.receiveKv(d));
    expect(sent).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("between processes", () => {
  it("sends and receives, by both ways", async () => {
    for (const sharedMemory of [true, false]) {
      await using served = await serve();
      const sender = startPeer("send", served.address, { link: { sharedMemory } });
      const target = other.sequence();
      const receipt = await target.receiveKv(await served.connection);
      const way = linux && sharedMemory ? "shared-memory" : "stream";
      expect(receipt).toMatchObject({ positions, way });
      expect(await sender.says()).toMatchObject({ way });
      expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
      const receiving = await serve();
      const receiver = startPeer("receive", receiving.address, { link: { sharedMemory } });
      await sendKv(await receiving.connection, kv);
      expect(await receiver.says()).toMatchObject({ positions, way, tokens: await greedy(target, 8) });
      await receiving[Symbol.asyncDispose]();
      await target.dispose();
    }
  });

  it("20. kill -9 of the sender at 25, 50 and 75 %: a typed error, nothing in the cache, and the next sender sends only the rest", async () => {
    const link = { sharedMemory: false };
    for (const percent of [25, 50, 75]) {
      using receiver = other.kvReceiver();
      const cells = other.counters().usedCells;
      await using served = await serve();
      const { child } = startPeer("send", served.address, { link, hangAfter: Math.floor((bytes.length * percent) / 100) });
      const socket = await served.connection;
      const outcome = codeOf(() => receiver.receive(socket, { idleMs: 10_000 }));
      await expect.poll(() => receiver.bytes, { timeout: 20_000 }).toBeGreaterThan((bytes.length * (percent - 15)) / 100);
      await kill(child);
      expect(await outcome).toBe("ERR_LATENT_KV_PEER_LOST");
      expect(other.counters().usedCells).toBe(cells);
      const before = receiver.bytes;
      await using again = await serve();
      const next = startPeer("send", again.address, { link });
      const received = await receiver.receive(await again.connection);
      expect((await next.says())["bytes"]).toBeLessThan(bytes.length - before + 40_000);
      expect(received?.kv.length).toBe(positions);
      received?.kv.dispose();
    }
  });

  it("25. a sender that is stopped is told from one that is slow", async () => {
    await using served = await serve();
    using receiver = other.kvReceiver();
    const { child } = startPeer("send", served.address, { link: { sharedMemory: false }, hangAfter: 200_000 });
    const socket = await served.connection;
    const outcome = codeOf(() => receiver.receive(socket, { idleMs: 3000 }));
    await expect.poll(() => receiver.bytes, { timeout: 20_000 }).toBeGreaterThan(0);
    child.kill("SIGSTOP");
    expect(await outcome).toBe("ERR_LATENT_KV_STALLED");
    await kill(child);
  });

  it("21. kill -9 of the receiver costs the sender nothing but a typed error, and it can send again", async () => {
    for (const sharedMemory of [true, false]) {
      await using served = await serve();
      const { child } = startPeer("receive", served.address, { link: { sharedMemory } });
      const socket = await served.connection;
      child.kill("SIGSTOP");
      const outcome = codeOf(() => sendKv(socket, kv, { sharedMemory, idleMs: 10_000 }));
      await kill(child);
      // what it had said before the end may have been heard, but not that it took anything
      expect(await outcome).toBe("ERR_LATENT_KV_PEER_LOST");
      const [a, b] = wire();
      const [, received] = await Promise.all([sendKv(a, kv, { sharedMemory }), other.receiveKv(b)]);
      expect(await sameContent(received.kv)).toBe(true);
      received.kv.dispose();
    }
  });
});

describe("messages of a link", () => {
  const reference: KvSharedReference = {
    kind: "kv-shared",
    machine: "m",
    process: 1,
    descriptor: 2,
    device: 3,
    inode: 4,
    bytes: 5,
    nonce: "0123456789abcdef".repeat(2),
    signature: "",
  };
  const onDevice: DeviceKvReference = {
    kind: "kv-device",
    device: "cuda",
    machine: "m",
    handle: Buffer.alloc(64, 7).toString("base64"),
    nonce: "0123456789abcdef".repeat(2),
    signature: "",
  };
  const count = fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER });
  const idleMs = fc.integer({ min: 0, max: 2 ** 31 - 1 });
  const short = fc.string({ maxLength: 200 });
  const message: fc.Arbitrary<LinkMessage> = fc.oneof(
    fc.record({
      kind: fc.constant("hello" as const),
      machine: short,
      device: fc.boolean(),
      held: fc.uint8Array({ maxLength: 300 }),
      windowBytes: fc.integer({ min: 1 << 16, max: 2 ** 40 }),
      idleMs,
    }),
    fc.record({ kind: fc.constant("share" as const), idleMs, reference: fc.constantFrom(reference, onDevice) }),
    fc.record({ kind: fc.constant("stream" as const), idleMs, why: short }),
    fc.record({ kind: fc.constant("decline" as const), why: short }),
    fc.record({ kind: fc.constant("data" as const), bytes: fc.uint8Array({ minLength: 1, maxLength: 300 }) }),
    fc.record({ kind: fc.constant("credit" as const), bytes: count }),
    fc.record({ kind: fc.constant("failed" as const), code: short, message: short }),
    fc.constantFrom(...(["again", "end", "beat", "taken", "done"] as const)).map((kind) => ({ kind })),
  );
  const read = (frame: Buffer): LinkMessage => {
    const { kind, bytes: size } = readHead(frame.subarray(0, headBytes));
    expect(frame.length).toBe(headBytes + size);
    return readPayload(kind, frame.subarray(headBytes));
  };
  const plain = (value: LinkMessage): unknown =>
    Object.fromEntries(Object.entries(value).map(([name, field]) => [name, field instanceof Uint8Array ? [...field] : (field as unknown)]));

  it("come back as they were", () => {
    fc.assert(
      fc.property(message, (sent) => {
        expect(plain(read(Buffer.concat(framesOf(sent))))).toEqual(plain(sent));
      }),
      runs(500),
    );
  });

  it("are refused with a typed error, or are messages, whatever was done to them", () => {
    fc.assert(
      fc.property(message, fc.nat(), fc.integer({ min: 1, max: 255 }), fc.boolean(), (sent, place, change, cut) => {
        const frame = Buffer.concat(framesOf(sent));
        const at = place % frame.length;
        if (!cut) frame[at] = (frame[at] ?? 0) ^ change;
        try {
          const { kind, bytes: size } = readHead(frame);
          const payload = frame.subarray(headBytes, headBytes + size);
          readPayload(kind, cut ? payload.subarray(0, place % (payload.length + 1)) : payload);
        } catch (error) {
          expect(LatentError.isInstance(error) && error.code).toMatch(/^ERR_LATENT_KV_(FORMAT|VERSION)$/);
        }
      }),
      runs(2000),
    );
  });

  it("30. of a newer version are refused by that name, and with a field more as malformed", () => {
    const frame = (kind: number, payload: object): [Buffer, Buffer] => {
      const bytes_ = Buffer.from(JSON.stringify(payload));
      const head = Buffer.alloc(headBytes);
      head.writeUInt32LE(bytes_.length);
      head[4] = kind;
      return [head, bytes_];
    };
    const code = async (kind: number, payload: object): Promise<string> => {
      const [head, body] = frame(kind, payload);
      return await codeOf(() => readPayload(readHead(head).kind, body));
    };
    return Promise.all([
      expect(code(1, { version: 3, anything: 1 })).resolves.toBe("ERR_LATENT_KV_VERSION"),
      expect(code(2, { version: 2, more: 1 })).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(code(8, { bytes: 0 })).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(code(8, { bytes: "5" })).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(code(3, { idleMs: 0, reference: { ...reference, process: -1 } })).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(code(3, { idleMs: 0, reference: null })).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(codeOf(() => readHead(Buffer.from([0, 0, 0, 0, 0])))).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(codeOf(() => readHead(Buffer.from([0, 0, 0, 0, 13])))).resolves.toBe("ERR_LATENT_KV_FORMAT"),
      expect(codeOf(() => readHead(Buffer.from([255, 255, 255, 255, 1])))).resolves.toBe("ERR_LATENT_KV_FORMAT"),
    ]);
  });

  it("that are anything end a transfer with a typed error on both ends, and nothing is taken", async () => {
    const cells = other.counters().usedCells;
    const noise = fc.oneof(
      fc.uint8Array({ minLength: 1, maxLength: 400 }).map((array) => Buffer.from(array)),
      fc
        .array(
          message.filter(({ kind }) => kind !== "again"),
          { minLength: 1, maxLength: 6 },
        )
        .map((messages) => Buffer.concat(messages.flatMap((one) => [...framesOf(one)]))),
    );
    await fc.assert(
      fc.asyncProperty(noise, fc.boolean(), async (given, sends) => {
        const [a, b] = wire();
        a.on("error", () => undefined);
        a.resume();
        a.end(given);
        const code = await codeOf(async () => {
          if (sends) await sendKv(b, kv, { sharedMemory: false, idleMs: 5000 });
          else (await other.receiveKv(b, { idleMs: 5000 })).kv.dispose();
        });
        expect(code).toMatch(/^ERR_LATENT_/);
        expect(code).not.toBe("ERR_LATENT_INVALID_ARGUMENT");
      }),
      runs(150),
    );
    expect(other.counters().usedCells).toBe(cells);
  });
});
