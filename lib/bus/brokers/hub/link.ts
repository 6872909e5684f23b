// A client's side of a connection that is made anew whenever it breaks: requests are kept until they are answered, and made again.
import { randomUUID } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import { LatentError, toLatentError } from "../../../errors.js";
import {
  appendOverheadBytes,
  appendWindowBytes,
  errorOf,
  misunderstood,
  numberOf,
  pingsPerSilence,
  protocolVersion,
  say,
  standardSilentMs,
  textOf,
  understand,
} from "./protocol.js";
import type { Fields, Said } from "./protocol.js";
import { nothing } from "./wire.js";
import type { Wire } from "./wire.js";

/** Makes one connection. Rejects with `ERR_LATENT_BUS_UNAUTHORIZED` if no other attempt would do better. */
export type Dial = (signal: AbortSignal) => Promise<Wire>;

export interface LinkOptions {
  readonly address: string;
  readonly reconnectMs: number;
}

/** What a link tells the one who uses it. */
export interface LinkEvents {
  /** Something that answers no request. */
  readonly said: (said: Said) => void;
  /** There is a new connection, to a hub that has forgotten everything if `isOther`: say again what stands. */
  readonly renewed: (isOther: boolean) => void;
  /** It is over. */
  readonly failed: (error: LatentError) => void;
}

export interface RequestOptions {
  readonly fields?: Fields;
  readonly rest?: string;
  readonly body?: Uint8Array;
  readonly signal?: AbortSignal | undefined;
  /** In order with the others of its lane, of which so much is under way at a time. */
  readonly lane?: LaneName;
  /** Means nothing to another run of the hub, or on another connection, and is done when there is one. */
  readonly ofThis?: "run" | "connection";
  readonly onPart?: (said: Said) => void;
}

interface Pending extends RequestOptions {
  readonly id: number;
  readonly kind: string;
  readonly bytes: number;
  isSent: boolean;
  readonly resolve: (said: Said) => void;
  readonly reject: (error: Error) => void;
}

type LaneName = "append" | "bulk" | "acknowledge";

/** Requests that go out in order, so many at a time. */
interface Lane {
  waiting: Pending[];
  /** Under way. */
  bytes: number;
  windowBytes: number;
}

/** After a connection broke, the next one may break as soon: little is sent on it until something was answered. */
const carefulWindowBytes = 16 << 10;
const firstBackOffMs = 20;
const longestBackOffMs = 2_000;
const newLane = (windowBytes = appendWindowBytes): Lane => ({ waiting: [], bytes: 0, windowBytes });
const done: Said = { kind: "done", fields: {}, rest: "", body: nothing };

export class Link {
  readonly #dial: Dial;
  readonly #options: LinkOptions;
  readonly #events: LinkEvents;
  readonly #client = randomUUID();
  readonly #pending = new Map<number, Pending>();
  readonly #lanes: Record<LaneName, Lane> = { append: newLane(), bulk: newLane(), acknowledge: newLane() };
  readonly #closing = new AbortController();
  #connection = 0;
  #request = 0;
  #epoch: string | undefined;
  #wire: Wire | undefined;
  #failed: LatentError | undefined;
  #beat: NodeJS.Timeout | undefined;

  constructor(dial: Dial, options: LinkOptions, events: LinkEvents) {
    this.#dial = dial;
    this.#options = options;
    this.#events = events;
  }

  /** The first connection, with one attempt. */
  async connect(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    try {
      await this.#attempt(AbortSignal.any([signal, this.#closing.signal]));
    } catch (error) {
      const failure = this.#lostFor(error);
      this.#fail(failure);
      signal.throwIfAborted();
      throw failure;
    }
  }

