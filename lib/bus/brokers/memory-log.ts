// A log in memory, the places of its readers, and a reader: entries in order, dropped when every cursor has passed them, and no more of them than there is
// room for.
import { LatentError } from "../../errors.js";
import { addNew, Recent } from "./recent.js";
import type { Entry, LogEntry, LogReader } from "./broker.js";

/** How much of a log is kept. */
export interface LogLimits {
  /** Heads and bodies of one log, until who appends has to wait. Default 64 MiB. */
  readonly logBytes: number;
  /** How long entries are kept that no cursor waits for, in milliseconds. Default an hour. */
  readonly unreadMs: number;
}

/** How long the id of an entry is known, and how many of a log. */
const idMs = 150_000;
const idCount = 65_536;

const now = (): number => performance.now();

interface Kept {
  readonly sequence: number;
  readonly entry: Entry;
  readonly bytes: number;
  readonly at: number;
}

export interface Cursor {
  /** Everything up to here is acknowledged. */
  floor: number;
  readonly acknowledged: Set<number>;
  readonly tries: Map<number, number>;
  reader: MemoryReader | undefined;
  /** The last entry that was delivered to its last reader. */
  delivered: number;
  /** Of its last reader: who opens it anew has a larger one, who comes back after its connection broke has the one that it had. */
  stamp: number;
}

export interface Appending {
  readonly owner: object;
  readonly id: string;
  readonly entry: Entry;
  readonly bytes: number;
  /** It has had its turn. `isNew`: no entry of its id was there before. */
  readonly done: (isNew: boolean) => void;
}

/** @internal One inbox or topic. */
export class Log {
  readonly cursors = new Map<string, Cursor>();
  readonly #entries: Kept[] = [];
  readonly #ids = new Recent<true>(idCount, idMs);
  readonly #waiting: Appending[] = [];
  /** Who was admitted last, so that one who floods the log does not keep the others out. */
  #lastOwner: object | undefined;
  #next = 1;
  #bytes = 0;

  /** `budget`: what all logs hold together. */
  constructor(
    readonly limits: LogLimits,
    readonly budget: { bytes: number },
  ) {}

