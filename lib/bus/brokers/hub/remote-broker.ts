// The broker of a hub, seen from a client.
import { checkNumber } from "../../../check.js";
import { LatentError } from "../../../errors.js";
import { requireEntry, requireId, requireName, requirePiece } from "../broker.js";
import type { AppendOptions, Broker, Entry, LogReader, OpenLogOptions, Present, Tapped } from "../broker.js";
import { Link } from "./link.js";
import type { Dial, LinkOptions } from "./link.js";
import { misunderstood, numberOf, presentBytes, textOf } from "./protocol.js";
import type { Said } from "./protocol.js";
import { RemoteReader } from "./remote-reader.js";

type Listener<T> = Set<(one: T) => void>;

/**
 * A connection to a hub, which is made anew when it breaks. What was confirmed is kept by the hub, in its memory: a hub that is killed and started again has
 * lost the entries that it had confirmed and nobody had read, and its pieces; what was not confirmed is said again, and readers go on with what comes now.
 */
export class RemoteBroker implements Broker {
  readonly passesObjects = false;
  readonly countsPieces = true;
  readonly #link: Link;
  readonly #readers = new Map<number, RemoteReader>();
  readonly #listeners = new Map<string, Listener<Entry>>();
  readonly #announced = new Map<string, string>();
  readonly #watchers: Listener<readonly Present[]> = new Set();
  readonly #taps: Listener<Tapped> = new Set();
  /** Who is present, while somebody watches. */
  #present = new Map<string, string>();
  #reader = 0;

  private constructor(
    dial: Dial,
    readonly options: LinkOptions,
  ) {
    this.#link = new Link(dial, options, {
      said: (said) => {
        this.#take(said);
      },
      renewed: (isOther) => {
        this.#renew(isOther);
      },
      failed: (error) => {
        for (const reader of [...this.#readers.values()]) reader.end(this.#isClosed ? "closed" : error);
        this.#listeners.clear();
        this.#watchers.clear();
        this.#taps.clear();
      },
    });
  }

  #isClosed = false;

  get address(): string {
    return this.options.address;
  }

  /** @internal One attempt: see `connectHub` and `connectPort`. */
  static async connect(dial: Dial, options: LinkOptions, signal: AbortSignal): Promise<RemoteBroker> {
    const broker = new RemoteBroker(dial, options);
    await broker.#link.connect(signal);
    return broker;
  }

  async append(log: string, entry: Entry, { id, signal }: AppendOptions): Promise<void> {
    this.#require(log);
    requireId(id);
    requireEntry(entry);
    await this.#link.request("append", { fields: { log, entry: id }, rest: entry.head, body: entry.body, signal, lane: "append" });
  }

