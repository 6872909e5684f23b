// What goes wrong around the broker on NATS: the server is killed and comes again, or does not; readers are killed; it refuses who connects, or what is asked.
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { nkeys } from "@nats-io/transport-node";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Broker, Entry, Present } from "../../lib/bus/brokers/broker.js";
import { connectNats } from "../../lib/bus/brokers/nats/nats-broker.js";
import type { NatsOptions } from "../../lib/bus/brokers/nats/nats-broker.js";
import { outstandingEntries } from "../../lib/bus/brokers/nats/nats-cursor.js";
import { loadNats } from "../../lib/bus/brokers/nats/nats-client.js";
import { NatsLink } from "../../lib/bus/brokers/nats/nats-link.js";
import { NatsLogs } from "../../lib/bus/brokers/nats/nats-log.js";
import { LatentError } from "../../lib/errors.js";
import { append, begin, entryOf, headOf, open, Seen, take } from "./bus-broker-suite.js";
import { freePort, natsServer } from "./servers.js";
import type { NatsServer } from "./servers.js";

const script = fileURLToPath(new URL("bus-broker-process.mjs", import.meta.url));
const built = new URL("../../dist/bus/brokers/nats/nats-broker.js", import.meta.url).href;
const never = new AbortController().signal;
const range = (from: number, to: number): string[] => Array.from({ length: to - from }, (_, i) => String(from + i));

const brokers: Broker[] = [];
const servers: NatsServer[] = [];
afterEach(async () => {
  await Promise.all(brokers.splice(0).map((broker) => broker.close()));
});
afterAll(async () => {
  await Promise.all(servers.map((server) => server.stop()));
});

async function start(config = ""): Promise<NatsServer> {
  const server = await natsServer({ config });
  servers.push(server);
  return server;
}

async function connect({ url }: { readonly url: string }, options: NatsOptions = {}): Promise<Broker> {
  const broker = await connectNats(url, options);
  brokers.push(broker);
  return broker;
}

async function errorOf(promise: Promise<unknown>): Promise<LatentError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof LatentError) return error;
    throw error;
  }
  throw new Error("it did not reject");
}

interface Said {
  readonly what: "take" | "done";
  readonly head: string;
  readonly tries: number;
}

interface ReaderProcess {
  readonly child: ChildProcess;
  readonly said: Seen<Said>;
  readonly gone: Promise<unknown>;
}

const children = new Set<ChildProcess>();
afterEach(() => {
  for (const child of children) child.kill("SIGKILL");
});

function startReader({ url }: NatsServer, log: string): ReaderProcess {
  const args = [script, built, "connectNats", JSON.stringify([url]), log, "reader"];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  children.add(child);
  const said = new Seen<Said>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    said.take(JSON.parse(line) as Said);
  });
  // when all that it said has come
  const gone = once(child, "close").then(() => children.delete(child));
  return { child, said, gone };
}

