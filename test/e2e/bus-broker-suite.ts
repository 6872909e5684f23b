// What every broker must keep, whatever it is made of: one suite, run against the memory, a hub, a worker and NATS. It asserts no times, and never looks inside.
import { setMaxListeners } from "node:events";
import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { blake3 } from "../../lib/kernels/statistics.js";
import { entryBytes, pieceBytes } from "../../lib/bus/brokers/broker.js";
import type { Broker, Entry, LogEntry, LogReader, Present, Tapped } from "../../lib/bus/brokers/broker.js";

/** How many bytes a log of the broker under test must be set to hold. */
export const suiteLogBytes = 4 << 20;

/** A broker, somewhere. */
export interface Started {
  connect(): Promise<Broker>;
  stop(): Promise<void>;
}

const never = new AbortController().signal;
// many calls of a test wait with it
setMaxListeners(0, never);
const longMs = 600_000;
const windowBytes = 1 << 20;

export const entryOf = (head: string, bytes = 0): Entry => ({ head: JSON.stringify(head), body: new Uint8Array(bytes).fill(head.length) });
export const headOf = ({ head }: Entry): unknown => JSON.parse(head);

export const append = (broker: Broker, log: string, entry: Entry | string, id: string = randomUUID(), signal = never): Promise<void> =>
  broker.append(log, typeof entry === "string" ? entryOf(entry) : entry, { id, signal });

export const open = (broker: Broker, log: string, cursor = "reader", signal = never): Promise<LogReader> =>
  broker.open(log, cursor, { windowBytes, signal });

/** The next entries of a reader. */
export async function take(iterator: AsyncIterator<LogEntry>, count: number): Promise<LogEntry[]> {
  const taken: LogEntry[] = [];
  while (taken.length < count) {
    const next = await iterator.next();
    if (next.done === true) throw new Error(`the reader ended after ${taken.length} of ${count} entries`);
    taken.push(next.value);
  }
  return taken;
}

export const begin = (reader: LogReader): AsyncIterator<LogEntry> => reader[Symbol.asyncIterator]();

/** What comes through a callback, to be waited for. */
export class Seen<T> {
  readonly all: T[] = [];
  #waiting: { readonly test: () => boolean; readonly resolve: () => void }[] = [];

  readonly take = (one: T): void => {
    this.all.push(one);
    this.#waiting = this.#waiting.filter(({ test, resolve }) => {
      if (!test()) return true;
      resolve();
      return false;
    });
  };

  async until(test: (all: readonly T[]) => boolean): Promise<void> {
    if (test(this.all)) return;
    await new Promise<void>((resolve) => this.#waiting.push({ test: () => test(this.all), resolve }));
  }
}

export const codeOf = async (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => "resolved",
    (error: unknown) => (error as { code?: unknown }).code ?? error,
  );

