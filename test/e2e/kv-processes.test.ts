// Content between real processes over real sockets, with senders and receivers that are killed or stopped on the way. The numbers in the titles are
// those of the conformance list of KV transfer.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import net from "node:net";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath, pathToFileURL } from "node:url";
import { afterAll, beforeAll, expect, it } from "vitest";
import { bundledModel, loadModel, type KvFormat, type Model, type Pool } from "../../lib/index.js";
import { codeOf, floats, folder, klDivergence, tinyModel } from "./helpers.js";

const built = pathToFileURL(path.resolve("dist/index.js")).href;
const senderScript = fileURLToPath(new URL("kv-sender.mjs", import.meta.url));
const positions = 700;
const tokens = Int32Array.from({ length: positions }, (_, i) => 5 + ((i * 7) % 90));

let model: Model;
let pool: Pool;
let server: net.Server;
const address = path.join(folder, "kv.sock");

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 2048, maxSequences: 4 });
  server = net.createServer().listen(address);
  await once(server, "listening");
});

afterAll(async () => {
  server.close();
  await pool.dispose();
  await model.dispose();
});

/** A sender and the socket that it writes to. It stops after so many bytes, and waits. */
async function startSender(
  options: { readonly held?: Uint8Array; readonly silentAfter?: number; readonly codec?: string } = {},
): Promise<{ child: ChildProcess; socket: net.Socket }> {
  const { held = new Uint8Array(0), silentAfter = Infinity, codec } = options;
  const args = [
    senderScript,
    built,
    address,
    `${positions}`,
    Buffer.from(held).toString("hex"),
    `${silentAfter}`,
    ...(codec === undefined ? [] : [codec]),
  ];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "inherit"] });
  const [socket] = (await once(server, "connection")) as [net.Socket];
  return { child, socket };
}

/** The pieces of a socket; `watch` is told how many bytes have come. */
async function* watched(socket: net.Socket, watch: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  for await (const piece of socket as AsyncIterable<Buffer>) {
    bytes += piece.length;
    watch(bytes);
    yield piece;
  }
}

const wholeBytes = async (): Promise<Buffer> => {
  const sequence = pool.sequence();
  await sequence.prefill(tokens);
  const bytes = Buffer.from(await sequence.save());
  await sequence.dispose();
  return bytes;
};

it("20. kill -9 of the sender at 25, 50 and 75 %: a typed error, nothing in the cache, and the next sender sends only the rest", async () => {
  const whole = await wholeBytes();
  for (const percent of [25, 50, 75]) {
    using receiver = pool.kvReceiver();
    const cells = pool.counters().usedCells;
    const part = Math.floor((whole.length * percent) / 100);
    const { child, socket } = await startSender({ silentAfter: part });
    const killed = once(child, "exit");
    const stream = watched(socket, (bytes) => {
      if (bytes >= part) child.kill("SIGKILL");
    });
    expect(await codeOf(() => receiver.read(stream))).toMatch(/^ERR_LATENT_KV_(TRUNCATED|PEER_LOST)$/);
    await killed;
    expect(pool.counters().usedCells).toBe(cells);
    const before = receiver.bytes;
    expect(before).toBeGreaterThan((whole.length * (percent - 12)) / 100);
    const next = await startSender({ held: receiver.held() });
    let sent = 0;
    const ended = once(next.child, "exit");
    using kv = await receiver.read(
      watched(next.socket, (bytes) => {
        sent = bytes;
      }),
    );
    await ended;
    expect(sent).toBeLessThan(whole.length - before + 40_000);
    expect(Buffer.from(await kv.toBytes()).equals(whole)).toBe(true);
  }
});