describe("readers that are killed", () => {
  let server: NatsServer;
  beforeAll(async () => {
    server = await start();
  });

  it("lose nothing and keep the order, and only what was not acknowledged comes again", async () => {
    const broker = await connect(server);
    const count = 400;
    const heads = [...range(0, count), "last"];
    const sent = Promise.all(heads.map((head) => append(broker, "killed", entryOf(head, 1000))));
    const lives: (readonly Said[])[] = [];
    for (const share of [0.25, 0.5, 0.75]) {
      const { child, said, gone } = startReader(server, "killed");
      await said.until((all) => all.some(({ what, head }) => what === "take" && Number(head) >= share * count));
      child.kill("SIGKILL");
      await gone;
      lives.push(said.all);
    }
    const last = startReader(server, "killed");
    await last.gone;
    lives.push(last.said.all);
    await sent;

    const done = new Set<string>();
    const taken = new Set<string>();
    for (const life of lives) {
      const own = life.filter(({ what }) => what === "take");
      expect(own.filter(({ head }) => done.has(head))).toEqual([]);
      expect(own.map(({ head }) => heads.indexOf(head))).toEqual(own.map(({ head }) => heads.indexOf(head)).sort((a, b) => a - b));
      for (const { head, tries } of own) {
        if (taken.has(head)) expect(tries).toBeGreaterThan(1);
        taken.add(head);
      }
      for (const { what, head } of life) if (what === "done") done.add(head);
    }
    expect([...taken]).toEqual(heads);
  });

  it("count the entry that kills them, and no other that has not been delivered", async () => {
    const broker = await connect(server);
    for (const head of ["1", "2", "poison", ...range(3, 30), "last"]) await append(broker, "poison", entryOf(head));
    const tries: number[] = [];
    for (let life = 0; life < 5; life++) {
      const { said, gone } = startReader(server, "poison");
      await gone;
      tries.push(said.all.find(({ head }) => head === "poison")?.tries ?? 0);
    }
    expect(tries).toEqual([1, 2, 3, 4, 5]);
    const entries = await take(begin(await open(broker, "poison")), 31);
    expect(entries.slice(0, 3).map(({ tries: one }) => one)).toEqual([6, 6, 6]);
    // a few of those behind it may have been on their way once
    for (const one of entries.slice(3)) expect(one.tries).toBeLessThanOrEqual(2);
    expect(entries.at(-1)?.tries).toBe(1);
  });

  it("are no longer there after a while", async () => {
    const broker = await connect(server);
    const seen = new Seen<readonly Present[]>();
    await broker.watch(seen.take);
    const isThere = (all: readonly (readonly Present[])[]): boolean => all.at(-1)?.some(({ key }) => key === "presence") ?? false;
    await seen.until((all) => !isThere(all));
    const { child, gone } = startReader(server, "presence");
    await seen.until(isThere);
    child.kill("SIGKILL");
    await gone;
    await seen.until((all) => !isThere(all));
    expect((await broker.present()).map(({ key }) => key)).not.toContain("presence");
  });
});

describe("a server that is killed", () => {
  it("and comes again, loses nothing of a conversation", async () => {
    const server = await start();
    const [a, b] = [await connect(server), await connect(server)];
    await a.announce("a", '"here"');
    const seen = new Seen<readonly Present[]>();
    await b.watch(seen.take);
    const signals = new Seen<Entry>();
    await b.listen("subject", signals.take);
    const piece = randomBytes(100_000);
    const name = "0".repeat(64);
    await a.put(name, piece, 600_000, never);

    const heads = range(0, 600);
    const reader = await open(b, "log");
    const got: string[] = [];
    const read = (async (): Promise<void> => {
      for await (const entry of reader) {
        got.push(String(headOf(entry)));
        await reader.acknowledge(entry.sequence);
        if (headOf(entry) === heads.at(-1)) break;
      }
    })();
    const appended = new Seen<number>();
    const sent = heads.map(async (head, i) => {
      await append(a, "log", entryOf(head, 100));
      appended.take(i);
    });
    for (const at of [100, 300]) {
      await appended.until((all) => all.length >= at);
      await server.kill();
      await server.start();
      // what is signalled while the connection breaks may be lost; once it has been made anew, it is not
      await append(b, "round-trip", String(at));
      await b.signal("subject", entryOf(`after ${at}`));
    }
    await Promise.all([...sent, read]);
    // those on their way when it broke may come twice
    expect(got.filter((head, i) => got.indexOf(head) === i)).toEqual(heads);
    expect(Buffer.compare((await b.get(name, never)) ?? Buffer.of(), piece)).toBe(0);
    await signals.until((all) => all.length === 2);
    await seen.until((all) => all.at(-1)?.some(({ key }) => key === "a") ?? false);
    expect((await b.present()).map(({ key }) => key)).toEqual(["a"]);
    await append(a, "log", entryOf("end"));
    expect((await take(begin(reader), 1)).map(headOf)).toEqual(["end"]);
  });

  it("and stays away, ends everything after the time that it was given", async () => {
    const server = await start();
    const broker = await connect(server, { reconnectMs: 500 });
    const next = begin(await open(broker, "log")).next();
    const acknowledged = await open(broker, "other");
    await server.kill();
    const calls = [
      next,
      acknowledged.acknowledge(1),
      append(broker, "log", "x"),
      open(broker, "third"),
      broker.present(),
      broker.get("0".repeat(64), never),
    ];
    for (const error of await Promise.all(calls.map(errorOf))) expect(error.code).toBe("ERR_LATENT_BUS_DISCONNECTED");
    expect((await errorOf(broker.signal("subject", entryOf("x")))).code).toBe("ERR_LATENT_BUS_DISCONNECTED");
    await broker.close();
  });
});

