// A reader of a log that a hub keeps. When the connection breaks it comes back to its cursor, and goes on where it was.
import { LatentError } from "../../../errors.js";
import type { LogEntry, LogReader } from "../broker.js";
import type { Link } from "./link.js";
import { errorOf, numberOf } from "./protocol.js";
import type { Said } from "./protocol.js";

export interface RemoteReaderOptions {
  readonly number: number;
  readonly log: string;
  readonly cursor: string;
  readonly windowBytes: number;
  readonly onEnd: () => void;
}

interface Arrived {
  readonly entry: LogEntry;
  readonly at: number;
}

export class RemoteReader implements LogReader {
  readonly #link: Link;
  readonly #options: RemoteReaderOptions;
  /** What has come and was not asked for yet. */
  #arrived: Arrived[] = [];
  /** The last entry that was given out, as the hub counts. */
  #position = 0;
  /** Sequences of a hub that was started anew begin at 1 again; the reader's go on. */
  #offset = 0;
  /** Once it is open. */
  #stamp: number | undefined;
  #ended: LatentError | "closed" | undefined;
  #wake: (() => void) | undefined;

  constructor(link: Link, options: RemoteReaderOptions) {
    this.#link = link;
    this.#options = options;
  }

  async open(signal: AbortSignal): Promise<void> {
    const { number: reader, log, cursor, windowBytes } = this.#options;
    const { fields } = await this.#link.request("open", { fields: { reader, log, cursor, windowBytes }, signal });
    this.#stamp = numberOf(fields, "stamp");
  }

  /** There is a new connection. What has been given out does not come again; what has not does. */
  renew(isOther: boolean): void {
    this.#arrived = [];
    if (isOther) {
      this.#offset += this.#position;
      this.#position = 0;
    }
    // if it was not open yet, the request for it is repeated
    if (this.#stamp === undefined) return;
    const { number: reader, log, cursor, windowBytes } = this.#options;
    const fields = { reader, log, cursor, windowBytes, stamp: this.#stamp, after: this.#position };
    this.#link.request("open", { fields, ofThis: "connection" }).then(
      (said) => {
        // none if this connection broke as well
        if (said.fields.stamp !== undefined) this.#stamp = numberOf(said.fields, "stamp");
      },
      (error: unknown) => {
        if (LatentError.isInstance(error)) this.end(error);
      },
    );
  }

  take({ fields, rest, body }: Said): void {
    const raw = numberOf(fields, "sequence");
    const entry = {
      ...{ head: rest, body, sequence: raw + this.#offset },
      ...{ tries: numberOf(fields, "tries"), ageMs: numberOf(fields, "ageMs") },
    };
    this.#arrived.push({ entry, at: performance.now() });
    this.#wake?.();
  }

  /** The hub says that it is over. */
  takeEnd({ fields }: Said): void {
    this.end(fields.code === undefined ? "closed" : errorOf(fields));
  }

  end(why: LatentError | "closed"): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    this.#arrived = [];
    this.#options.onEnd();
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogEntry, void, undefined> {
    for (;;) {
      if (this.#ended === "closed") return;
      if (this.#ended !== undefined) throw this.#ended;
      const next = this.#arrived.shift();
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      const { entry, at } = next;
      this.#position = entry.sequence - this.#offset;
      this.#link.post("delivered", { reader: this.#options.number, sequence: this.#position });
      yield { ...entry, ageMs: entry.ageMs + (performance.now() - at) };
    }
  }

  async acknowledge(sequence: number): Promise<void> {
    this.#requireOpen();
    // of a hub that has been started anew since: it has lost the entry anyway
    const raw = sequence - this.#offset;
    if (!(raw > 0 && Number.isSafeInteger(raw))) return;
    try {
      await this.#link.request("acknowledge", {
        fields: { reader: this.#options.number, sequence: raw },
        lane: "acknowledge",
        ofThis: "run",
      });
    } catch (error) {
      this.#requireOpen();
      throw error;
    }
  }

  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    this.end("closed");
    await this.#link.request("close", { fields: { reader: this.#options.number } }).catch(() => undefined);
  }

  #requireOpen(): void {
    if (this.#ended instanceof LatentError) throw this.#ended;
    if (this.#ended === "closed") throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the reader was closed");
  }
}
