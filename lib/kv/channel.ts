// One end of a link: messages over a Duplex, with the clock that tells a peer that is gone from one that is slow. The Duplex is read as messages are
// asked for, and no byte further, so that it can carry something else afterwards.
import { Duplex } from "node:stream";
import { checkInteger, checkKeys, fallback, invalid } from "../check.js";
import { isLatentErrorCode, LatentError } from "../errors.js";
import { framesOf, headBytes, malformed, readHead, readPayload, type LinkKind, type LinkMessage } from "./frames.js";

/** What both ends of a link can set. */
export interface KvLinkOptions {
  /** The longest silence of the other side, in milliseconds: it says that it is there as long as it works. Default 30 000; 0 for no limit. */
  readonly idleMs?: number;
  /** How long all of it may take, in milliseconds. Default: no limit. */
  readonly deadlineMs?: number;
  /** Default true: shared memory where it reaches. False: always the stream. */
  readonly sharedMemory?: boolean;
  readonly signal?: AbortSignal;
}

export const linkOptions = ["idleMs", "deadlineMs", "sharedMemory", "signal"] as const;

/** How long the last words to a peer may take after a failure. */
const partingMs = 1000;

export class Channel {
  readonly idleMs: number;
  readonly #duplex: Duplex;
  readonly #signal: AbortSignal | undefined;
  readonly #controller = new AbortController();
  #failure: Error | undefined;
  /** The peer has said why, or cannot hear. */
  #peerGone = false;
  #head: { readonly kind: LinkKind; readonly bytes: number } | undefined;
  #waiting = new Set<() => void>();
  #heardAt = 0;
  #seen = 0;
  readonly #timers: { deadline?: NodeJS.Timeout; beat?: NodeJS.Timeout; silence?: NodeJS.Timeout; hearing?: NodeJS.Immediate } = {};
  readonly #listeners: readonly (readonly [string, (value: unknown) => void])[];
  readonly #wake = (): void => {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  };
  readonly #aborted = (): void => {
    this.fail(this.#signal?.reason as Error);
  };

