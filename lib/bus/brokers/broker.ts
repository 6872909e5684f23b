// What a bus stands on: logs that keep entries in order and cursors that tell how far a reader is, presence, signals for whoever listens right now, and
// pieces of content. The memory of this process, a hub and NATS offer the same, and everything above is written once.
import { invalid } from "../../check.js";
import { LatentError } from "../../errors.js";

/** What travels: a head that anybody may read, and the payload if it is small. */
export interface Entry {
  /** UTF-8, JSON. */
  readonly head: string;
  /** May be empty. The broker may keep it without copying, so its maker must not write to it again. */
  readonly body: Uint8Array;
  /** What cannot leave the process: passed by identity by a broker that {@link Broker.passesObjects}, else dropped. */
  readonly object?: object | undefined;
}

/** An entry of a log. */
export interface LogEntry extends Entry {
  /** Of the log, from 1 on, growing; there may be gaps. */
  readonly sequence: number;
  /** How often it has been delivered on this cursor, this time included: 1 for the first time. */
  readonly tries: number;
  /** How long it has been in the log, by the broker's own clock, in milliseconds. */
  readonly ageMs: number;
}

/**
 * The entries of a log in order, each once, as they are asked for; those that were not acknowledged come again to the next reader of the cursor.
 * Iterating rejects with `ERR_LATENT_BUS_SUPERSEDED` when another reader takes the cursor, and with `ERR_LATENT_BUS_DISCONNECTED` when the broker is lost for
 * good; a broker that comes back is reconnected to behind the scenes, and entries may then come once more.
 */
export interface LogReader extends AsyncIterable<LogEntry> {
  /**
   * The reader is done with it. In any order; the cursor is kept exactly, so that what is acknowledged does not come again.
   * Resolves when the broker knows.
   * @throws LatentError `ERR_LATENT_BUS_SUPERSEDED`, `ERR_LATENT_BUS_DISCONNECTED`
   */
  acknowledge(sequence: number): Promise<void>;
  /** Lets go of the cursor; idempotent. Ends the iteration. */
  close(): Promise<void>;
}

export interface OpenLogOptions {
  /** How many bytes (heads and bodies) may be on their way to this reader, unasked for. */
  readonly windowBytes: number;
  readonly signal: AbortSignal;
}

export interface AppendOptions {
  /** An entry whose id the log has had lately (in the last two minutes, among its last 10 000) is not appended again. At most 128 characters. */
  readonly id: string;
  readonly signal: AbortSignal;
}

/** Who is there. */
export interface Present {
  readonly key: string;
  /** JSON. */
  readonly value: string;
}

/** What {@link Broker.tap} shows. */
export interface Tapped extends Entry {
  readonly channel: "log" | "signal";
  /** Of the log or the subject. */
  readonly name: string;
}

/** Content is kept in pieces of at most this many bytes: with its head such a piece fits into a message of NATS. */
export const pieceBytes = 512 << 10;
/** The longest head and body of an entry together: what fits into a message of NATS. */
export const entryBytes = 768 << 10;

/** Names of logs, cursors, subjects and presence: letters, digits, `_` and `-`, in parts that dots separate; at most 200 characters. */
export function requireName(name: string): void {
  const given: unknown = name;
  if (typeof given !== "string" || given.length > 200 || !/^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/.test(given))
    throw invalid("name", "at most 200 letters, digits, '_' and '-', in parts that dots separate", given);
}

/** Ids of entries: 1 to 128 characters. */
export function requireId(id: string): void {
  const given: unknown = id;
  if (typeof given !== "string" || given.length === 0 || given.length > 128) throw invalid("id", "a string of 1 to 128 characters", given);
}

/** The bytes of an entry, which must not be too many. */
export function requireEntry({ head, body }: Entry): number {
  const bytes = Buffer.byteLength(head) + body.length;
  if (bytes > entryBytes) throw tooLarge("an entry", bytes, entryBytes);
  return bytes;
}

export function requirePiece(name: string, piece: Uint8Array): void {
  if (!/^[0-9a-f]{64}$/.test(name)) throw invalid("name", "64 hex digits", name);
  if (piece.length > pieceBytes) throw tooLarge("a piece", piece.length, pieceBytes);
}

function tooLarge(what: string, bytes: number, limit: number): LatentError {
  return new LatentError("ERR_LATENT_BUS_LIMIT", `${what} of ${bytes} bytes is larger than ${limit}`, { details: { bytes, limit } });
}

/**
 * One connection to what keeps messages. Every call may reject with `ERR_LATENT_BUS_DISCONNECTED` (lost for good, or closed), `ERR_LATENT_BUS_UNAUTHORIZED`,
 * `ERR_LATENT_BUS_LIMIT`, or the reason of its signal. A connection that breaks is made anew, and calls wait for it or are made again: appending is safe to
 * repeat because of the ids.
 */
export interface Broker {
  /** For people: the address, without secrets. */
  readonly address: string;
  /** Entries reach their reader without being copied, and with their object. */
  readonly passesObjects: boolean;
  /** Whether a piece that was put twice is there until it was dropped twice, so that who put it can drop it and take nothing from others. */
  readonly countsPieces: boolean;

  /**
   * Resolves when the broker keeps the entry. Appends of one connection to one log keep the order of the calls, retries included. While the log holds as many
   * bytes as it may, the call waits.
   */
  append(log: string, entry: Entry, options: AppendOptions): Promise<void>;
  /**
   * Takes the cursor over from whoever has it. A new cursor begins with the oldest entry that the log holds. An entry that all cursors have passed is
   * dropped; one that nobody has read yet is kept until it is, or for as long as the broker keeps such entries.
   */
  open(log: string, cursor: string, options: OpenLogOptions): Promise<LogReader>;
  /** Forgets a cursor, and with the last one its log. */
  forget(log: string, cursor: string): Promise<void>;

  /** To everybody who listens at this moment, in the order of one connection's calls; kept for nobody. */
  signal(subject: string, entry: Entry): Promise<void>;
  /** Resolves when it listens. `take` must not throw. Call what comes back to stop listening. */
  listen(subject: string, take: (entry: Entry) => void): Promise<() => void>;

  /** Others see the record as long as this connection lives, and for a few seconds after it was lost. Replaces the one with the same key. */
  announce(key: string, value: string): Promise<void>;
  withdraw(key: string): Promise<void>;
  /** Everybody who is there now, in no order. */
  present(): Promise<readonly Present[]>;
  /** Called with everybody who is there each time that changes, and once at the beginning. Call what comes back to stop. */
  watch(take: (present: readonly Present[]) => void): Promise<() => void>;

  /**
   * Keeps a piece, for at least `keptMs`. `name` is its digest, 64 hex digits; the broker need not check it, the reader does. To put what is there already
   * keeps it longer.
   */
  put(name: string, piece: Uint8Array, keptMs: number, signal: AbortSignal): Promise<void>;
  /** Whether it is there, and then for at least `keptMs` from now. */
  touch(name: string, keptMs: number): Promise<boolean>;
  /** Undefined if it is not (any more) there. */
  get(name: string, signal: AbortSignal): Promise<Uint8Array | undefined>;
  /** Who put it needs it no more. */
  drop(name: string): Promise<void>;

  /** Everything that goes through the broker, as it goes. Entries of logs and signals; pieces are not shown. */
  tap(take: (entry: Tapped) => void): Promise<() => void>;

  /** Ends the connection: what was announced is withdrawn, readers end, calls that wait reject. Idempotent. */
  close(): Promise<void>;
}
