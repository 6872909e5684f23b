// Content on its way out: which place it is put to, so that as few bytes move as can. In one process none do; on one machine keys and values are shared;
// small latents go along with the message; the rest goes to the bus in pieces, before the message does.
import { LatentError } from "../errors.js";
import { safetensorsOf } from "../files/safetensors.js";
import { blake3 } from "../kernels/statistics.js";
import type { KvCodecChoice } from "../kv/codec.js";
import type { KvHandle } from "../kv/handle.js";
import type { KvShared } from "../kv/shared.js";
import type { KvSigner } from "../kv/signature.js";
import type { Latent } from "../spaces/latent.js";
import { ownMachine, ownProcess, type Whereabouts } from "./announcement.js";
import type { Broker } from "./brokers/broker.js";
import type { ContentClaim, KvClaim, LatentClaim, Place } from "./claim.js";
import { putPieces } from "./pieces.js";

/** What goes by its reference inside of a process. Handles of the bus's own: they are disposed when the receiver has done with them. */
export type Shipped = Latent | KvHandle;

export interface Shipment {
  readonly claim: ContentClaim;
  readonly body: Uint8Array;
  readonly object?: Shipped;
  /** What the sender must keep until the receiver has it. */
  readonly release?: () => void;
  /** Lets the bus forget it. */
  readonly drop?: () => void;
  /** Bytes that were or will be moved for it. */
  readonly bytes: number;
}

export interface ShippingOptions {
  readonly broker: Broker;
  readonly inlineBytes: number;
  readonly sharedMemory: boolean;
  readonly keptMs: number;
  readonly salt: Uint8Array;
  readonly sign: Omit<KvSigner, "context"> | undefined;
  readonly signal: AbortSignal;
}

const nothing = new Uint8Array(0);

export async function shipLatent(latent: Latent, receiver: Whereabouts | undefined, options: ShippingOptions): Promise<Shipment> {
  const { kind, space, shape, dtype } = latent;
  const claim = (bytes: number, place: Place, digest = ""): LatentClaim => ({
    form: "latent",
    kind,
    space,
    shape,
    dtype,
    bytes,
    digest,
    place,
  });
  if (options.broker.passesObjects && (receiver === undefined || receiver.process === ownProcess())) {
    const own = latent.alias();
    return { claim: claim(latent.bytes, inProcess("")), body: nothing, object: own, release: disposing(own), bytes: 0 };
  }
  const pieces = safetensorsOf(new Map([["latent", latent.tensor()]]), new Map());
  const bytes = pieces.reduce((sum, one) => sum + one.length, 0);
  if (bytes <= options.inlineBytes) {
    const body = Buffer.concat(pieces);
    return { claim: claim(bytes, { at: "inline" }, blake3(body)), body, bytes };
  }
  const { drop, ...list } = await putPieces(options.broker, pieces, options);
  return { claim: claim(bytes, { at: "bus", ...list }), body: nothing, drop, bytes };
}

export async function shipKv(
  kv: KvHandle,
  receiver: Whereabouts | undefined,
  codec: KvCodecChoice | undefined,
  options: ShippingOptions,
): Promise<Shipment> {
  const { positions, latents, bytes } = kv.info;
  const mixedFrom = Number.isFinite(kv.mixedFrom) ? kv.mixedFrom : null;
  const claim = (place: Place): KvClaim => ({
    form: "kv",
    identity: kv.identity,
    positions,
    latents,
    bytes,
    label: kv.label,
    // a word that is good inside of a process alone
    mixedFrom: place.at === "process" ? mixedFrom : 0,
    place,
  });
  if (options.broker.passesObjects && (receiver === undefined || receiver.process === ownProcess())) {
    const own = kv.alias();
    return { claim: claim(inProcess("")), body: nothing, object: own, release: disposing(own), bytes: 0 };
  }
  if (receiver?.process === ownProcess()) {
    const own = kv.alias();
    return { claim: claim(inProcess(own.ticket().ticket)), body: nothing, release: disposing(own), bytes: 0 };
  }
  const signing = { signal: options.signal, ...(options.sign !== undefined && { sign: options.sign }) };
  if (options.sharedMemory && receiver !== undefined && ownMachine() !== "" && receiver.machine === ownMachine()) {
    const shared = await share(kv, signing);
    if (shared !== undefined) {
      return { claim: claim({ at: "shared-memory", reference: shared.reference }), body: nothing, release: disposing(shared), bytes };
    }
  }
  const encoding = codec === undefined ? {} : { codec };
  let moved = 0;
  const counted = async function* (): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of kv.recordsIn({ ...encoding, ...signing }, true)) {
      moved += piece.length;
      yield piece;
    }
  };
  const { drop, ...list } = await putPieces(options.broker, counted(), options);
  return { claim: claim({ at: "bus", ...list }), body: nothing, drop, bytes: moved };
}

/** Undefined where memory cannot be shared, which is no failure: it is sent. */
async function share(kv: KvHandle, options: { readonly sign?: KvSigner; readonly signal: AbortSignal }): Promise<KvShared | undefined> {
  try {
    return await kv.share(options);
  } catch (error) {
    if (LatentError.isInstance(error) && (error.code === "ERR_LATENT_KV_UNREACHABLE" || error.code === "ERR_LATENT_OUT_OF_MEMORY"))
      return undefined;
    throw error;
  }
}

const inProcess = (ticket: string): Place => ({ at: "process", process: ownProcess(), ticket });

function disposing(own: { dispose(): void }): () => void {
  return () => {
    own.dispose();
  };
}
