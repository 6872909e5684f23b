// The hub's side of one connection: does what a client asks for, on a connection to the memory of its own, and bounds what that may take.
import { blake3 } from "../kernels/statistics.js";
import { LatentError } from "../errors.js";
import { requireEntry, requireName } from "./broker.js";
import type { Client, Clients } from "./clients.js";
import type { MemoryBroker, MemoryCore } from "./memory-broker.js";
import {
  appendOverheadBytes,
  appendWindowBytes,
  failureOf,
  misunderstood,
  namesOfSession,
  numberOf,
  pingsPerSilence,
  presentBytes,
  protocolVersion,
  say,
  textOf,
  understand,
} from "./protocol.js";
import type { Fields, Said } from "./protocol.js";
import { Rate } from "./rate.js";
import { SessionReader } from "./session-reader.js";
import { partsOf, SessionWatch } from "./session-watch.js";
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

/** Who does not take signals as fast as they come loses its connection when so much waits for it. */
const slowBytes = 32 << 20;
const longestWindowBytes = 64 << 20;

export class Session {
  readonly #host: SessionHost;
  readonly #wire: Wire;
  readonly #broker: MemoryBroker;
  readonly #messages: Rate;
  readonly #bytes: Rate;
  readonly #readers = new Map<number, SessionReader>();
  /** Appends that wait for room, by request. */
  readonly #appends = new Map<number, { readonly abort: AbortController; readonly bytes: number }>();
  readonly #stops = new Map<string, () => void>();
  readonly #ended = new AbortController();
  #appendBytes = 0;
  #clientId = "";
  #connection = 0;
  #client: Client | undefined;
  readonly #watch: SessionWatch;
  #saidBye = false;
  /** It is made to wait, so its silence means nothing. */
  #isDelayed = false;
  readonly #beat: NodeJS.Timeout | undefined;

  constructor(host: SessionHost, wire: Wire) {
    this.#host = host;
    this.#wire = wire;
    this.#broker = host.core.connect("hub");
    this.#watch = new SessionWatch(wire, () => this.#broker.present());
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
    return this.#appends.size === 0 && this.#wire.queued === 0;
  }

  close(): void {
    this.#wire.close();
    this.#end();
  }

