// The hub's side of a reader: sends entries ahead of their being asked for, as many bytes as the reader's window has room for.
import { failureOf, say } from "./protocol.js";
import type { MemoryReader } from "../memory-log.js";
import type { SessionCounts } from "./session.js";
import type { Wire } from "./wire.js";

export class SessionReader {
  readonly #number: number;
  readonly #reader: MemoryReader;
  readonly #windowBytes: number;
  readonly #wire: Wire;
  readonly #counts: SessionCounts;
  /** What was sent and has not been asked for yet, in order. */
  readonly #sent: { readonly sequence: number; readonly bytes: number }[] = [];
  #sentBytes = 0;
  #isClosed = false;

  constructor(number: number, reader: MemoryReader, windowBytes: number, wire: Wire, counts: SessionCounts) {
    this.#number = number;
    this.#reader = reader;
    this.#windowBytes = windowBytes;
    this.#wire = wire;
    this.#counts = counts;
  }

  /** Until it ends. Never rejects. */
  async run(): Promise<void> {
    try {
      for (;;) {
        // an entry that is larger than the window may have it to itself
        const entry = await this.#reader.ahead((bytes) => this.#sentBytes === 0 || this.#sentBytes + bytes <= this.#windowBytes);
        if (entry === undefined) break;
        const { sequence, tries, ageMs, head, body } = entry;
        const bytes = Buffer.byteLength(head) + body.length;
        this.#sent.push({ sequence, bytes });
        this.#sentBytes += bytes;
        this.#counts.delivered++;
        this.#counts.sentBytes += bytes;
        if (this.#wire.send(say("entry", { reader: this.#number, sequence, tries, ageMs }, head, body))) await this.#wire.drained();
      }
      if (!this.#isClosed) this.#wire.send(say("ended", { reader: this.#number }));
    } catch (error) {
      this.#wire.send(say("ended", { reader: this.#number, ...failureOf(error) }));
    }
  }

  /** The reader has asked for everything up to here. */
  delivered(sequence: number): void {
    for (let first = this.#sent[0]; first !== undefined && first.sequence <= sequence; first = this.#sent[0]) {
      this.#sent.shift();
      this.#sentBytes -= first.bytes;
      this.#reader.delivered(first.sequence);
    }
    this.#reader.wake();
  }

  async acknowledge(sequence: number): Promise<void> {
    await this.#reader.acknowledge(sequence);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#reader.close();
  }
}