describe("a server that refuses", () => {
  const token = "the-secret-of-the-bus";

  it("who has no token or a wrong one, without telling the token", async () => {
    const server = await start(`authorization { token: "${token}" }`);
    await append(await connect(server, { token }), "log", "x");
    const wrong = "a-secret-that-is-wrong";
    for (const options of [{}, { token: wrong }]) {
      const error = await errorOf(connectNats(server.url, options));
      expect(error.code).toBe("ERR_LATENT_BUS_UNAUTHORIZED");
      expect(JSON.stringify([error.message, error.hint, error.details, String(error.cause)])).not.toContain(wrong);
    }
    const inUrl = await errorOf(connectNats(server.url.replace("://", `://${token}@`)));
    expect(inUrl.code).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(inUrl.message).not.toContain(token);
  });

  it("who has another key", async () => {
    const [good, bad] = [nkeys.createUser(), nkeys.createUser()];
    const server = await start(`authorization { users: [ { nkey: ${good.getPublicKey()} } ] }`);
    const seedOf = (key: typeof good): string => Buffer.from(key.getSeed()).toString();
    await append(await connect(server, { credentials: seedOf(good) }), "log", "x");
    expect((await errorOf(connectNats(server.url, { credentials: seedOf(bad) }))).code).toBe("ERR_LATENT_BUS_UNAUTHORIZED");
    expect((await errorOf(connectNats(server.url, { credentials: "no key" }))).code).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("what its user may not do", async () => {
    const may = `publish: ["$JS.API.>", "latentwire.cursor.>", "latentwire.log.free", "latentwire.room.>", "_INBOX.>"]`;
    const server = await start(
      `authorization { users: [ { user: all, password: all }, { user: some, password: some, permissions: { ${may} } } ] }
       no_auth_user: some`,
    );
    const broker = await connect(server);
    await append(broker, "free", "x");
    expect((await errorOf(append(broker, "other", "x"))).code).toBe("ERR_LATENT_BUS_UNAUTHORIZED");
    expect((await errorOf(broker.announce("key", "1"))).code).toBe("ERR_LATENT_BUS_UNAUTHORIZED");
    await append(broker, "free", "y");
  });

  it("messages as large as entries are", async () => {
    const server = await start("max_payload: 524288");
    const error = await errorOf(connectNats(server.url));
    expect(error.code).toBe("ERR_LATENT_BUS_LIMIT");
    expect(error.details).toMatchObject({ limit: 524_288 });
  });

  it("everything, because it is not there", async () => {
    const url = `nats://127.0.0.1:${await freePort()}`;
    expect((await errorOf(connectNats(url))).code).toBe("ERR_LATENT_BUS_DISCONNECTED");
    const reason = new Error("no more");
    await expect(connectNats(url, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  });
});

describe("a cursor", () => {
  it("that is forgotten elsewhere ends its reader", async () => {
    const server = await start();
    const [a, b] = [await connect(server), await connect(server)];
    await append(a, "log", "1");
    const reader = await open(a, "log");
    const iterator = begin(reader);
    const [one] = await take(iterator, 1);
    const next = iterator.next();
    await b.forget("log", "reader");
    expect((await next).done).toBe(true);
    expect((await errorOf(reader.acknowledge(one?.sequence ?? 0))).code).toBe("ERR_LATENT_BUS_DISCONNECTED");
    await append(b, "log", "2");
    expect((await take(begin(await open(b, "log")), 1)).map(headOf)).toEqual(["2"]);
  });

  it("that is taken while its reader's connection is broken is noticed by it", async () => {
    const server = await start();
    const [a, b] = [await connect(server), await connect(server)];
    const heads = range(0, 50);
    for (const head of heads) await append(a, "log", head);
    const old = await open(a, "log");
    const olds = begin(old);
    const [first] = await take(olds, 1);
    await old.acknowledge(first?.sequence ?? 0);
    await server.kill();
    const ended = errorOf(
      (async (): Promise<void> => {
        for (;;) await take(olds, 1);
      })(),
    );
    const young = open(b, "log");
    await server.start();
    const entries = await take(begin(await young), heads.length - 1);
    expect(entries.map(headOf)).toEqual(heads.slice(1));
    expect((await ended).code).toBe("ERR_LATENT_BUS_SUPERSEDED");
    expect((await errorOf(old.acknowledge(2))).code).toBe("ERR_LATENT_BUS_SUPERSEDED");
  });

  it("that has much unacknowledged stops its reader until it has less", async () => {
    const server = await start();
    const broker = await connect(server);
    const count = outstandingEntries + 10;
    const sent = Promise.all(range(0, count).map((head) => append(broker, "log", head, head, new AbortController().signal)));
    const reader = await open(broker, "log");
    const iterator = begin(reader);
    const entries = await take(iterator, outstandingEntries);
    const next = take(iterator, 1);
    const order: string[] = [];
    const more = next.then(() => order.push("more"));
    await append(broker, "other", "a round trip");
    order.push("acknowledged");
    await reader.acknowledge(entries[7]?.sequence ?? 0);
    await more;
    await sent;
    expect(order).toEqual(["acknowledged", "more"]);
  });
});

describe("what is kept", () => {
  let server: NatsServer;
  beforeAll(async () => {
    server = await start();
  });

  it("is bounded for pieces, and what was kept long enough makes room", async () => {
    const broker = await connect(server, { prefix: "pieces", pieceBytes: 1 << 20 });
    const piece = randomBytes(400_000);
    const name = (i: number): string => i.toString(16).padStart(64, "0");
    await broker.put(name(1), piece, 0, never);
    await broker.put(name(2), piece, 600_000, never);
    await broker.put(name(3), piece, 600_000, never);
    expect(await broker.get(name(1), never)).toBeUndefined();
    expect((await errorOf(broker.put(name(4), piece, 600_000, never))).code).toBe("ERR_LATENT_BUS_LIMIT");
    await broker.drop(name(2));
    await broker.put(name(4), piece, 600_000, never);
    expect(await broker.touch(name(3), 600_000)).toBe(true);
    expect(Buffer.compare((await broker.get(name(3), never)) ?? Buffer.of(), piece)).toBe(0);
  });

  it("is kept longer when it is touched", async () => {
    const broker = await connect(server, { prefix: "touched", pieceBytes: 1 << 20 });
    const [one, other] = ["1".repeat(64), "2".repeat(64)];
    await broker.put(one, randomBytes(400_000), 1, never);
    expect(await broker.touch(one, 600_000)).toBe(true);
    await broker.put(other, randomBytes(500_000), 600_000, never);
    expect((await broker.get(one, never))?.length).toBe(400_000);
    expect(await broker.touch("3".repeat(64), 600_000)).toBe(false);
  });

  it("of a log ends when it has had neither entries nor cursors for some time", async () => {
    const broker = await connect(server, { prefix: "swept" });
    await append(broker, "has-an-entry", "1");
    await open(broker, "has-a-cursor");
    await append(broker, "forgotten", "1");
    await broker.forget("forgotten", "reader");

    const modules = await loadNats();
    const link = await NatsLink.connect(modules, server.url, { servers: server.url }, 10_000, undefined);
    const layout = { prefix: "swept", storage: "file", replicas: 1, logBytes: 1 << 20, pieceBytes: 1 << 20, unreadMs: 600_000 } as const;
    link.setClock(new Date(Date.now() + 60_000).toISOString());
    const names = async (): Promise<string[]> => {
      const all: string[] = [];
      for await (const { config } of link.jsm.streams.list("swept.log.>")) all.push(config.name);
      return all.sort();
    };
    await new NatsLogs(link, layout).sweep(600_000);
    expect(await names()).toEqual(["swept_log_forgotten", "swept_log_has-a-cursor", "swept_log_has-an-entry"]);
    await new NatsLogs(link, layout).sweep(0);
    expect(await names()).toEqual(["swept_log_has-a-cursor", "swept_log_has-an-entry"]);
    await link.close();
    await append(broker, "forgotten", "2");
    expect((await take(begin(await open(broker, "forgotten")), 1)).map(headOf)).toEqual(["2"]);
  });

  it("is apart from what is under another prefix", async () => {
    const [a, b] = [await connect(server, { prefix: "one" }), await connect(server, { prefix: "two" })];
    await append(a, "log", "a");
    await append(b, "log", "b");
    expect((await take(begin(await open(a, "log")), 1)).map(headOf)).toEqual(["a"]);
    expect((await take(begin(await open(b, "log")), 1)).map(headOf)).toEqual(["b"]);
  });
});