  #take(message: Message): void | Promise<void> {
    const bytes = message.head.length + message.body.length;
    this.#host.counts.receivedBytes += bytes;
    const said = understand(message);
    if (this.#client === undefined) this.#hello(said);
    else this.#do(said, this.#client);
    const waitMs = Math.max(this.#messages.take(1), this.#bytes.take(bytes));
    // who does not take its answers is not asked for more requests
    if (this.#wire.queued > 2 * frameBytes || waitMs > 0) return this.#delay(waitMs);
  }

  async #delay(ms: number): Promise<void> {
    this.#isDelayed = true;
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
    await this.#wire.drained();
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

  #do(said: Said, client: Client): void {
    const { kind, fields } = said;
    switch (kind) {
      case "ping":
        return;
      case "bye":
        this.#saidBye = true;
        this.close();
        return;
      case "cancel":
        this.#release(numberOf(fields, "request"))?.abort(new LatentError("ERR_LATENT_BUS_DISCONNECTED", "it was cancelled"));
        return;
      case "delivered":
        this.#readers.get(numberOf(fields, "reader"))?.delivered(numberOf(fields, "sequence"));
        return;
      case "stop":
        this.#stop(textOf(fields, "what"));
        return;
      default:
        void this.#answer(numberOf(fields, "id"), said, client);
    }
  }

  async #answer(id: number, said: Said, client: Client): Promise<void> {
    try {
      const { fields = {}, body } = (await this.#perform(id, said, client)) ?? {};
      this.#send(say("done", { id, ...fields }, "", body));
    } catch (error) {
      const failure = failureOf(error);
      const code = textOf(failure, "code");
      this.#refused(code);
      this.#send(say("failed", { id, ...failure }));
      if (code === "ERR_LATENT_BUS_ENVELOPE") this.close();
    }
  }

  // Everything up to the first `await` happens in the order of the messages.
  async #perform(
    id: number,
    { kind, fields, rest, body }: Said,
    client: Client,
  ): Promise<{ fields?: Fields; body?: Uint8Array } | undefined> {
    const { signal } = this.#ended;
    switch (kind) {
      case "append":
        await this.#append(id, textOf(fields, "log"), textOf(fields, "entry"), rest, body);
        return;
      case "open":
        return { fields: { stamp: this.#open(fields) } };
      case "acknowledge": {
        const reader = this.#readers.get(numberOf(fields, "reader"));
        if (reader === undefined) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the reader was closed");
        await reader.acknowledge(numberOf(fields, "sequence"));
        return;
      }
      case "close": {
        const number = numberOf(fields, "reader");
        const reader = this.#readers.get(number);
        this.#readers.delete(number);
        await reader?.close();
        return;
      }
      case "forget":
        await this.#broker.forget(textOf(fields, "log"), textOf(fields, "cursor"));
        return;
      case "signal": {
        const subject = textOf(fields, "subject");
        requireName(subject);
        requireEntry({ head: rest, body });
        if (id > client.signalled) {
          client.signalled = id;
          this.#host.counts.signalled++;
          this.#host.core.signal(subject, { head: rest, body });
        }
        return;
      }
      case "listen": {
        const subject = textOf(fields, "subject");
        await this.#until(`listen ${subject}`, () =>
          this.#broker.listen(subject, (entry) => {
            this.#signal(say("signal", { subject }, entry.head, entry.body));
          }),
        );
        return;
      }
      case "tap":
        await this.#until("tap", () =>
          this.#broker.tap(({ channel, name, head, body: shown }) => {
            // it is for looking: who cannot keep up misses something
            if (this.#wire.queued < slowBytes / 2) this.#send(say("tapped", { channel, name }, head, shown));
          }),
        );
        return;
      case "watch":
        this.#stop("watch");
        this.#watch.begin();
        await this.#until("watch", () => this.#broker.watch((present) => void this.#watch.show(present)));
        return;
      case "present":
        for (const [part] of partsOf((await this.#broker.present()).map(({ key, value }) => [key, value])))
          this.#send(say("part", { id }, part));
        return;
      case "announce": {
        if (Buffer.byteLength(rest) > presentBytes)
          throw new LatentError("ERR_LATENT_BUS_LIMIT", `a record of presence has at most ${presentBytes} bytes`);
        const key = textOf(fields, "key");
        if (client.keys.size >= namesOfSession && !client.keys.has(key)) throw tooMany();
        await client.presence.announce(key, rest);
        client.keys.add(key);
        return;
      }
      case "withdraw":
        client.keys.delete(textOf(fields, "key"));
        await client.presence.withdraw(textOf(fields, "key"));
        return;
      case "put":
        await this.#put(textOf(fields, "name"), body, numberOf(fields, "keptMs"), signal);
        return;
      case "touch":
        return { fields: { there: await this.#broker.touch(textOf(fields, "name"), numberOf(fields, "keptMs")) } };
      case "get": {
        const piece = await this.#broker.get(textOf(fields, "name"), signal);
        return piece === undefined ? { fields: { there: false } } : { fields: { there: true }, body: piece };
      }
      case "drop":
        await this.#broker.drop(textOf(fields, "name"));
        return;
      default:
        throw misunderstood("a request of an unknown kind");
    }
  }

  async #append(request: number, log: string, id: string, head: string, body: Uint8Array): Promise<void> {
    const bytes = requireEntry({ head, body }) + appendOverheadBytes;
    if (this.#appendBytes > 0 && this.#appendBytes + bytes > appendWindowBytes)
      throw misunderstood("more appends than the window lets through");
    const abort = new AbortController();
    this.#appendBytes += bytes;
    this.#appends.set(request, { abort, bytes });
    try {
      await this.#broker.append(log, { head, body }, { id, signal: abort.signal });
      this.#host.counts.appended++;
    } finally {
      this.#release(request);
    }
  }

  /** An append is over. */
  #release(request: number): AbortController | undefined {
    const appending = this.#appends.get(request);
    this.#appendBytes -= appending?.bytes ?? 0;
    this.#appends.delete(request);
    return appending?.abort;
  }

  /** @returns the stamp, with which the reader may come back */
  #open(fields: Fields): number {
    if (this.#readers.size >= namesOfSession) throw tooMany();
    const number = numberOf(fields, "reader");
    if (this.#readers.has(number)) throw misunderstood("a reader that is there already");
    const windowBytes = Math.min(numberOf(fields, "windowBytes"), longestWindowBytes);
    const stamp = fields.stamp === undefined ? undefined : numberOf(fields, "stamp");
    const memory = this.#broker.openAhead(textOf(fields, "log"), textOf(fields, "cursor"), this.#ended.signal, stamp);
    if (fields.after !== undefined) memory.skip(numberOf(fields, "after"));
    const reader = new SessionReader(number, memory, windowBytes, this.#wire, this.#host.counts);
    this.#readers.set(number, reader);
    void reader.run();
    return memory.stamp;
  }

  async #put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    // Names with a salt cannot be checked here; whoever gets the piece checks it. A wrong piece under a name without one gives way to the right one.
    const have = this.#host.core.get(name);
    if (have !== undefined && !piecesEqual(have, piece)) {
      if (blake3(piece) !== name) throw new LatentError("ERR_LATENT_BUS_DIGEST", "there is another piece of this name");
      this.#host.core.drop(name);
    }
    await this.#broker.put(name, piece, keptMs, signal);
  }

  async #until(what: string, begin: () => Promise<() => void>): Promise<void> {
    if (this.#stops.has(what)) return;
    if (this.#stops.size >= namesOfSession) throw tooMany();
    let isStopped = false;
    this.#stops.set(what, () => (isStopped = true));
    try {
      const stop = await begin();
      // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- it may have been stopped meanwhile
      if (isStopped) stop();
      else this.#stops.set(what, stop);
    } catch (error) {
      this.#stops.delete(what);
      throw error;
    }
  }

  #stop(what: string): void {
    if (what === "watch") this.#watch.end();
    this.#stops.get(what)?.();
    this.#stops.delete(what);
  }

  #signal(message: Message): void {
    if (this.#wire.queued > slowBytes) {
      this.#refused("ERR_LATENT_BUS_LIMIT");
      this.close();
    } else this.#send(message);
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
    this.#watch.end();
    for (const stop of this.#stops.values()) stop();
    this.#stops.clear();
    void this.#broker.close();
    if (this.#client !== undefined) this.#host.clients.leave(this.#clientId, this.#connection, this.#saidBye);
    this.#host.onEnd(this);
  }
}

const tooMany = (): LatentError =>
  new LatentError("ERR_LATENT_BUS_LIMIT", `a connection has at most ${namesOfSession} readers, subjects and records of presence`);

const piecesEqual = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
