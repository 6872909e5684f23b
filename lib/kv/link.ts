// Keys and values from one process to another over any Duplex. The receiver says where it is and what it has; the sender picks the way, shared memory
// where it reaches and else the records that are missing, no faster than they are taken in; and it learns that they were taken, or why not.
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { checkBoolean, checkInteger, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { KvCodecChoice } from "./codec.js";
import { Channel, linkOptions, type KvLinkOptions } from "./channel.js";
import { dataBytes, leastWindow, malformed, type LinkMessage } from "./frames.js";
import { DeviceKv, isDeviceReference, type DeviceKvShared } from "./device-kv.js";
import { KvHandle } from "./handle.js";
import type { KvReceiver } from "./receiver.js";
import { machineIdentity, type KvShared } from "./shared.js";
import { signerOf, type KvSigner } from "./signature.js";

/** Options of {@link sendKv}. */
export interface KvSendOptions extends KvLinkOptions {
  /** In which codecs the stream travels; shared memory has no use for one. Default: as the content is stored. */
  readonly codec?: KvCodecChoice;
  /** Default: no signature. */
  readonly sign?: KvSigner;
}

/** Options of {@link Pool.receiveKv} and {@link KvReceiver.receive}. */
export interface KvReceiveOptions extends KvLinkOptions {
  /** How many bytes of records may be on their way: so many the sender holds at most for a slow receiver. Default 8 MiB, at least 64 KiB. */
  readonly windowBytes?: number;
}

/** What {@link sendKv} did. */
export interface KvSent {
  /** `none`: the receiver had taken it before, and only its answer was lost. */
  readonly way: "device" | "shared-memory" | "stream" | "none";
  /** Why it was this way, in a line. */
  readonly why: string;
  /** Of records that went over the link. */
  readonly bytes: number;
  readonly ms: number;
}

/** How content came over a link. */
export interface KvArrival {
  readonly way: "device" | "shared-memory" | "stream";
  /** Why it came this way, in a line. */
  readonly why: string;
}

/** What {@link Pool.receiveKv} resolves with. */
export interface KvReceived extends KvArrival {
  /** The content, verified; for `importKv`. */
  readonly kv: KvHandle;
}

const windowDefault = 8 << 20;

/**
 * Sends what a handle holds to the other end of `duplex`, where a receiver takes it ({@link Pool.receiveKv}, {@link Sequence.receiveKv},
 * {@link KvReceiver.receive}). Resolves when the receiver has said that it has all of it; the Duplex then is free for the next transfer, or for anything
 * else. When it rejects, the Duplex is closed.
 * @throws {@link LatentError} `ERR_LATENT_KV_PEER_LOST`, `ERR_LATENT_KV_STALLED` (`idleMs`, `deadlineMs`), `ERR_LATENT_KV_FORMAT` and `ERR_LATENT_KV_VERSION`
 * (no link, or a newer one), `ERR_LATENT_DISPOSED`, and the receiver's own reason with `details.by: "peer"`
 */
export async function sendKv(duplex: Duplex, kv: KvHandle | DeviceKv, options: KvSendOptions = {}): Promise<KvSent> {
  if (!(kv instanceof KvHandle) && !(kv instanceof DeviceKv)) throw invalid("kv", "a KvHandle or a DeviceKv", kv);
  if (options.sign !== undefined) signerOf(options.sign);
  const sharedMemory = checkBoolean("sharedMemory", fallback(options.sharedMemory, true));
  const channel = new Channel(duplex, options, ["codec", "sign"]);
  const started = performance.now();
  const signing = { signal: channel.signal, ...(options.sign !== undefined && { sign: options.sign }) };
  const encoding = options.codec === undefined ? {} : { codec: options.codec };
  try {
    const hello = await channel.expect("hello", "again");
    const facts = hello.kind === "again" ? { way: "none" as const, why: "taken before", bytes: 0 } : await send(hello);
    channel.beat(0);
    await channel.send({ kind: "done" });
    channel.release();
    return { ...facts, ms: performance.now() - started };
  } catch (error) {
    throw channel.abandon(error);
  }

  async function send(hello: Hello): Promise<Omit<KvSent, "ms">> {
    channel.beat(hello.idleMs);
    if (kv instanceof DeviceKv && sharedMemory && hello.device && (await offer(hello, () => kv.share(signing))) === undefined)
      return { way: "device", why: sameMachine, bytes: 0 };
    const why = sharedMemory ? await offer(hello, shareOnHost) : "the sender shares no memory";
    if (why === undefined) return { way: "shared-memory", why: sameMachine, bytes: 0 };
    await channel.send({ kind: "stream", idleMs: channel.idleMs, why });
    return { way: "stream", why, bytes: await stream(hello) };
  }

  async function shareOnHost(): Promise<KvShared> {
    if (kv instanceof KvHandle) return await kv.share(signing);
    using host = await kv.toHandle({ signal: channel.signal });
    return await host.share(signing);
  }

  /** Why not; undefined when the receiver has taken it. */
  async function offer(hello: Hello, share: () => Promise<KvShared | DeviceKvShared>): Promise<string | undefined> {
    const own = machineIdentity();
    if (own === "") return "memory is shared between processes on Linux only";
    if (hello.machine === "") return "the receiver shares no memory";
    if (hello.machine !== own) return "another machine or container";
    try {
      using shared = await share();
      await channel.send({ kind: "share", idleMs: channel.idleMs, reference: shared.reference });
      const answer = await channel.expect("taken", "decline");
      return answer.kind === "taken" ? undefined : answer.why;
    } catch (error) {
      if (LatentError.isInstance(error) && error.details["by"] !== "peer" && refusals.has(error.code)) return error.message;
      throw error;
    }
  }

  async function stream({ held, windowBytes }: Hello): Promise<number> {
    const credit = new Credit(windowBytes);
    const answered = listen(channel, credit);
    // when it fails before it is awaited, the channel has failed, and that is thrown
    answered.catch(() => undefined);
    let bytes = 0;
    // small buffers: what is being made counts as well
    const bufferBytes = Math.min(1 << 20, Math.floor(windowBytes / 32));
    // so many bytes there are to be had, though the receiver says what it has taken a quarter of the window at a time
    const most = Math.min(dataBytes, Math.floor(windowBytes / 4));
    // a socket has handed the bytes on by the time it calls back; another Duplex may still hold them
    const reuse = duplex instanceof Socket;
    for await (const piece of ahead(kv.recordsIn({ held, bufferBytes, ...encoding, ...signing }, reuse))) {
      let posted = 0;
      for (let at = 0; at < piece.length;) {
        const part = piece.subarray(at, at + most);
        await credit.take(part.length);
        posted += channel.post({ kind: "data", bytes: part });
        at += part.length;
        bytes += part.length;
      }
      // the one before it has gone, whose memory the next but one has
      await channel.flushed(posted);
    }
    credit.ended = true;
    await channel.send({ kind: "end" });
    await answered;
    return bytes;
  }
}

/** The same pieces, each made while the one before it is used. */
async function* ahead(pieces: AsyncGenerator<Uint8Array, void, undefined>): AsyncGenerator<Uint8Array, void, undefined> {
  let next = pieces.next();
  try {
    for (;;) {
      const piece = await next;
      if (piece.done === true) return;
      next = pieces.next();
      // whether it fails is seen when it is asked for
      next.catch(() => undefined);
      yield piece.value;
    }
  } finally {
    await next.catch(() => undefined);
    await pieces.return();
  }
}

const sameMachine = "the same machine";
/** What keeps memory from being shared, and not the content from being sent. */
const refusals: ReadonlySet<string> = new Set(["ERR_LATENT_KV_UNREACHABLE", "ERR_LATENT_OUT_OF_MEMORY", "ERR_LATENT_DEVICE_FAILED"]);

/** What keeps a receiver from taking memory that is shared, and not the content from coming another way. */
const hostRefusals: ReadonlySet<string> = new Set(["ERR_LATENT_KV_UNREACHABLE"]);
const deviceRefusals: ReadonlySet<string> = new Set([
  "ERR_LATENT_KV_UNREACHABLE",
  "ERR_LATENT_DEVICE_UNAVAILABLE",
  "ERR_LATENT_DEVICE_FAILED",
  "ERR_LATENT_OUT_OF_MEMORY",
]);

type Hello = Extract<LinkMessage, { kind: "hello" }>;

/** Credits as they come, until the receiver has all of it. */
async function listen(channel: Channel, credit: Credit): Promise<void> {
  try {
    for (;;) {
      const message = await channel.expect("credit", "taken");
      if (message.kind === "credit") credit.add(message.bytes);
      else if (credit.ended) return;
      else throw malformed("'taken' before the end");
    }
  } catch (error) {
    const failure = error instanceof Error ? error : new Error(String(error));
    channel.fail(failure);
    credit.fail(failure);
    throw failure;
  }
}

/** Bytes that may be sent. */
class Credit {
  /** All has been sent. */
  ended = false;
  readonly #most: number;
  #bytes: number;
  #failure: Error | undefined;
  #wake: () => void = () => undefined;

  constructor(bytes: number) {
    this.#most = this.#bytes = bytes;
  }

  add(bytes: number): void {
    this.#bytes += bytes;
    if (this.#bytes > this.#most) throw malformed("more credit than there was");
    this.#wake();
  }

  fail(error: Error): void {
    this.#failure = error;
    this.#wake();
  }

  async take(bytes: number): Promise<void> {
    while (this.#failure === undefined && this.#bytes < bytes) await new Promise<void>((resolve) => (this.#wake = resolve));
    if (this.#failure !== undefined) throw this.#failure;
    this.#bytes -= bytes;
  }
}

/** @internal What a receiver does with what comes, before the sender is told; without `device`, it takes nothing on the GPU. */
export interface KvTakers<T> {
  host(kv: KvHandle, arrival: KvArrival, signal: AbortSignal): Promise<T>;
  device?(kv: DeviceKv, arrival: KvArrival, signal: AbortSignal): Promise<T>;
}

/** @internal Takes what comes. When a taker rejects, the sender learns why. */
export async function receiveOver<T>(duplex: Duplex, open: () => KvReceiver, options: KvReceiveOptions, takers: KvTakers<T>): Promise<T> {
  const sharedMemory = checkBoolean("sharedMemory", fallback(options.sharedMemory, true));
  const windowBytes = checkInteger("windowBytes", fallback(options.windowBytes, windowDefault), leastWindow, Number.MAX_SAFE_INTEGER);
  const channel = new Channel(duplex, options, ["windowBytes"]);
  const { signal } = channel;
  let kv: KvHandle | DeviceKv | undefined;
  try {
    // a receiver that cannot be is a failure that the sender hears of
    const receiver = open();
    const held = receiver.held();
    const machine = sharedMemory ? machineIdentity() : "";
    const device = sharedMemory && takers.device !== undefined;
    await channel.send({ kind: "hello", machine, device, held, windowBytes, idleMs: channel.idleMs });
    const result = await take(receiver);
    await answer(channel, { kind: "taken" });
    return result;
  } catch (error) {
    kv?.dispose();
    throw channel.abandon(error);
  }

  async function take(receiver: KvReceiver): Promise<T> {
    let offer = await channel.expect("share", "stream");
    channel.beat(offer.idleMs);
    if (offer.kind === "share" && isDeviceReference(offer.reference)) {
      if (!takers.device) throw malformed("content on a device that was not asked for");
      const { reference } = offer;
      const opened = await unlessUnreachable(deviceRefusals, () => receiver.openOnDevice(reference, { signal }));
      if (opened !== undefined) return await takers.device((kv = opened), { way: "device", why: sameMachine }, signal);
      await channel.send(outOfReach);
      offer = await channel.expect("share", "stream");
    }
    if (offer.kind === "share") {
      const { reference } = offer;
      if (isDeviceReference(reference)) throw malformed("the same offer again");
      const opened = await unlessUnreachable(hostRefusals, () => receiver.open(reference, { signal }));
      if (opened !== undefined) return await takers.host((kv = opened), { way: "shared-memory", why: sameMachine }, signal);
      await channel.send(outOfReach);
      offer = await channel.expect("stream");
    }
    kv = await receiver.read(dataOf(channel, windowBytes), { signal });
    return await takers.host(kv, { way: "stream", why: offer.why }, signal);
  }
}

/** No more than that, or whoever sends could ask about the processes of this host. */
const outOfReach: LinkMessage = { kind: "decline", why: "the receiver cannot reach it" };

async function unlessUnreachable<T>(refusals: ReadonlySet<string>, open: () => Promise<T>): Promise<T | undefined> {
  try {
    return await open();
  } catch (error) {
    if (LatentError.isInstance(error) && refusals.has(error.code)) return undefined;
    throw error;
  }
}

/** @internal The same with a receiver of its own, for one transfer. */
export async function receiveOnce<T>(duplex: Duplex, open: () => KvReceiver, options: KvReceiveOptions, takers: KvTakers<T>): Promise<T> {
  const opened: KvReceiver[] = [];
  try {
    return await receiveOver(
      duplex,
      () => {
        const receiver = open();
        opened.push(receiver);
        return receiver;
      },
      options,
      takers,
    );
  } finally {
    for (const receiver of opened) receiver.dispose();
  }
}

/** @internal What {@link Pool.receiveKv} makes of what came. */
export const keep: KvTakers<KvReceived> = { host: (kv, arrival) => Promise.resolve({ kv, ...arrival }) };

/** @internal To a sender that has not heard that its content was taken. */
export async function repeatAnswer(duplex: Duplex, options: KvReceiveOptions): Promise<null> {
  const channel = new Channel(duplex, options, ["windowBytes"]);
  await answer(channel, { kind: "again" });
  return null;
}

/** The last word. That it was lost is no failure here: the content has been taken, and the sender can ask again. */
async function answer(channel: Channel, message: LinkMessage): Promise<void> {
  channel.beat(0);
  try {
    await channel.send(message);
    await channel.expect("done");
    channel.release();
  } catch (error) {
    channel.abandon(error);
  }
}

/** The bytes of the stream, which the sender may replace once they are taken. */
async function* dataOf(channel: Channel, windowBytes: number): AsyncGenerator<Uint8Array, void, undefined> {
  let free = windowBytes;
  let taken = 0;
  for (;;) {
    const message = await channel.expect("data", "end");
    if (message.kind === "end") return;
    free -= message.bytes.length;
    if (free < 0) throw malformed("more bytes than were asked for");
    yield message.bytes;
    // asked for the next one: this one has been read
    taken += message.bytes.length;
    if (taken < windowBytes / 4) continue;
    free += taken;
    await channel.send({ kind: "credit", bytes: taken });
    taken = 0;
  }
}

/** @internal Options of links, for who passes them on. */
export const receiveOptions = [...linkOptions, "windowBytes"] as const;
