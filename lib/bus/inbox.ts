// The reading end of an inbox or a topic: messages in order, no more of them unsettled than the reader wants, each checked before it is given away. What
// cannot be used, or was refused too often, goes to the dead letters and holds nothing up.
import { checkInteger, checkKeys, fallback, invalid } from "../check.js";
import { LatentError, toLatentError } from "../errors.js";
import { Model } from "../models/model.js";
import { Pool } from "../models/pool.js";
import { blake3 } from "../kernels/statistics.js";
import { entryBytes, type LogEntry, type LogReader } from "./brokers/broker.js";
import { addNew, seenLately } from "./brokers/recent.js";
import { checkName, type Envelope } from "./envelope.js";
import { Message, type DeadLetter, type MessageHome } from "./message.js";
import { eitherOf, type EnvelopeFields, type Post } from "./post.js";

/** Options of {@link Bus.inbox} and {@link Bus.subscribe}. */
export interface InboxOptions {
  /**
   * What the place in the inbox is called, which outlives the reader: the next one with this name goes on where it was. One reader at a time: a second one
   * takes the place, and the first ends with `ERR_LATENT_BUS_SUPERSEDED`. Readers with different names get all messages each. Default of an inbox: "inbox"; a
   * topic must have one.
   */
  readonly durable?: string;
  /** So many messages may be unsettled at a time. Default 16. */
  readonly window?: number;
  /** How often a message is delivered at most. Default 5. */
  readonly maxTries?: number;
  /** What latents, keys and values are for: others then send what this can use. Default: text only. */
  readonly accepts?: Model | Pool;
  readonly signal?: AbortSignal;
}

/** @internal */
export const inboxOptions = ["durable", "window", "maxTries", "accepts", "signal"] as const;

const windowBytes = 8 << 20;
/** More than a signature and a longer sequence take. */
const signatureBytes = 1024;
/** Dead letters that nobody reads hold nothing up: one that has no room for so long is dropped. */
const deadMs = 2000;

/** @internal What is read, and who is told of it. */
export interface InboxPlace {
  /** Of the broker. */
  readonly log: string;
  /** That messages in it are for. */
  readonly name: string;
  readonly kind: "message" | "request";
  /** Returns how to take it back. */
  announce(accepts: Model | Pool | undefined): Promise<() => Promise<void>>;
  acknowledged(envelope: Envelope): void;
  buried(envelope: Envelope, error: Error): void;
}

interface Unsettled {
  readonly entry: LogEntry;
  readonly message: Message;
}

/** Made by {@link Bus.inbox}, {@link Bus.subscribe} and {@link Bus.deadLetters}. Iterate over it once; leaving the loop closes it. */
export class Inbox implements AsyncIterable<Message>, AsyncDisposable {
  readonly #post: Post;
  readonly #place: InboxPlace;
  readonly #reader: LogReader;
  readonly #window: number;
  readonly #maxTries: number;
  readonly #withdraw: () => Promise<void>;
  readonly #signal: AbortSignal;
  readonly #unsettled = new Map<string, Unsettled>();
  /** What was refused and comes again, in order. */
  readonly #again: LogEntry[] = [];
  readonly #tries = new Map<number, number>();
  readonly #seen = seenLately();
  readonly #home: MessageHome;
  #wake: (() => void) | undefined;
  #iterated = false;
  #paused = false;
  #closed = false;

