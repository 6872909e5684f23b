// The reader of a cursor: entries come through a puller, and the cursor's record is written by compare-and-set, so that whoever has taken it over since is
// noticed. Many acknowledgements share one write.
import { randomUUID } from "node:crypto";
import { LatentError } from "../../../errors.js";
import type { LogEntry, LogReader, OpenLogOptions } from "../broker.js";
import { CursorState, parseCursor } from "./nats-cursor.js";
import type { NatsLink } from "./nats-link.js";
import type { NatsLogs } from "./nats-log.js";
import { NatsPuller } from "./nats-puller.js";

/** What all have passed is dropped this much later, or once this part of a full log can be. */
const trimMs = 200;
const trimPart = 1 / 8;
/** The longest time that a timer takes. */
const longestTimerMs = 2 ** 31 - 1;

const superseded = (): LatentError => new LatentError("ERR_LATENT_BUS_SUPERSEDED", "another reader has taken the cursor");

export class NatsReader implements LogReader {
  readonly #logs: NatsLogs;
  readonly #log: string;
  readonly #subject: string;
  readonly #state: CursorState;
  readonly #puller: NatsPuller;
  /** Of the record. */
  #revision: number;
  /** The last entry that was taken from the puller. */
  #position: number;
  #saving: Promise<void> = Promise.resolve();
  #nextSave: Promise<void> | undefined;
  #trimmed: number;
  #passedBytes = 0;
  #trimmer: NodeJS.Timeout | undefined;
  /** How the iteration ends. */
  #ended: LatentError | "closed" | undefined;
  /** Why nothing can be written any more. */
  #lost: LatentError | undefined;
  #closing: Promise<void> | undefined;
  #wake: () => void = () => undefined;
  #undo: (() => void)[] = [];

