// One address for all agents, wherever they are: messages with content of any form to inboxes and topics, calls to agents, and who is there. What it stands on,
// the memory of this process, a hub or a message broker, makes no difference to what is promised.
import { checkInteger, checkKeys, fallback } from "../check.js";
import type { Agent } from "../agents/agent.js";
import type { Medium } from "../agents/events.js";
import { LatentError } from "../errors.js";
import type { KvHandle } from "../kv/handle.js";
import type { Latent } from "../spaces/latent.js";
import { acceptsOf, nothingButText, type Announcement } from "./announcement.js";
import type { Broker, Tapped } from "./brokers/broker.js";
import { checkConversation, checkName, checkTraceparent, decodeEnvelope, longestMs, type Envelope } from "./envelope.js";
import { wayOf } from "./claim.js";
import { checkOffer, type Offer } from "./form.js";
import { Inbox, inboxOptions, type InboxOptions, type InboxPlace } from "./inbox.js";
import { newId } from "./message.js";
import { Parcel } from "./parcel.js";
import { eitherOf, Post } from "./post.js";
import type { BusOptions } from "./options.js";
import { RemoteAgent } from "./remote-agent.js";
import { Served, type ServeOptions } from "./serve.js";

/** What can be sent: text, a handle, the same content in several forms, or what came from somebody else, passed on. */
export type Content = string | Latent | KvHandle | Offer | Parcel;

/** Options of {@link Bus.send} and {@link Bus.publish}. */
export interface SendOptions {
  /** Messages of one conversation come in order. Default: "". */
  readonly conversation?: string;
  /** Send it in this form. Default: the richest that both sides have. */
  readonly form?: Medium;
  /** Of no use after so many milliseconds, by the clock of the bus: it then goes to the dead letters. Default: always of use. */
  readonly validForMs?: number;
  /** How long its content is kept for the receiver, in milliseconds. Default: that of the bus. */
  readonly keptMs?: number;
  /** W3C trace context. */
  readonly traceparent?: string;
  /** While it waits for room in the inbox, or for a receiver that is slow. */
  readonly signal?: AbortSignal;
}

/** What {@link Bus.send} and {@link Bus.publish} did. */
export interface Sent {
  readonly id: string;
  readonly form: Medium;
  /** Why in this form, in a line. */
  readonly why: string;
  /** How the content gets to the receiver. */
  readonly way: Parcel["way"];
  /** Bytes of content that move for it. */
  readonly bytes: number;
  /** From 1, of this conversation with this receiver. */
  readonly sequence: number;
  readonly ms: number;
  /**
   * Resolves when a reader has acknowledged it. Of use on {@link Bus.send} with one reader; readers of topics say nothing.
   * @throws {@link LatentError} `ERR_LATENT_BUS_PEER` (it went to the dead letters; `details.code` tells why), `ERR_LATENT_BUS_DISCONNECTED`; the signal's reason on
   * abort
   */
  acknowledged(options?: { readonly signal?: AbortSignal }): Promise<void>;
}

/** What {@link Bus.tap} shows: envelopes, never content. */
export interface TapEvent {
  /** `inbox`, `topic`, `agent`, `dead`, or `peer` for replies and receipts, and whose. */
  readonly channel: string;
  readonly envelope: Envelope;
  /** Of the head and the body together. */
  readonly bytes: number;
}

/** How often who only listens asks whether the bus is still there. */
const askMs = 2000;

const sendOptions = ["conversation", "form", "validForMs", "keptMs", "traceparent", "signal"] as const;

/** Made by {@link connect}. */
export class Bus implements AsyncDisposable {
  readonly #post: Post;
  readonly #served = new Set<Served>();
  #closing: Promise<void> | undefined;

  private constructor(post: Post) {
    this.#post = post;
  }

  /** @internal */
  static async start(broker: Broker, options: BusOptions): Promise<Bus> {
    const post = new Post(broker, options);
    try {
      await post.start();
      return new Bus(post);
    } catch (error) {
      await broker.close();
      throw error;
    }
  }

  /** Who this side is to others. */
  get name(): string {
    return this.#post.name;
  }

  /** Where it is connected, without secrets. */
  get address(): string {
    return this.#post.broker.address;
  }

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** Bytes of content that this side keeps for receivers. */
  get keptBytes(): number {
    return this.#post.outbox.bytes;
  }

  /** Agents that are served now, by this bus or any other. */
  agents(): readonly Announcement[] {
    return this.#post.directory.filter(({ role }) => role === "agent");
  }

  /** Inboxes that are read now. */
  inboxes(): readonly Announcement[] {
    return this.#post.directory.filter(({ role }) => role === "inbox");
  }

