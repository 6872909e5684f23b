// The broker in the memory of one process: what `memory:` connects to, and what a hub keeps for those who connect to it.
import { LatentError } from "../../errors.js";
import { requireEntry, requireId, requireName, requirePiece } from "./broker.js";
import type { AppendOptions, Broker, Entry, LogReader, OpenLogOptions, Present, Tapped } from "./broker.js";
import { Log, MemoryReader, type Appending, type LogLimits } from "./memory-log.js";

/** How much a hub, or the memory of a process, keeps. */
export interface MemoryLimits extends LogLimits {
  /** How many logs there may be: inboxes, topics, agents. Default 4096. */
  readonly logs: number;
  /** Of all logs together. Default 1 GiB. */
  readonly allLogBytes: number;
  /** Of all pieces. Default 1 GiB. */
  readonly pieceBytes: number;
}

export const memoryLimits: MemoryLimits = {
  logBytes: 64 << 20,
  unreadMs: 3_600_000,
  logs: 4096,
  allLogBytes: 1 << 30,
  pieceBytes: 1 << 30,
};

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

const sweepMs = 10_000;

const now = (): number => performance.now();

interface Piece {
  readonly bytes: Uint8Array;
  until: number;
  /** How many need it: it goes when each of them has dropped it, or after its time. */
  holders: number;
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
  readonly #budget = { bytes: 0 };
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
    return {
      logs: this.#logs.size,
      logBytes: this.#budget.bytes,
      pieces: this.#pieces.size,
      pieceBytes: this.#pieceBytes,
      present: this.#present.size,
    };
  }

  /** @internal */
  log(name: string): Log {
    let log = this.#logs.get(name);
    if (log === undefined) {
      if (this.#logs.size >= this.limits.logs) throw tooMuch(`${this.limits.logs} logs`, this.limits.logs);
      log = new Log(this.limits, this.#budget);
      this.#logs.set(name, log);
      this.#sweepLater();
    }
    return log;
  }

  /** @internal Whether one more entry may be kept at all. */
  requireRoom(bytes: number): void {
    const { allLogBytes } = this.limits;
    if (this.#budget.bytes + bytes > allLogBytes) throw tooMuch(`${allLogBytes} bytes of messages`, allLogBytes);
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
      have.holders++;
      return;
    }
    if (this.#pieceBytes + bytes.length > this.limits.pieceBytes) this.#sweep();
    const { pieceBytes } = this.limits;
    if (this.#pieceBytes + bytes.length > pieceBytes) throw tooMuch(`${pieceBytes} bytes of content`, pieceBytes);
    this.#pieces.set(name, { bytes, until, holders: 1 });
    this.#pieceBytes += bytes.length;
    this.#sweepLater();
  }

  /** @internal */
  touch(name: string, keptMs: number): boolean {
    const piece = this.#pieces.get(name);
    if (piece === undefined) return false;
    piece.until = Math.max(piece.until, now() + keptMs);
    piece.holders++;
    return true;
  }

  /** @internal */
  get(name: string): Uint8Array | undefined {
    return this.#pieces.get(name)?.bytes;
  }

  /** @internal */
  drop(name: string): void {
    const piece = this.#pieces.get(name);
    if (piece !== undefined && --piece.holders === 0) this.#remove(name, piece);
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

  #remove(name: string, piece: Piece): void {
    this.#pieceBytes -= piece.bytes.length;
    this.#pieces.delete(name);
  }

  #sweepLater(): void {
    this.#sweeper ??= setInterval(() => {
      this.#sweep();
    }, sweepMs).unref();
  }

  #sweep(): void {
    for (const [name, log] of this.#logs) {
      log.sweep();
      if (log.isEmpty) this.#logs.delete(name);
    }
    for (const [name, piece] of this.#pieces) {
      if (piece.until <= now()) this.#remove(name, piece);
    }
    if (this.#logs.size > 0 || this.#pieces.size > 0) return;
    clearInterval(this.#sweeper);
    this.#sweeper = undefined;
  }
}

/* eslint-disable @typescript-eslint/require-await -- the interface is that of brokers far away, and what is refused must reject */

/** @internal */
export class MemoryBroker implements Broker {
  readonly countsPieces = true;
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

  async append(name: string, given: Entry, { id, signal }: AppendOptions): Promise<void> {
    this.#require(name);
    signal.throwIfAborted();
    requireId(id);
    const bytes = requireEntry(given);
    const entry = this.#passed(given);
    this.#core.requireRoom(bytes);
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

  async forget(name: string, cursorName: string): Promise<void> {
    this.#require(name, cursorName);
    this.#core.forget(name, cursorName);
  }

  async signal(subject: string, entry: Entry): Promise<void> {
    this.#require(subject);
    requireEntry(entry);
    this.#core.signal(subject, this.#passed(entry));
  }

  async listen(subject: string, take: (entry: Entry) => void): Promise<() => void> {
    this.#require(subject);
    return this.#until(this.#core.listen(subject, take));
  }

  async announce(key: string, value: string): Promise<void> {
    this.#require(key);
    this.#core.announce(key, value, this);
  }

  async withdraw(key: string): Promise<void> {
    this.#require(key);
    this.#core.withdraw(this, key);
  }

  async present(): Promise<readonly Present[]> {
    this.#require();
    return this.#core.present();
  }

  async watch(take: (present: readonly Present[]) => void): Promise<() => void> {
    this.#require();
    return this.#until(this.#core.watch(take));
  }

  async put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void> {
    this.#require();
    signal.throwIfAborted();
    requirePiece(name, piece);
    this.#core.put(name, piece, keptMs);
  }

  async touch(name: string, keptMs: number): Promise<boolean> {
    this.#require();
    return this.#core.touch(name, keptMs);
  }

  async get(name: string, signal: AbortSignal): Promise<Uint8Array | undefined> {
    this.#require();
    signal.throwIfAborted();
    return this.#core.get(name);
  }

  async drop(name: string): Promise<void> {
    this.#require();
    this.#core.drop(name);
  }

  async tap(take: (entry: Tapped) => void): Promise<() => void> {
    this.#require();
    return this.#until(this.#core.tap(take));
  }

  async close(): Promise<void> {
    if (this.#closed.signal.aborted) return;
    this.#closed.abort();
    for (const undo of [...this.#open]) undo();
    this.#open.clear();
    this.#core.withdraw(this);
  }

  async #until(stop: () => void): Promise<() => void> {
    this.#open.add(stop);
    return () => {
      this.#open.delete(stop);
      stop();
    };
  }

  /** Without what others, who may be in another process, could not have. */
  #passed(entry: Entry): Entry {
    return this.passesObjects ? entry : { head: entry.head, body: entry.body };
  }

  #require(...names: readonly string[]): void {
    if (this.#closed.signal.aborted) throw disconnected(this.address);
    for (const name of names) requireName(name);
  }
}

const tooMuch = (most: string, limit: number): LatentError =>
  new LatentError("ERR_LATENT_BUS_LIMIT", `the bus keeps at most ${most}`, { details: { limit } });

const disconnected = (address: string): LatentError =>
  new LatentError("ERR_LATENT_BUS_DISCONNECTED", `the connection to ${address} was closed`);