  /** Takes the cursor. @param closed called when the reader has let go of it */
  static async open(
    logs: NatsLogs,
    log: string,
    cursor: string,
    options: OpenLogOptions,
    closed: (reader: NatsReader) => void,
  ): Promise<NatsReader> {
    const { link } = logs;
    const plan = logs.plan(log);
    const subject = logs.cursorSubject(log, cursor);
    const { created, state: stream } = await link.inStream(plan, () => link.jsm.streams.info(plan.name), options.signal);
    const id = randomUUID();
    let state: CursorState | undefined;
    for (;;) {
      const record = await link.read(logs.cursors, subject, options.signal);
      // unless an own write was kept and its answer lost
      if (state === undefined || record === undefined || readerOf(record.data) !== id) {
        const isNew = record === undefined || record.data.length === 0;
        state = isNew
          ? new CursorState(id, created, await logs.beginning(log, stream.first_seq))
          : CursorState.after(record.data, id, created);
      }
      const revision = await writeRecord(logs, subject, state.write(false), record?.revision ?? 0, options.signal);
      if (revision === undefined) continue;
      const reader = new NatsReader(logs, log, subject, state, revision, options);
      await reader.#start(options.signal, () => {
        closed(reader);
      });
      return reader;
    }
  }

  private constructor(logs: NatsLogs, log: string, subject: string, state: CursorState, revision: number, options: OpenLogOptions) {
    this.#logs = logs;
    this.#log = log;
    this.#subject = subject;
    this.#state = state;
    this.#revision = revision;
    this.#position = this.#trimmed = state.floor;
    this.#puller = new NatsPuller(
      logs,
      log,
      state.log,
      options.windowBytes,
      state.floor,
      () => {
        this.#wake();
      },
      (error) => {
        this.#fail(error);
      },
    );
  }

  get hasEnded(): boolean {
    return this.#ended !== undefined;
  }

  get #link(): NatsLink {
    return this.#logs.link;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<LogEntry, void, undefined> {
    for (;;) {
      if (this.#ended === "closed") return;
      if (this.#ended !== undefined) throw this.#ended;
      const next = this.#state.hasRoom ? this.#puller.take() : undefined;
      if (next === undefined) {
        await new Promise<void>((resolve) => (this.#wake = resolve));
        continue;
      }
      const { sequence, entry, bytes, at } = next;
      if (sequence > this.#position + 1) await this.#skip(this.#position + 1, sequence - 1);
      this.#position = Math.max(this.#position, sequence);
      this.#passedBytes += bytes;
      if (entry === undefined) this.#state.skip(sequence, sequence);
      if (this.#state.isAcknowledged(sequence)) continue;
      if (this.#state.mustClaim(sequence)) await this.#save().catch(() => undefined);
      // a call of close() in the meantime, for one
      if (this.hasEnded) continue;
      const tries = this.#state.deliver(sequence);
      yield {
        head: entry?.head ?? "",
        body: entry?.body ?? new Uint8Array(0),
        sequence,
        tries,
        ageMs: Math.max(0, this.#link.serverNow - at),
      };
    }
  }

  async acknowledge(sequence: number): Promise<void> {
    if (this.#lost !== undefined) throw this.#lost;
    if (this.#ended !== undefined) throw this.#link.lost("the reader was closed");
    this.#state.acknowledge(sequence);
    this.#wake();
    await this.#save();
    this.#trimSoon();
  }

  async close(): Promise<void> {
    this.#closing ??= this.#close();
    await this.#closing;
  }

  /** The cursor was forgotten: there is nothing more to read or to write. */
  end(): void {
    this.#lost ??= this.#link.lost("the cursor was forgotten");
    this.#end("closed");
  }

  async #start(signal: AbortSignal, closed: () => void): Promise<void> {
    const { events } = this.#link;
    const check = (): void => {
      this.#verify().catch(() => undefined);
    };
    const reconnect = (): void => {
      check();
      this.#puller.restart().catch((error: unknown) => {
        this.#fail(error);
      });
    };
    const abort = (): void => {
      void this.close();
    };
    const lost = (): void => {
      this.#fail(this.#link.lost("the connection has ended"));
    };
    events.on("reconnect", reconnect).on("end", lost);
    signal.addEventListener("abort", abort);
    // a cursor that is not written for long is forgotten
    const refresh = (): void => {
      this.#save().catch(() => undefined);
    };
    const refresher = setInterval(refresh, Math.min(this.#logs.layout.unreadMs / 4, longestTimerMs)).unref();
    this.#undo.push(
      () => events.off("reconnect", reconnect).off("end", lost),
      () => {
        signal.removeEventListener("abort", abort);
      },
      () => {
        clearInterval(refresher);
      },
      closed,
    );
    try {
      const stop = await this.#link.subscribe(this.#subject, ({ data }) => {
        if (data.length === 0) this.end();
        // it may be a write that the server refuses
        else if (readerOf(data) !== this.#state.reader) check();
      });
      this.#undo.push(stop);
      await this.#puller.restart();
      // it may have been taken before this listened
      await this.#verify();
      signal.throwIfAborted();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  // Entries between `from` and `to` did not come: the log has dropped them because they were too old.
  async #skip(from: number, to: number): Promise<void> {
    try {
      const { name } = this.#logs.plan(this.#log);
      const { state } = await this.#link.attempt(() => this.#link.jsm.streams.info(name));
      this.#state.skip(this.#state.floor + 1, state.first_seq - 1);
      this.#state.skip(from, to);
    } catch (error) {
      this.#fail(error);
    }
  }

  /** Resolves when a write is done that began after this call. */
  #save(): Promise<void> {
    if (this.#nextSave === undefined) {
      const next = this.#saving.then(() => {
        this.#nextSave = undefined;
        return this.#write();
      });
      this.#nextSave = next;
      this.#saving = next.catch(() => undefined);
    }
    return this.#nextSave;
  }

  async #write(): Promise<void> {
    try {
      for (;;) {
        if (this.#lost !== undefined) throw this.#lost;
        const writing = this.#state.write(this.#ended !== undefined);
        const revision = await writeRecord(this.#logs, this.#subject, writing, this.#revision);
        if (revision !== undefined) {
          this.#revision = revision;
          return;
        }
        // an own write whose answer was lost counts as well
        await this.#verify();
      }
    } catch (error) {
      throw this.#fail(error);
    }
  }

  /** Reads whose the cursor is. */
  async #verify(): Promise<void> {
    const record = await this.#link.read(this.#logs.cursors, this.#subject);
    const reader = record === undefined ? undefined : readerOf(record.data);
    if (record !== undefined && reader === this.#state.reader) this.#revision = Math.max(this.#revision, record.revision);
    else throw this.#fail(reader === undefined ? this.#link.lost("the cursor is no longer there") : superseded());
  }

  /** @returns why nothing can be read or written any more: the first reason that there was */
  #fail(error: unknown): LatentError {
    const cause = LatentError.isInstance(error) ? error : this.#link.lost("the reader has failed", error);
    this.#lost ??= cause;
    this.#end(this.#lost);
    return this.#lost;
  }

  #trimSoon(): void {
    if (this.#ended !== undefined || this.#state.floor === this.#trimmed) return;
    if (this.#passedBytes >= this.#logs.layout.logBytes * trimPart) this.#trim();
    else
      this.#trimmer ??= setTimeout(() => {
        this.#trim();
      }, trimMs).unref();
  }

  #trim(): void {
    clearTimeout(this.#trimmer);
    this.#trimmer = undefined;
    this.#trimmed = this.#state.floor;
    this.#passedBytes = 0;
    this.#logs.trim(this.#log).catch(() => undefined);
  }

  async #close(): Promise<void> {
    if (this.#ended !== undefined) return;
    this.#end("closed");
    if (!this.#link.isConnected) return;
    // how far it really came; if this is lost, a few entries count as tried
    await this.#save().catch(() => undefined);
    if (this.#state.floor !== this.#trimmed) await this.#logs.trim(this.#log).catch(() => undefined);
  }

  #end(why: LatentError | "closed"): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    clearTimeout(this.#trimmer);
    this.#puller.stop();
    for (const undo of this.#undo.splice(0)) undo();
    this.#wake();
  }
}

/** The record's new revision; undefined if it has another one than was expected. */
async function writeRecord(
  { link, cursors }: NatsLogs,
  subject: string,
  { data, written }: { readonly data: string; readonly written: () => void },
  revision: number,
  signal?: AbortSignal,
): Promise<number | undefined> {
  const write = async (): Promise<number | undefined> => {
    try {
      return (await link.js.publish(subject, data, { expect: { lastSubjectSequence: revision } })).seq;
    } catch (error) {
      if (link.isConflict(error)) return undefined;
      throw error;
    }
  };
  const found = await link.inStream(cursors, write, signal);
  if (found !== undefined) written();
  return found;
}

function readerOf(data: Uint8Array): string | undefined {
  try {
    return parseCursor(data).reader;
  } catch {
    return undefined;
  }
}
