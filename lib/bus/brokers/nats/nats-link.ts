// One connection to a NATS server with JetStream: it outlives restarts of the server, repeats what a broken connection has cut short, makes streams where
// they are missing, and turns what the client library throws into errors of this package. The rest of the NATS broker stands on it.
import { EventEmitter, setMaxListeners } from "node:events";
import type { JetStreamClient, JetStreamManager, StreamConfig } from "@nats-io/jetstream";
import type { Msg, NatsConnection, NodeConnectionOptions } from "@nats-io/transport-node";
import { LatentError } from "../../../errors.js";
import { code, isDenied, passingCodes, requireServer, toBusError } from "./nats-client.js";
import type { NatsModules } from "./nats-client.js";

/** A stream as this package makes them. */
export type StreamPlan = Partial<StreamConfig> & { readonly name: string; readonly subjects: string[] };

/** A record, i.e. the last message of a subject. */
export interface NatsRecord {
  readonly data: Uint8Array;
  readonly revision: number;
}

const requestMs = 5000;

interface LinkEvents {
  reconnect: [];
  end: [];
}

/** Why an attempt was given up that is to be repeated. */
class Interrupted extends Error {}

export class NatsLink {
  readonly events = new EventEmitter<LinkEvents>().setMaxListeners(0);
  readonly js: JetStreamClient;
  /** Resolves when a connection that is broken has been made anew. */
  #broken: { readonly mended: Promise<void>; readonly mend: () => void } | undefined;
  readonly #racing = new Set<{ readonly breaks: boolean; readonly interrupt: () => void }>();
  #ended: LatentError | undefined;
  #giveUp: NodeJS.Timeout | undefined;
  /** What the server's clock is ahead of {@link performance.now}, in milliseconds. */
  #clock = 0;

  /** @throws LatentError `ERR_LATENT_BUS_DISCONNECTED`, `ERR_LATENT_BUS_UNAUTHORIZED`, `ERR_LATENT_BUS_LIMIT` (its messages are too small) */
  static async connect(
    modules: NatsModules,
    address: string,
    options: NodeConnectionOptions,
    reconnectMs: number,
    signal: AbortSignal | undefined,
  ): Promise<NatsLink> {
    signal?.throwIfAborted();
    const connecting = modules.transport.connect({
      ...options,
      timeout: Math.min(reconnectMs, 10_000),
      maxReconnectAttempts: -1,
      reconnectTimeWait: 100,
      reconnectJitter: 100,
      pingInterval: 10_000,
      noAsyncTraces: true,
    });
    try {
      const connection = await abortable(connecting, signal);
      let jsm;
      try {
        requireServer(connection, address);
        jsm = await abortable(modules.jetstream.jetstreamManager(connection, { timeout: requestMs }), signal);
      } catch (error) {
        await connection.close();
        throw error;
      }
      return new NatsLink(modules, address, connection, jsm, reconnectMs);
    } catch (error) {
      connecting.then(
        (late) => late.close(),
        () => undefined,
      );
      signal?.throwIfAborted();
      throw toBusError(error, address);
    }
  }

  private constructor(
    readonly modules: NatsModules,
    readonly address: string,
    readonly connection: NatsConnection,
    readonly jsm: JetStreamManager,
    readonly reconnectMs: number,
  ) {
    this.js = jsm.jetstream();
    void this.#follow();
    void connection.closed().then((error) => {
      this.#end(error === undefined ? this.lost("the connection was closed") : toBusError(error, address));
    });
  }

  get isConnected(): boolean {
    return this.#broken === undefined && this.#ended === undefined;
  }

  /** The server's time, in milliseconds of the epoch; never ahead of it. */
  get serverNow(): number {
    return performance.now() + this.#clock;
  }

  /** The server said that it was `time` (ISO 8601) before this was called. */
  setClock(time: string): void {
    const at = Date.parse(time);
    if (Number.isFinite(at)) this.#clock = at - performance.now();
  }

