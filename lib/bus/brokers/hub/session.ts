// The hub's side of one connection: who is there, whether it lives, how fast it may be, and that each request is answered.
import { LatentError } from "../../../errors.js";
import type { Client, Clients } from "./clients.js";
import type { MemoryCore } from "../memory-broker.js";
import { failureOf, misunderstood, numberOf, pingsPerSilence, protocolVersion, say, textOf, understand } from "./protocol.js";
import type { Said } from "./protocol.js";
import { Rate } from "./rate.js";
import { SessionWork } from "./session-work.js";
import { frameBytes } from "./wire.js";
import type { Message, Wire } from "./wire.js";

/** What sessions of one hub have in common. */
export interface SessionHost {
  readonly core: MemoryCore;
  readonly clients: Clients;
  /** Of this run of the hub: sequences of another one mean something else. */
  readonly epoch: string;
  /** After which a client that sends nothing is lost; Infinity where a lost one is noticed anyway. */
  readonly silentMs: number;
  readonly ratePerSecond: number;
  readonly bytesPerSecond: number;
  readonly counts: SessionCounts;
  readonly onEnd: (session: Session) => void;
}

export interface SessionCounts {
  appended: number;
  delivered: number;
  signalled: number;
  receivedBytes: number;
  sentBytes: number;
  readonly refused: Map<string, number>;
}

/** What is answered with more bytes than it is asked for; each waits until the one before has been. */
const weighty: ReadonlySet<string> = new Set(["get", "present"]);

export class Session {
  readonly #host: SessionHost;
  readonly #wire: Wire;
  readonly #work: SessionWork;
  readonly #messages: Rate;
  readonly #bytes: Rate;
  readonly #ended = new AbortController();
  #clientId = "";
  #connection = 0;
  #client: Client | undefined;
  #saidBye = false;
  /** It is made to wait, so its silence means nothing. */
  #isDelayed = false;
  readonly #beat: NodeJS.Timeout | undefined;