  /** @throws LatentError if it is over */
  require(): void {
    if (this.#failed !== undefined) throw this.#failed;
  }

  async request(kind: string, options: RequestOptions = {}): Promise<Said> {
    this.require();
    const { signal, fields, rest = "", body = nothing, lane } = options;
    signal?.throwIfAborted();
    const id = ++this.#request;
    const bytes = Buffer.byteLength(rest) + body.length + appendOverheadBytes;
    return new Promise<Said>((resolve, reject) => {
      const abort = (): void => {
        if (pending.isSent && kind === "append") this.post("cancel", { request: id });
        this.#settle(pending);
        reject(signal?.reason as Error);
      };
      const pending: Pending = {
        ...options,
        ...{ id, kind, fields: { id, ...fields }, rest, body, bytes, isSent: false },
        resolve: (said) => {
          signal?.removeEventListener("abort", abort);
          resolve(said);
        },
        reject: (error) => {
          signal?.removeEventListener("abort", abort);
          reject(error);
        },
      };
      signal?.addEventListener("abort", abort, { once: true });
      this.#pending.set(id, pending);
      if (lane === undefined) this.#send(pending);
      else {
        this.#lanes[lane].waiting.push(pending);
        this.#flush(lane);
      }
    });
  }

  /** Says something that needs no answer, if there is a connection: what it is about is gone with it. */
  post(kind: string, fields: Fields): void {
    this.#wire?.send(say(kind, fields));
  }

  close(): void {
    this.post("bye", {});
    this.#fail(new LatentError("ERR_LATENT_BUS_DISCONNECTED", `the connection to ${this.#options.address} was closed`));
  }

  async #attempt(signal: AbortSignal): Promise<void> {
    const wire = await this.#dial(AbortSignal.any([signal, AbortSignal.timeout(standardSilentMs)]));
    if (signal.aborted) {
      wire.close();
      throw toLatentError(signal.reason);
    }
    await new Promise<void>((resolve, reject) => {
      let isWelcome = false;
      const abort = (): void => {
        wire.close();
        reject(new LatentError("ERR_LATENT_BUS_DISCONNECTED", `nobody answered at ${this.#options.address}`));
      };
      const timer = setTimeout(abort, standardSilentMs);
      signal.addEventListener("abort", abort, { once: true });
      const settle = (): void => {
        clearTimeout(timer);
        signal.removeEventListener("abort", abort);
      };
      wire.onClose((error) => {
        settle();
        reject(error ?? new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${this.#options.address} closed the connection`));
        if (this.#wire === wire) this.#lost();
      });
      wire.onMessage((message) => {
        const said = understand(message);
        if (isWelcome) {
          this.#take(said);
          return;
        }
        settle();
        if (said.kind === "refused") throw errorOf(said.fields);
        if (said.kind !== "welcome") throw misunderstood("no welcome");
        isWelcome = true;
        this.#begin(wire, said);
        resolve();
      });
      wire.send(say("hello", { version: protocolVersion, client: this.#client, connection: ++this.#connection }));
    });
  }

  /** What stands first, then what was not answered, in order. */
  #begin(wire: Wire, { fields }: Said): void {
    const epoch = textOf(fields, "epoch");
    const signalled = numberOf(fields, "signalled");
    const silentMs = fields.silentMs === undefined ? undefined : Math.max(numberOf(fields, "silentMs"), 30);
    const isFirst = this.#epoch === undefined;
    const isOther = this.#epoch !== epoch;
    this.#epoch = epoch;
    this.#wire = wire;
    if (silentMs !== undefined) this.#listenForLife(wire, silentMs);
    const unanswered = [...this.#pending.values()];
    if (!isFirst) for (const lane of Object.values(this.#lanes)) Object.assign(lane, newLane(carefulWindowBytes));
    for (const pending of unanswered) pending.isSent = false;
    if (!isFirst) this.#events.renewed(isOther);
    for (const pending of unanswered) {
      const isPast = pending.ofThis === "connection" || (pending.ofThis === "run" && isOther);
      const isDone = isPast || (pending.kind === "signal" && pending.id <= signalled);
      if (isDone) {
        this.#settle(pending);
        pending.resolve(done);
      } else if (pending.lane === undefined) this.#send(pending);
      else this.#lanes[pending.lane].waiting.push(pending);
    }
    for (const name of ["append", "bulk", "acknowledge"] as const) this.#flush(name);
  }

  #take(said: Said): void {
    const { kind, fields } = said;
    if (kind === "ping") return;
    if (kind !== "done" && kind !== "failed" && kind !== "part") {
      this.#events.said(said);
      return;
    }
    // one that was aborted is answered all the same
    const pending = this.#pending.get(numberOf(fields, "id"));
    if (pending === undefined) return;
    if (kind === "part") {
      pending.onPart?.(said);
      return;
    }
    this.#settle(pending);
    if (kind === "done") pending.resolve(said);
    else pending.reject(errorOf(fields));
  }

  #send(pending: Pending): void {
    if (this.#wire === undefined) return;
    pending.isSent = true;
    this.#wire.send(say(pending.kind, pending.fields, pending.rest, pending.body));
  }

  #flush(name: LaneName): void {
    const lane = this.#lanes[name];
    while (this.#wire !== undefined) {
      const first = lane.waiting[0];
      if (first === undefined || (lane.bytes > 0 && lane.bytes + first.bytes > lane.windowBytes)) return;
      lane.waiting.shift();
      lane.bytes += first.bytes;
      this.#send(first);
    }
  }

  /** It is answered, or nobody waits for it any more. */
  #settle(pending: Pending): void {
    if (!this.#pending.delete(pending.id) || pending.lane === undefined) return;
    const lane = this.#lanes[pending.lane];
    if (pending.isSent) {
      lane.bytes -= pending.bytes;
      lane.windowBytes = Math.min(lane.windowBytes + pending.bytes, appendWindowBytes);
    } else lane.waiting = lane.waiting.filter((one) => one !== pending);
    this.#flush(pending.lane);
  }

  #listenForLife(wire: Wire, silentMs: number): void {
    let last = performance.now();
    clearInterval(this.#beat);
    this.#beat = setInterval(() => {
      const now = performance.now();
      // when this process itself stood still, what has come meanwhile is not read yet
      if (now - last < (2 * silentMs) / pingsPerSilence && now - wire.heardAt > silentMs) wire.close();
      else wire.send(say("ping"));
      last = now;
    }, silentMs / pingsPerSilence).unref();
  }

  #lost(): void {
    this.#wire = undefined;
    clearInterval(this.#beat);
    if (this.#failed === undefined) void this.#reconnect();
  }

  async #reconnect(): Promise<void> {
    const until = performance.now() + this.#options.reconnectMs;
    const { signal } = this.#closing;
    for (let backOffMs = firstBackOffMs; ; backOffMs = Math.min(2 * backOffMs, longestBackOffMs)) {
      const leftMs = until - performance.now();
      try {
        if (leftMs <= 0) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${this.#options.address} was lost`);
        // not all clients of a hub at the same moment
        await delay(Math.min(leftMs, backOffMs * (0.5 + Math.random())), undefined, { signal });
        await this.#attempt(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        const failure = this.#lostFor(error);
        // a hub that is full, or busy with ending the connection that was lost, may have room later
        if (leftMs > 0 && failure.code !== "ERR_LATENT_BUS_UNAUTHORIZED") continue;
        this.#fail(failure);
        return;
      }
    }
  }

  #lostFor(error: unknown): LatentError {
    if (LatentError.isInstance(error)) return error;
    return new LatentError("ERR_LATENT_BUS_DISCONNECTED", `${this.#options.address} cannot be reached`, { cause: error });
  }

  #fail(error: LatentError): void {
    if (this.#failed !== undefined) return;
    this.#failed = error;
    this.#closing.abort(error);
    const wire = this.#wire;
    this.#wire = undefined;
    clearInterval(this.#beat);
    wire?.close();
    const pending = [...this.#pending.values()];
    this.#pending.clear();
    for (const one of pending) one.reject(error);
    this.#events.failed(error);
  }
}
