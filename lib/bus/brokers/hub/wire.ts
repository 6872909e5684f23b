// A channel of messages between two sides: over a byte stream, in frames whose lengths are checked before anything is allocated, and over a port between
// threads. Knows nothing of what the messages mean.
import { isUtf8 } from "node:buffer";
import type { Duplex } from "node:stream";
import type { MessagePort } from "node:worker_threads";
import { LatentError, toLatentError } from "../../../errors.js";
import { entryBytes } from "../broker.js";

export interface Message {
  /** At most {@link frameBytes} together with the body. */
  readonly head: string;
  /** Must not be written to any more once it was sent. What is received has an ArrayBuffer of its own. */
  readonly body: Uint8Array;
}

/** Handles a message; nothing more is read until what it returns has settled. */
export type TakeMessage = (message: Message) => void | Promise<void>;

/** Messages in order until one side closes or is lost. */
export interface Wire {
  /** Never throws; what is sent to a closed wire is gone. @returns whether to wait for {@link drained} before sending more */
  send(message: Message): boolean;
  /** Resolves when less waits to be sent, or the wire is closed. */
  drained(): Promise<void>;
  /** Bytes that wait to be sent. */
  readonly queued: number;
  /** When something came last, and when something that had been sent went out last, by `performance.now()`. */
  readonly heardAt: number;
  readonly flushedAt: number;
  /** Begins to read. Once. */
  onMessage(take: TakeMessage): void;
  /** Called once, however it ends; with what went wrong, if anything did. */
  onClose(take: (error: Error | undefined) => void): void;
  /** Sends what waits, then ends. Nothing is received any more. Idempotent. */
  close(): void;
}

/** The longest frame: an entry or a piece, and what is said about it. */
export const frameBytes = entryBytes + (16 << 10);
/** More than this waits to be sent: whoever sends should wait. */
const highBytes = 1 << 20;
/** How long the other side may take to receive the rest when a wire closes. */
const closeMs = 2_000;
const prefixBytes = 8;

export const nothing: Uint8Array = new Uint8Array(0);

const malformed = (what: string): LatentError => new LatentError("ERR_LATENT_BUS_ENVELOPE", what);

/** Finds frames in a stream: u32 length of the head, u32 length of the body, both little-endian, head (UTF-8), body. */
export class FrameReader {
  #stage: "prefix" | "head" | "body" = "prefix";
  #target: Buffer = Buffer.alloc(prefixBytes);
  #filled = 0;
  #bodyBytes = 0;
  #head = "";
  #input: Buffer = Buffer.alloc(0);

  push(chunk: Buffer): void {
    this.#input = this.#input.length === 0 ? chunk : Buffer.concat([this.#input, chunk]);
  }

  /**
   * The next message that is there as a whole.
   * @throws LatentError `ERR_LATENT_BUS_ENVELOPE`; the stream is of no use then
   */
  next(): Message | undefined {
    while (this.#fill()) {
      switch (this.#stage) {
        case "prefix": {
          const headBytes = this.#target.readUInt32LE(0);
          this.#bodyBytes = this.#target.readUInt32LE(4);
          if (headBytes === 0 || headBytes + this.#bodyBytes > frameBytes)
            throw malformed(`a frame with a head of ${headBytes} and a body of ${this.#bodyBytes} bytes`);
          this.#begin("head", Buffer.allocUnsafe(headBytes));
          break;
        }
        case "head":
          if (!isUtf8(this.#target)) throw malformed("a frame whose head is not UTF-8");
          this.#head = this.#target.toString("utf8");
          // not from the pool: a short body that is kept would keep all of its slab
          this.#begin("body", Buffer.allocUnsafeSlow(this.#bodyBytes));
          break;
        case "body": {
          const message = { head: this.#head, body: this.#target };
          this.#begin("prefix", Buffer.alloc(prefixBytes));
          return message;
        }
      }
    }
    return undefined;
  }

  #begin(stage: "prefix" | "head" | "body", target: Buffer): void {
    this.#stage = stage;
    this.#target = target;
    this.#filled = 0;
  }

  #fill(): boolean {
    const count = this.#input.copy(this.#target, this.#filled);
    this.#input = this.#input.subarray(count);
    this.#filled += count;
    return this.#filled === this.#target.length;
  }
}

/** The length and head of a frame; its body follows. */
export function framePrefix({ head, body }: Message): Buffer {
  const headBytes = Buffer.byteLength(head);
  const prefix = Buffer.allocUnsafe(prefixBytes + headBytes);
  prefix.writeUInt32LE(headBytes, 0);
  prefix.writeUInt32LE(body.length, 4);
  prefix.write(head, prefixBytes, "utf8");
  return prefix;
}

/** What both kinds share: counting what waits, telling once that it is over, and reading one message at a time. */
abstract class CountingWire implements Wire {
  queued = 0;
  heardAt = performance.now();
  flushedAt = performance.now();
  protected isClosed = false;
  #drained: (() => void)[] = [];
  #take: TakeMessage | undefined;
  #onClose: ((error: Error | undefined) => void) | undefined;

  abstract send(message: Message): boolean;
  abstract close(): void;

  async drained(): Promise<void> {
    if (this.isClosed || this.queued <= highBytes / 2) return;
    await new Promise<void>((resolve) => this.#drained.push(resolve));
  }

  onMessage(take: TakeMessage): void {
    this.#take = take;
  }

  onClose(take: (error: Error | undefined) => void): void {
    this.#onClose = take;
  }

  protected sending(bytes: number): boolean {
    if (this.queued === 0) this.flushedAt = performance.now();
    this.queued += bytes;
    return this.queued > highBytes;
  }

  protected flushed(bytes: number): void {
    this.queued -= bytes;
    this.flushedAt = performance.now();
    if (this.queued <= highBytes / 2) this.#release();
  }

  /** @returns what to wait for before the next message */
  protected received(message: Message): void | Promise<void> {
    return this.#take?.(message);
  }

  /** Tells that it is over. @returns false if that was known */
  protected ended(error?: Error): boolean {
    if (this.isClosed) return false;
    this.isClosed = true;
    this.#release();
    this.#onClose?.(error);
    return true;
  }

  #release(): void {
    for (const resolve of this.#drained.splice(0)) resolve();
  }
}

/** Over a socket or any other byte stream, which it owns. */
export class StreamWire extends CountingWire {
  readonly #stream: Duplex;
  readonly #frames = new FrameReader();
  #corked = false;
  #busy = false;

  /** `first`: bytes of the stream that were read already. */
  constructor(stream: Duplex, first?: Buffer) {
    super();
    this.#stream = stream;
    if (first !== undefined && first.length > 0) this.#frames.push(first);
    stream.on("error", (error) => {
      this.#fail(error);
    });
    stream.on("end", () => {
      this.#fail();
    });
    stream.on("close", () => {
      this.#fail();
    });
  }

  override onMessage(take: TakeMessage): void {
    super.onMessage(take);
    this.#stream.on("data", (chunk: Buffer) => {
      this.heardAt = performance.now();
      if (this.isClosed) return;
      this.#frames.push(chunk);
      this.#read();
    });
    this.#read();
  }

  send(message: Message): boolean {
    if (this.isClosed) return false;
    // everything that is sent in one turn leaves in one write
    if (!this.#corked) {
      this.#corked = true;
      this.#stream.cork();
      queueMicrotask(() => {
        this.#corked = false;
        this.#stream.uncork();
      });
    }
    const prefix = framePrefix(message);
    const bytes = prefix.length + message.body.length;
    const sent = (): void => {
      this.flushed(bytes);
    };
    if (message.body.length === 0) this.#stream.write(prefix, sent);
    else {
      this.#stream.write(prefix);
      this.#stream.write(message.body, sent);
    }
    return this.sending(bytes);
  }

  close(): void {
    if (!this.ended()) return;
    this.#stream.resume();
    this.#stream.end();
    const timer = setTimeout(() => this.#stream.destroy(), closeMs).unref();
    this.#stream.once("close", () => {
      clearTimeout(timer);
    });
  }