  constructor(host: SessionHost, wire: Wire) {
    this.#host = host;
    this.#wire = wire;
    this.#work = new SessionWork(host, wire, () => {
      this.#refused("ERR_LATENT_BUS_LIMIT");
      this.close();
    });
    this.#messages = new Rate(host.ratePerSecond);
    this.#bytes = new Rate(host.bytesPerSecond);
    if (host.silentMs !== Infinity) {
      let last = performance.now();
      this.#beat = setInterval(() => {
        const now = performance.now();
        // when this process itself stood still, what has come meanwhile is not read yet
        if (now - last < (2 * host.silentMs) / pingsPerSilence) this.#checkLife(now);
        last = now;
      }, host.silentMs / pingsPerSilence).unref();
    }
    wire.onClose((error) => {
      this.#end(error);
    });
    wire.onMessage((message) => this.#take(message));
  }

  /** Nothing that it asked for is unanswered. */
  get isIdle(): boolean {
    return this.#work.isIdle && this.#wire.queued === 0;
  }

  close(): void {
    this.#wire.close();
    this.#end();
  }

  #take(message: Message): void | Promise<void> {
    const bytes = message.head.length + message.body.length;
    this.#host.counts.receivedBytes += bytes;
    const said = understand(message);
    let answering: Promise<void> | undefined;
    if (this.#client === undefined) this.#hello(said);
    else answering = this.#do(said, this.#client);
    const waitMs = Math.max(this.#messages.take(1), this.#bytes.take(bytes));
    // who does not take its answers is not asked for more requests
    if (answering !== undefined || this.#wire.queued > 2 * frameBytes || waitMs > 0) return this.#delay(waitMs, answering);
  }

  async #delay(ms: number, answering: Promise<void> | undefined): Promise<void> {
    this.#isDelayed = true;
    await answering;
    if (ms > 0) {
      await new Promise<void>((resolve) => {
        const done = (): void => {
          clearTimeout(timer);
          this.#ended.signal.removeEventListener("abort", done);
          resolve();
        };
        const timer = setTimeout(done, ms).unref();
        this.#ended.signal.addEventListener("abort", done);
      });
    }
    if (this.#wire.queued > 2 * frameBytes) await this.#wire.drained();
    this.#isDelayed = false;
  }

  #hello({ kind, fields }: Said): void {
    if (kind !== "hello") throw misunderstood("no greeting");
    if (fields.version !== protocolVersion) {
      const error = new LatentError("ERR_LATENT_BUS_ENVELOPE", `this hub speaks version ${protocolVersion} of the protocol`);
      this.#send(say("refused", failureOf(error)));
      this.close();
      return;
    }
    this.#clientId = textOf(fields, "client");
    this.#connection = numberOf(fields, "connection");
    if (!/^[0-9a-f-]{36}$/.test(this.#clientId)) throw misunderstood("a greeting without a client");
    this.#client = this.#host.clients.arrive(this.#clientId, this.#connection, () => {
      this.close();
    });
    if (this.#client === undefined) throw misunderstood("a connection that was made before the present one");
    const { epoch, silentMs } = this.#host;
    const { signalled } = this.#client;
    this.#send(say("welcome", { version: protocolVersion, epoch, signalled, ...(silentMs === Infinity ? {} : { silentMs }) }));
  }

  /** @returns what to wait for before the next message */
  #do(said: Said, client: Client): Promise<void> | undefined {
    const { kind, fields } = said;
    switch (kind) {
      case "ping":
        return undefined;
      case "bye":
        this.#saidBye = true;
        this.close();
        return undefined;
      case "cancel":
        this.#work.cancel(numberOf(fields, "request"));
        return undefined;
      case "delivered":
        this.#work.delivered(numberOf(fields, "reader"), numberOf(fields, "sequence"));
        return undefined;
      case "stop":
        this.#work.stop(textOf(fields, "what"));
        return undefined;
      default: {
        const answering = this.#answer(numberOf(fields, "id"), said, client);
        return weighty.has(kind) ? answering : undefined;
      }
    }
  }

  async #answer(id: number, said: Said, client: Client): Promise<void> {
    try {
      const { fields = {}, body } = (await this.#work.perform(id, said, client)) ?? {};
      this.#send(say("done", { id, ...fields }, "", body));
    } catch (error) {
      const failure = failureOf(error);
      const code = textOf(failure, "code");
      this.#refused(code);
      this.#send(say("failed", { id, ...failure }));
      if (code === "ERR_LATENT_BUS_ENVELOPE") this.close();
    }
  }

  #send(message: Message): void {
    this.#host.counts.sentBytes += message.head.length + message.body.length;
    this.#wire.send(message);
  }

  #refused(code: string): void {
    // what was cancelled or lost on the way was not refused
    if (code === "ERR_LATENT_BUS_DISCONNECTED") return;
    const { refused } = this.#host.counts;
    refused.set(code, (refused.get(code) ?? 0) + 1);
  }

  #checkLife(now: number): void {
    const { silentMs } = this.#host;
    const isSilent = !this.#isDelayed && now - this.#wire.heardAt > silentMs;
    const isStuck = this.#wire.queued > 0 && now - this.#wire.flushedAt > silentMs;
    if (isSilent || isStuck) this.close();
    else if (this.#client !== undefined) this.#wire.send(say("ping"));
  }

  #end(error?: Error): void {
    if (this.#ended.signal.aborted) return;
    if (LatentError.isInstance(error)) this.#refused(error.code);
    clearInterval(this.#beat);
    this.#ended.abort();
    this.#work.end();
    // who is on a port cannot come back
    const isGone = this.#saidBye || this.#host.silentMs === Infinity;
    if (this.#client !== undefined) this.#host.clients.leave(this.#clientId, this.#connection, isGone);
    this.#host.onEnd(this);
  }
}
