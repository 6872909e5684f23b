// The entries of one log from a sequence on, in order, a window's bytes ahead of whoever takes them. A consumer in the server's memory hands them out; when it is
// gone, or the connection was, or a message is missing, another one is made that goes on behind the last entry that came.
import { randomUUID } from "node:crypto";
import type { Msg } from "@nats-io/transport-node";
import type { Entry } from "../broker.js";
import { entryBytes } from "../broker.js";
import { frameBytes } from "./nats-client.js";
import type { NatsLink } from "./nats-link.js";
import { decodeEntry } from "./nats-log.js";
import type { NatsLogs } from "./nats-log.js";

export interface Pulled {
  readonly sequence: number;
  /** Undefined if somebody has published what is no entry. */
  readonly entry: Entry | undefined;
  readonly bytes: number;
  /** By the server's clock, in milliseconds of the epoch. */
  readonly at: number;
}

const batch = 256;
/** A request for entries ends after this time, and is made again; a server that has not said so soon after has lost it. */
const expiresMs = 10_000;
const silentMs = expiresMs + 5000;
const retryMs = 100;
const millisecond = 1_000_000;

export class NatsPuller {
  readonly #buffer: Pulled[] = [];
  #bytes = 0;
  /** The last entry that came. */
  #last: number;
  #asking: { readonly inbox: string; readonly consumer: string; readonly stop: () => void; delivered: number; left: number } | undefined;
  #making = false;
  #silence: NodeJS.Timeout | undefined;
  #stopped = false;

  /**
   * @param changed called when an entry has come
   * @param failed called when none will come any more
   */
  constructor(
    readonly logs: NatsLogs,
    readonly log: string,
    /** When its stream was made. */
    readonly created: string,
    readonly windowBytes: number,
    after: number,
    readonly changed: () => void,
    readonly failed: (error: unknown) => void,
  ) {
    this.#last = after;
  }

  get #link(): NatsLink {
    return this.logs.link;
  }

  /** Takes the next entry, if it is here already. */
  take(): Pulled | undefined {
    const next = this.#buffer.shift();
    if (next !== undefined) this.#bytes -= next.bytes;
    this.#ask();
    return next;
  }

  /** Makes a consumer, in place of the one that there is. */
  async restart(): Promise<void> {
    if (this.#making || this.#stopped) return;
    this.#making = true;
    try {
      this.#drop();
      await this.#start();
    } finally {
      this.#making = false;
    }
    this.#ask();
  }

  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#drop();
    this.#buffer.length = 0;
  }

  async #start(): Promise<void> {
    const link = this.#link;
    const plan = this.logs.plan(this.log);
    const { created: log } = await link.inStream(plan, () => link.jsm.streams.info(plan.name));
    if (log !== this.created) throw link.lost("the log was deleted");
    const inbox = link.modules.transport.createInbox();
    const name = randomUUID();
    const stop = await link.subscribe(inbox, (message) => {
      if (this.#asking?.inbox === inbox) this.#take(message);
    });
    try {
      const { created } = await link.inStream(plan, () =>
        link.jsm.consumers.add(plan.name, {
          name,
          filter_subject: this.logs.subject(this.log),
          deliver_policy: "by_start_sequence",
          opt_start_seq: this.#last + 1,
          ack_policy: "none",
          mem_storage: true,
          num_replicas: 1,
          inactive_threshold: 60_000 * millisecond,
        }),
      );
      link.setClock(created);
    } catch (error) {
      stop();
      throw error;
    }
    this.#asking = { inbox, consumer: name, stop, delivered: 0, left: 0 };
    if (this.#stopped) this.#drop();
  }

  #drop(): void {
    clearTimeout(this.#silence);
    const asking = this.#asking;
    if (asking === undefined) return;
    this.#asking = undefined;
    asking.stop();
    const { isConnected, jsm } = this.#link;
    if (isConnected) jsm.consumers.delete(this.logs.plan(this.log).name, asking.consumer).catch(() => undefined);
  }

  // One request at a time, which lets in what the window has room for, and always one entry.
  #ask(): void {
    const asking = this.#asking;
    if (asking === undefined || asking.left > 0 || this.#stopped || this.#bytes * 2 > this.windowBytes || !this.#link.isConnected) return;
    asking.left = batch;
    const request = {
      batch,
      max_bytes: Math.max(this.windowBytes - this.#bytes, entryBytes + frameBytes),
      expires: expiresMs * millisecond,
    };
    const subject = `$JS.API.CONSUMER.MSG.NEXT.${this.logs.plan(this.log).name}.${asking.consumer}`;
    this.#link.connection.publish(subject, JSON.stringify(request), { reply: asking.inbox });
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => {
      this.#again();
    }, silentMs).unref();
  }

  #take(message: Msg): void {
    const asking = this.#asking;
    if (asking === undefined) return;
    this.#silence?.refresh();
    const info = parseReply(message.reply);
    if (info === undefined) {
      const status = message.headers?.code ?? 0;
      const text = message.headers?.description.toLowerCase() ?? "";
      if (status === 100) return;
      asking.left = 0;
      // the request has ended: after its time, or because the next entry no longer fits into what it asked for
      if (status === 404 || status === 408 || (status === 409 && /maxbytes|batch completed/.test(text))) this.#ask();
      else this.#again();
      return;
    }
    asking.left--;
    asking.delivered++;
    if (info.delivered !== asking.delivered || info.sequence <= this.#last) {
      this.#again();
      return;
    }
    this.#last = info.sequence;
    const bytes = message.data.length;
    this.#buffer.push({ sequence: info.sequence, entry: decodeEntry(message.data), bytes, at: info.at });
    this.#bytes += bytes;
    this.#ask();
    this.changed();
  }

  #again(): void {
    this.#drop();
    this.#link
      .pause(retryMs)
      .then(() => this.restart())
      .catch(this.failed);
  }
}

/** What the server says in the reply subject of an entry: where it is in the stream and in the consumer, and since when. */
function parseReply(reply: string | undefined): { readonly sequence: number; readonly delivered: number; readonly at: number } | undefined {
  const tokens = (reply ?? "").split(".");
  if (tokens[0] !== "$JS" || tokens[1] !== "ACK" || tokens.length < 9) return undefined;
  // servers with domains put domain and account in front
  const [sequence, delivered, time] = tokens.slice(tokens.length >= 11 ? 7 : 5).map(Number);
  if (sequence === undefined || delivered === undefined || time === undefined) return undefined;
  return Number.isSafeInteger(sequence) && Number.isSafeInteger(delivered) ? { sequence, delivered, at: time / millisecond } : undefined;
}