  get isEmpty(): boolean {
    return this.#entries.length === 0 && this.cursors.size === 0 && this.#waiting.length === 0 && this.#ids.size === 0;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Keeps it at once, or when there is room. An entry that is larger than the log may have it to itself. */
  append(appending: Appending): void {
    if (this.#waiting.length === 0 && this.#fits(appending.bytes)) this.#keep(appending);
    else this.#waiting.push(appending);
  }

  leave(appending: Appending): void {
    const index = this.#waiting.indexOf(appending);
    if (index >= 0) this.#waiting.splice(index, 1);
    this.#admit();
  }

  /** The first entry behind `sequence` that the cursor has not acknowledged. */
  after(sequence: number, cursor: Cursor): Kept | undefined {
    for (let i = this.#indexAfter(sequence); i < this.#entries.length; i++) {
      const kept = this.#entries[i];
      if (kept !== undefined && !cursor.acknowledged.has(kept.sequence)) return kept;
    }
    return undefined;
  }

  cursor(name: string): Cursor {
    let cursor = this.cursors.get(name);
    if (cursor === undefined) {
      const floor = (this.#entries[0]?.sequence ?? this.#next) - 1;
      cursor = { floor, acknowledged: new Set(), tries: new Map(), reader: undefined, delivered: floor, stamp: 0 };
      this.cursors.set(name, cursor);
    }
    return cursor;
  }

  /** Counts a try of everything up to there that the present reader was not known to have. */
  delivered(cursor: Cursor, sequence: number): void {
    for (let next = this.after(cursor.delivered, cursor); next !== undefined && next.sequence <= sequence;) {
      cursor.delivered = next.sequence;
      cursor.tries.set(next.sequence, (cursor.tries.get(next.sequence) ?? 0) + 1);
      next = this.after(cursor.delivered, cursor);
    }
  }

  acknowledge(cursor: Cursor, sequence: number): void {
    if (!(sequence > cursor.floor && sequence < this.#next)) return;
    cursor.acknowledged.add(sequence);
    cursor.tries.delete(sequence);
    for (let i = this.#indexAfter(cursor.floor); i < this.#entries.length; i++) {
      const next = this.#entries[i]?.sequence ?? 0;
      if (!cursor.acknowledged.delete(next)) break;
      cursor.floor = next;
    }
    this.trim();
  }

  /** Drops what every cursor has passed, or what nobody reads and is old; then lets in those who wait. */
  trim(): void {
    const floor = Math.min(...[...this.cursors.values()].map((one) => one.floor));
    const oldest = now() - this.limits.unreadMs;
    let count = 0;
    for (const kept of this.#entries) {
      if (this.cursors.size === 0 ? kept.at > oldest : kept.sequence > floor) break;
      this.#add(-kept.bytes);
      count++;
    }
    this.#entries.splice(0, count);
    this.#admit();
  }

  /** Drops everything; who waits for room gets it. */
  clear(): void {
    this.#entries.length = 0;
    this.#add(-this.#bytes);
    this.#ids.clear();
    this.#admit();
  }

  /** Forgets ids that are old. */
  sweep(): void {
    this.#ids.age();
    this.trim();
  }

  #fits(bytes: number): boolean {
    return this.#bytes === 0 || this.#bytes + bytes <= this.limits.logBytes;
  }

  // In turn by owner, in order within each.
  #admit(): void {
    for (;;) {
      const other = this.#waiting.findIndex(({ owner }) => owner !== this.#lastOwner);
      const index = Math.max(other, 0);
      const next = this.#waiting[index];
      if (next === undefined || !this.#fits(next.bytes)) return;
      this.#waiting.splice(index, 1);
      this.#lastOwner = next.owner;
      this.#keep(next);
    }
  }

  #keep({ id, entry, bytes, done }: Appending): void {
    const isNew = addNew(this.#ids, id);
    if (isNew) {
      this.#entries.push({ sequence: this.#next++, entry, bytes, at: now() });
      this.#add(bytes);
      for (const { reader } of this.cursors.values()) reader?.wake();
    }
    done(isNew);
  }

  #add(bytes: number): void {
    this.#bytes += bytes;
    this.budget.bytes += bytes;
  }

  // Sequences are without gaps, so an index is a difference.
  #indexAfter(sequence: number): number {
    const first = this.#entries[0]?.sequence ?? this.#next;
    return Math.max(0, sequence + 1 - first);
  }
}

/** @internal A reader that can also look ahead: a hub sends entries before they are asked for, and they count as delivered when they are. */
export class MemoryReader implements LogReader {
  readonly stamp: number;
  readonly #log: Log;
  readonly #cursor: Cursor;
  readonly #closed: () => void;
  #position: number;
  #ended: LatentError | "closed" | undefined;
  #wake: (() => void) | undefined;

  constructor(log: Log, cursor: Cursor, stamp: number | undefined, closed: () => void) {
    this.#log = log;
    this.#cursor = cursor;
    this.#closed = closed;
    this.#position = cursor.floor;
    if (stamp !== undefined && stamp < cursor.stamp) throw superseded();
    if (stamp === undefined || stamp > cursor.stamp) cursor.delivered = cursor.floor;
    // Grows with the clock, so that it does so across restarts of a hub.
    const clock = Date.now() * 1000;
    this.stamp = cursor.stamp = stamp === undefined ? Math.max(cursor.stamp + 1, clock) : Math.min(stamp, Math.max(cursor.stamp, clock));
    cursor.reader?.end(superseded());
    cursor.reader = this;
  }

  wake(): void {
    this.#wake?.();
  }

  end(why: LatentError | "closed"): void {
    this.#ended ??= why;
    if (this.#cursor.reader === this) this.#cursor.reader = undefined;
    this.#closed();
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogEntry, void, undefined> {
    for (;;) {
      const entry = await this.ahead();
      if (entry === undefined) return;
      this.delivered(entry.sequence);
      yield entry;
    }
  }

  /** The next entry as soon as it `fits`, about which {@link wake} asks again. It does not yet count as delivered. Undefined when the reader was closed. */
  async ahead(fits: (bytes: number) => boolean = () => true): Promise<LogEntry | undefined> {
    for (;;) {
      if (this.#ended === "closed") return undefined;
      if (this.#ended !== undefined) throw this.#ended;
      const kept = this.#log.after(this.#position, this.#cursor);
      if (kept === undefined || !fits(kept.bytes)) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      const { sequence, entry, at } = kept;
      this.#position = sequence;
      const tries = (this.#cursor.tries.get(sequence) ?? 0) + 1;
      return { head: entry.head, body: entry.body, object: entry.object, sequence, tries, ageMs: now() - at };
    }
  }

  delivered(sequence: number): void {
    if (this.#ended === undefined) this.#log.delivered(this.#cursor, sequence);
  }

  /** Goes on behind this entry, which the reader has had. */
  skip(sequence: number): void {
    this.delivered(sequence);
    this.#position = Math.max(this.#position, sequence);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- so that what is refused rejects
  async acknowledge(sequence: number): Promise<void> {
    if (this.#ended instanceof LatentError) throw this.#ended;
    if (this.#ended === "closed") throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the reader was closed");
    this.#log.acknowledge(this.#cursor, sequence);
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- the interface is that of brokers far away
  async close(): Promise<void> {
    this.end("closed");
  }
}

const superseded = (): LatentError => new LatentError("ERR_LATENT_BUS_SUPERSEDED", "another reader has taken the cursor");
