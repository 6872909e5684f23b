// The broker in the memory of one process: what `memory:` connects to, and what a hub keeps for those who connect to it.
import { LatentError } from "../errors.js";
import { requireEntry, requireId, requireName, requirePiece } from "./broker.js";
import type { AppendOptions, Broker, Entry, LogEntry, LogReader, OpenLogOptions, Present, Tapped } from "./broker.js";

/** How much a hub, or the memory of a process, keeps. */
export interface MemoryLimits {
  /** Heads and bodies of one log, until who appends has to wait. Default 64 MiB. */
  readonly logBytes: number;
  /** Of all pieces. Default 1 GiB. */
  readonly pieceBytes: number;
  /** How long entries are kept that no cursor waits for. Default an hour. */
  readonly unreadMs: number;
}

export const memoryLimits: MemoryLimits = { logBytes: 64 << 20, pieceBytes: 1 << 30, unreadMs: 3_600_000 };

/** How much is kept at a moment. */
export interface MemoryFacts {
  readonly logs: number;
  /** Of the entries of all logs. */
  readonly logBytes: number;
  readonly pieces: number;
  readonly pieceBytes: number;
  /** Records of presence. */
  readonly present: number;
}

/** How long the id of an entry is known, and how many of a log. */
const idMs = 150_000;
const idCount = 65_536;
const sweepMs = 10_000;

const now = (): number => performance.now();

interface Kept {
  readonly sequence: number;
  readonly entry: Entry;
  readonly bytes: number;
  readonly at: number;
}

interface Cursor {
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

interface Appending {
  readonly owner: object;
  readonly id: string;
  readonly entry: Entry;
  readonly bytes: number;
  /** It has had its turn. `isNew`: no entry of its id was there before. */
  readonly done: (isNew: boolean) => void;
}

/** @internal One inbox or topic. */
class Log {
  readonly cursors = new Map<string, Cursor>();
  readonly #entries: Kept[] = [];
  readonly #ids = new Map<string, number>();
  readonly #waiting: Appending[] = [];
  /** Who was admitted last, so that one who floods the log does not keep the others out. */
  #lastOwner: object | undefined;
  #next = 1;
  #bytes = 0;