it("encoded content from another process, broken off and resumed, comes to lie behind what is there, with its keys turned", async () => {
  const local = pool.sequence();
  await local.prefill(tokens);
  using kv = await local.exportKv();
  using kvtc = await pool.fitKvtc([kv], { bits: 3 });
  const file = path.join(folder, "finch.kvtc");
  await writeFile(file, kvtc.save());
  const start = [5, 6, 7];
  const plain = pool.sequence();
  await plain.prefill(start);
  await plain.importKv(kv);
  const want = await floats(plain.logits());
  for (const sequence of [local, plain]) await sequence.dispose();
  for (const [codec, limit] of [
    ["fp8", 0.05],
    ["kivi4", 0.2],
    [file, 0.2],
  ] as const) {
    using receiver = pool.kvReceiver({ codecs: [kvtc] });
    const first = await startSender({ codec, silentAfter: 60_000 });
    const killed = once(first.child, "exit");
    const stream = watched(first.socket, (bytes) => {
      if (bytes >= 60_000) first.child.kill("SIGKILL");
    });
    expect(await codeOf(() => receiver.read(stream))).toMatch(/^ERR_LATENT_KV_(TRUNCATED|PEER_LOST)$/);
    await killed;
    const next = await startSender({ codec, held: receiver.held() });
    const ended = once(next.child, "exit");
    using arrived = await receiver.read(next.socket);
    await ended;
    const target = pool.sequence();
    await target.prefill(start);
    expect(await target.importKv(arrived)).toMatchObject({ positions, moved: positions });
    expect(klDivergence(want, await floats(target.logits())), codec).toBeLessThan(limit);
    await target.dispose();
  }
});

it("25. a sender that stops is told from one that is slow, and its content can still come", async () => {
  using receiver = pool.kvReceiver();
  const { child, socket } = await startSender({ silentAfter: 250_000 });
  let stopped = false;
  const stream = watched(socket, (bytes) => {
    if (bytes < 200_000 || stopped) return;
    stopped = true;
    child.kill("SIGSTOP");
  });
  const started = performance.now();
  // long enough that a busy machine is not taken for a sender that stopped
  expect(await codeOf(() => receiver.read(stream, { idleMs: 3000 }))).toBe("ERR_LATENT_KV_STALLED");
  expect(stopped).toBe(true);
  expect(performance.now() - started).toBeLessThan(20_000);
  const gone = once(child, "exit");
  child.kill("SIGKILL");
  child.kill("SIGCONT");
  await gone;
  const next = await startSender({ held: receiver.held() });
  const ended = once(next.child, "exit");
  using kv = await receiver.read(next.socket, { idleMs: 10_000 });
  await ended;
  expect(kv.length).toBe(positions);
});

it("24. a slow reader holds the sender back: nothing is written before it is asked for", async () => {
  const sequence = pool.sequence();
  await sequence.prefill(tokens);
  using kv = await sequence.exportKv();
  let made = 0;
  const records = kv.records({ bufferBytes: 10_000 });
  const counted = (async function* () {
    for await (const piece of records) {
      made++;
      yield piece;
    }
  })();
  using receiver = pool.kvReceiver();
  let taken = 0;
  const slow = (async function* () {
    for await (const piece of counted) {
      expect(made - taken).toBe(1);
      taken++;
      await new Promise((resolve) => setTimeout(resolve, 1));
      yield piece;
    }
  })();
  using received = await receiver.read(slow);
  expect(received.length).toBe(positions);
  await sequence.dispose();
});

it("21. and 26. a receiver that goes away mid-stream costs the sender nothing, and it can send again", async () => {
  const sequence = pool.sequence();
  await sequence.prefill(tokens);
  using kv = await sequence.exportKv();
  const quitter = path.join(folder, "quitter.sock");
  const quitting = net.createServer((socket) => {
    let bytes = 0;
    socket.on("error", () => undefined);
    socket.on("data", (piece) => {
      bytes += piece.length;
      if (bytes > 50_000) socket.destroy();
    });
  });
  quitting.listen(quitter);
  await once(quitting, "listening");
  await expect(pipeline(Readable.from(kv.records({ bufferBytes: 30_000 })), net.connect(quitter))).rejects.toThrow(
    /EPIPE|ECONNRESET|premature/i,
  );
  quitting.close();
  using again = await pool.readKv(kv.records());
  const copy = pool.sequence();
  await copy.importKv(again, { positions: "keep" });
  expect(Buffer.compare(await copy.save(), await sequence.save())).toBe(0);
  await copy.dispose();
  await sequence.dispose();
});

