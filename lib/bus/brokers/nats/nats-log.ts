// Logs on JetStream: a stream each. So the server itself knows how many bytes a log holds and refuses more, entries are numbered without gaps, and what is
// stuck in one log neither fills nor slows down the others. Cursors are records in one stream that all logs share.
import { entryBytes, requireName } from "../broker.js";
import type { Entry } from "../broker.js";
import { parseCursor } from "./nats-cursor.js";
import { frameBytes } from "./nats-client.js";
import { abortable } from "./nats-link.js";
import type { NatsLink, StreamPlan } from "./nats-link.js";

export interface NatsLayout {
  /** Of all subjects and streams. */
  readonly prefix: string;
  readonly storage: "file" | "memory";
  readonly replicas: number;
  readonly logBytes: number;
  readonly pieceBytes: number;
  readonly unreadMs: number;
}

/** How often those look who wait for room, in case they were not told. */
const roomMs = 1000;
const idMs = 120_000;
/** After this time a log that has neither entries nor cursors is given up; also how often is looked. */
const idleMs = 600_000;
const millisecond = 1_000_000;

/** Head and body as one message: the length of the head, 4 bytes little-endian, then both. */
export function encodeEntry({ head, body }: Entry): Uint8Array {
  const length = Buffer.byteLength(head);
  const message = Buffer.allocUnsafe(4 + length + body.length);
  message.writeUInt32LE(length);
  message.write(head, 4, "utf8");
  message.set(body, 4 + length);
  return message;
}

/** Undefined if it is none. */
export function decodeEntry(message: Uint8Array): Entry | undefined {
  if (message.length < 4 || message.length > 4 + entryBytes) return undefined;
  const bytes = Buffer.from(message.buffer, message.byteOffset, message.length);
  const end = 4 + bytes.readUInt32LE(0);
  return end > bytes.length ? undefined : { head: bytes.toString("utf8", 4, end), body: message.subarray(end) };
}

/** A name as one token of a subject, and as part of a stream's name. No name has a "=". */
export const tokenOf = (name: string): string => name.replaceAll(".", "=");

/** The name that a token stands for; undefined if it is none. */
export function nameOf(token: string): string | undefined {
  const name = token.replaceAll("=", ".");
  try {
    requireName(name);
    return name;
  } catch {
    return undefined;
  }
}

/** What all streams have in common. */
export function planOf({ replicas, storage }: NatsLayout, name: string, subjects: string[]): StreamPlan {
  return { name, subjects, storage, num_replicas: replicas, retention: "limits", allow_direct: true };
}

export class NatsLogs {
  readonly cursors: StreamPlan;
  readonly #tails = new Map<string, Promise<void>>();

  constructor(
    readonly link: NatsLink,
    readonly layout: NatsLayout,
  ) {
    this.cursors = {
      ...planOf(layout, `${layout.prefix}_cursors`, [`${layout.prefix}.cursor.*.*`]),
      max_msgs_per_subject: 1,
      max_age: layout.unreadMs * millisecond,
      max_msg_size: 1 << 20,
    };
  }

  plan(log: string): StreamPlan {
    const { prefix, logBytes, unreadMs } = this.layout;
    return {
      ...planOf(this.layout, `${prefix}_log_${tokenOf(log)}`, [this.subject(log)]),
      max_bytes: logBytes,
      discard: "new",
      max_age: unreadMs * millisecond,
      max_msg_size: entryBytes + frameBytes,
      duplicate_window: idMs * millisecond,
      // for taps: what was kept, once. A subscription to the log's subject would be in the way: nobody would be told that there is no stream
      republish: { src: this.subject(log), dest: `${prefix}.shown.${log}` },
    };
  }

  subject(log: string): string {
    return `${this.layout.prefix}.log.${log}`;
  }

  cursorSubject(log: string, cursor: string): string {
    return `${this.layout.prefix}.cursor.${tokenOf(log)}.${tokenOf(cursor)}`;
  }

