// What a hub and its clients must survive: each other's death, networks that fail anywhere, peers that lie, flood or say nothing.
import { fork } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, rm, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import type { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { MessageChannel, Worker } from "node:worker_threads";
import { afterEach, describe, expect, it } from "vitest";
import { connectHub } from "../../lib/bus/brokers/hub/connect-hub.js";
import type { ConnectHubOptions } from "../../lib/bus/brokers/hub/connect-hub.js";
import { listen } from "../../lib/bus/brokers/hub/hub.js";
import type { Hub, HubOptions } from "../../lib/bus/brokers/hub/hub.js";
import type { Broker, Entry, LogEntry, Present } from "../../lib/bus/brokers/broker.js";
import { say, understand } from "../../lib/bus/brokers/hub/protocol.js";
import { frameBytes, StreamWire } from "../../lib/bus/brokers/hub/wire.js";
import type { Said } from "../../lib/bus/brokers/hub/protocol.js";
import { blake3 } from "../../lib/kernels/statistics.js";
import { append, begin, codeOf, entryOf, headOf, open, Seen, take } from "./bus-broker-suite.js";
import { Proxy } from "./bus-proxy.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const built = pathToFileURL(join(root, "dist", "bus", "brokers", "hub", "hub.js")).href;
const builtClient = pathToFileURL(join(root, "dist", "bus", "brokers", "hub", "connect-hub.js")).href;
const workerScript = fileURLToPath(new URL("bus-hub-worker.mjs", import.meta.url));
const script = fileURLToPath(new URL("bus-hub-process.mjs", import.meta.url));

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const one of undo.splice(0).reverse()) await one();
});

async function hubAt(url = "http://127.0.0.1:0", options: HubOptions = {}): Promise<Hub> {
  const hub = await listen(url, options);
  undo.push(() => hub.close({ drainMs: 0 }));
  return hub;
}

async function clientOf(url: string, options: ConnectHubOptions = {}): Promise<Broker> {
  const broker = await connectHub(url, options);
  undo.push(() => broker.close());
  return broker;
}

const portOf = (url: string): number => Number(/:(\d+)$/.exec(url)?.[1]);

async function proxyOf(url: string): Promise<Proxy> {
  const proxy = await new Proxy(portOf(url)).start();
  undo.push(() => proxy.stop());
  return proxy;
}

async function folderOf(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), "lw-hub-"));
  undo.push(() => rm(folder, { recursive: true }));
  return folder;
}

async function hubProcess(url: string): Promise<{ readonly url: string; kill(): Promise<void> }> {
  const child: ChildProcess = fork(script, [built, url], { execArgv: [] });
  const exited = once(child, "exit");
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await exited;
  };
  undo.push(kill);
  const first = await Promise.race([once(child, "message"), exited]);
  if (typeof first[0] !== "string") throw new Error("the hub did not start");
  return { url: first[0], kill };
}

/** A session without a client that keeps the rules. */
async function rawSession(url: string): Promise<Socket> {
  const headers = { connection: "Upgrade", upgrade: "latentwire" };
  const asked = request({ port: portOf(url), path: "/v1/bus", headers, agent: false });
  asked.end();
  const [, socket] = (await once(asked, "upgrade")) as [unknown, Socket];
  socket.on("error", () => undefined);
  undo.push(() => socket.destroy());
  return socket;
}

/** The same, but it has said hello, and its messages are understood. */
async function rawClient(url: string): Promise<{ readonly wire: StreamWire; readonly seen: Seen<Said>; readonly socket: Socket }> {
  const socket = await rawSession(url);
  const wire = new StreamWire(socket);
  const seen = new Seen<Said>();
  wire.onMessage((message) => {
    seen.take(understand(message));
  });
  wire.send(say("hello", { version: 1, client: randomUUID(), connection: 1 }));
  await seen.until((all) => all.some(({ kind }) => kind === "welcome"));
  return { wire, seen, socket };
}

interface Answer {
  readonly status: number;
  readonly headers: NodeJS.Dict<string | string[]>;
  readonly body: Buffer;
}

async function ask(
  url: string,
  path: string,
  options: { method?: string; headers?: Record<string, string>; body?: Buffer } = {},
): Promise<Answer> {
  const asked = request({ port: portOf(url), path, method: options.method ?? "GET", headers: options.headers ?? {}, agent: false });
  asked.end(options.body);
  const [response] = (await once(asked, "response")) as [
    NodeJS.ReadableStream & { statusCode: number; headers: NodeJS.Dict<string | string[]> },
  ];
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(Buffer.from(chunk));
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) };
}

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);