  /** Throws why there is no connection any more. */
  check(): void {
    if (this.#ended !== undefined) throw this.#ended;
  }

  lost(why: string, cause?: unknown): LatentError {
    return new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${this.address}: ${why}`, { cause });
  }

  /**
   * Does `work`, again if the connection breaks or the server has no answer for now. Rejects when the signal aborts, and with `ERR_LATENT_BUS_DISCONNECTED`
   * when the link ends or the server has been without an answer for the time that a connection may be broken.
   */
  async attempt<T>(work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    let failing: number | undefined;
    for (let waitMs = 10; ; waitMs = Math.min(2 * waitMs, 500)) {
      this.check();
      signal?.throwIfAborted();
      try {
        if (this.#broken !== undefined) await this.#race(this.#broken.mended, signal, false);
        return await this.#race(work(), signal, true);
      } catch (error) {
        this.check();
        signal?.throwIfAborted();
        if (!this.#passes(error)) throw toBusError(error, this.address);
        failing ??= performance.now();
        if (performance.now() - failing > this.reconnectMs) throw this.lost("JetStream does not answer", error);
      }
      await this.pause(waitMs, signal);
    }
  }

  /** The same for work that needs a stream, which is made if it is missing. */
  async inStream<T>(plan: StreamPlan, work: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    return this.attempt(async () => {
      try {
        return await work();
      } catch (error) {
        // somebody else who subscribes to the subject lets the request time out instead
        const isSilent = error instanceof this.modules.transport.TimeoutError || this.#hasNoResponders(error);
        if (this.apiCode(error) !== code.streamNotFound && !isSilent) throw error;
        await this.#add(plan);
        return work();
      }
    }, signal);
  }

  /** Resolves after a time, or at once when `wake` resolves. Rejects when the signal aborts or the link ends. */
  async pause(ms: number, signal?: AbortSignal, wake?: Promise<unknown>): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const time = new Promise((resolve) => (timer = setTimeout(resolve, ms)));
    try {
      await this.#race(wake === undefined ? time : Promise.race([time, wake]), signal, false);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Resolves when the server has taken everything that was sent before. */
  async flush(signal?: AbortSignal): Promise<void> {
    await this.attempt(() => this.connection.flush(), signal);
  }

  /** Resolves when the server knows of the subscription. `take` gets messages, as they come. */
  async subscribe(subject: string, take: (message: Msg) => void): Promise<() => void> {
    this.check();
    let refused: Error | undefined;
    const subscription = this.connection.subscribe(subject, {
      callback: (error, message) => {
        if (error === null) take(message);
        else refused = error;
      },
    });
    try {
      await this.flush();
      if (refused !== undefined) throw toBusError(refused, this.address);
    } catch (error) {
      subscription.unsubscribe();
      throw error;
    }
    return () => {
      subscription.unsubscribe();
    };
  }

  /** The last message of the subject. */
  async read(plan: StreamPlan, subject: string, signal?: AbortSignal): Promise<NatsRecord | undefined> {
    const message = await this.inStream(plan, () => this.jsm.streams.getMessage(plan.name, { last_by_subj: subject }), signal);
    return message === null ? undefined : { data: message.data, revision: message.seq };
  }

  /** The last message of each subject that the filter takes. */
  async readAll(plan: StreamPlan, filter: string): Promise<Map<string, NatsRecord>> {
    const subjects = await this.subjects(plan, filter);
    const found = new Map<string, NatsRecord>();
    const reads = subjects.map(async (subject) => {
      const record = await this.read(plan, subject);
      if (record !== undefined) found.set(subject, record);
    });
    await Promise.all(reads);
    return found;
  }

  async subjects(plan: StreamPlan, filter: string, signal?: AbortSignal): Promise<readonly string[]> {
    const { state } = await this.inStream(plan, () => this.jsm.streams.info(plan.name, { subjects_filter: filter }), signal);
    return Object.keys(state.subjects ?? {});
  }

  /** The code of an error of JetStream. */
  apiCode(error: unknown): number | undefined {
    return error instanceof this.modules.jetstream.JetStreamApiError ? error.code : undefined;
  }

  /** The stream has all the bytes that it may have. */
  isFull(error: unknown): boolean {
    return this.apiCode(error) === code.storeFailed && error instanceof Error && error.message.includes("maximum bytes");
  }

  /** Somebody else has written the record since. */
  isConflict(error: unknown): boolean {
    const { StreamWrongLastSequence, StreamWrongLastSequenceUnknown } = this.modules.jetstream.JetStreamApiCodes;
    const found = this.apiCode(error);
    return found === StreamWrongLastSequence || found === StreamWrongLastSequenceUnknown;
  }

  /** Does `work` and takes it as done when its stream or consumer is not there. */
  async unlessMissing(work: () => Promise<unknown>): Promise<void> {
    await this.attempt(async () => {
      try {
        await work();
      } catch (error) {
        const found = this.apiCode(error);
        if (found !== code.streamNotFound && found !== code.consumerNotFound) throw error;
      }
    });
  }

  async close(): Promise<void> {
    if (this.#ended !== undefined) return;
    this.#end(this.lost("the bus was closed"));
    await this.connection.close();
  }

  // Whoever comes first decides what a stream is like.
  async #add(plan: StreamPlan): Promise<void> {
    try {
      await this.jsm.streams.add(plan);
    } catch (error) {
      if (this.apiCode(error) !== code.nameInUse) throw error;
    }
  }

  async #follow(): Promise<void> {
    for await (const { type } of this.connection.status()) {
      if (type === "disconnect") {
        this.#broken ??= latch();
        this.#giveUp ??= setTimeout(() => {
          this.#end(this.lost(`the connection was lost for more than ${this.reconnectMs} ms`));
          void this.connection.close();
        }, this.reconnectMs).unref();
        this.#interrupt(false);
      } else if (type === "reconnect") {
        this.#broken?.mend();
        this.#broken = undefined;
        clearTimeout(this.#giveUp);
        this.#giveUp = undefined;
        this.events.emit("reconnect");
      }
    }
  }

  #end(why: LatentError): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    clearTimeout(this.#giveUp);
    this.#interrupt(true);
    this.events.emit("end");
  }

  // The client library leaves requests without an answer when the connection breaks, until they time out.
  #race<T>(work: Promise<T>, signal: AbortSignal | undefined, breaks: boolean): Promise<T> {
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        this.#racing.delete(racer);
        signal?.removeEventListener("abort", interrupt);
      };
      const interrupt = (): void => {
        settle();
        reject(new Interrupted("interrupted"));
      };
      const racer = { breaks, interrupt };
      this.#racing.add(racer);
      if (signal !== undefined) {
        setMaxListeners(0, signal);
        signal.addEventListener("abort", interrupt);
      }
      work.then(
        (value) => {
          settle();
          resolve(value);
        },
        (error: unknown) => {
          settle();
          // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what the work rejected with
          reject(error);
        },
      );
    });
  }

  #interrupt(isEnd: boolean): void {
    for (const { breaks, interrupt } of [...this.#racing]) if (isEnd || breaks) interrupt();
  }

  #passes(error: unknown): boolean {
    if (error instanceof LatentError || isDenied(error)) return false;
    const { errors } = this.modules.transport;
    const found = this.apiCode(error);
    if (found !== undefined) return passingCodes.includes(found);
    return (
      error instanceof Interrupted ||
      error instanceof errors.TimeoutError ||
      error instanceof errors.RequestError ||
      error instanceof errors.ConnectionError ||
      this.#hasNoResponders(error) ||
      error instanceof this.modules.jetstream.JetStreamError
    );
  }

  #hasNoResponders(error: unknown): boolean {
    const { NoRespondersError } = this.modules.transport.errors;
    for (let one = error; one instanceof Error; one = one.cause) if (one instanceof NoRespondersError) return true;
    return false;
  }
}

function latch(): { readonly mended: Promise<void>; readonly mend: () => void } {
  let mend = (): void => undefined;
  const mended = new Promise<void>((resolve) => (mend = resolve));
  return { mended, mend };
}

/** Waits for `work` until the signal aborts. */
export async function abortable<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work;
  // many calls may share a signal
  setMaxListeners(0, signal);
  return new Promise((resolve, reject) => {
    const abort = (): void => {
      reject(signal.reason as Error);
    };
    if (signal.aborted) abort();
    else signal.addEventListener("abort", abort, { once: true });
    work.then(resolve, reject).finally(() => {
      signal.removeEventListener("abort", abort);
    });
  });
}
