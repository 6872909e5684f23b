// What a receiver holds of content that came: a claim, until it is asked for. It can be read, by who can use it, or be passed on as it is.
import { checkKeys } from "../check.js";
import { LatentError } from "../errors.js";
import { parseSafetensors } from "../files/safetensors.js";
import { blake3 } from "../kernels/statistics.js";
import { KvHandle } from "../kv/handle.js";
import type { KvIdentity } from "../kv/identity.js";
import { requireSameIdentity } from "../kv/identity.js";
import { withSignal } from "../jobs.js";
import type { KvReceiverOptions } from "../kv/receiver.js";
import type { Pool } from "../models/pool.js";
import { Latent, type LatentKind } from "../spaces/latent.js";
import type { Space } from "../spaces/space.js";
import type { Medium } from "../agents/events.js";
import { ownMachine, ownProcess, type Whereabouts } from "./announcement.js";
import { positionsOf, wayOf, type ContentClaim, type KvClaim, type LatentClaim, type Way } from "./claim.js";
import { getPieces, touchPieces, type PieceKeeper } from "./pieces.js";
import type { Shipped } from "./shipping.js";

/** @internal What came, and with what it is opened. */
export interface ParcelContent {
  readonly claim: ContentClaim | undefined;
  readonly text: string | undefined;
  readonly label: string;
  readonly why: string;
  readonly from: string;
  readonly body: Uint8Array;
  readonly object: object | undefined;
}

/** @internal */
export interface ParcelOpener {
  readonly broker: PieceKeeper;
  readonly salt: Uint8Array;
  readonly verify: KvReceiverOptions["verify"] | undefined;
}

/** What a parcel is called in logs. */
export interface ParcelReference {
  readonly form: Medium;
  readonly from: string;
  readonly bytes: number;
  readonly positions: number;
  readonly label: string;
}

/** Made by a bus, of what came: {@link Message.content}, {@link RemoteAgent.think}. Text, or a claim to content that is fetched when it is asked for. */
export class Parcel {
  /** @internal */
  readonly content: ParcelContent;
  readonly #opener: ParcelOpener;
  readonly #release: () => void;
  #disposed = false;

  /** @internal */
  constructor(content: ParcelContent, opener: ParcelOpener, release: () => void) {
    this.content = content;
    this.#opener = opener;
    this.#release = release;
  }

  /** How the content came. */
  get form(): Medium {
    return this.content.claim?.form ?? "text";
  }

  /** Why it came in this form, in a line; "" if the sender did not say. */
  get why(): string {
    return this.content.why;
  }

  /** Name of the bus that it came from. */
  get from(): string {
    return this.content.from;
  }

  /** What the sender says of where it comes from; "" if nothing. It decides about nothing. */
  get label(): string {
    return this.content.label;
  }

  /** Text, or what stands for content of another form; undefined if the sender let none ride along. */
  get text(): string | undefined {
    return this.content.text;
  }

  /** Positions or rows. 0 of text. */
  get positions(): number {
    return positionsOf(this.content.claim);
  }

  /** Of the content. */
  get bytes(): number {
    return this.content.claim?.bytes ?? Buffer.byteLength(this.content.text ?? "");
  }

  /** How the content comes from there to here. */
  get way(): Way {
    return wayOf(this.content.claim);
  }

  /** Of latents. */
  get space(): Space | undefined {
    const { claim } = this.content;
    return claim?.form === "latent" ? claim.space : undefined;
  }

  /** Of latents. */
  get kind(): LatentKind | undefined {
    const { claim } = this.content;
    return claim?.form === "latent" ? claim.kind : undefined;
  }

