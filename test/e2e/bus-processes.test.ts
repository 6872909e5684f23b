// Buses between processes that are killed, cut off, or whose clocks are wrong; and what a long run leaves behind. Needs `npm run build`.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect as connectSocket, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Bus } from "../../lib/bus/bus.js";
import { connect, type ConnectOptions } from "../../lib/bus/connect.js";
import { listen } from "../../lib/bus/brokers/hub/hub.js";
import { bundledModel, loadModel } from "../../lib/index.js";
import { codeOf, Seen } from "./bus-broker-suite.js";
import { natsServer } from "./servers.js";

const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const built = new URL("../../dist", import.meta.url).href;
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);
const longTest = 240_000;

interface Said {
  readonly what: string;
  readonly text?: string;
  readonly tries?: number;
  readonly end?: string;
  readonly kept?: number;
  readonly rss?: number;
  readonly received?: number;
  readonly wrong?: number;
  readonly heaps?: readonly number[];
}

interface Child {
  readonly child: ChildProcess;
  readonly said: Seen<Said>;
  /** When all that it said has come. */
  readonly gone: Promise<unknown>;
  kill(): Promise<void>;
}

const children = new Set<ChildProcess>();
const buses: Bus[] = [];
const folder = mkdtempSync(path.join(tmpdir(), "lw-bus-"));
afterEach(async () => {
  for (const child of children) child.kill("SIGKILL");
  await Promise.all(buses.splice(0).map((bus) => bus.close({ drainMs: 0 })));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function start(args: readonly string[], flags: readonly string[] = [], env: Readonly<Record<string, string>> = {}): Child {
  const child = spawn(process.execPath, [...flags, ...args], { stdio: ["ignore", "pipe", "inherit"], env: { ...process.env, ...env } });
  children.add(child);
  const said = new Seen<Said>();
  createInterface({ input: child.stdout }).on("line", (line) => {
    said.take(JSON.parse(line) as Said);
  });
  const gone = once(child, "close").then(() => children.delete(child));
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await gone;
  };
  return { child, said, gone, kill };
}

const run = (
  address: string,
  what: string,
  options: object,
  flags: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Child => start([script("bus-process.mjs"), built, address, what, JSON.stringify(options)], flags, env);

async function open(address: string, options: ConnectOptions = {}): Promise<Bus> {
  const bus = await connect(address, options);
  buses.push(bus);
  return bus;
}

const heard = async ({ said }: Child, what: string): Promise<Said> => {
  await said.until((all) => all.some((one) => one.what === what));
  return said.all.find((one) => one.what === what) ?? { what };
};

let sockets = 0;
const socketAddress = (): string => `unix:${path.join(folder, `${sockets++}.sock`)}`;

interface Place {
  readonly address: string;
  stop(): Promise<void>;
}

const places: readonly (readonly [string, () => Promise<Place>])[] = [
  [
    "unix",
    async () => {
      const hub = await listen(socketAddress());
      return { address: hub.url, stop: () => hub.close({ drainMs: 0 }) };
    },
  ],
  [
    "NATS",
    async () => {
      const server = await natsServer();
      return { address: server.url, stop: () => server.stop() };
    },
  ],
];

describe.each(places)("processes over %s", (_name, begin) => {
  let place: Place;
  beforeAll(async () => {
    place = await begin();
  });
  afterAll(async () => {
    await place.stop();
  });

  it("lose nothing when a reader is killed, keep the order, and only what was not acknowledged comes again", async () => {
    const bus = await open(place.address);
    const all = [...range(400).map(String), "last"];
    const sent = Promise.all(all.map((text) => bus.send("killed", text)));
    const lives: (readonly Said[])[] = [];
    for (const share of [0.25, 0.5, 0.75]) {
      const reader = run(place.address, "read", { box: "killed" });
      await reader.said.until((said) => said.some(({ what, text }) => what === "take" && Number(text) >= share * 400));
      await reader.kill();
      lives.push(reader.said.all);
    }
    const last = run(place.address, "read", { box: "killed" });
    await last.gone;
    lives.push(last.said.all);
    await sent;
    const [done, taken] = [new Set<string>(), new Set<string>()];
    for (const life of lives) {
      const own = life.flatMap(({ what, text = "", tries = 0 }) => (what === "take" ? [{ text, tries }] : []));
      expect(own.filter(({ text }) => done.has(text))).toEqual([]);
      const places_ = own.map(({ text }) => all.indexOf(text));
      expect(places_).toEqual([...new Set(places_)].sort((a, b) => a - b));
      for (const { text, tries } of own) {
        if (taken.has(text)) expect(tries).toBeGreaterThan(1);
        taken.add(text);
      }
      for (const { what, text = "" } of life) if (what === "done") done.add(text);
    }
    expect([...taken]).toEqual(all);
  });

  it(
    "answer a call although its agent was killed over it",
    async () => {
      const bus = await open(place.address);
      const first = run(place.address, "serve", { name: "mortal", steps: 450 });
      await heard(first, "serving");
      const calls = range(12).map((i) =>
        bus.agent("mortal").think("where does tom live?", { medium: "latent", waitMs: 60_000, conversation: String(i) }),
      );
      await heard(first, "running");
      await first.kill();
      run(place.address, "serve", { name: "mortal", steps: 3 });
      for (const { content, hop } of await Promise.all(calls)) {
        expect([3, 450]).toContain(hop.latentSteps);
        expect(content.form).toBe("latent");
        content.dispose();
      }
    },
    longTest,
  );

  it(
    "share keys and values on one machine, or send them, and the agent says the same",
    async () => {
      const model = await loadModel(bundledModel());
      await using pool = await model.createPool({ contextLength: 512, maxSequences: 2 });
      const sequence = pool.sequence();
      await sequence.prefill("mia has the red key. tom lives in oslo.");
      using kv = await sequence.exportKv();
      const here = await open("memory:alone");
      await here.serve([model.agent({ name: "speaks", generate: { maxTokens: 8 } })]);
      const alone = await here.agent("speaks").say("where does tom live?", { received: [kv], waitMs: 60_000 }).answer;
      const child = run(place.address, "serve", { name: "speaks", steps: 1 });
      await heard(child, "serving");
      for (const sharedMemory of [true, false]) {
        const bus = await open(place.address, { sharedMemory });
        const there = await bus.agent("speaks").say("where does tom live?", { received: [kv], waitMs: 60_000 }).answer;
        expect(there.text).toBe(alone.text);
        expect(there.hop.given[0]?.way).toBe(sharedMemory ? "shared-memory" : "bus");
        expect(bus.keptBytes).toBe(0);
      }
      await here.close();
      await model.dispose();
    },
    longTest,
  );

  it.each([3_600_000, -3_600_000])("are not disturbed by a clock that is wrong by %i ms, where nothing is signed", async (jump) => {
    const box = `clock${jump < 0 ? "-slow" : "-fast"}`;
    const reader = await open(place.address);
    const reading = (async () => {
      for await (const message of await reader.inbox(box)) {
        await message.ack();
        if (message.text === "m2") break;
      }
    })();
    const sender = run(place.address, "send", { box, count: 3, validForMs: 60_000 }, ["--import", script("bus-clock.mjs")], {
      CLOCK_JUMP_MS: String(jump),
    });
    await sender.gone;
    expect(sender.said.all.map(({ end }) => end)).toEqual(Array(3).fill("acknowledged"));
    await reader.close();
    await reading;
  });

  it(
    "take no more memory than the window for a receiver that is slow",
    async () => {
      const [count, bytes, windowBytes] = [64, 4 << 20, 16 << 20];
      const receiver = await open(place.address);
      await using model = await loadModel(bundledModel());
      const inbox = await receiver.inbox("slow", { window: 1, accepts: model });
      const sender = run(place.address, "flood", { box: "slow", count, bytes, connect: { windowBytes, inlineBytes: 0 } }, ["--expose-gc"]);
      let received = 0;
      for await (const message of inbox) {
        await new Promise((resolve) => setTimeout(resolve, 5));
        await message.ack();
        if (++received === count) break;
      }
      const { kept = Infinity, rss = Infinity } = await heard(sender, "flooded");
      expect(kept).toBeGreaterThan(0);
      expect(kept).toBeLessThanOrEqual(windowBytes * 1.1);
      // of 256 MiB that went through it
      expect(rss).toBeLessThan(160 << 20);
    },
    longTest,
  );
});

describe("hubs that are killed", () => {
  it("are found again when they are back, and what was not answered is", async () => {
    const address = socketAddress();
    const begin = async (): Promise<ChildProcess> => {
      const args = [script("bus-hub-process.mjs"), `${built}/bus/brokers/hub/hub.js`, address];
      const hub = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit", "ipc"] });
      children.add(hub);
      await once(hub, "message");
      return hub;
    };
    const first = await begin();
    const [a, b] = [await open(address), await open(address)];
    const got = new Seen<string>();
    const reading = (async () => {
      for await (const message of await b.inbox("box")) {
        got.take(message.text ?? "");
        await message.ack();
        if (got.all.length === 21) break;
      }
    })();
    await a.send("box", "before");
    await got.until((all) => all.length === 1);
    first.kill("SIGKILL");
    await once(first, "exit");
    const sent = range(20).map((i) => a.send("box", String(i)));
    await begin();
    await Promise.all(sent);
    await got.until((all) => all.length >= 21);
    expect(got.all).toEqual(["before", ...range(20).map(String)]);
    await reading;
  });
});

describe("networks that are cut", () => {
  /** Passes bytes on until it is cut, when it drops what is under way and lets nobody in. */
  async function proxyTo(port: number): Promise<{ readonly port: number; cut(): void; heal(): void; close(): void }> {
    let isCut = false;
    const open_ = new Set<Socket>();
    const server: Server = createServer((near) => {
      if (isCut) {
        near.destroy();
        return;
      }
      const far = connectSocket(port, "127.0.0.1");
      for (const [one, other] of [
        [near, far],
        [far, near],
      ] as const) {
        open_.add(one);
        one
          .on("error", () => other.destroy())
          .on("close", () => {
            open_.delete(one);
            other.destroy();
          });
        one.pipe(other);
      }
    }).listen(0, "127.0.0.1");
    await once(server, "listening");
    const address = server.address();
    const end = (): void => {
      for (const one of open_) one.destroy();
    };
    return {
      port: typeof address === "object" && address !== null ? address.port : 0,
      cut: () => {
        isCut = true;
        end();
      },
      heal: () => {
        isCut = false;
      },
      close: () => {
        end();
        server.close();
      },
    };
  }

  it.each(["http", "nats"])(
    "heal over %s: nothing is lost, nothing comes twice, all is in order",
    async (kind) => {
      const hub = kind === "http" ? await listen("http://127.0.0.1:0") : undefined;
      const nats = kind === "nats" ? await natsServer() : undefined;
      const proxy = await proxyTo(Number(new URL(hub?.url ?? nats?.url ?? "").port));
      const address = `${kind}://127.0.0.1:${proxy.port}`;
      const [a, b] = [await open(address), await open(address)];
      const got = new Seen<string>();
      const reading = codeOf(
        (async () => {
          for await (const message of await b.inbox("cut", { window: 4 })) {
            got.take(message.text ?? "");
            await message.ack();
            if (got.all.length === 300) break;
          }
        })(),
      );
      const sent = range(300).map((i) => a.send("cut", String(i)));
      for (const share of [50, 150]) {
        await got.until((all) => all.length >= share);
        proxy.cut();
        await new Promise((resolve) => setTimeout(resolve, 50));
        proxy.heal();
      }
      await Promise.all(sent);
      await got.until((all) => all.length >= 300);
      expect(got.all).toEqual(range(300).map(String));
      expect(await reading).toBe("resolved");
      proxy.close();
      await hub?.close({ drainMs: 0 });
      await nats?.stop();
    },
    longTest,
  );
});

describe("floods", () => {
  it("of one peer leave the others their share", async () => {
    const hub = await listen("http://127.0.0.1:0", { ratePerSecond: 2000 });
    const [flood, honest, reader] = [await open(hub.url), await open(hub.url), await open(hub.url)];
    const reading = (async () => {
      // what is under way when the bus closes cannot be acknowledged
      for await (const message of await reader.inbox("busy", { window: 100 })) await message.ack().catch(() => undefined);
    })();
    const stop = new AbortController();
    let flooded = 0;
    const flooding = range(200).map(async () => {
      while (!stop.signal.aborted) {
        await flood.send("busy", "x", { signal: stop.signal }).then(
          () => flooded++,
          () => undefined,
        );
      }
    });
    const count = 200;
    const ends = await Promise.all(range(count).map(async (i) => codeOf((await honest.send("busy", String(i))).acknowledged())));
    expect(ends.filter((end) => end === "resolved").length).toBeGreaterThanOrEqual(0.9 * count);
    expect(flooded).toBeGreaterThan(0);
    stop.abort(new Error("enough"));
    await Promise.all(flooding);
    await Promise.all([flood.close(), honest.close(), reader.close()]);
    await reading;
    await hub.close({ drainMs: 0 });
  });
});

describe("soak", () => {
  const all = process.env["LATENTWIRE_SOAK"] === "1";
  const soak = async (address: string, count: number): Promise<void> => {
    const child = run(address, "soak", { count, inboxes: 8 }, ["--expose-gc"]);
    const { received, wrong, heaps = [] } = await heard(child, "soaked");
    expect([received, wrong]).toEqual([8 * count, 0]);
    const half = heaps.length >> 1;
    const median = (some: readonly number[]): number => [...some].sort((x, y) => x - y)[some.length >> 1] ?? 0;
    // ids and receipts are remembered up to a limit each, which may not be reached by half
    expect(median(heaps.slice(half)) - median(heaps.slice(2, half))).toBeLessThan(64 << 20);
    await child.gone;
  };

  it("in memory", () => soak("memory:soak", 10_000), 600_000);

  it.each(places)(
    "over %s",
    async (_name, begin) => {
      const place = await begin();
      await soak(place.address, all ? 10_000 : 1000);
      await place.stop();
    },
    600_000,
  );
});