  async open(log: string, cursor: string, { windowBytes, signal }: OpenLogOptions): Promise<LogReader> {
    this.#require(log, cursor);
    signal.throwIfAborted();
    const number = ++this.#reader;
    const abort = (): void => void reader.close();
    const reader = new RemoteReader(this.#link, {
      ...{ number, log, cursor, windowBytes },
      onEnd: () => {
        this.#readers.delete(number);
        signal.removeEventListener("abort", abort);
      },
    });
    this.#readers.set(number, reader);
    signal.addEventListener("abort", abort, { once: true });
    try {
      await reader.open(signal);
    } catch (error) {
      reader.end("closed");
      throw error;
    }
    signal.throwIfAborted();
    return reader;
  }

  async forget(log: string, cursor: string): Promise<void> {
    this.#require(log, cursor);
    await this.#link.request("forget", { fields: { log, cursor } });
  }

  async signal(subject: string, entry: Entry): Promise<void> {
    this.#require(subject);
    requireEntry(entry);
    await this.#link.request("signal", { fields: { subject }, rest: entry.head, body: entry.body, lane: "bulk" });
  }

  async listen(subject: string, take: (entry: Entry) => void): Promise<() => void> {
    this.#require(subject);
    let all = this.#listeners.get(subject);
    if (all === undefined) this.#listeners.set(subject, (all = new Set()));
    return this.#until(all, take, "listen", { subject }, () => {
      this.#link.post("stop", { what: `listen ${subject}` });
      this.#listeners.delete(subject);
    });
  }

  async announce(key: string, value: string): Promise<void> {
    this.#require(key);
    if (Buffer.byteLength(value) > presentBytes)
      throw new LatentError("ERR_LATENT_BUS_LIMIT", `a record of presence has at most ${presentBytes} bytes`);
    this.#announced.set(key, value);
    try {
      await this.#link.request("announce", { fields: { key }, rest: value });
    } catch (error) {
      if (this.#announced.get(key) === value) this.#announced.delete(key);
      throw error;
    }
  }

  async withdraw(key: string): Promise<void> {
    this.#require(key);
    this.#announced.delete(key);
    await this.#link.request("withdraw", { fields: { key } });
  }

  async present(): Promise<readonly Present[]> {
    this.#require();
    const present = new Map<string, string>();
    // should the request be repeated, what it has got already comes once more
    await this.#link.request("present", { onPart: (said) => { applyPart(present, said); } }); // prettier-ignore
    return listOf(present);
  }

  async watch(take: (present: readonly Present[]) => void): Promise<() => void> {
    this.#require();
    // for one who comes later the hub tells everything once more
    return this.#until(this.#watchers, take, "watch", {}, () => {
      this.#link.post("stop", { what: "watch" });
    });
  }

  async put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    this.#require();
    requirePiece(name, piece);
    await this.#link.request("put", {
      fields: { name, keptMs: checkNumber("keptMs", keptMs, 0, Number.MAX_SAFE_INTEGER) },
      body: piece,
      signal,
      lane: "bulk",
    });
  }

  async touch(name: string, keptMs: number): Promise<boolean> {
    this.#require();
    const { fields } = await this.#link.request("touch", {
      fields: { name, keptMs: checkNumber("keptMs", keptMs, 0, Number.MAX_SAFE_INTEGER) },
    });
    return fields.there === true;
  }

  async get(name: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    this.#require();
    const { fields, body } = await this.#link.request("get", { fields: { name }, signal });
    return fields.there === true ? body : undefined;
  }

  async drop(name: string): Promise<void> {
    this.#require();
    await this.#link.request("drop", { fields: { name } });
  }

  async tap(take: (entry: Tapped) => void): Promise<() => void> {
    this.#require();
    return this.#until(this.#taps, take, "tap", {}, () => {
      this.#link.post("stop", { what: "tap" });
    });
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- the interface is that of brokers that have something to wait for
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#link.close();
  }

  /** Adds one who wants to be told; the hub is asked for the first one and stopped with the last. */
  async #until<T>(
    all: Listener<T>,
    take: (one: T) => void,
    kind: string,
    fields: Readonly<Record<string, string>>,
    stopAll: () => void,
  ): Promise<() => void> {
    // one function may listen more than once
    const own = (one: T): void => {
      take(one);
    };
    const stop = (): void => {
      if (all.delete(own) && all.size === 0) stopAll();
    };
    all.add(own);
    try {
      await this.#link.request(kind, { fields });
    } catch (error) {
      stop();
      throw error;
    }
    return stop;
  }

  #take(said: Said): void {
    const { kind, fields, rest, body } = said;
    switch (kind) {
      case "entry":
        this.#readers.get(numberOf(fields, "reader"))?.take(said);
        return;
      case "ended":
        this.#readers.get(numberOf(fields, "reader"))?.takeEnd(said);
        return;
      case "signal":
        for (const take of this.#listeners.get(textOf(fields, "subject")) ?? []) take({ head: rest, body });
        return;
      case "tapped": {
        const channel = fields.channel === "log" ? "log" : "signal";
        for (const take of this.#taps) take({ channel, name: textOf(fields, "name"), head: rest, body });
        return;
      }
      case "present": {
        if (this.#watchers.size === 0) return;
        if (fields.first === true) this.#present.clear();
        applyPart(this.#present, said);
        if (fields.last !== true) return;
        for (const take of this.#watchers) take(listOf(this.#present));
        return;
      }
      default:
        throw misunderstood("something of an unknown kind");
    }
  }

  #renew(isOther: boolean): void {
    const again = (kind: string, fields = {}, rest = ""): void => {
      // if it fails the link has, which is told to everybody anyway; or the hub has other limits than it had
      this.#link.request(kind, { fields, rest, ofThis: "connection" }).catch(() => undefined);
    };
    for (const [key, value] of this.#announced) again("announce", { key }, value);
    for (const subject of this.#listeners.keys()) again("listen", { subject });
    if (this.#watchers.size > 0) again("watch");
    if (this.#taps.size > 0) again("tap");
    for (const reader of this.#readers.values()) reader.renew(isOther);
  }

  #require(...names: readonly string[]): void {
    this.#link.require();
    for (const name of names) requireName(name);
  }
}

/** A list of keys and values; no value: there is no such key any more. */
function applyPart(present: Map<string, string>, { rest }: Said): void {
  let part: unknown;
  try {
    part = JSON.parse(rest);
  } catch {
    throw misunderstood("a list that is not JSON");
  }
  if (!Array.isArray(part)) throw misunderstood("a list that is none");
  for (const item of part as readonly unknown[]) {
    const [key, value] = Array.isArray(item) ? (item as readonly unknown[]) : [];
    if (typeof key !== "string" || (typeof value !== "string" && value !== null)) throw misunderstood("a list of something else");
    if (value === null) present.delete(key);
    else present.set(key, value);
  }
}

const listOf = (present: ReadonlyMap<string, string>): readonly Present[] => [...present].map(([key, value]) => ({ key, value }));