  #roomSubject(log: string): string {
    return `${this.layout.prefix}.room.${log}`;
  }

  /** One after the other in each log, so that an entry that waits or is repeated is not overtaken. */
  async append(log: string, entry: Entry, id: string, signal: AbortSignal): Promise<void> {
    this.link.check();
    signal.throwIfAborted();
    const before = this.#tails.get(log);
    const turn = before === undefined ? this.#append(log, entry, id, signal) : before.then(() => this.#append(log, entry, id, signal));
    const tail = turn
      .catch(() => undefined)
      .then(() => {
        if (this.#tails.get(log) === tail) this.#tails.delete(log);
      });
    this.#tails.set(log, tail);
    // whoever gives up does not wait for those before
    await (before === undefined ? turn : abortable(turn, signal));
  }

  /** Where a reader that has no cursor yet begins: where the slowest of the others is, or else with the oldest entry. */
  async beginning(log: string, first: number): Promise<number> {
    const floors = await this.#floors(log);
    return floors.length > 0 ? Math.min(...floors) : Math.max(first, 1) - 1;
  }

  /** Drops what all cursors have passed, and tells those who wait for room. */
  async trim(log: string): Promise<void> {
    const floors = await this.#floors(log);
    if (floors.length === 0) return;
    const { name } = this.plan(log);
    await this.link.unlessMissing(() => this.link.jsm.streams.purge(name, { seq: Math.min(...floors) + 1 }));
    this.#tellRoom(log);
  }

  async forget(log: string, cursor: string): Promise<void> {
    const { link, cursors } = this;
    const subject = this.cursorSubject(log, cursor);
    // its reader sees the empty record and ends; a record that comes right after it is another's, and stays
    const { seq } = await link.inStream(cursors, () => link.js.publish(subject));
    await link.unlessMissing(() => link.jsm.streams.purge(cursors.name, { filter: subject, seq: seq + 1 }));
    if ((await this.#floors(log)).length > 0) {
      await this.trim(log);
    } else {
      // not deleted: a stream of the same name that somebody makes meanwhile would lose its files
      await link.unlessMissing(() => link.jsm.streams.purge(this.plan(log).name));
      this.#tellRoom(log);
    }
  }

  /** Looks now and then for streams that nobody needs any more, until the link ends. */
  startSweeping(): void {
    const sweep = (): void => {
      this.sweep(idleMs).catch(() => undefined);
    };
    sweep();
    const sweeper = setInterval(sweep, idleMs).unref();
    this.link.events.once("end", () => {
      clearInterval(sweeper);
    });
  }

  /**
   * Deletes the streams of logs that have neither cursors nor entries, and to which nothing has been appended for some time. Between the look and the deletion
   * there is a moment; an entry that comes just then, to a log that was silent for so long, would have had no reader.
   */
  async sweep(silentMs: number): Promise<void> {
    const { link } = this;
    const start = `${this.layout.prefix}_log_`;
    for await (const { config, created, state } of link.jsm.streams.list(`${this.layout.prefix}.log.>`)) {
      if (!config.name.startsWith(start) || state.messages > 0) continue;
      if (Math.max(Date.parse(created), Date.parse(state.last_ts)) > link.serverNow - silentMs) continue;
      const subjects = await link.subjects(this.cursors, `${this.layout.prefix}.cursor.${config.name.slice(start.length)}.*`);
      if (subjects.length === 0) await link.unlessMissing(() => link.jsm.streams.delete(config.name));
    }
  }

  async #append(log: string, entry: Entry, id: string, signal: AbortSignal): Promise<void> {
    const { link } = this;
    const message = encodeEntry(entry);
    const msgID = Buffer.from(id).toString("base64url");
    const publish = async (): Promise<boolean> => {
      try {
        await link.js.publish(this.subject(log), message, { msgID });
        return true;
      } catch (error) {
        if (link.isFull(error)) return false;
        throw error;
      }
    };
    const attempt = (): Promise<boolean> => link.inStream(this.plan(log), publish, signal);
    if (await attempt()) return;
    let room: () => void = () => undefined;
    let freed = new Promise<void>((resolve) => (room = resolve));
    const stop = await link.subscribe(this.#roomSubject(log), () => {
      room();
    });
    try {
      while (!(await attempt())) {
        await link.pause(roomMs, signal, freed);
        freed = new Promise<void>((resolve) => (room = resolve));
      }
    } finally {
      stop();
    }
  }

  #tellRoom(log: string): void {
    if (this.link.isConnected) this.link.connection.publish(this.#roomSubject(log));
  }

  async #floors(log: string): Promise<readonly number[]> {
    const records = await this.link.readAll(this.cursors, `${this.layout.prefix}.cursor.${tokenOf(log)}.*`);
    // of a log that was forgotten and came again, the old cursors have passed nothing
    const created = records.size > 0 ? await this.#created(log) : undefined;
    return [...records.values()]
      .filter(({ data }) => data.length > 0)
      .map(({ data }) => parseCursor(data))
      .map((record) => (record.log === created ? record.floor : 0));
  }

  async #created(log: string): Promise<string> {
    const plan = this.plan(log);
    const { created } = await this.link.inStream(plan, () => this.link.jsm.streams.info(plan.name));
    return created;
  }
}
