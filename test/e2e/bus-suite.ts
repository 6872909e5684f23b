// What a bus promises, wherever it is: one suite, run against the memory, hubs, a worker's port and NATS. It asserts no times.
import { randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { Broker } from "../../lib/bus/broker.js";
import { Bus, type Sent, type TapEvent } from "../../lib/bus/bus.js";
import type { BusSettings } from "../../lib/bus/options.js";
import { checkBusSettings } from "../../lib/bus/options.js";
import type { Inbox } from "../../lib/bus/inbox.js";
import type { Message } from "../../lib/bus/message.js";
import { Notary, type BusKey } from "../../lib/bus/notary.js";
import type { Parcel } from "../../lib/bus/parcel.js";
import { LatentError } from "../../lib/errors.js";
import { bundledModel, fitTranslator, gatherPairs, Latent, loadModel, Tensor, type Model, type Translator } from "../../lib/index.js";
import { sameBits } from "../helpers.js";
import { worldDocuments } from "../world.js";
import { codeOf, Seen } from "./bus-broker-suite.js";
import { floats } from "./helpers.js";

/** A place for buses. */
export interface BusPlace {
  broker(): Promise<Broker>;
  stop(): Promise<void>;
}

const never = new AbortController().signal;
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

async function errorOf(promise: Promise<unknown>): Promise<LatentError> {
  const error: unknown = await promise.then(
    () => new Error("it did not reject"),
    (reason: unknown) => reason,
  );
  if (error instanceof LatentError) return error;
  throw error;
}

/** The next messages of an inbox, unsettled. */
export async function take(messages: AsyncIterator<Message>, count: number): Promise<Message[]> {
  const taken: Message[] = [];
  while (taken.length < count) {
    const next = await messages.next();
    if (next.done === true) throw new Error(`the inbox ended after ${taken.length} of ${count} messages`);
    taken.push(next.value);
  }
  return taken;
}

export async function takeOne(messages: AsyncIterator<Message>): Promise<Message> {
  const [message] = await take(messages, 1);
  if (message === undefined) throw new Error("no message");
  return message;
}

const begin = (inbox: Inbox): AsyncIterator<Message> => inbox[Symbol.asyncIterator]();
/** At once, on a machine that has time; what it waits for needs no longer than the test may take. */
const eventually = <T>(what: () => T): ReturnType<typeof expect.poll<T>> => expect.poll(what, { timeout: 50_000, interval: 1 });
const texts = (messages: readonly Message[]): unknown[] => messages.map(({ text }) => text);

/** Runs the suite. */
export function busSuite(name: string, start: () => Promise<BusPlace>): void {
  describe(`bus: ${name}`, () => {
    let place: BusPlace;
    let wren: Model;
    let finch: Model;
    let translator: Translator;
    const buses: Bus[] = [];
    let made = 0;

    /** `wrap` stands between the bus and its broker. */
    const connect = async (settings: BusSettings = {}, wrap: (broker: Broker) => Broker = (broker) => broker): Promise<Bus> => {
      const bus = await Bus.start(wrap(await place.broker()), checkBusSettings(settings));
      buses.push(bus);
      return bus;
    };
    const fresh = (what = "box"): string => `${what}-${++made}`;
    const latent = (bytes: number, model = finch, of = 0.5): Latent => {
      const d = model.info.embeddingLength;
      const rows = Math.ceil(bytes / (4 * d));
      return new Latent(
        model.space,
        "embeds",
        Tensor.fromTyped(
          "f32",
          [rows, d],
          Float32Array.from({ length: rows * d }, (_, i) => Math.sin(i * of)),
        ),
      );
    };

    beforeAll(async () => {
      [wren, finch] = await Promise.all([loadModel(bundledModel("wren")), loadModel(bundledModel("finch"))]);
      const pairs = await gatherPairs({ from: wren, to: finch, texts: worldDocuments(60, 1).map(({ text }) => text) });
      translator = await fitTranslator({ pairs, method: "ridge", maps: "slot", onWeak: "warn" });
      pairs.dispose();
      place = await start();
    });
    afterEach(async () => {
      await Promise.all(buses.splice(0).map((bus) => bus.close({ drainMs: 0 })));
    });
    afterAll(async () => {
      await place.stop();
      translator.dispose();
      await Promise.all([wren.dispose(), finch.dispose()]);
    });

    describe("inboxes", () => {
      it("keep the order of a sender, whatever the contents take to ship", async () => {
        const box = fresh();
        const [a, b, c] = [await connect({ name: "a", inlineBytes: 1000 }), await connect({ name: "b" }), await connect()];
        using large = latent(1_500_000);
        using small = latent(2000);
        const contents = [large, "short", small, { latent: large, text: "t" }, "shorter"];
        const sent = range(40).flatMap((i) => [a, b].map((bus) => bus.send(box, contents[i % 5] ?? "", { conversation: String(i % 3) })));
        const messages = begin(await c.inbox(box, { accepts: finch, window: 7 }));
        const got: Message[] = [];
        while (got.length < 80) {
          const message = await takeOne(messages);
          got.push(message);
          await message.ack();
        }
        await Promise.all(sent);
        for (const from of ["a", "b"])
          for (const conversation of ["0", "1", "2"]) {
            const own = got.filter((one) => one.from === from && one.conversation === conversation);
            expect(own.map(({ sequence }) => sequence)).toEqual(range(own.length).map((i) => i + 1));
          }
        expect(new Set(got.map(({ id }) => id)).size).toBe(80);
      });

      it("keep the order when a message between cannot be sent", async () => {
        const box = fresh();
        const [a, b] = [await connect({ inlineBytes: 0 }), await connect()];
        const messages = begin(await b.inbox(box));
        await eventually(() => a.inboxes().length).toBeGreaterThan(0);
        using large = latent(3_000_000);
        const sent = [a.send(box, { latent: large, text: "1" }), a.send(box, { latent: large }), a.send(box, "2")];
        expect((await Promise.allSettled(sent)).map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
        expect(texts(await take(messages, 2))).toEqual(["1", "2"]);
      });

      it("give what was not settled to the next reader, and what was to none", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        for (const i of range(6)) await a.send(box, String(i));
        const first = await b.inbox(box);
        const got = await take(begin(first), 4);
        await got[1]?.ack();
        await got[3]?.ack();
        await first.close();
        const rest = await take(begin(await (await connect()).inbox(box)), 4);
        expect(texts(rest)).toEqual(["0", "2", "4", "5"]);
        expect(rest[0]?.tries).toBe(2);
        expect(rest[0]?.id).toBe(got[0]?.id);
      });

      it("end for a reader whose place was taken", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        const first = begin(await a.inbox(box));
        const waiting = codeOf(first.next());
        const second = begin(await b.inbox(box));
        expect(await waiting).toBe("ERR_LATENT_BUS_SUPERSEDED");
        await a.send(box, "x");
        expect((await takeOne(second)).text).toBe("x");
      });

      it("give away no more than the window until something is settled", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        for (const i of range(9)) await a.send(box, String(i));
        const messages = begin(await b.inbox(box, { window: 3 }));
        const got = await take(messages, 3);
        const seen = new Seen<Message>();
        const next = takeOne(messages).then(seen.take);
        for (const i of range(5)) await a.send(fresh(), String(i));
        expect(seen.all).toEqual([]);
        await got[2]?.ack();
        await next;
        expect(seen.all[0]?.text).toBe("3");
      });

      it("give again at once what was refused, and at last to the dead letters", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        const sent = await a.send(box, "bad", { conversation: "c" });
        await a.send(box, "good");
        const messages = begin(await b.inbox(box, { maxTries: 3 }));
        for (const tries of [1, 2, 3]) {
          const message = await takeOne(messages);
          expect([message.text, message.tries]).toEqual(["bad", tries]);
          await message.nack({ reason: `it is bad ${tries}` });
          expect(await codeOf(message.nack())).toBe("ERR_LATENT_INVALID_ARGUMENT");
        }
        expect((await takeOne(messages)).text).toBe("good");
        const error = await errorOf(sent.acknowledged());
        expect(error).toMatchObject({ code: "ERR_LATENT_BUS_PEER", details: { by: "peer", code: "ERR_LATENT_BUS_PEER" } });
        const dead = await takeOne(begin(await b.deadLetters(box)));
        expect(dead.dead).toEqual({ inbox: box, code: "ERR_LATENT_BUS_PEER", reason: "it is bad 3", tries: 3 });
        expect([dead.text, dead.conversation]).toEqual(["bad", "c"]);
      });

      it("count over readers that end what takes them down with it", async () => {
        const box = fresh();
        const a = await connect();
        await a.send(box, "poison");
        await a.send(box, "good");
        for (const tries of [1, 2]) {
          const b = await connect();
          const message = await takeOne(begin(await b.inbox(box, { maxTries: 2, window: 1 })));
          expect([message.text, message.tries]).toEqual(["poison", tries]);
          await b.close();
        }
        const c = await connect();
        expect((await takeOne(begin(await c.inbox(box, { maxTries: 2 })))).text).toBe("good");
        const { dead } = await takeOne(begin(await c.deadLetters(box)));
        expect(dead).toMatchObject({ code: "ERR_LATENT_BUS_LIMIT", tries: 3 });
      });

      it("put what is no longer of use to the dead letters", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        const sent = await a.send(box, "late", { validForMs: 1 });
        const still = await a.send(box, "in time", { validForMs: 3_600_000 });
        await new Promise((resolve) => setTimeout(resolve, 30));
        const message = await takeOne(begin(await b.inbox(box)));
        expect(message.text).toBe("in time");
        expect(await errorOf(sent.acknowledged())).toMatchObject({
          code: "ERR_LATENT_BUS_PEER",
          details: { code: "ERR_LATENT_BUS_DEADLINE" },
        });
        await message.ack();
        await still.acknowledged();
        expect((await takeOne(begin(await b.deadLetters(box)))).dead?.code).toBe("ERR_LATENT_BUS_DEADLINE");
      });

      it("refuse what is too large, and nothing is left of it", async () => {
        const a = await connect({ inlineBytes: 512 << 10 });
        expect((await errorOf(a.send(fresh(), "x".repeat((256 << 10) + 1)))).code).toBe("ERR_LATENT_BUS_LIMIT");
        // each control character is six bytes of JSON
        expect((await errorOf(a.send(fresh(), "\u0001".repeat(200_000)))).code).toBe("ERR_LATENT_BUS_LIMIT");
        using content = latent(500_000);
        // nothing moves inside of one thread
        if (name !== "memory")
          expect((await errorOf(a.send(fresh(), { latent: content, text: "\"".repeat(262_144) }))).code).toBe("ERR_LATENT_BUS_LIMIT");
        expect(a.keptBytes).toBe(0);
      });

      it("hold back a sender whose receiver is slow", async () => {
        const box = fresh();
        const windowBytes = 16 << 20;
        const [a, b] = [await connect({ windowBytes, inlineBytes: 0, keptMs: 60_000 }), await connect()];
        using content = latent(4 << 20);
        const messages = begin(await b.inbox(box, { accepts: finch, window: 2 }));
        let most = 0;
        const sent = range(16).map(async () => {
          const one = await a.send(box, content);
          most = Math.max(most, a.keptBytes);
          return one;
        });
        for (const _ of range(16)) {
          const message = await takeOne(messages);
          most = Math.max(most, a.keptBytes);
          using got = await message.content.latent();
          expect(got.bytes).toBe(content.bytes);
          await message.ack();
        }
        await Promise.all((await Promise.all(sent)).map((one) => one.acknowledged()));
        expect(most).toBeGreaterThan(0);
        expect(most).toBeLessThanOrEqual(windowBytes * 1.1);
        await eventually(() => a.keptBytes).toBe(0);
      });
    });

    describe("content", () => {
      it("is what was sent, by whichever way it goes", async () => {
        const box = fresh();
        const [a, b] = [await connect({ inlineBytes: 5000 }), await connect()];
        const messages = begin(await b.inbox(box, { accepts: finch }));
        for (const bytes of [1000, 10_000, 2_000_000]) {
          using one = latent(bytes);
          await a.send(box, { latent: one, text: "beside", label: "mine" });
          const message = await takeOne(messages);
          using got = await message.content.latent();
          expect(sameBits(await floats(got.tensor()), await floats(one.tensor()))).toBe(true);
          expect([got.space.id, got.kind, message.text, message.content.label]).toEqual([one.space.id, "embeds", "beside", "mine"]);
          expect((await errorOf(message.content.kv(undefined as never))).code).toBe("ERR_LATENT_BUS_FORM");
          await message.ack();
          expect((await errorOf(message.content.latent())).code).toBe("ERR_LATENT_DISPOSED");
        }
      });

      it("goes in a form that the receiver can use, and says why", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        await b.inbox(box, { accepts: finch });
        await eventually(() => a.inboxes().map((one) => one.name)).toContain(box);
        using other = latent(2000, wren);
        expect(await a.send(box, { latent: other, text: "words" })).toMatchObject({
          form: "text",
          why: "text can always be read; it reads latents of other spaces",
        });
        expect(await errorOf(a.send(box, other))).toMatchObject({ code: "ERR_LATENT_BUS_FORM", details: { receiver: box } });
      });

      it.each(["sender", "receiver"])("of another model is taken over by a translator of the %s", async (side) => {
        const box = fresh();
        const translators = [translator];
        const a = await connect(side === "sender" ? { translators } : {});
        const b = await connect(side === "receiver" ? { translators } : {});
        const messages = begin(await b.inbox(box, { accepts: finch }));
        await eventually(() => a.inboxes().map((one) => one.name)).toContain(box);
        using other = latent(8 * 4 * wren.info.embeddingLength, wren);
        const sent = await a.send(box, other);
        expect(sent.form).toBe("latent");
        using got = await (await takeOne(messages)).content.latent();
        expect(got.space.id).toBe(side === "sender" ? finch.space.id : wren.space.id);
      });

      it.skipIf(name === "memory")("that was changed on the way is refused, and can come again", async () => {
        const box = fresh();
        let flip = true;
        const flipped = (bytes: Uint8Array): Uint8Array => {
          if (!flip || bytes.length === 0) return bytes;
          const other = Uint8Array.from(bytes);
          other[other.length >> 1] = (other[other.length >> 1] ?? 0) ^ 1;
          return other;
        };
        const damaging = (broker: Broker): Broker =>
          new Proxy(broker, {
            get(target, key) {
              if (key === "get")
                return async (...args: Parameters<Broker["get"]>) => flipped((await target.get(...args)) ?? new Uint8Array(0));
              if (key === "append")
                return async (log: string, entry: Parameters<Broker["append"]>[1], options: Parameters<Broker["append"]>[2]) => {
                  await target.append(log, { ...entry, body: flipped(entry.body) }, options);
                };
              const value: unknown = Reflect.get(target, key, target);
              return typeof value === "function" ? value.bind(target) : value;
            },
          });
        const [a, b] = [await connect({ inlineBytes: 5000 }, damaging), await connect({}, damaging)];
        const messages = begin(await b.inbox(box, { accepts: finch }));
        for (const bytes of [2000, 2_000_000]) {
          flip = true;
          using one = latent(bytes);
          await a.send(box, one);
          const message = await takeOne(messages);
          expect((await errorOf(message.content.latent())).code).toBe("ERR_LATENT_BUS_DIGEST");
          await message.nack();
          const again = await takeOne(messages);
          expect(again.tries).toBe(2);
          flip = false;
          if (bytes > 5000) (await again.content.latent()).dispose();
          await again.ack();
        }
      });

      it.skipIf(name === "memory")("is gone when it was not kept long enough", async () => {
        const box = fresh();
        const dropping = (broker: Broker): Broker =>
          new Proxy(broker, {
            get(target, key) {
              if (key === "get") return () => Promise.resolve(undefined);
              const value: unknown = Reflect.get(target, key, target);
              return typeof value === "function" ? value.bind(target) : value;
            },
          });
        const [a, b] = [await connect({ inlineBytes: 0 }), await connect({}, dropping)];
        using one = latent(2_000_000);
        await a.send(box, one);
        const { content } = await takeOne(begin(await b.inbox(box, { accepts: finch })));
        expect((await errorOf(content.latent())).code).toBe("ERR_LATENT_BUS_GONE");
      });

      it.skipIf(name === "memory")("is found by the same salt alone", async () => {
        using one = latent(2_000_000);
        const names = new Map<string, Set<string>>();
        const spying =
          (of: string) =>
          (broker: Broker): Broker =>
            new Proxy(broker, {
              get(target, key) {
                const value: unknown = Reflect.get(target, key, target);
                if (key !== "put") return typeof value === "function" ? value.bind(target) : value;
                return async (...args: Parameters<Broker["put"]>) => {
                  names.set(of, (names.get(of) ?? new Set()).add(args[0]));
                  await target.put(...args);
                };
              },
            });
        for (const [of, salt] of [
          ["a", "s"],
          ["b", "s"],
          ["c", "t"],
          ["d", undefined],
        ] as const) {
          const bus = await connect({ inlineBytes: 0, ...(salt !== undefined && { salt }) }, spying(of));
          await bus.send(fresh(), one);
        }
        expect(names.get("a")).toEqual(names.get("b"));
        for (const other of ["c", "d"]) expect([...(names.get(other) ?? [])].filter((piece) => names.get("a")?.has(piece))).toEqual([]);
        const box = fresh();
        const [a, b] = [await connect({ inlineBytes: 0, salt: "s" }), await connect({ salt: "t" })];
        await a.send(box, one);
        const { content } = await takeOne(begin(await b.inbox(box, { accepts: finch })));
        expect((await errorOf(content.latent())).code).toBe("ERR_LATENT_BUS_DIGEST");
      });

      it("is passed on without its passer", async () => {
        const [first, second] = [fresh(), fresh()];
        const [a, b, c] = [await connect({ inlineBytes: 0 }), await connect(), await connect()];
        using one = latent(2_000_000);
        const middle = begin(await b.inbox(first, { accepts: finch }));
        const last = begin(await c.inbox(second, { accepts: finch }));
        await a.send(first, { latent: one, text: "beside" });
        const message = await takeOne(middle);
        await b.send(second, message.content);
        const passed = await takeOne(last);
        using got = await passed.content.latent();
        expect(sameBits(await floats(got.tensor()), await floats(one.tensor()))).toBe(true);
        expect([passed.from, passed.text]).toEqual([b.name, "beside"]);
      });
    });

    describe("who may send", () => {
      const key = (fill: number): BusKey => new Uint8Array(32).fill(fill);
      const put = async (box: string, head: string, id: string = randomUUID()): Promise<void> => {
        const broker = await place.broker();
        await broker.append(`inbox.${box}`, { head, body: new Uint8Array(700 << 10) }, { id, signal: never });
        await broker.close();
      };

      it("is who signed, and nothing else gets through", async () => {
        const [box, elsewhere] = [fresh(), fresh()];
        const trust = { a: key(1), b: key(2) };
        const a = await connect({ name: "a", sign: { key: key(1) }, trust });
        const b = await connect({ name: "b", sign: { key: key(2) }, trust });
        const envelope = {
          ...{
            v: 1,
            id: "i".repeat(128),
            kind: "message",
            from: "a",
            peer: "p",
            to: box,
            conversation: "",
            sequence: 1,
            sentAt: 1,
            text: "x",
          },
        } as const;
        const signed = (by: number, one: object = envelope): string =>
          new Notary({ key: key(by) as Uint8Array }, undefined).headOf(one as never);
        await a.send(box, "before");
        await put(box, JSON.stringify(envelope));
        await put(box, signed(2));
        await put(box, signed(1).replace('"x"', '"y"'));
        await put(box, signed(1, { ...envelope, from: "c" }));
        await put(box, signed(1, { ...envelope, to: elsewhere }));
        await put(box, "{}");
        await put(box, signed(1, { ...envelope, kind: "receipt" }));
        const replayed = signed(1);
        await put(box, replayed);
        await put(box, replayed);
        await a.send(box, "after");

        const messages = begin(await b.inbox(box));
        expect(texts(await take(messages, 3))).toEqual(["before", "x", "after"]);
        const dead = await take(begin(await b.deadLetters(box)), 7);
        const [forged, wrong] = ["ERR_LATENT_BUS_FORGED", "ERR_LATENT_BUS_ENVELOPE"];
        expect(dead.map((one) => one.dead?.code)).toEqual([forged, forged, forged, forged, forged, wrong, wrong]);
        for (const { text, dead: why } of dead) expect([text === "before" || text === "after", why?.inbox]).toEqual([false, box]);
      });

      it("is on the list of peers, and sends of the spaces on the list", async () => {
        const box = fresh();
        const [a, b] = [await connect({ name: "a" }), await connect({ name: "b" })];
        const c = await connect({ allow: { peers: ["a"], spaces: [finch.space.id] } });
        using own = latent(1000);
        using other = latent(1000, wren);
        await b.send(box, "from b");
        await a.send(box, other);
        await a.send(box, own);
        const message = await takeOne(begin(await c.inbox(box, { accepts: finch })));
        expect([message.from, message.content.form]).toEqual(["a", "latent"]);
        const dead = await take(begin(await (await connect()).deadLetters(box)), 2);
        expect(dead.map((one) => one.dead?.code)).toEqual(["ERR_LATENT_BUS_UNAUTHORIZED", "ERR_LATENT_SPACE_MISMATCH"]);
      });
    });

    describe("topics and watchers", () => {
      it("give everything to each of eight durable readers", async () => {
        const topic = fresh("topic");
        const a = await connect();
        const readers = await Promise.all(
          range(8).map(async (i) => begin(await (await connect()).subscribe(topic, { durable: `r${i}`, accepts: finch, window: 100 }))),
        );
        using content = latent(300_000);
        for (const i of range(10)) await a.publish(topic, i % 2 === 0 ? String(i) : { latent: content, text: String(i) });
        for (const messages of readers) {
          const got = await take(messages, 10);
          expect(texts(got)).toEqual(range(10).map(String));
          using one = (await got[1]?.content.latent()) ?? content.alias();
          expect(one.bytes).toBe(content.bytes);
          for (const message of got) await message.ack();
        }
      });

      it("see envelopes and never content", async () => {
        const box = fresh();
        const [a, b] = [await connect(), await connect()];
        const stop = new AbortController();
        const seen = new Seen<TapEvent>();
        const watching = (async () => {
          for await (const event of b.tap({ signal: stop.signal })) seen.take(event);
        })();
        const ended = codeOf(watching);
        using content = latent(2000);
        let count = 0;
        while (seen.all.length === 0) {
          await a.send(box, { latent: content, text: String(count++) });
          await new Promise((resolve) => setImmediate(resolve));
        }
        const event = seen.all.find(({ channel }) => channel === `inbox.${box}`);
        expect(Object.keys(event ?? {}).sort()).toEqual(["bytes", "channel", "envelope"]);
        expect(event?.envelope).toMatchObject({ kind: "message", to: box });
        stop.abort(new Error("enough"));
        expect(String(await ended)).toBe("Error: enough");
      });
    });

    describe("what waits", () => {
      it("ends with its signal", async () => {
        const reason = new Error("no more");
        const [a, b] = [await connect({ windowBytes: 1, inlineBytes: 0 }), await connect()];
        const calls: ((signal: AbortSignal) => Promise<unknown>)[] = [
          async (signal) => (await a.send(fresh(), "x")).acknowledged({ signal }),
          async (signal) => begin(await b.inbox(fresh(), { signal })).next(),
          async (signal) => begin(await b.deadLetters(fresh(), { signal })).next(),
          async (signal) => begin(await b.subscribe(fresh(), { durable: "d", signal })).next(),
          (signal) => a.agent(fresh()).think("q", { waitMs: 100_000, signal }),
          (signal) => a.agent(fresh()).say("q", { waitMs: 100_000, signal }).answer,
          (signal) => b.tap({ signal }).next(),
        ];
        for (const call of calls) {
          const abort = new AbortController();
          const ended = codeOf(call(abort.signal));
          setTimeout(() => {
            abort.abort(reason);
          }, 20);
          expect(await ended).toBe(reason);
        }
        expect(await codeOf(a.send(fresh(), "x", { signal: AbortSignal.abort(reason) }))).toBe(reason);
      });

      it("ends with the bus: inboxes quietly, the rest by what happened", async () => {
        const [a, b] = [await connect(), await connect()];
        const sent: Sent = await a.send(fresh(), "x");
        const ends = [begin(await a.inbox(fresh())).next(), begin(await a.subscribe(fresh(), { durable: "d" })).next(), a.tap().next()];
        const fails = [
          sent.acknowledged(),
          a.agent("x").think("q", { waitMs: 100_000 }),
          a.agent("x").say("q", { waitMs: 100_000 }).answer,
        ].map(codeOf);
        await new Promise((resolve) => setTimeout(resolve, 20));
        await a.close();
        for (const end of await Promise.all(ends)) expect(end.done).toBe(true);
        expect(await Promise.all(fails)).toEqual(Array(3).fill("ERR_LATENT_BUS_DISCONNECTED"));
        expect(await codeOf(a.send("x", "x"))).toBe("ERR_LATENT_BUS_DISCONNECTED");
        await a.close();
        expect(b.closed).toBe(false);
      });
    });

    describe("agents", () => {
      const document = "mia has the red key. tom lives in oslo. ann has the blue coin.";
      const question = "where does tom live?";
      const answered = async (bus: Bus, received: readonly Parcel[]): Promise<string> => {
        const reply = bus.agent("solver").say(question, { received });
        let said = "";
        for await (const delta of reply) said += delta;
        const { text, hop } = await reply.answer;
        expect(said).toBe(text);
        expect(hop.given.map(({ form }) => form)).toEqual(received.map(({ form }) => form));
        return text;
      };

      it("think and say for each other by every medium, as they would in one process", async () => {
        const [a, b, c] = [await connect(), await connect(), await connect()];
        await a.serve([finch.agent({ name: "reader", user: document, think: { policy: "hidden", steps: 8 } })]);
        await b.serve([finch.agent({ name: "solver", generate: { maxTokens: 12 } })]);
        await expect
          .poll(() =>
            c
              .agents()
              .map((one) => one.name)
              .sort(),
          )
          .toEqual(["reader", "solver"]);
        for (const medium of ["kv", "latent"] as const) {
          const { content, hop } = await c.agent("reader").think(question, { medium });
          expect([content.form, hop.to, hop.latentSteps]).toEqual([medium, "reader", 8]);
          expect((await answered(c, [content])).trim()).toBe("oslo");
          content.dispose();
        }
        const { content } = await c.agent("reader").think(question, { medium: "text" });
        expect(content.form).toBe("text");
        await answered(c, [content]);
        const { text } = await c.agent("solver").say(question, { received: [{ from: "a note", text: document }] }).answer;
        expect(text).not.toBe("");
        expect((await c.agent("solver").generate("tom lives in", { generate: { maxTokens: 2 } }).answer).text).not.toBe("");
        await eventually(() => a.keptBytes).toBe(0);
      });

      it("are answered in the order of a conversation, and fail as themselves", async () => {
        const [a, b] = [await connect(), await connect({ inlineBytes: 0 })];
        await a.serve([finch.agent({ name: "one", generate: { maxTokens: 4 } })]);
        const agent = b.agent("one");
        await eventually(() => agent.announcement).toBeDefined();
        using content = latent(40 * 4 * finch.info.embeddingLength);
        const order: number[] = [];
        const calls = range(6).map(async (i) => {
          await agent.say(question, { conversation: "c", ...(i === 0 && { received: [content] }) }).answer;
          order.push(i);
        });
        await Promise.all(calls);
        expect(order).toEqual(range(6));
        using wrong = latent(1000, wren);
        expect((await errorOf(agent.say(question, { received: [wrong] }).answer)).code).toBe("ERR_LATENT_BUS_FORM");
        expect(await errorOf(agent.say("x ".repeat(100_000)).answer)).toMatchObject({
          code: "ERR_LATENT_CONTEXT_OVERFLOW",
          details: { by: "peer", agent: "one" },
        });
        expect((await errorOf(agent.say("x".repeat(800_000)).answer)).code).toBe("ERR_LATENT_BUS_LIMIT");
        expect((await errorOf(b.agent("nobody").think("q"))).code).toBe("ERR_LATENT_BUS_UNKNOWN_AGENT");
        expect((await errorOf(b.agent("nobody").think("q", { waitMs: 10 }))).code).toBe("ERR_LATENT_BUS_UNKNOWN_AGENT");
      });

      it("stop when nobody waits any more, and may take no longer than the deadline", async () => {
        const [a, b] = [await connect(), await connect()];
        const served = await a.serve([finch.agent({ name: "long", think: { policy: "hidden", steps: 450 } })]);
        const agent = b.agent("long");
        await eventually(() => agent.announcement).toBeDefined();
        const abort = new AbortController();
        const cancelled = codeOf(agent.think("q", { signal: abort.signal }));
        await eventually(() => served.counts.running).toBe(1);
        abort.abort(new Error("enough"));
        expect(String(await cancelled)).toBe("Error: enough");
        await eventually(() => served.counts).toMatchObject({ running: 0, answered: 0, failed: 1 });
        expect((await errorOf(agent.think("q", { deadlineMs: 50 }))).code).toBe("ERR_LATENT_BUS_DEADLINE");
        await eventually(() => served.counts.running).toBe(0);
      });

      it("leave what they have not done to who serves the name next", async () => {
        const [a, b, c] = [await connect(), await connect(), await connect()];
        const slow = finch.agent({ name: "moves", think: { policy: "hidden", steps: 450 } });
        const quick = finch.agent({ name: "moves", think: { policy: "hidden", steps: 1 } });
        const first = await a.serve([slow]);
        const thought = c.agent("moves").think("q", { medium: "latent", waitMs: 60_000 });
        await eventually(() => first.counts.running).toBe(1);
        await first.close({ drainMs: 0 });
        await b.serve([quick]);
        const { content, hop } = await thought;
        expect([content.form, hop.latentSteps]).toEqual(["latent", 1]);
      });

      it("finish what they are at when they close", async () => {
        const [a, b] = [await connect(), await connect()];
        const served = await a.serve([finch.agent({ name: "drains", generate: { maxTokens: 4 } })]);
        const reply = b.agent("drains").say(question, { waitMs: 60_000 });
        await eventually(() => served.counts.running + served.counts.answered).toBe(1);
        await served.close({ drainMs: 60_000 });
        await reply.answer;
        expect(served.counts).toEqual({ running: 0, answered: 1, failed: 0 });
        await eventually(() => b.agents()).toEqual([]);
      });
    });
  });
}