  #read(): void {
    if (this.#busy) return;
    try {
      for (let message = this.#next(); message !== undefined; message = this.#next()) {
        const wait = this.received(message);
        if (wait === undefined) continue;
        this.#busy = true;
        this.#stream.pause();
        void this.#goOn(wait);
        return;
      }
      this.#stream.resume();
    } catch (error) {
      this.#fail(toLatentError(error));
    }
  }

  #next(): Message | undefined {
    return this.isClosed ? undefined : this.#frames.next();
  }

  async #goOn(wait: Promise<void>): Promise<void> {
    try {
      await wait;
      this.#busy = false;
      this.#read();
    } catch (error) {
      this.#fail(toLatentError(error));
    }
  }

  #fail(error?: Error): void {
    this.ended(error);
    this.#stream.destroy();
  }
}

/** Over a port to another thread, which it owns. The other side says how much of what was sent it has handled. */
export class PortWire extends CountingWire {
  readonly #port: MessagePort;
  readonly #waiting: Message[] = [];
  #busy = false;

  constructor(port: MessagePort) {
    super();
    this.#port = port;
    port.on("close", () => {
      this.ended();
    });
    port.on("messageerror", (error) => {
      this.#fail(error);
    });
  }

  override onMessage(take: TakeMessage): void {
    super.onMessage(take);
    this.#port.on("message", (received: unknown) => {
      this.heardAt = performance.now();
      if (this.isClosed) return;
      if (typeof received === "number" && received >= 0 && received <= this.queued) this.flushed(received);
      else if (isMessage(received)) {
        this.#waiting.push(received);
        if (!this.#busy) void this.#read();
      } else this.#fail(malformed("something on a port that is no message"));
    });
  }

  send({ head, body }: Message): boolean {
    if (this.isClosed) return false;
    // The sender keeps its bytes: a log may deliver them again, an append be repeated. One copy that is handed over is one less than cloning makes.
    if (body.buffer instanceof SharedArrayBuffer) this.#port.postMessage({ head, body });
    else {
      const copy = new Uint8Array(body);
      this.#port.postMessage({ head, body: copy }, [copy.buffer]);
    }
    return this.sending(head.length + body.length);
  }

  close(): void {
    if (this.ended()) this.#port.close();
  }

  async #read(): Promise<void> {
    this.#busy = true;
    try {
      for (let message = this.#waiting.shift(); message !== undefined && !this.isClosed; message = this.#waiting.shift()) {
        const wait = this.received(message);
        if (wait !== undefined) await wait;
        this.#handled(message);
      }
    } catch (error) {
      this.#fail(toLatentError(error));
    }
    this.#busy = false;
  }

  #handled({ head, body }: Message): void {
    if (!this.isClosed) this.#port.postMessage(head.length + body.length);
  }

  #fail(error: Error): void {
    if (this.ended(error)) this.#port.close();
  }
}

function isMessage(value: unknown): value is Message {
  if (typeof value !== "object" || value === null || !("head" in value) || !("body" in value)) return false;
  const { head, body } = value;
  return typeof head === "string" && body instanceof Uint8Array && Buffer.byteLength(head) + body.length <= frameBytes;
}