  /** Of keys and values. */
  get identity(): KvIdentity | undefined {
    const { claim } = this.content;
    return claim?.form === "kv" ? claim.identity : undefined;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * The vectors, fetched and checked; the caller disposes them.
   * @throws {@link LatentError} `ERR_LATENT_BUS_FORM` (no latents came), `ERR_LATENT_BUS_GONE`, `ERR_LATENT_BUS_DIGEST`, `ERR_LATENT_FILE_FORMAT`,
   * `ERR_LATENT_DISPOSED`
   */
  async latent(options: { readonly signal?: AbortSignal } = {}): Promise<Latent> {
    checkKeys("options", options, ["signal"]);
    const claim = this.#claim("latent");
    if (claim.place.at === "process") return this.#shipped(Latent).alias();
    const bytes = await this.#bytes(claim, options.signal ?? new AbortController().signal);
    const { tensors } = await parseSafetensors(bytes);
    const tensor = tensors.get("latent");
    const isWhole =
      tensors.size === 1 && tensor !== undefined && tensor.dtype === claim.dtype && String(tensor.shape) === String(claim.shape);
    if (tensor !== undefined && isWhole) return new Latent(claim.space, claim.kind, tensor);
    for (const other of tensors.values()) other.dispose();
    throw new LatentError("ERR_LATENT_BUS_DIGEST", "the latents are not of the shape that the message says");
  }

  /**
   * The keys and values, fetched, verified and held against the model of `pool`; the caller disposes them.
   * @throws {@link LatentError} `ERR_LATENT_BUS_FORM` (none came), `ERR_LATENT_BUS_GONE`, `ERR_LATENT_BUS_DIGEST`, `ERR_LATENT_DISPOSED`, and what
   * {@link Pool.readKv} throws
   */
  async kv(pool: Pool, options: Pick<KvReceiverOptions, "codecs"> & { readonly signal?: AbortSignal } = {}): Promise<KvHandle> {
    checkKeys("options", options, ["codecs", "signal"]);
    const claim = this.#claim("kv");
    requireSameIdentity(claim.identity, pool.kvIdentity);
    const { place } = claim;
    if (place.at === "process") return place.ticket === "" ? this.#shipped(KvHandle).alias() : ofTicket(claim, place.ticket);
    const { verify } = this.#opener;
    const reading = { ...options, ...(verify !== undefined && { verify }) };
    if (place.at === "shared-memory")
      return await pool.readKv(place.reference, { ...withSignal(options.signal), ...(verify !== undefined && { verify }) });
    if (place.at === "inline") return await pool.readKv(this.content.body, reading);
    const { salt, broker } = this.#opener;
    return await pool.readKv(getPieces(broker, place, { salt, signal: options.signal ?? new AbortController().signal }), reading);
  }

  /** Tells the sender that this side has done with it: what it kept for it can go. Idempotent. */
  dispose(): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#release();
  }

  /** Same as {@link dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  /** A small reference, for logs; the content cannot be found by it. */
  toJSON(): ParcelReference {
    return { form: this.form, from: this.from, bytes: this.bytes, positions: this.positions, label: this.label };
  }

  /** @internal Whether the claim can be passed on to that receiver as it is, kept for a while longer. Reading and sending it anew is what else can be done. */
  async reaches(receiver: Whereabouts | undefined, keptMs: number, signal: AbortSignal): Promise<boolean> {
    const place = this.content.claim?.place;
    if (place === undefined || place.at === "inline") return true;
    if (place.at === "process") return receiver?.process === place.process && ownProcess() === place.process;
    if (place.at === "shared-memory") return ownMachine() !== "" && receiver?.machine === ownMachine();
    return await touchPieces(this.#opener.broker, place, { salt: this.#opener.salt, keptMs, signal });
  }

  #claim<F extends ContentClaim["form"]>(form: F): Extract<ContentClaim, { form: F }> {
    if (this.#disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the parcel was disposed");
    const { claim } = this.content;
    if (claim?.form === form) return claim as Extract<ContentClaim, { form: F }>;
    throw new LatentError("ERR_LATENT_BUS_FORM", `this came as ${this.form}, not as ${form}`, { details: { form: this.form } });
  }

  #shipped<T extends Shipped>(type: new (...args: never) => T): T {
    const { object } = this.content;
    // who sent it keeps it no longer than it said
    return object instanceof type && !object.disposed ? object : gone("what lies in another process, or was not kept until now,");
  }

  async #bytes(claim: LatentClaim, signal: AbortSignal): Promise<Uint8Array> {
    const { place } = claim;
    if (place.at === "inline") {
      const { body } = this.content;
      if (body.length !== claim.bytes || blake3(body) !== claim.digest)
        throw new LatentError("ERR_LATENT_BUS_DIGEST", "the body of the message does not have the digest that its head says");
      return body;
    }
    if (place.at !== "bus") return gone("latents in shared memory");
    const bytes = new Uint8Array(claim.bytes);
    let at = 0;
    for await (const piece of getPieces(this.#opener.broker, place, { salt: this.#opener.salt, signal })) {
      if (at + piece.length > bytes.length) break;
      bytes.set(piece, at);
      at += piece.length;
    }
    if (at !== bytes.length)
      throw new LatentError("ERR_LATENT_BUS_DIGEST", `the content has not the ${claim.bytes} bytes that its message says`);
    return bytes;
  }
}

function ofTicket(claim: KvClaim, ticket: string): KvHandle {
  const { identity, label } = claim;
  try {
    return KvHandle.fromTicket({ kind: "kv-ticket", ticket, label, identity, mixedFrom: claim.mixedFrom ?? Number.POSITIVE_INFINITY });
  } catch (cause) {
    throw new LatentError("ERR_LATENT_BUS_GONE", "the sender does not keep the keys and values any more", { cause });
  }
}

function gone(what: string): never {
  throw new LatentError("ERR_LATENT_BUS_GONE", `${what} cannot be had from here`);
}