  constructor(duplex: Duplex, options: KvLinkOptions, more: readonly string[]) {
    checkKeys("options", options, [...linkOptions, ...more]);
    if (!(duplex instanceof Duplex)) throw invalid("duplex", "a Duplex", duplex);
    this.idleMs = checkInteger("idleMs", fallback(options.idleMs, 30_000), 0, 2 ** 31 - 1);
    const deadlineMs = checkInteger("deadlineMs", fallback(options.deadlineMs, 0), 0, 2 ** 31 - 1);
    this.#duplex = duplex;
    this.#signal = options.signal;
    this.#listeners = [
      ["readable", this.#wake],
      ["end", this.#wake],
      ["close", this.#wake],
      [
        "error",
        (error) => {
          this.#lose(error);
        },
      ],
    ];
    for (const [event, listener] of this.#listeners) duplex.on(event, listener);
    options.signal?.addEventListener("abort", this.#aborted, { once: true });
    if (options.signal?.aborted === true) this.#aborted();
    if (this.idleMs > 0) this.#watch(this.idleMs);
    if (deadlineMs > 0)
      this.#timers.deadline = setTimeout(() => {
        this.fail(new LatentError("ERR_LATENT_KV_STALLED", `the transfer took longer than ${deadlineMs} ms`, { details: { deadlineMs } }));
      }, deadlineMs);
  }

  /** Aborts when this fails, whatever the reason: for the work that goes on beside the link. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Ends what waits, and everything that is asked for from now on. The first failure counts. */
  fail(error: Error): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    this.#controller.abort(error);
    this.#wake();
  }

  /** Says that this side lives, often enough for a peer that bears so much silence. */
  beat(idleMs: number): void {
    clearInterval(this.#timers.beat);
    if (idleMs === 0) return;
    this.#timers.beat = setInterval(
      () => {
        // who does not read is not told more often for it
        if (this.#failure === undefined && !this.#duplex.writableNeedDrain) this.#write({ kind: "beat" });
      },
      Math.max(5, Math.floor(idleMs / 3)),
    );
  }

  /** Resolves when the Duplex takes more. */
  async send(message: LinkMessage): Promise<void> {
    this.post(message);
    while (this.#duplex.writableNeedDrain) await this.#change();
  }

  /** Sends without waiting for the Duplex; {@link flushed} tells when it has taken what was sent. Returns how many bytes that is. */
  post(message: LinkMessage): number {
    this.#requireSound();
    this.#heardAt = performance.now();
    return this.#write(message);
  }

  /** Resolves when no more than `bytes` of what was sent wait in this process. */
  async flushed(bytes: number): Promise<void> {
    this.#heardAt = performance.now();
    while (this.#duplex.writableLength > bytes) await this.#change();
  }

  /** The next message; a peer that says that it failed makes this fail. */
  async next(): Promise<LinkMessage> {
    this.#heardAt = performance.now();
    for (;;) {
      this.#requireSound();
      const message = this.#read();
      if (message === undefined) {
        if (this.#duplex.readableEnded || this.#duplex.destroyed) this.#lose(undefined);
        else await this.#change();
      } else if (message.kind === "failed") {
        this.#peerGone = true;
        this.fail(toldBy(message));
      } else if (message.kind !== "beat") {
        return message;
      }
    }
  }

  /** The next message, which must be one of these. */
  async expect<K extends LinkKind>(...wanted: readonly K[]): Promise<Extract<LinkMessage, { kind: K }>> {
    const message = await this.next();
    if (!(wanted as readonly string[]).includes(message.kind)) throw malformed(`'${message.kind}' where ${wanted.join(" or ")} was due`);
    return message as Extract<LinkMessage, { kind: K }>;
  }

  /** The transfer is over, and the Duplex can carry something else. */
  release(): void {
    this.#stop();
    for (const [event, listener] of this.#listeners) this.#duplex.off(event, listener);
  }

  /** The transfer has failed: tells the peer, if it can hear, and closes the Duplex. What to throw comes back. */
  abandon(error: unknown): unknown {
    const cause = this.#failure ?? error;
    this.release();
    const duplex = this.#duplex;
    duplex.on("error", () => undefined);
    if (this.#peerGone || duplex.destroyed || !duplex.writable) {
      duplex.destroy();
      return cause;
    }
    const known = LatentError.isInstance(cause);
    for (const piece of framesOf({
      kind: "failed",
      code: known ? cause.code : "",
      message: cause instanceof Error ? cause.message : String(cause),
    }))
      duplex.write(piece);
    duplex.end();
    // unread bytes would reset the connection before the peer has heard
    duplex.resume();
    const parting = setTimeout(() => duplex.destroy(), partingMs);
    duplex.once("close", () => {
      clearTimeout(parting);
    });
    return cause;
  }

  #stop(): void {
    clearTimeout(this.#timers.deadline);
    clearInterval(this.#timers.beat);
    clearTimeout(this.#timers.silence);
    clearImmediate(this.#timers.hearing);
    this.#signal?.removeEventListener("abort", this.#aborted);
  }

  #requireSound(): void {
    if (this.#failure !== undefined) throw this.#failure;
  }

  #lose(cause: unknown): void {
    this.#peerGone = true;
    const why = cause instanceof Error ? cause.message : "it closed the link";
    this.fail(new LatentError("ERR_LATENT_KV_PEER_LOST", `the other side was lost: ${why}`, cause === undefined ? {} : { cause }));
  }

  #write(message: LinkMessage): number {
    if (this.#duplex.destroyed || !this.#duplex.writable) {
      this.#lose(undefined);
      return 0;
    }
    const pieces = framesOf(message);
    this.#duplex.cork();
    for (const piece of pieces) this.#duplex.write(piece, this.#wake);
    this.#duplex.uncork();
    return pieces.reduce((sum, { length }) => sum + length, 0);
  }

  #read(): LinkMessage | undefined {
    // bytes of a message that is still coming are a sign of life as well
    if (this.#duplex.readableLength !== this.#seen) this.#heardAt = performance.now();
    this.#seen = this.#duplex.readableLength;
    if (this.#head === undefined) {
      const head = this.#take(headBytes);
      if (head === undefined) return undefined;
      this.#head = readHead(head);
    }
    if (this.#head.kind === "data") return this.#readData(this.#head.bytes);
    const payload = this.#take(this.#head.bytes);
    if (payload === undefined) return undefined;
    const { kind } = this.#head;
    this.#head = undefined;
    return readPayload(kind, payload);
  }

  /** As much of the data as is there: what has come of a frame when the link breaks is not lost. */
  #readData(bytes: number): LinkMessage | undefined {
    const there = Math.min(bytes, this.#duplex.readableLength);
    // asking is what makes the Duplex say when there is more
    const payload = there > 0 || bytes === 0 ? this.#take(there) : this.#take(1);
    if (payload === undefined) return undefined;
    this.#head = payload.length === bytes ? undefined : { kind: "data", bytes: bytes - payload.length };
    return readPayload("data", payload);
  }

  #take(bytes: number): Uint8Array | undefined {
    if (bytes === 0) return new Uint8Array(0);
    const piece: unknown = this.#duplex.read(bytes);
    this.#seen = this.#duplex.readableLength;
    if (piece === null) return undefined;
    if (!(piece instanceof Uint8Array)) throw invalid("duplex", "a Duplex of bytes", piece);
    // the rest of a stream that has ended
    if (piece.length < bytes) return undefined;
    return piece;
  }

  /** Until something may have changed. */
  async #change(): Promise<void> {
    await new Promise<void>((resolve) => this.#waiting.add(resolve));
    this.#requireSound();
  }

  /** Fails when the other side neither says nor takes anything for too long while it is waited for; looks again in `ms`. */
  #watch(ms: number): void {
    this.#timers.silence = setTimeout(() => {
      // what has come while the event loop was busy is heard first
      this.#timers.hearing = setImmediate(() => {
        const { idleMs } = this;
        const heard = this.#waiting.size === 0 || this.#duplex.readableLength !== this.#seen;
        const silentMs = heard ? 0 : performance.now() - this.#heardAt;
        if (silentMs < idleMs) this.#watch(Math.max(1, Math.ceil(idleMs - silentMs)));
        else this.fail(new LatentError("ERR_LATENT_KV_STALLED", `the other side was silent for ${idleMs} ms`, { details: { idleMs } }));
      });
    }, ms);
  }
}

function toldBy({ code, message }: { readonly code: string; readonly message: string }): LatentError {
  if (isLatentErrorCode(code)) return new LatentError(code, `the other side refused: ${message}`, { details: { by: "peer" } });
  return new LatentError("ERR_LATENT_KV_PEER_LOST", `the other side gave up: ${message}`, { details: { by: "peer" } });
}