  /** An agent by its name, whether it is there yet or not. */
  agent(name: string): RemoteAgent {
    this.#requireOpen();
    return new RemoteAgent(this.#post, checkName("name", name));
  }

  /**
   * Lets others on the bus call these agents. Who serves a name last has it.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_BUS_DISCONNECTED`, and what {@link Model.createPool} throws
   */
  async serve(agents: readonly Agent[], options: ServeOptions = {}): Promise<Served> {
    this.#requireOpen();
    const served = await Served.start(this.#post, agents, options);
    this.#served.add(served);
    return served;
  }

  /**
   * Puts a message into an inbox, where it waits for its reader. Resolves when the bus keeps it; while the inbox is full, or this side keeps as much content
   * as it may, it waits. What was asked for first comes first.
   * @throws {@link LatentError} `ERR_LATENT_BUS_FORM`, `ERR_LATENT_BUS_LIMIT`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_BUS_DISCONNECTED`; the signal's reason on abort
   */
  async send(inbox: string, content: Content, options: SendOptions = {}): Promise<Sent> {
    return await this.#send("inbox", checkName("inbox", inbox), content, options);
  }

  /** A message to all who subscribe to the topic, in the richest form that is offered; text should ride along. Rejects as {@link send} does. */
  async publish(topic: string, content: Content, options: SendOptions = {}): Promise<Sent> {
    return await this.#send("topic", checkName("topic", topic), content, options);
  }

  /**
   * Reads an inbox: what waits in it, and what comes.
   * @throws {@link LatentError} `ERR_LATENT_BUS_DISCONNECTED`
   */
  async inbox(name: string, options: InboxOptions = {}): Promise<Inbox> {
    this.#requireOpen();
    checkKeys("options", options, inboxOptions);
    return await Inbox.open(this.#post, this.#place("inbox", checkName("name", name)), options);
  }

  /** Reads a topic: what comes from the first time on that its `durable` name reads it. */
  async subscribe(topic: string, options: InboxOptions & { readonly durable: string }): Promise<Inbox> {
    this.#requireOpen();
    checkKeys("options", options, inboxOptions);
    checkName("durable", options.durable);
    return await Inbox.open(this.#post, this.#place("topic", checkName("topic", topic)), options);
  }

  /** Reads what no reader of the inbox, topic or agent of this name could use; {@link Message.dead} tells why. */
  async deadLetters(name: string, options: InboxOptions = {}): Promise<Inbox> {
    this.#requireOpen();
    checkKeys("options", options, inboxOptions);
    return await Inbox.open(this.#post, this.#place("dead", checkName("name", name)), options);
  }

  /** Gives up a place in an inbox or a topic: what it has not read is kept for nobody. */
  async forget(what: "inbox" | "topic" | "dead", name: string, durable = "inbox"): Promise<void> {
    this.#requireOpen();
    await this.#post.broker.forget(`${what}.${checkName("name", name)}`, checkName("durable", durable));
  }

  /**
   * Everything that goes over the bus, as it goes, for people who watch: envelopes, and how large they are. Leaving the loop stops it. A watcher that is
   * slow misses some.
   * @throws {@link LatentError} `ERR_LATENT_BUS_DISCONNECTED`; the signal's reason on abort
   */
  async *tap(options: { readonly signal?: AbortSignal } = {}): AsyncGenerator<TapEvent, void, undefined> {
    checkKeys("options", options, ["signal"]);
    this.#requireOpen();
    const signal = eitherOf(this.#post.signal, options.signal);
    const most = 1000;
    const seen: TapEvent[] = [];
    let wake = (): void => undefined;
    const stop = await this.#post.broker.tap((tapped) => {
      const event = seen.length < most ? tapEventOf(tapped) : undefined;
      if (event === undefined) return;
      seen.push(event);
      wake();
    });
    const abort = (): void => {
      wake();
    };
    signal.addEventListener("abort", abort);
    let lost: Error | undefined;
    // on a bus that was lost nothing comes any more, and nothing says so to who only listens
    const asking = setInterval(() => {
      this.#post.broker.touch("0".repeat(64), 0).catch((error: unknown) => {
        lost = error instanceof Error ? error : new Error(String(error));
        wake();
      });
    }, askMs);
    try {
      while (!signal.aborted) {
        const event = seen.shift();
        if (event !== undefined) yield event;
        else if (lost !== undefined) throw lost;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
      if (options.signal?.aborted === true) throw options.signal.reason;
    } finally {
      clearInterval(asking);
      signal.removeEventListener("abort", abort);
      stop();
    }
  }

  /**
   * Ends: agents finish what they are at within `drainMs` (default 10 000), inboxes are left, content that was kept for receivers goes. Idempotent.
   */
  async close(options: { readonly drainMs?: number } = {}): Promise<void> {
    checkKeys("options", options, ["drainMs"]);
    const drainMs = checkInteger("drainMs", fallback(options.drainMs, 10_000), 0, longestMs);
    this.#closing ??= (async () => {
      await Promise.all([...this.#served].map((served) => served.close({ drainMs })));
      await this.#post.close();
    })();
    await this.#closing;
  }

  /** Same as {@link close}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #send(what: "inbox" | "topic", to: string, content: Content, options: SendOptions): Promise<Sent> {
    this.#requireOpen();
    checkKeys("options", options, sendOptions);
    const post = this.#post;
    const keptMs = checkInteger("keptMs", fallback(options.keptMs, post.options.keptMs), 1, longestMs);
    const conversation = checkConversation(fallback(options.conversation, ""));
    const validForMs = options.validForMs === undefined ? undefined : checkInteger("validForMs", options.validForMs, 1, longestMs);
    if (options.traceparent !== undefined) checkTraceparent(options.traceparent);
    const offer = content instanceof Parcel ? content : checkOffer(content);
    const signal = eitherOf(post.signal, options.signal);
    const started = performance.now();
    const id = newId();
    const receiver = what === "inbox" ? post.find("inbox", to) : undefined;
    let facts: Pick<Sent, "form" | "why" | "way" | "bytes"> | undefined;
    try {
      const { sequence } = await post.append(`${what}.${to}`, signal, async () => {
        const packed = await post.pack(offer, { form: options.form, receiver, keptMs, signal });
        const { form, why, text, label, claims, bytes } = packed;
        facts = { form, why, way: wayOf(claims[0]), bytes };
        post.keep(id, packed, keptMs);
        const fields = {
          why,
          ...(claims.length > 0 && { claims }),
          ...(text !== undefined && { text }),
          ...(label !== undefined && { label }),
          ...(validForMs !== undefined && { validForMs }),
          ...(options.traceparent !== undefined && { traceparent: options.traceparent }),
        };
        return { envelope: post.envelope("message", to, conversation, fields, id), packed };
      });
      const { form = "text", why = "", way = "message", bytes = 0 } = facts ?? {};
      return {
        id,
        form,
        why,
        way,
        bytes,
        sequence,
        ms: performance.now() - started,
        acknowledged: (given = {}) => receipt(post, id, given),
      };
    } catch (error) {
      post.outbox.release(id);
      throw error;
    }
  }

  #place(what: "inbox" | "topic" | "dead", name: string): InboxPlace {
    const post = this.#post;
    return {
      log: `${what}.${name}`,
      name,
      kind: "message",
      announce: async (accepts) => {
        if (what !== "inbox") return () => Promise.resolve();
        return await post.announce("inbox", name, accepts === undefined ? nothingButText : acceptsOf(accepts, post.options.translators));
      },
      acknowledged: (envelope) => {
        // one reader of a topic does not know of the others, for whom the content is kept as long as its sender said
        if (what !== "topic") post.receipt(envelope);
      },
      buried: (envelope, error) => {
        if (what === "topic") return;
        const code = LatentError.isInstance(error) ? error.code : "";
        post.receipt(envelope, { code, reason: error.message.slice(0, 1000) });
      },
    };
  }

  #requireOpen(): void {
    if (this.closed) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the bus was closed");
  }
}

/** Resolves when the reader of a message has acknowledged it. */
async function receipt(post: Post, id: string, options: { readonly signal?: AbortSignal }): Promise<void> {
  checkKeys("options", options, ["signal"]);
  const signal = eitherOf(post.signal, options.signal);
  signal.throwIfAborted();
  const { data } = post.receiptFor(id) ?? (await next());
  if (data === undefined) return;
  throw new LatentError("ERR_LATENT_BUS_PEER", `the reader could not use it: ${String(data["reason"])}`, {
    details: { by: "peer", code: data["code"] },
  });

  function next(): Promise<Envelope> {
    return new Promise<Envelope>((resolve, reject) => {
      const abort = (): void => {
        stop();
        reject(signal.reason as Error);
      };
      const stop = post.expect(id, (envelope) => {
        stop();
        signal.removeEventListener("abort", abort);
        resolve(envelope);
      });
      signal.addEventListener("abort", abort, { once: true });
    });
  }
}

function tapEventOf({ name, head, body }: Tapped): TapEvent | undefined {
  try {
    const end = head.indexOf("\n");
    return { channel: name, envelope: decodeEnvelope(end < 0 ? head : head.slice(0, end)), bytes: Buffer.byteLength(head) + body.length };
  } catch {
    return undefined;
  }
}
