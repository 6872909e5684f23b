// What a client may ask of a hub: done on a connection to the memory of its own, and bounded in what it may take.
import { blake3 } from "../../../kernels/statistics.js";
import { LatentError } from "../../../errors.js";
import { requireEntry, requireName } from "../broker.js";
import type { Client } from "./clients.js";
import type { MemoryBroker } from "../memory-broker.js";
import { appendOverheadBytes, appendWindowBytes, misunderstood, namesOfSession, numberOf, presentBytes, say, textOf } from "./protocol.js";
import type { Fields, Said } from "./protocol.js";
import { SessionReader } from "./session-reader.js";
import type { SessionHost } from "./session.js";
import { partsOf, SessionWatch } from "./session-watch.js";
import type { Message, Wire } from "./wire.js";

/** Who does not take signals as fast as they come loses its connection when so much waits for it. */
const slowBytes = 32 << 20;
const longestWindowBytes = 64 << 20;

export interface Answer {
  readonly fields?: Fields;
  readonly body?: Uint8Array;
}

export class SessionWork {
  readonly #host: SessionHost;
  readonly #wire: Wire;
  readonly #onSlow: () => void;
  readonly #broker: MemoryBroker;
  readonly #watch: SessionWatch;
  readonly #readers = new Map<number, SessionReader>();
  /** Appends that wait for room, by request. */
  readonly #appends = new Map<number, { readonly abort: AbortController; readonly bytes: number }>();
  readonly #stops = new Map<string, () => void>();
  readonly #ended = new AbortController();
  #appendBytes = 0;

  constructor(host: SessionHost, wire: Wire, onSlow: () => void) {
    this.#host = host;
    this.#wire = wire;
    this.#onSlow = onSlow;
    this.#broker = host.core.connect("hub");
    this.#watch = new SessionWatch(wire, () => this.#broker.present());
  }

  /** No append waits. */
  get isIdle(): boolean {
    return this.#appends.size === 0;
  }

  /** Nobody waits for this append any more. */
  cancel(request: number): void {
    this.#release(request)?.abort(new LatentError("ERR_LATENT_BUS_DISCONNECTED", "it was cancelled"));
  }

  /** The client's reader has asked for everything up to here. */
  delivered(reader: number, sequence: number): void {
    this.#readers.get(reader)?.delivered(sequence);
  }

  end(): void {
    this.#ended.abort();
    for (const what of [...this.#stops.keys()]) this.stop(what);
    void this.#broker.close();
  }

  /** Everything up to the first `await` happens in the order of the messages. */
  async perform(id: number, { kind, fields, rest, body }: Said, client: Client): Promise<Answer | undefined> {
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
            if (this.#wire.queued < slowBytes / 2) this.#wire.send(say("tapped", { channel, name }, head, shown));
          }),
        );
        return;
      case "watch":
        this.stop("watch");
        this.#watch.begin();
        await this.#until("watch", () => this.#broker.watch((present) => void this.#watch.show(present)));
        return;
      case "present":
        for (const [part] of partsOf((await this.#broker.present()).map(({ key, value }) => [key, value])))
          this.#wire.send(say("part", { id }, part));
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

  /** Ends a listening, watching or tapping. */
  stop(what: string): void {
    if (what === "watch") this.#watch.end();
    this.#stops.get(what)?.();
    this.#stops.delete(what);
  }

  #signal(message: Message): void {
    if (this.#wire.queued > slowBytes) this.#onSlow();
    else {
      this.#host.counts.sentBytes += message.body.length;
      this.#wire.send(message);
    }
  }
}

const tooMany = (): LatentError =>
  new LatentError("ERR_LATENT_BUS_LIMIT", `a connection has at most ${namesOfSession} readers, subjects and records of presence`);

const piecesEqual = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