/** Runs the suite. The logs of the broker must hold {@link suiteLogBytes}, or a little more. */
export function brokerSuite(name: string, start: () => Promise<Started>): void {
  describe(`broker: ${name}`, () => {
    let started: Started;
    let count = 0;
    const brokers: Broker[] = [];

    const connect = async (): Promise<Broker> => {
      const broker = await started.connect();
      brokers.push(broker);
      return broker;
    };
    const fresh = (what = "log"): string => `suite.${what}-${++count}`;

    beforeAll(async () => {
      started = await start();
    });
    afterEach(async () => {
      await Promise.all(brokers.splice(0).map((broker) => broker.close()));
    });
    afterAll(async () => {
      await started.stop();
    });

    describe("logs", () => {
      it("keep the order of each connection", async () => {
        const log = fresh();
        const [a, b, c] = [await connect(), await connect(), await connect()];
        const iterator = begin(await open(c, log));
        const sent = Array.from({ length: 200 }, (_, i) => [append(a, log, `a ${i}`), append(b, log, `b ${i}`)]).flat();
        const entries = await take(iterator, 400);
        await Promise.all(sent);
        for (const who of ["a", "b"]) {
          const own = entries.map(headOf).filter((head) => String(head).startsWith(who));
          expect(own).toEqual(Array.from({ length: 200 }, (_, i) => `${who} ${i}`));
        }
        const sequences = entries.map(({ sequence }) => sequence);
        expect(sequences).toEqual([...new Set(sequences)].sort((x, y) => x - y));
        expect(Math.min(...sequences)).toBeGreaterThanOrEqual(1);
        expect(new Set(entries.map(({ tries }) => tries))).toEqual(new Set([1]));
      });

      it("carry heads and bodies as they are", async () => {
        const log = fresh();
        const broker = await connect();
        const iterator = begin(await open(broker, log));
        const object = { own: true };
        const sent: Entry[] = [
          { head: "{}", body: new Uint8Array(0) },
          { head: JSON.stringify({ text: "Grüße, 世界 \n\u2028\u0000 \"'\\" }), body: randomBytes(1) },
          { head: '{ "a": 1 }\n', body: randomBytes(65_537) },
          { head: "{}", body: randomBytes(64).subarray(3, 40), object },
        ];
        for (const entry of sent) await append(broker, log, entry);
        const got = await take(iterator, sent.length);
        expect(got.map(({ head }) => head)).toEqual(sent.map(({ head }) => head));
        for (const [i, { body }] of got.entries()) expect(Buffer.compare(body, sent[i]?.body ?? Buffer.of(0))).toBe(0);
        expect(got[3]?.object).toBe(broker.passesObjects ? object : undefined);
      });

      it("keep what was appended before anybody read", async () => {
        const log = fresh();
        await append(await connect(), log, "early");
        const [entry] = await take(begin(await open(await connect(), log)), 1);
        expect(entry && headOf(entry)).toBe("early");
      });

      it("are apart from each other", async () => {
        const [one, other] = [fresh(), fresh()];
        const broker = await connect();
        await append(broker, one, "one");
        await append(broker, other, "other");
        expect((await take(begin(await open(broker, one)), 1)).map(headOf)).toEqual(["one"]);
        expect((await take(begin(await open(broker, other)), 1)).map(headOf)).toEqual(["other"]);
      });

      it("have an entry of one id once", async () => {
        const log = fresh();
        const [a, b] = [await connect(), await connect()];
        const id = "i".repeat(128);
        await Promise.all([append(a, log, "first", id), append(a, log, "again", id)]);
        await append(b, log, "once more", id);
        await append(b, fresh(), "elsewhere", id);
        await append(b, log, "last");
        expect((await take(begin(await open(a, log)), 2)).map(headOf)).toEqual(["first", "last"]);
      });

      it("make those wait who append to a full one, in order, and a reader that does not go on changes nothing", async () => {
        const log = fresh();
        const [a, b, c] = [await connect(), await connect(), await connect()];
        const bytes = 256 << 10;
        const each = 24;
        const fits = Math.floor(suiteLogBytes / bytes);
        const iterator = begin(await open(c, log));
        const confirmed = new Seen<string>();
        const sent = Array.from({ length: each }, (_, i) =>
          [a, b].map(async (broker, who) => {
            await append(broker, log, entryOf(`${who} ${i}`, bytes));
            confirmed.take(`${who} ${i}`);
          }),
        ).flat();
        const entries = await take(iterator, 1);
        await confirmed.until((all) => all.length >= fits / 2);
        for (let i = 0; i < 20; i++) await append(c, fresh(), "meanwhile");
        expect(confirmed.all.length).toBeLessThanOrEqual(fits * 1.1);

        const reader = await open(c, log);
        const again = begin(reader);
        entries.length = 0;
        while (entries.length < 2 * each) {
          const [entry] = await take(again, 1);
          if (entry === undefined) break;
          entries.push(entry);
          await reader.acknowledge(entry.sequence);
        }
        await Promise.all(sent);
        for (const who of ["0", "1"]) {
          const own = entries.map((entry) => String(headOf(entry))).filter((head) => head.startsWith(who));
          expect(own).toEqual(Array.from({ length: each }, (_, i) => `${who} ${i}`));
        }
      });

      it("tell the age of an entry", async () => {
        const log = fresh();
        const broker = await connect();
        const before = performance.now();
        await append(broker, log, "x");
        const [first] = await take(begin(await open(broker, log)), 1);
        expect(first?.ageMs).toBeGreaterThanOrEqual(0);
        await new Promise((resolve) => setTimeout(resolve, 50));
        const [second] = await take(begin(await open(broker, log)), 1);
        expect((second?.ageMs ?? 0) - (first?.ageMs ?? 0)).toBeGreaterThan(10);
        expect(second?.ageMs).toBeLessThanOrEqual(performance.now() - before + 50);
      });
    });

    describe("cursors", () => {
      const fill = async (broker: Broker, log: string, heads: readonly string[]): Promise<void> => {
        for (const head of heads) await append(broker, log, head);
      };

      it("are exact when entries are acknowledged in any order, and count the tries", async () => {
        const log = fresh();
        const broker = await connect();
        await fill(broker, log, ["1", "2", "3", "4", "5", "6"]);
        const first = await open(broker, log);
        const entries = await take(begin(first), 6);
        for (const i of [4, 1, 3]) await first.acknowledge(entries[i]?.sequence ?? 0);
        await first.close();

        const second = await open(broker, log);
        const rest = await take(begin(second), 3);
        expect(rest.map(headOf)).toEqual(["1", "3", "6"]);
        expect(rest.map(({ tries }) => tries)).toEqual([2, 2, 2]);
        await second.acknowledge(rest[0]?.sequence ?? 0);
        await second.acknowledge(rest[0]?.sequence ?? 0);
        await second.close();

        const third = await take(begin(await open(await connect(), log)), 2);
        expect(third.map(headOf)).toEqual(["3", "6"]);
        expect(third.map(({ tries }) => tries)).toEqual([3, 3]);
      });

      it("do not let an acknowledgement run ahead", async () => {
        const log = fresh();
        const broker = await connect();
        await fill(broker, log, ["1"]);
        const reader = await open(broker, log);
        const [entry] = await take(begin(reader), 1);
        await codeOf(reader.acknowledge((entry?.sequence ?? 0) + 1));
        await reader.close();
        await fill(broker, log, ["2"]);
        expect((await take(begin(await open(broker, log)), 2)).map(headOf)).toEqual(["1", "2"]);
      });

      it("belong to the reader that came last", async () => {
        const log = fresh();
        const [a, b] = [await connect(), await connect()];
        await fill(a, log, ["1", "2"]);
        const old = await open(a, log);
        const iterator = begin(old);
        const [one, two] = await take(iterator, 2);
        await old.acknowledge(one?.sequence ?? 0);
        const waiting = codeOf(iterator.next());

        const young = await open(b, log);
        expect(await waiting).toBe("ERR_LATENT_BUS_SUPERSEDED");
        expect(await codeOf(old.acknowledge(two?.sequence ?? 0))).toBe("ERR_LATENT_BUS_SUPERSEDED");
        await old.close();
        const youngs = begin(young);
        expect((await take(youngs, 1)).map(headOf)).toEqual(["2"]);
        await append(a, log, "3");
        expect((await take(youngs, 1)).map(headOf)).toEqual(["3"]);
      });

      it("give what was not acknowledged to the next reader when a reader or its connection closes", async () => {
        const log = fresh();
        const [a, b] = [await connect(), await connect()];
        await fill(a, log, ["1", "2", "3"]);
        const first = await open(a, log);
        const firsts = begin(first);
        await take(firsts, 1);
        await first.close();
        await first.close();
        expect((await firsts.next()).done).toBe(true);

        const second = await open(a, log);
        const seconds = begin(second);
        const [one] = await take(seconds, 2);
        await second.acknowledge(one?.sequence ?? 0);
        const waiting = take(seconds, 2).catch(() => "ended");
        await a.close();
        expect(await waiting).toBe("ended");
        expect((await take(begin(await open(b, log)), 2)).map(headOf)).toEqual(["2", "3"]);
      });

      it("do not hinder each other, and what all have passed is gone", async () => {
        const log = fresh();
        const broker = await connect();
        await fill(broker, log, ["1", "2"]);
        const first = await open(broker, log, "left");
        const entries = await take(begin(first), 2);
        for (const { sequence } of entries) await first.acknowledge(sequence);
        await fill(broker, log, ["3"]);
        const right = await open(broker, log, "right");
        const left = await open(broker, log, "left");
        expect((await take(begin(left), 1)).map(headOf)).toEqual(["3"]);
        const [three] = await take(begin(right), 1);
        expect(three && headOf(three)).toBe("3");
        await right.acknowledge(three?.sequence ?? 0);
        await left.acknowledge(three?.sequence ?? 0);
        const late = begin(await open(broker, log, "late"));
        await fill(broker, log, ["4"]);
        expect((await take(late, 1)).map(headOf)).toEqual(["4"]);
      });

      it("hold an entry for the slowest of them", async () => {
        const log = fresh();
        const broker = await connect();
        const slow = begin(await open(broker, log, "slow"));
        const fast = await open(broker, log, "fast");
        await fill(broker, log, ["1", "2", "3"]);
        for (const { sequence } of await take(begin(fast), 3)) await fast.acknowledge(sequence);
        expect((await take(slow, 3)).map(headOf)).toEqual(["1", "2", "3"]);
      });

      it("are forgotten, and with the last one the log", async () => {
        const log = fresh();
        const broker = await connect();
        await fill(broker, log, ["1", "2"]);
        const reader = await open(broker, log);
        const iterator = begin(reader);
        await take(iterator, 2);
        const ended = iterator.next();
        await broker.forget(log, "reader");
        expect((await ended).done).toBe(true);
        const again = begin(await open(broker, log));
        await fill(broker, log, ["3"]);
        expect((await take(again, 1)).map(headOf)).toEqual(["3"]);
        await broker.forget(fresh(), "nobody");
      });

      it("no longer hold entries once they are forgotten", async () => {
        const log = fresh();
        const broker = await connect();
        await open(broker, log, "gone");
        const reader = await open(broker, log, "stays");
        await fill(broker, log, ["1"]);
        const [one] = await take(begin(reader), 1);
        await reader.acknowledge(one?.sequence ?? 0);
        await broker.forget(log, "gone");
        const fresher = begin(await open(broker, log, "gone"));
        await fill(broker, log, ["2"]);
        expect((await take(fresher, 1)).map(headOf)).toEqual(["2"]);
      });

      it("that are forgotten let in those who wait for room", async () => {
        const log = fresh();
        const [a, b] = [await connect(), await connect()];
        await open(b, log);
        const bytes = 512 << 10;
        const sent = Array.from({ length: suiteLogBytes / bytes + 2 }, (_, i) => append(a, log, entryOf(String(i), bytes)));
        // full, but for less than one more
        await Promise.all(sent.slice(0, suiteLogBytes / bytes - 1));
        await b.forget(log, "reader");
        await Promise.all(sent);
      });
    });

    describe("signals", () => {
      it("reach all who listen, in order", async () => {
        const subject = fresh("subject");
        const [a, b] = [await connect(), await connect()];
        const [own, other, twice] = [new Seen<Entry>(), new Seen<Entry>(), new Seen<Entry>()];
        await a.listen(subject, own.take);
        await b.listen(subject, other.take);
        await b.listen(subject, twice.take);
        await b.listen(fresh("subject"), () => {
          throw new Error("this one is of another subject");
        });
        const sent = Array.from({ length: 200 }, (_, i) => a.signal(subject, entryOf(String(i), i)));
        for (const seen of [own, other, twice]) {
          await seen.until((all) => all.length === 200);
          expect(seen.all.map(headOf)).toEqual(Array.from({ length: 200 }, (_, i) => String(i)));
          expect(seen.all.map(({ body }) => body.length)).toEqual(Array.from({ length: 200 }, (_, i) => i));
        }
        await Promise.all(sent);
      });

      it("are kept for nobody, and do not come when one has stopped listening", async () => {
        const subject = fresh("subject");
        const [a, b] = [await connect(), await connect()];
        await a.signal(subject, entryOf("too early"));
        const [stopped, seen] = [new Seen<Entry>(), new Seen<Entry>()];
        const stop = await b.listen(subject, stopped.take);
        await b.listen(subject, seen.take);
        await a.signal(subject, entryOf("1"));
        await stopped.until((all) => all.length === 1);
        stop();
        stop();
        await a.signal(subject, entryOf("2"));
        await seen.until((all) => all.length === 2);
        expect(seen.all.map(headOf)).toEqual(["1", "2"]);
        expect(stopped.all.map(headOf)).toEqual(["1"]);
      });
    });

    describe("presence", () => {
      const find = (present: readonly Present[], key: string): string | undefined => present.find((one) => one.key === key)?.value;

      it("appears, changes and vanishes", async () => {
        const [x, y] = [fresh("key"), fresh("key")];
        const [a, b] = [await connect(), await connect()];
        const seen = new Seen<readonly Present[]>();
        await a.announce(x, '"x"');
        const stop = await b.watch(seen.take);
        await seen.until((all) => find(all.at(-1) ?? [], x) === '"x"');
        await a.announce(y, '"y"');
        await seen.until((all) => find(all.at(-1) ?? [], y) === '"y"');
        expect(find(await b.present(), x)).toBe('"x"');
        expect(find(await a.present(), y)).toBe('"y"');
        await a.announce(x, '"new"');
        await seen.until((all) => find(all.at(-1) ?? [], x) === '"new"');
        await a.withdraw(x);
        await seen.until((all) => find(all.at(-1) ?? [], x) === undefined && find(all.at(-1) ?? [], y) === '"y"');
        await a.close();
        await seen.until((all) => find(all.at(-1) ?? [], y) === undefined);
        expect(find(await b.present(), y)).toBeUndefined();
        stop();
      });

      it("is seen by nobody who has stopped watching", async () => {
        const key = fresh("key");
        const broker = await connect();
        const [stopped, seen] = [new Seen<readonly Present[]>(), new Seen<readonly Present[]>()];
        const stop = await broker.watch(stopped.take);
        await stopped.until((all) => all.length > 0);
        stop();
        const count = stopped.all.length;
        await broker.watch(seen.take);
        await broker.announce(key, "1");
        await seen.until((all) => find(all.at(-1) ?? [], key) === "1");
        expect(stopped.all.length).toBe(count);
      });
    });

    describe("pieces", () => {
      it("are put, got, kept longer and dropped", async () => {
        const [a, b] = [await connect(), await connect()];
        const piece = randomBytes(pieceBytes);
        const name = blake3(piece);
        expect(await b.get(name, never)).toBeUndefined();
        expect(await b.touch(name, longMs)).toBe(false);
        await a.put(name, piece, longMs, never);
        await a.put(name, piece, longMs, never);
        expect(await b.touch(name, longMs)).toBe(true);
        const got = await b.get(name, never);
        expect(got && Buffer.compare(got, piece)).toBe(0);
        // put twice and kept longer once: there for each of the three
        for (let needed = a.countsPieces ? 3 : 1; needed > 0; needed--) {
          expect(await a.get(name, never)).toBeDefined();
          await b.drop(name);
        }
        expect(await a.get(name, never)).toBeUndefined();
        await b.drop(name);
      });

      it("are many at once, and may be empty", async () => {
        const [a, b] = [await connect(), await connect()];
        const pieces = Array.from({ length: 16 }, (_, i) => randomBytes(i * 10_000));
        await Promise.all(pieces.map((piece) => a.put(blake3(piece), piece, longMs, never)));
        const got = await Promise.all(pieces.map((piece) => b.get(blake3(piece), never)));
        expect(got.map((one, i) => one && Buffer.compare(one, pieces[i] ?? Buffer.of(0)))).toEqual(pieces.map(() => 0));
      });
    });

    it("a tap shows what goes through, once", async () => {
      const [log, subject] = [fresh(), fresh("subject")];
      const [a, b] = [await connect(), await connect()];
      const seen = new Seen<Tapped>();
      const stop = await b.tap((tapped) => {
        if (tapped.name === log || tapped.name === subject) seen.take(tapped);
      });
      await append(a, log, entryOf("kept", 10), "the id");
      await append(a, log, entryOf("kept", 10), "the id");
      await a.signal(subject, entryOf("gone", 20));
      await a.put(blake3(Buffer.from("piece")), Buffer.from("piece"), longMs, never);
      await append(a, log, entryOf("end"));
      await seen.until((all) => all.length === 3);
      const shown = seen.all.map((one) => [one.channel, one.name, headOf(one), one.body.length]);
      expect(shown).toHaveLength(3);
      expect(shown).toEqual(
        expect.arrayContaining([
          ["log", log, "kept", 10],
          ["signal", subject, "gone", 20],
          ["log", log, "end", 0],
        ]),
      );
      stop();
      await append(a, log, "unseen");
      expect(seen.all).toHaveLength(3);
    });

    describe("limits", () => {
      it("of an entry", async () => {
        const log = fresh();
        const broker = await connect();
        const head = JSON.stringify("é");
        const largest = { head, body: new Uint8Array(entryBytes - Buffer.byteLength(head)) };
        const larger = { head, body: new Uint8Array(largest.body.length + 1) };
        expect(await codeOf(append(broker, log, larger))).toBe("ERR_LATENT_BUS_LIMIT");
        expect(await codeOf(broker.signal(log, larger))).toBe("ERR_LATENT_BUS_LIMIT");
        await broker.signal(log, largest);
        await append(broker, log, largest);
        const heads = { head: JSON.stringify("h".repeat(entryBytes - 2)), body: new Uint8Array(0) };
        await append(broker, log, heads);
        const [got, second] = await take(begin(await open(broker, log)), 2);
        expect(got?.body.length).toBe(largest.body.length);
        expect(second?.head).toBe(heads.head);
      });

      it("of a piece", async () => {
        const broker = await connect();
        const name = "0".repeat(64);
        expect(await codeOf(broker.put(name, new Uint8Array(pieceBytes + 1), longMs, never))).toBe("ERR_LATENT_BUS_LIMIT");
        for (const wrong of ["", "0".repeat(63), "G".repeat(64), `../${"0".repeat(61)}`])
          expect(await codeOf(broker.put(wrong, new Uint8Array(1), longMs, never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
      });

      it("of names and ids", async () => {
        const broker = await connect();
        const longest = "n".repeat(200);
        await append(broker, longest, "x");
        await broker.forget(longest, "reader");
        for (const wrong of ["", ".", "a.", ".a", "a..b", "a b", "a*", "a.>", "ä", "a/b", "a\n", "n".repeat(201)]) {
          expect(await codeOf(append(broker, wrong, "x")), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
          expect(await codeOf(open(broker, wrong)), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
          expect(await codeOf(open(broker, "log", wrong)), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
          expect(await codeOf(broker.signal(wrong, entryOf("x"))), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
          expect(await codeOf(broker.listen(wrong, () => undefined)), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
          expect(await codeOf(broker.announce(wrong, "1")), wrong).toBe("ERR_LATENT_INVALID_ARGUMENT");
        }
        for (const id of ["", "i".repeat(129)]) expect(await codeOf(append(broker, fresh(), "x", id))).toBe("ERR_LATENT_INVALID_ARGUMENT");
      });
    });

    describe("aborts", () => {
      /** A log that takes nothing more until somebody reads it. */
      const full = async (broker: Broker): Promise<string> => {
        const log = fresh();
        await open(broker, log);
        const bytes = 512 << 10;
        for (let i = 0; i < Math.floor(suiteLogBytes / bytes) - 1; i++) await append(broker, log, entryOf(String(i), bytes));
        return log;
      };

      it("an append that waits for room", async () => {
        const [a, b] = [await connect(), await connect()];
        const log = await full(b);
        const big = entryOf("big", 700 << 10);
        const abort = new AbortController();
        const reason = new Error("no more");
        // two of them: the first may still fit in
        const waiting = [1, 2].map((i) => append(a, log, big, `id ${i}`, i === 2 ? abort.signal : never));
        const settled = codeOf(waiting[1] ?? Promise.resolve());
        await append(a, fresh(), "a round trip");
        abort.abort(reason);
        expect(await settled).toBe(reason);
        const reader = await open(b, log);
        const heads: unknown[] = [];
        const last = append(a, log, "last");
        for await (const entry of reader) {
          heads.push(headOf(entry));
          await reader.acknowledge(entry.sequence);
          if (heads.at(-1) === "last") break;
        }
        await Promise.all([waiting[0], last]);
        expect(heads.filter((head) => head === "big")).toHaveLength(1);
      });

      it("a reader, which ends", async () => {
        const log = fresh();
        const broker = await connect();
        const abort = new AbortController();
        const reader = await open(broker, log, "reader", abort.signal);
        const waiting = begin(reader).next();
        abort.abort(new Error("no more"));
        expect((await waiting).done).toBe(true);
        await append(broker, log, "x");
        expect((await take(begin(await open(broker, log)), 1)).map(headOf)).toEqual(["x"]);
      });

      it("everything that has a signal, before it begins", async () => {
        const log = fresh();
        const broker = await connect();
        const reason = new Error("too late");
        const signal = AbortSignal.abort(reason);
        const piece = Buffer.from(log);
        expect(await codeOf(append(broker, log, "x", randomUUID(), signal))).toBe(reason);
        expect(await codeOf(open(broker, log, "reader", signal))).toBe(reason);
        expect(await codeOf(broker.put(blake3(piece), piece, longMs, signal))).toBe(reason);
        expect(await codeOf(broker.get(blake3(piece), signal))).toBe(reason);
        expect(await broker.get(blake3(piece), never)).toBeUndefined();
      });

      it("closing does so to all that waits", async () => {
        const [a, b] = [await connect(), await connect()];
        const log = await full(b);
        const waiting = [1, 2, 3].map(() => append(a, log, entryOf("big", 700 << 10)));
        const last = codeOf(waiting[2] ?? Promise.resolve());
        for (const one of waiting) one.catch(() => undefined);
        const iterator = begin(await open(a, fresh()));
        const next = iterator.next();
        const seen = new Seen<Entry>();
        const subject = fresh("subject");
        await a.listen(subject, seen.take);
        await a.close();
        await a.close();
        expect(await last).toBe("ERR_LATENT_BUS_DISCONNECTED");
        expect((await next).done).toBe(true);
        for (const call of [
          append(a, log, "x"),
          open(a, log),
          a.forget(log, "x"),
          a.signal(subject, entryOf("x")),
          a.listen(subject, () => undefined),
          a.announce("key", "1"),
          a.withdraw("key"),
          a.present(),
          a.watch(() => undefined),
          a.put("0".repeat(64), new Uint8Array(1), longMs, never),
          a.touch("0".repeat(64), longMs),
          a.get("0".repeat(64), never),
          a.drop("0".repeat(64)),
          a.tap(() => undefined),
        ])
          expect(await codeOf(call)).toBe("ERR_LATENT_BUS_DISCONNECTED");
        await b.signal(subject, entryOf("x"));
        await append(b, fresh(), "a round trip");
        expect(seen.all).toEqual([]);
      });
    });

    it("an address for people", async () => {
      const { address } = await connect();
      expect(address).toMatch(/^[a-z]+:/);
    });
  });
}