it("31. transfers that fail leave no file descriptor open", async () => {
  const open = (): number => readdirSync("/proc/self/fd").length;
  const once1 = async (): Promise<void> => {
    const { child, socket } = await startSender({ silentAfter: 100_000 });
    const gone = once(child, "exit");
    const closed = once(socket, "close");
    await codeOf(() =>
      pool.readKv(
        watched(socket, () => {
          child.kill("SIGKILL");
        }),
      ),
    );
    await gone;
    socket.destroy();
    await closed;
  };
  await once1();
  const before = open();
  for (let i = 0; i < 5; i++) await once1();
  // Node may close a pipe of a child a moment after the child's end
  await expect.poll(open, { timeout: 10_000 }).toBeLessThanOrEqual(before);
});

it("7. quantised rows come from a process that stores them unrotated, and go there, and mean the same", async () => {
  await using tiny = await tinyModel({ headDim: 64, width: 128, heads: 2, kvHeads: 2, layers: 3 });
  const count = 60;
  const read = Int32Array.from({ length: count }, (_, i) => 5 + ((i * 7) % 40));
  const script = fileURLToPath(new URL("kv-rotation-sender.mjs", import.meta.url));
  const send = async (kvType: KvFormat, rotates: boolean): Promise<{ file: string; rotation: string }> => {
    const file = path.join(folder, `${kvType}-${rotates ? "" : "un"}rotated.kv`);
    const env = { ...process.env, LLAMA_ATTN_ROT_DISABLE: rotates ? undefined : "1" };
    const child = spawn(process.execPath, [script, built, tiny.path, file, kvType, `${count}`], {
      env,
      stdio: ["ignore", "pipe", "inherit"],
    });
    let rotation = "";
    child.stdout.on("data", (data: Buffer) => (rotation += data.toString()));
    await once(child, "close");
    return { file, rotation };
  };
  await using plain = await tiny.createPool({ contextLength: 256, maxSequences: 2 });
  const reference = plain.sequence();
  await reference.prefill(read);
  const want = await floats(reference.logits());
  for (const [kvType, bound] of [
    ["q8_0", 5e-3],
    ["q4_0", 0.3],
  ] as const) {
    await using own = await tiny.createPool({ contextLength: 256, maxSequences: 4, kvType });
    const [rotated, unrotated] = [await send(kvType, true), await send(kvType, false)];
    expect([rotated.rotation, unrotated.rotation]).toEqual(["64", "0"]);
    for (const { file } of [rotated, unrotated]) {
      const bytes = await readFile(file);
      const here = await own.restore(bytes);
      expect(klDivergence(want, await floats(here.logits())), path.basename(file)).toBeLessThan(bound);
      const there = await plain.restore(bytes);
      expect(klDivergence(want, await floats(there.logits())), path.basename(file)).toBeLessThan(bound);
      await here.dispose();
      await there.dispose();
    }
  }
  // the bounds mean something: another text is further away than they allow
  const other = plain.sequence();
  await other.prefill(read.map((token) => token + 3));
  expect(klDivergence(want, await floats(other.logits()))).toBeGreaterThan(0.3);
});

it("freed memory that is zeroed changes nothing of what crosses", async () => {
  const script = fileURLToPath(new URL("kv-rotation-sender.mjs", import.meta.url));
  const sent = async (wipes: boolean): Promise<Buffer> => {
    const file = path.join(folder, `wiped-${wipes}.kv`);
    const env = { ...process.env, LATENTWIRE_WIPE: wipes ? "1" : undefined };
    const child = spawn(process.execPath, [script, built, bundledModel("wren"), file, "f16", "200"], {
      env,
      stdio: ["ignore", "ignore", "inherit"],
    });
    expect((await once(child, "close"))[0]).toBe(0);
    return await readFile(file);
  };
  expect((await sent(true)).equals(await sent(false))).toBe(true);
});