  constructor(readonly limits: MemoryLimits) {}

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
      this.#bytes -= kept.bytes;
      count++;
    }
    this.#entries.splice(0, count);
    this.#admit();
  }

  /** Drops everything; who waits for room gets it. */
  clear(): void {
    this.#entries.length = 0;
    this.#bytes = 0;
    this.#ids.clear();
    this.#admit();
  }

  /** Forgets ids that are old. */
  sweep(): void {
    for (const [id, until] of this.#ids) {
      if (until > now()) break;
      this.#ids.delete(id);
    }
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
    const isNew = !this.#ids.has(id);
    if (isNew) {
      this.#ids.set(id, now() + idMs);
      if (this.#ids.size > idCount) this.#ids.delete(this.#ids.keys().next().value ?? "");
      this.#entries.push({ sequence: this.#next++, entry, bytes, at: now() });
      this.#bytes += bytes;
      for (const { reader } of this.cursors.values()) reader?.wake();
    }
    done(isNew);
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

interface Piece {
  readonly bytes: Uint8Array;
  until: number;
}

/** What all connections to one memory share. */
export class MemoryCore {
  readonly limits: MemoryLimits;
  readonly #logs = new Map<string, Log>();
  readonly #listeners = new Map<string, Set<(entry: Entry) => void>>();
  readonly #present = new Map<string, { readonly value: string; readonly owner: object }>();
  readonly #watchers = new Set<(present: readonly Present[]) => void>();
  readonly #pieces = new Map<string, Piece>();
  readonly #taps = new Set<(entry: Tapped) => void>();
  #pieceBytes = 0;
  #changed = false;
  #sweeper: NodeJS.Timeout | undefined;

  constructor(limits: Partial<MemoryLimits> = {}) {
    this.limits = { ...memoryLimits, ...limits };
  }

  /** A connection of its own. `passesObjects`: whether all who connect are in this thread. */
  connect(address: string, passesObjects = true): MemoryBroker {
    return new MemoryBroker(this, address, passesObjects);
  }

  /** Counts for metrics. */
  get facts(): MemoryFacts {
    let logBytes = 0;
    for (const { bytes } of this.#logs.values()) logBytes += bytes;
    return { logs: this.#logs.size, logBytes, pieces: this.#pieces.size, pieceBytes: this.#pieceBytes, present: this.#present.size };
  }

  /** @internal */
  log(name: string): Log {
    let log = this.#logs.get(name);
    if (log === undefined) {
      log = new Log(this.limits);
      this.#logs.set(name, log);
      this.#sweeper ??= setInterval(() => {
        this.#sweep();
      }, sweepMs).unref();
    }
    return log;
  }

  /** @internal */
  forget(name: string, cursor: string): void {
    const log = this.#logs.get(name);
    if (log === undefined) return;
    log.cursors.get(cursor)?.reader?.end("closed");
    log.cursors.delete(cursor);
    if (log.cursors.size > 0) log.trim();
    else log.clear();
    if (log.isEmpty) this.#logs.delete(name);
  }

  /** @internal */
  signal(subject: string, entry: Entry): void {
    for (const take of this.#listeners.get(subject) ?? []) take(entry);
    this.show("signal", subject, entry);
  }

  /** @internal */
  listen(subject: string, take: (entry: Entry) => void): () => void {
    let all = this.#listeners.get(subject);
    if (all === undefined) this.#listeners.set(subject, (all = new Set()));
    // one function may listen more than once
    const own = (entry: Entry): void => {
      take(entry);
    };
    all.add(own);
    return () => {
      all.delete(own);
      if (all.size === 0 && this.#listeners.get(subject) === all) this.#listeners.delete(subject);
    };
  }

  /** @internal */
  announce(key: string, value: string, owner: object): void {
    this.#present.set(key, { value, owner });
    this.#change();
  }

  /** @internal Withdraws one key of the owner, or all of them. */
  withdraw(owner: object, key?: string): void {
    for (const [name, record] of this.#present) {
      if (record.owner !== owner || (key !== undefined && name !== key)) continue;
      this.#present.delete(name);
      this.#change();
    }
  }

  /** @internal */
  present(): readonly Present[] {
    return [...this.#present].map(([key, { value }]) => ({ key, value }));
  }

  /** @internal */
  watch(take: (present: readonly Present[]) => void): () => void {
    const own = (present: readonly Present[]): void => {
      take(present);
    };
    this.#watchers.add(own);
    own(this.present());
    return () => this.#watchers.delete(own);
  }

  /** @internal */
  put(name: string, bytes: Uint8Array, keptMs: number): void {
    const until = now() + keptMs;
    const have = this.#pieces.get(name);
    if (have !== undefined) {
      have.until = Math.max(have.until, until);
      return;
    }
    if (this.#pieceBytes + bytes.length > this.limits.pieceBytes) this.#sweep();
    if (this.#pieceBytes + bytes.length > this.limits.pieceBytes) {
      throw new LatentError("ERR_LATENT_BUS_LIMIT", `the bus keeps at most ${this.limits.pieceBytes} bytes of content`, {
        details: { bytes: this.#pieceBytes, limit: this.limits.pieceBytes },
      });
    }
    this.#pieces.set(name, { bytes, until });
    this.#pieceBytes += bytes.length;
    this.#sweeper ??= setInterval(() => {
      this.#sweep();
    }, sweepMs).unref();
  }

  /** @internal */
  touch(name: string, keptMs: number): boolean {
    const piece = this.#pieces.get(name);
    if (piece === undefined) return false;
    piece.until = Math.max(piece.until, now() + keptMs);
    return true;
  }

  /** @internal */
  get(name: string): Uint8Array | undefined {
    return this.#pieces.get(name)?.bytes;
  }

  /** @internal */
  drop(name: string): void {
    this.#pieceBytes -= this.#pieces.get(name)?.bytes.length ?? 0;
    this.#pieces.delete(name);
  }

  /** @internal */
  tap(take: (entry: Tapped) => void): () => void {
    const own = (entry: Tapped): void => {
      take(entry);
    };
    this.#taps.add(own);
    return () => this.#taps.delete(own);
  }

  /** @internal */
  show(channel: Tapped["channel"], name: string, entry: Entry): void {
    for (const take of this.#taps) take({ channel, name, ...entry });
  }

  /** @internal Those who watch are told once for all changes of one turn. */
  #change(): void {
    if (this.#changed) return;
    this.#changed = true;
    queueMicrotask(() => {
      this.#changed = false;
      const present = this.present();
      for (const take of this.#watchers) take(present);
    });
  }

  #sweep(): void {
    for (const [name, log] of this.#logs) {
      log.sweep();
      if (log.isEmpty) this.#logs.delete(name);
    }
    for (const [name, { until }] of this.#pieces) {
      if (until <= now()) this.drop(name);
    }
    if (this.#logs.size > 0 || this.#pieces.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}

/** @internal */
export class MemoryBroker implements Broker {
  readonly #core: MemoryCore;
  readonly #closed = new AbortController();
  /** What is to be undone when the connection ends. */
  readonly #open = new Set<() => void>();

  constructor(
    core: MemoryCore,
    readonly address: string,
    readonly passesObjects: boolean,
  ) {
    this.#core = core;
  }

  async append(name: string, entry: Entry, { id, signal }: AppendOptions): Promise<void> {
    this.#require(name);
    signal.throwIfAborted();
    requireId(id);
    const bytes = requireEntry(entry);
    const log = this.#core.log(name);
    let kept = false;
    await new Promise<void>((resolve, reject) => {
      const appending: Appending = {
        owner: this,
        id,
        entry,
        bytes,
        done: (isNew) => {
          kept = true;
          signal.removeEventListener("abort", abort);
          this.#open.delete(close);
          if (isNew) this.#core.show("log", name, entry);
          resolve();
        },
      };
      const abort = (): void => {
        this.#open.delete(close);
        log.leave(appending);
        reject(signal.reason as Error);
      };
      const close = (): void => {
        signal.removeEventListener("abort", abort);
        log.leave(appending);
        reject(disconnected(this.address));
      };
      log.append(appending);
      if (kept) return;
      signal.addEventListener("abort", abort, { once: true });
      this.#open.add(close);
    });
  }

  // eslint-disable-next-line @typescript-eslint/require-await -- here and below: the interface is that of brokers far away, and what is refused must reject
  async open(name: string, cursorName: string, { signal }: OpenLogOptions): Promise<LogReader> {
    return this.openAhead(name, cursorName, signal);
  }

  /** `stamp`: of the reader that comes back, which must not take the cursor from one that came after it. */
  openAhead(name: string, cursorName: string, signal: AbortSignal, stamp?: number): MemoryReader {
    this.#require(name, cursorName);
    signal.throwIfAborted();
    const log = this.#core.log(name);
    const reader: MemoryReader = new MemoryReader(log, log.cursor(cursorName), stamp, () => {
      this.#open.delete(end);
      signal.removeEventListener("abort", end);
    });
    const end = (): void => {
      reader.end("closed");
    };
    signal.addEventListener("abort", end, { once: true });
    this.#open.add(end);
    return reader;
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async forget(name: string, cursorName: string): Promise<void> {
    this.#require(name, cursorName);
    this.#core.forget(name, cursorName);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async signal(subject: string, entry: Entry): Promise<void> {
    this.#require(subject);
    requireEntry(entry);
    this.#core.signal(subject, entry);
  }

  async listen(subject: string, take: (entry: Entry) => void): Promise<() => void> {
    this.#require(subject);
    return this.#until(this.#core.listen(subject, take));
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async announce(key: string, value: string): Promise<void> {
    this.#require(key);
    this.#core.announce(key, value, this);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async withdraw(key: string): Promise<void> {
    this.#require(key);
    this.#core.withdraw(this, key);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async present(): Promise<readonly Present[]> {
    this.#require();
    return this.#core.present();
  }

  async watch(take: (present: readonly Present[]) => void): Promise<() => void> {
    this.#require();
    return this.#until(this.#core.watch(take));
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    this.#require();
    signal.throwIfAborted();
    requirePiece(name, piece);
    this.#core.put(name, piece, keptMs);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async touch(name: string, keptMs: number): Promise<boolean> {
    this.#require();
    return this.#core.touch(name, keptMs);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async get(name: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    this.#require();
    signal.throwIfAborted();
    return this.#core.get(name);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async drop(name: string): Promise<void> {
    this.#require();
    this.#core.drop(name);
  }

  async tap(take: (entry: Tapped) => void): Promise<() => void> {
    this.#require();
    return this.#until(this.#core.tap(take));
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    for (const undo of [...this.#open]) undo();
    this.#open.clear();
    this.#core.withdraw(this);
  }

  // eslint-disable-next-line @typescript-eslint/require-await
  async #until(stop: () => void): Promise<() => void> {
    this.#open.add(stop);
    return () => {
      this.#open.delete(stop);
      stop();
    };
  }

  #require(...names: readonly string[]): void {
    if (this.#closed.signal.aborted) throw disconnected(this.address);
    for (const name of names) requireName(name);
  }
}

const superseded = (): LatentError => new LatentError("ERR_LATENT_BUS_SUPERSEDED", "another reader has taken the cursor");

const disconnected = (address: string): LatentError =>
  new LatentError("ERR_LATENT_BUS_DISCONNECTED", `the connection to ${address} was closed`);