  private constructor(
    post: Post,
    place: InboxPlace,
    reader: LogReader,
    options: Required<Pick<InboxOptions, "window" | "maxTries">>,
    withdraw: () => Promise<void>,
    signal: AbortSignal,
  ) {
    this.#post = post;
    this.#place = place;
    this.#reader = reader;
    this.#window = options.window;
    this.#maxTries = options.maxTries;
    this.#withdraw = withdraw;
    this.#signal = signal;
    this.#home = {
      acknowledge: (message) => this.#acknowledge(message),
      refuse: (message, why) => this.#refuse(message, why),
    };
  }

  /** @internal */
  static async open(post: Post, place: InboxPlace, options: InboxOptions): Promise<Inbox> {
    const durable = checkName("durable", fallback(options.durable, "inbox"));
    const window = checkInteger("window", fallback(options.window, 16), 1, 10_000);
    const maxTries = checkInteger("maxTries", fallback(options.maxTries, 5), 1, 1_000_000);
    const { accepts } = options;
    if (accepts !== undefined && !(accepts instanceof Model) && !(accepts instanceof Pool))
      throw invalid("accepts", "a Model or a Pool", accepts);
    const signal = eitherOf(post.signal, options.signal);
    signal.throwIfAborted();
    const reader = await post.broker.open(place.log, durable, { windowBytes, signal });
    try {
      return new Inbox(post, place, reader, { window, maxTries }, await place.announce(accepts), signal);
    } catch (error) {
      await reader.close();
      throw error;
    }
  }

  /**
   * The messages, until the inbox or the bus is closed.
   * @throws {@link LatentError} `ERR_LATENT_BUS_SUPERSEDED`, `ERR_LATENT_BUS_DISCONNECTED`; the signal's reason on abort
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<Message, void, undefined> {
    if (this.#iterated) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "an inbox can be read once");
    this.#iterated = true;
    const entries = this.#reader[Symbol.asyncIterator]();
    const isOver = (): boolean => this.#closed || this.#post.closed;
    const abort = (): void => {
      this.#wake?.();
      void this.#reader.close();
    };
    this.#signal.addEventListener("abort", abort, { once: true });
    let next: Promise<IteratorResult<LogEntry, unknown>> | undefined;
    try {
      for (;;) {
        if (isOver()) return;
        this.#signal.throwIfAborted();
        if (this.#paused || this.#unsettled.size >= this.#window) {
          await new Promise<void>((resolve) => (this.#wake = resolve));
          continue;
        }
        let entry = this.#again.shift();
        const isRefused = entry !== undefined;
        if (entry === undefined) {
          next ??= entries.next();
          const woken = new Promise<undefined>(
            (resolve) =>
              (this.#wake = (): void => {
                resolve(undefined);
              }),
          );
          const result = await Promise.race([next, woken]);
          // a refused message goes before what is new
          if (result === undefined || this.isPaused) continue;
          next = undefined;
          if (result.done === true) {
            if (!isOver()) this.#signal.throwIfAborted();
            return;
          }
          entry = result.value;
        }
        const message = await this.#open(entry, isRefused);
        if (message !== undefined) yield message;
      }
    } finally {
      this.#signal.removeEventListener("abort", abort);
      next?.catch(() => undefined);
      await this.close();
    }
  }

  /** @internal */
  get isPaused(): boolean {
    return this.#paused;
  }

  /** @internal Gives no more away, and is not announced any more; what is unsettled can still be settled. */
  async pause(): Promise<void> {
    this.#paused = true;
    await this.#withdraw().catch(() => undefined);
  }

  /** Lets go of the inbox; what is unsettled comes again, to the next reader of it. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#wake?.();
    await Promise.all([this.#withdraw().catch(() => undefined), this.#reader.close()]);
    for (const { message } of this.#unsettled.values()) for (const content of message.contents) content.dispose();
  }

  /** Same as {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** The message of an entry; undefined when there is none for the reader, and the entry is done with. */
  async #open(entry: LogEntry, isRefused: boolean): Promise<Message | undefined> {
    const tries = Math.max(entry.tries, (this.#tries.get(entry.sequence) ?? 0) + 1);
    this.#tries.set(entry.sequence, tries);
    let envelope: Envelope | undefined;
    try {
      envelope = this.#post.read(entry);
      const dead = this.#check(envelope, entry, tries);
      if (!addNew(this.#seen, envelope.id) && !isRefused) {
        await this.#duplicate(entry, envelope.id);
        return undefined;
      }
      const message = new Message(envelope, this.#post.parcels(envelope, entry), tries, dead, this.#home);
      this.#unsettled.set(envelope.id, { entry, message });
      return message;
    } catch (error) {
      await this.#bury(entry, envelope, toLatentError(error), tries);
      return undefined;
    }
  }

  /** The reader has had it, or has it: the bus did not hear of that, or somebody has sent it again. */
  async #duplicate(entry: LogEntry, id: string): Promise<void> {
    const has = [...this.#again, this.#unsettled.get(id)?.entry].some((one) => one?.sequence === entry.sequence);
    if (!has) await this.#settle(entry);
  }

  #check(envelope: Envelope, entry: LogEntry, tries: number): DeadLetter | undefined {
    if (envelope.kind === "dead") return deadLetterOf(envelope);
    const { kind } = this.#place;
    if (envelope.kind !== kind) throw new LatentError("ERR_LATENT_BUS_ENVELOPE", `a ${envelope.kind} where a ${kind} was due`);
    if (envelope.to !== this.#place.name)
      throw new LatentError("ERR_LATENT_BUS_FORGED", `a message for '${envelope.to}' in '${this.#place.name}'`);
    const { validForMs } = envelope;
    if (validForMs !== undefined && entry.ageMs >= validForMs)
      throw new LatentError("ERR_LATENT_BUS_DEADLINE", `it was of use for ${validForMs} ms, and came after ${Math.round(entry.ageMs)}`);
    if (tries > this.#maxTries) throw new LatentError("ERR_LATENT_BUS_LIMIT", `it was delivered ${tries - 1} times and never acknowledged`);
    return undefined;
  }

  async #acknowledge({ id, envelope }: Message): Promise<void> {
    const unsettled = this.#take(id);
    if (unsettled === undefined) return;
    try {
      await this.#settle(unsettled.entry);
    } catch (error) {
      this.#seen.delete(id);
      throw error;
    }
    this.#place.acknowledged(envelope);
  }

  async #refuse(message: Message, why: string): Promise<void> {
    const unsettled = this.#take(message.id);
    if (unsettled === undefined) return;
    if (message.tries < this.#maxTries) {
      this.#again.push(unsettled.entry);
      this.#again.sort((a, b) => a.sequence - b.sequence);
      this.#wake?.();
      return;
    }
    await this.#bury(unsettled.entry, message.envelope, new LatentError("ERR_LATENT_BUS_PEER", why), message.tries);
  }

  #take(id: string): Unsettled | undefined {
    const unsettled = this.#unsettled.get(id);
    this.#unsettled.delete(id);
    this.#wake?.();
    return unsettled;
  }

  async #settle(entry: LogEntry): Promise<void> {
    this.#tries.delete(entry.sequence);
    await this.#reader.acknowledge(entry.sequence);
  }

  /** To the dead letters; then it is done with here. A dead letter that nobody can use is dropped. */
  async #bury(entry: LogEntry, envelope: Envelope | undefined, error: Error, tries: number): Promise<void> {
    const code = LatentError.isInstance(error) ? error.code : "";
    if (envelope?.kind !== "dead") {
      const data = { inbox: this.#place.name, code, reason: error.message.slice(0, 1000), tries, head: entry.head.slice(0, 16_384) };
      // the id of what came may be of any length, and of anybody's choice
      const id = `dead-${blake3(Buffer.from(entry.head))}`;
      const place = AbortSignal.any([this.#signal, AbortSignal.timeout(deadMs)]);
      const append = this.#post.append(`dead.${this.#place.name}`, place, () => {
        const dead = this.#post.envelope("dead", this.#place.name, envelope?.conversation ?? "", { data, ...contentOf(envelope) }, id);
        const packed = { claims: envelope?.claims ?? [], body: entry.body, object: entry.object, releases: [], bytes: 0 };
        if (envelope !== undefined && Buffer.byteLength(JSON.stringify(dead)) + entry.body.length <= entryBytes - signatureBytes)
          return Promise.resolve({ envelope: dead, packed });
        // what nobody vouches for, or does not fit beside the reason
        const bare = this.#post.envelope("dead", this.#place.name, envelope?.conversation ?? "", { data }, id);
        return Promise.resolve({ envelope: bare, packed: { ...packed, claims: [], body: new Uint8Array(0), object: undefined } });
      });
      await append.catch((failure: unknown) => {
        if (this.#signal.aborted) throw failure;
      });
    }
    await this.#settle(entry);
    if (envelope !== undefined) this.#place.buried(envelope, error);
  }
}

/** What a dead letter has of its message, so that it can be read as it was meant. */
function contentOf({ text, claims, label }: Partial<Envelope> = {}): EnvelopeFields {
  return { ...(text !== undefined && { text }), ...(claims !== undefined && { claims }), ...(label !== undefined && { label }) };
}

function deadLetterOf({ data }: Envelope): DeadLetter {
  checkKeys("data", data, ["inbox", "code", "reason", "tries", "head"]);
  const { inbox, code, reason, tries } = data as Readonly<Record<string, unknown>>;
  return { inbox: String(inbox), code: String(code), reason: String(reason), tries: Number(tries) };
}