/** Works as a broker should. */
async function expectAlive(url: string): Promise<void> {
  const broker = await clientOf(url);
  const log = `alive-${randomUUID()}`;
  await append(broker, log, "x");
  expect((await take(begin(await open(broker, log)), 1)).map(headOf)).toEqual(["x"]);
}

describe("a hub that dies", () => {
  it("and is started again, empty: what was not confirmed arrives, in order, and all else goes on", async () => {
    const first = await hubProcess("http://127.0.0.1:0");
    const [sender, receiver] = [await clientOf(first.url), await clientOf(first.url)];
    const log = "conversation";
    const reader = await open(receiver, log);
    const heard = new Seen<Entry>();
    await receiver.listen("subject", heard.take);
    await sender.announce("sender", '"here"');
    const presence = new Seen<readonly Present[]>();
    await receiver.watch(presence.take);

    const acknowledged: Promise<void>[] = [];
    const entries: LogEntry[] = [];
    const got = new Seen<number>();
    const reading = (async () => {
      for await (const entry of reader) {
        entries.push(entry);
        acknowledged.push(reader.acknowledge(entry.sequence));
        got.take(Number(headOf(entry)));
        if (headOf(entry) === "299") return;
      }
    })();
    const send = async (i: number): Promise<void> => {
      await append(sender, log, String(i));
    };
    const sent = count(150).map(send);
    await got.until((all) => all.length >= 50);
    await first.kill();
    sent.push(...count(75).map((i) => send(150 + i)));
    await hubProcess(first.url);
    sent.push(...count(75).map((i) => send(225 + i)));
    await Promise.all(sent);
    await reading;
    await Promise.all(acknowledged);

    // what was confirmed and is gone was confirmed by the hub that is gone: a little more than we had seen when we killed it
    const firsts = [...new Set(got.all)];
    expect(firsts).toEqual([...firsts].sort((a, b) => a - b));
    const lost = count(300).filter((i) => !firsts.includes(i));
    expect(lost.every((i) => i < 150)).toBe(true);
    expect(count(300).filter((i) => i >= 150 && !firsts.includes(i))).toEqual([]);
    const sequences = entries.map(({ sequence }) => sequence);
    expect(sequences).toEqual([...new Set(sequences)].sort((a, b) => a - b));

    await sender.signal("subject", entryOf("after"));
    await heard.until((all) => all.some((entry) => headOf(entry) === "after"));
    expect((await receiver.present()).map(({ key }) => key)).toEqual(["sender"]);
    await presence.until((all) => all.at(-1)?.length === 1);
  });

  it("for good: everything that waits rejects, after the time that was given", async () => {
    const hub = await hubProcess("http://127.0.0.1:0");
    const broker = await clientOf(hub.url, { reconnectMs: 50 });
    const next = codeOf(begin(await open(broker, "log")).next());
    await hub.kill();
    expect(await codeOf(append(broker, "log", "x"))).toBe("ERR_LATENT_BUS_DISCONNECTED");
    expect(await next).toBe("ERR_LATENT_BUS_DISCONNECTED");
    expect(await codeOf(broker.present())).toBe("ERR_LATENT_BUS_DISCONNECTED");
    expect(await codeOf(connectHub(hub.url))).toBe("ERR_LATENT_BUS_DISCONNECTED");
  });

  it("leaves a socket file, which is replaced; that of a living one is not, nor any other file", async () => {
    const path = join(await folderOf(), "hub.sock");
    const hub = await hubProcess(`unix:${path}`);
    await hub.kill();
    expect((await stat(path)).isSocket()).toBe(true);
    const next = await hubAt(`unix:${path}`);
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await expectAlive(next.url);
    expect(await codeOf(listen(`unix:${path}`))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    await expectAlive(next.url);
    await next.close({ drainMs: 0 });
    await expect(stat(path)).rejects.toThrow();
    await writeFile(path, "mine");
    expect(await codeOf(listen(`unix:${path}`))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe("a worker", () => {
  it("that ends without a word gives back what it had", async () => {
    const hub = await hubAt();
    const broker = hub.broker();
    await append(broker, "log", "1");
    await append(broker, "log", "2");
    const seen = new Seen<readonly Present[]>();
    await broker.watch(seen.take);
    const { port1, port2 } = new MessageChannel();
    hub.attach(port1);
    const worker = new Worker(workerScript, { workerData: { built: builtClient, port: port2 }, transferList: [port2], execArgv: [] });
    const [first] = (await once(worker, "message")) as [unknown];
    expect(first).toBe("1");
    await seen.until((all) => all.at(-1)?.length === 1);
    await worker.terminate();
    await seen.until((all) => all.at(-1)?.length === 0);
    const again = await take(begin(await open(broker, "log")), 2);
    expect(again.map(headOf)).toEqual(["1", "2"]);
    expect(again[0]?.tries).toBe(2);
  });
});

describe("a network that fails", () => {
  it("at any byte: nothing is lost, twice or out of order", async () => {
    const hub = await hubAt();
    const proxy = await proxyOf(hub.url);
    let seed = 7;
    proxy.cutAfter = () => {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      return 300 + (seed % 60_000);
    };
    const direct = await clientOf(hub.url);
    // the first connection may be cut as well
    const connect = async (): Promise<Broker> => {
      for (;;) {
        try {
          return await clientOf(proxy.url);
        } catch {
          continue;
        }
      }
    };
    const [sender, receiver] = [await connect(), await connect()];
    const reader = await open(receiver, "log");
    const heard = new Seen<Entry>();
    await direct.listen("subject", heard.take);
    await sender.announce("sender", "1");

    const n = 400;
    const appends = count(n).map((i) => append(sender, "log", entryOf(String(i), (i * 37) % 3000)));
    const signals = count(n).map((i) => sender.signal("subject", entryOf(String(i), i)));
    const pieces = count(20).map((i) => randomBytes(i * 1000));
    const puts = pieces.map((piece) => sender.put(blake3(piece), piece, 600_000, new AbortController().signal));
    const acknowledged: Promise<void>[] = [];
    const iterator = begin(reader);
    const entries: LogEntry[] = [];
    while (entries.length < n) {
      const [entry] = await take(iterator, 1);
      if (entry === undefined) break;
      entries.push(entry);
      acknowledged.push(reader.acknowledge(entry.sequence));
    }
    await Promise.all([...appends, ...signals, ...puts, ...acknowledged]);
    expect(proxy.cuts).toBeGreaterThan(5);
    expect(entries.map(headOf)).toEqual(count(n).map(String));
    expect(entries.map(({ body }) => body.length)).toEqual(count(n).map((i) => (i * 37) % 3000));
    await heard.until((all) => all.length >= n);
    await sender.signal("subject", entryOf("end"));
    await heard.until((all) => all.some((entry) => headOf(entry) === "end"));
    expect(heard.all.map(headOf)).toEqual([...count(n).map(String), "end"]);
    for (const piece of pieces)
      expect(Buffer.compare((await receiver.get(blake3(piece), new AbortController().signal)) ?? Buffer.of(1, 2), piece)).toBe(0);
    // all was acknowledged
    const rest = begin(await open(direct, "log"));
    await append(direct, "log", "end");
    expect((await take(rest, 1)).map(headOf)).toEqual(["end"]);
    expect((await direct.present()).map(({ key }) => key)).toEqual(["sender"]);
  });

  it("keeps what was given out from coming again, and lets it be acknowledged", async () => {
    const hub = await hubAt();
    const proxy = await proxyOf(hub.url);
    const [direct, receiver] = [await clientOf(hub.url), await clientOf(proxy.url)];
    for (const i of count(6)) await append(direct, "log", String(i));
    const reader = await open(receiver, "log");
    const iterator = begin(reader);
    const given = await take(iterator, 3);
    proxy.cut();
    const more = await take(iterator, 3);
    expect(more.map(headOf)).toEqual(["3", "4", "5"]);
    expect(more.map(({ tries }) => tries)).toEqual([1, 1, 1]);
    for (const { sequence } of [given[2], more[0]].flatMap((one) => one ?? [])) await reader.acknowledge(sequence);
    await reader.close();
    const again = await take(begin(await open(direct, "log")), 4);
    expect(again.map(headOf)).toEqual(["0", "1", "4", "5"]);
    expect(again.map(({ tries }) => tries)).toEqual([2, 2, 2, 2]);
  });

  it("does not give a reader back the cursor that another one has taken meanwhile", async () => {
    const hub = await hubAt();
    const proxy = await proxyOf(hub.url);
    const [direct, receiver] = [await clientOf(hub.url), await clientOf(proxy.url)];
    await append(direct, "log", "1");
    const old = begin(await open(receiver, "log"));
    await take(old, 1);
    const waiting = codeOf(old.next());
    proxy.isDown = true;
    proxy.cut();
    const young = begin(await open(direct, "log"));
    proxy.isDown = false;
    expect(await waiting).toBe("ERR_LATENT_BUS_SUPERSEDED");
    await append(direct, "log", "2");
    expect((await take(young, 2)).map(headOf)).toEqual(["1", "2"]);
  });

  it("by saying nothing any more is noticed on both sides", async () => {
    const hub = await hubAt(undefined, { silentMs: 300 });
    const proxy = await proxyOf(hub.url);
    const [direct, receiver] = [await clientOf(hub.url), await clientOf(proxy.url)];
    const iterator = begin(await open(receiver, "log"));
    proxy.freeze();
    await append(direct, "log", "x");
    expect((await take(iterator, 1)).map(headOf)).toEqual(["x"]);

    const { socket } = await rawClient(hub.url);
    await once(socket, "close");
    await expectAlive(hub.url);
  });
});

describe("a peer that breaks the rules", () => {
  it("loses its connection, and nobody else anything", async () => {
    const hub = await hubAt();
    const other = await clientOf(hub.url);
    const heard = new Seen<Entry>();
    await other.listen("subject", heard.take);
    const frame = (head: Buffer, headBytes = head.length, bodyBytes = 0): Buffer => {
      const prefix = Buffer.alloc(8);
      prefix.writeUInt32LE(headBytes, 0);
      prefix.writeUInt32LE(bodyBytes, 4);
      return Buffer.concat([prefix, head]);
    };
    const hello = JSON.stringify({ kind: "hello", version: 1, client: randomUUID(), connection: 1 });
    const after = (head: string): Buffer => Buffer.concat([frame(Buffer.from(hello)), frame(Buffer.from(head))]);
    const lies = [
      randomBytes(10_000),
      Buffer.from("GET / HTTP/1.1\r\n\r\n"),
      frame(Buffer.from("{}"), 2, 2 ** 32 - 1),
      frame(Buffer.from("{}"), frameBytes + 1),
      frame(Buffer.alloc(0)),
      frame(Buffer.from([0xff, 0xfe, 0xfd])),
      frame(Buffer.from("[1]")),
      frame(Buffer.from("null")),
      frame(Buffer.from('{"kind":"append"}')),
      frame(Buffer.from('{"kind":"hello","version":1,"client":"x","connection":1}')),
      frame(Buffer.from('{"kind":"hello","version":2,"client":"x","connection":1}')),
      frame(Buffer.from("x".repeat(100_000))),
      after('{"kind":"no such thing","id":1}'),
      after('{"kind":"append","id":-1}'),
      after('{"kind":"append","id":1,"log":7}'),
      after('{"kind":"open","id":1,"reader":1,"log":"a","cursor":"b","windowBytes":1e300}'),
      after('{"kind":"toString"}'),
    ];
    for (const lie of lies) {
      const socket = await rawSession(hub.url);
      const closed = once(socket, "close");
      socket.resume();
      socket.write(lie);
      await closed;
    }
    // the beginning of something, which never goes on
    const silent = await rawSession(hub.url);
    silent.write(frame(Buffer.from(hello)).subarray(0, 20));
    silent.destroy();
    await expectAlive(hub.url);
    await other.signal("subject", entryOf("still here"));
    await heard.until((all) => all.length === 1);
  });

  it("gets no more ahead than its window", async () => {
    const hub = await hubAt();
    const direct = await clientOf(hub.url);
    for (const i of count(40)) await append(direct, "log", entryOf(String(i), 100_000));
    const { wire, seen } = await rawClient(hub.url);
    wire.send(say("open", { id: 1, reader: 1, log: "log", cursor: "reader", windowBytes: 1 << 20 }));
    await seen.until((all) => all.filter(({ kind }) => kind === "entry").length === 10);
    wire.send(say("present", { id: 2 }));
    await seen.until((all) => all.some(({ kind, fields }) => kind === "done" && fields.id === 2));
    expect(seen.all.filter(({ kind }) => kind === "entry")).toHaveLength(10);
    wire.send(say("delivered", { reader: 1, sequence: 4 }));
    await seen.until((all) => all.filter(({ kind }) => kind === "entry").length === 14);
  });

  it("by not listening to what it asked for is let go, and who signals is not held up", async () => {
    const hub = await hubAt();
    const { wire, seen, socket } = await rawClient(hub.url);
    wire.send(say("listen", { id: 1, subject: "subject" }));
    await seen.until((all) => all.some(({ kind }) => kind === "done"));
    socket.pause();
    const sender = await clientOf(hub.url);
    for (let i = 0; i < 200; i++) await sender.signal("subject", entryOf(String(i), 500_000));
    const closed = once(socket, "close");
    socket.resume();
    await closed;
    await expectAlive(hub.url);
  });

  it("by flooding is slowed down, while others keep their rate", async () => {
    const ratePerSecond = 200;
    const hub = await hubAt(undefined, { ratePerSecond });
    const [flooder, other] = [await clientOf(hub.url), await clientOf(hub.url)];
    let flooded = 0;
    const before = performance.now();
    const flood = count(2000).map(async () => {
      await flooder.signal("subject", entryOf("flood"));
      flooded++;
    });
    for (const one of flood) one.catch(() => undefined);
    for (let i = 0; i < 100; i++) await other.signal("subject", entryOf("own"));
    const seconds = (performance.now() - before) / 1000;
    expect(flooded).toBeLessThanOrEqual(ratePerSecond * (1 + seconds) + 1);
    await flooder.close();
  });

  it("without the token gets nothing", async () => {
    const hub = await hubAt(undefined, { token: "the-right-one" });
    for (const token of [undefined, "the-wrong-one", "the-right-one1"]) {
      const headers: Record<string, string> = token === undefined ? {} : { authorization: `Bearer ${token}` };
      expect(await codeOf(connectHub(hub.url, token === undefined ? {} : { token }))).toBe("ERR_LATENT_BUS_UNAUTHORIZED");
      for (const path of ["/ready", "/metrics", `/v1/pieces/${"0".repeat(64)}`, "/", "/v1/bus"])
        expect((await ask(hub.url, path, { headers })).status).toBe(401);
    }
    expect((await ask(hub.url, "/health")).status).toBe(200);
    expect((await ask(hub.url, "/ready", { headers: { authorization: "Bearer the-right-one" } })).status).toBe(200);
    const broker = await clientOf(hub.url, { token: "the-right-one" });
    await append(broker, "log", "x");
  });

  it("that is a page of somebody else in a browser of this machine gets nothing, token or not", async () => {
    const hub = await hubAt();
    for (const headers of [{ host: "rebound.example" }, { host: "rebound.example:80" }, { origin: "https://page.example" }])
      expect((await ask(hub.url, "/metrics", { headers })).status).toBe(401);
    for (const host of ["localhost", "127.0.0.1:7411", "[::1]:7411"])
      expect((await ask(hub.url, "/metrics", { headers: { host } })).status).toBe(200);
  });

  it("does not fill the hub with logs, nor with messages that nobody reads", async () => {
    const hub = await hubAt(undefined, { limits: { logs: 2, allLogBytes: 1 << 20 } });
    const broker = await clientOf(hub.url);
    await append(broker, "one", "x");
    await append(broker, "two", "x");
    expect(await codeOf(append(broker, "three", "x"))).toBe("ERR_LATENT_BUS_LIMIT");
    await append(broker, "one", entryOf("half", 512 << 10));
    expect(await codeOf(append(broker, "two", entryOf("more than the rest", 600 << 10)))).toBe("ERR_LATENT_BUS_LIMIT");
    await append(broker, "two", "x");
  });

  it("is one too many", async () => {
    const hub = await hubAt(undefined, { connections: 2 });
    const first = await clientOf(hub.url);
    await clientOf(hub.url);
    expect(await codeOf(connectHub(hub.url))).toBe("ERR_LATENT_BUS_LIMIT");
    await append(first, "log", "x");
  });
});

describe("a hub", () => {
  it("is not opened to others without a secret, nor at what is no address", async () => {
    for (const url of [
      "http://0.0.0.0:0",
      "http://[::]:0",
      "http://example.com:1",
      "https://127.0.0.1:0",
      "ftp://x",
      "unix:relative",
      "http://a:b@127.0.0.1:0",
    ])
      expect(await codeOf(listen(url)), url).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const error: unknown = await listen("http://user:hunter2@127.0.0.1:0").catch((caught: unknown) => caught);
    expect(String(error)).not.toContain("hunter2");
    expect((await hubAt("http://:0")).url).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);
  });

  it("serves pieces and their ranges to anybody who speaks HTTP", async () => {
    const hub = await hubAt();
    const piece = randomBytes(10_000);
    const path = `/v1/pieces/${blake3(piece)}`;
    expect((await ask(hub.url, path)).status).toBe(404);
    expect((await ask(hub.url, path, { method: "PUT", body: randomBytes(10) })).status).toBe(422);
    expect((await ask(hub.url, path, { method: "PUT", body: Buffer.alloc((512 << 10) + 1) })).status).toBe(413);
    expect((await ask(hub.url, `${path}?keptMs=x`, { method: "PUT", body: piece })).status).toBe(400);
    expect((await ask(hub.url, `${path}?keptMs=60000`, { method: "PUT", body: piece })).status).toBe(201);
    expect((await ask(hub.url, path, { method: "PUT", body: piece })).status).toBe(204);
    expect((await ask(hub.url, path, { method: "POST", body: piece })).status).toBe(405);
    const got = await hub.broker().get(blake3(piece), new AbortController().signal);
    expect(Buffer.compare(got ?? Buffer.of(), piece)).toBe(0);

    const range = async (value: string, more: Record<string, string> = {}): Promise<Answer> =>
      ask(hub.url, path, { headers: { range: value, ...more } });
    const whole = await ask(hub.url, path);
    expect([whole.status, Buffer.compare(whole.body, piece)]).toEqual([200, 0]);
    expect(whole.headers).toMatchObject({ "accept-ranges": "bytes", etag: `"${blake3(piece)}"`, "content-length": "10000" });
    for (const [asked, first, last] of [
      ["bytes=0-0", 0, 0],
      ["bytes=100-199", 100, 199],
      ["bytes=9990-", 9990, 9999],
      ["bytes=-5", 9995, 9999],
      ["bytes=5-99999", 5, 9999],
      ["bytes=-99999", 0, 9999],
    ] as const) {
      const part = await range(asked);
      expect([part.status, part.headers["content-range"]], asked).toEqual([206, `bytes ${first}-${last}/10000`]);
      expect(Buffer.compare(part.body, piece.subarray(first, last + 1))).toBe(0);
    }
    for (const asked of ["bytes=10000-", "bytes=-0"]) expect((await range(asked)).status).toBe(416);
    for (const asked of ["bytes=5-2", "bytes=0-1,3-4", "lines=0-1", "bytes=-"]) expect((await range(asked)).status).toBe(200);
    expect((await range("bytes=0-1", { "if-range": '"other"' })).status).toBe(200);
    expect((await ask(hub.url, path, { headers: { "if-none-match": `"${blake3(piece)}"` } })).status).toBe(304);
    const head = await ask(hub.url, path, { method: "HEAD" });
    expect([head.status, head.headers["content-length"], head.body.length]).toEqual([200, "10000", 0]);
  });

  it("tells what it does, and serves what others mount on it", async () => {
    const hub = await hubAt(undefined, {
      routes: (asked, response) => {
        if (asked.url !== "/mine") return false;
        response.end("mine");
        return true;
      },
    });
    const broker = await clientOf(hub.url);
    await append(broker, "log", "x");
    const metrics = String((await ask(hub.url, "/metrics")).body);
    expect(metrics).toContain("latentwire_sessions 1\n");
    expect(metrics).toContain("latentwire_appended_total 1\n");
    expect(metrics).toMatch(/latentwire_log_bytes [1-9]/);
    expect(String((await ask(hub.url, "/mine")).body)).toBe("mine");
    expect((await ask(hub.url, "/other")).status).toBe(404);
  });

  it("that closes answers what waits, and lets nobody in", async () => {
    const hub = await hubAt(undefined, { limits: { logBytes: 1000 } });
    const [sender, receiver] = [await clientOf(hub.url), await clientOf(hub.url)];
    await append(sender, "log", entryOf("1", 900));
    const waiting = append(sender, "log", entryOf("2", 900));
    await append(sender, "other", "a round trip");
    const closing = hub.close({ drainMs: 60_000 });
    expect((await ask(hub.url, "/health")).status).toBe(503);
    expect(await codeOf(connectHub(hub.url))).toBe("ERR_LATENT_BUS_DISCONNECTED");
    const reader = await open(receiver, "log");
    for (const { sequence } of await take(begin(reader), 1)) await reader.acknowledge(sequence);
    await waiting;
    await closing;
    await hub.close();
    expect(() => hub.broker()).toThrow(expect.objectContaining({ code: "ERR_LATENT_BUS_DISCONNECTED" }));
  });
});
