// What a message says of content that does not stand in it: what it is, how large, and where it is to be had. Enough to decide whether it is of use before
// a byte of it moves, and to check every byte that does.
import { checkArray, checkInteger, checkKeys, checkOneOf, checkString, invalid } from "../check.js";
import type { KvIdentity } from "../kv/identity.js";
import { placeOf, type KvSharedReference } from "../kv/shared.js";
import type { LatentKind } from "../spaces/latent.js";
import { makeSpace, type Space } from "../spaces/space.js";
import type { Dtype } from "../tensor.js";
import { pieceBytes } from "./brokers/broker.js";
import { Recent } from "./brokers/recent.js";

/** Where content lies. */
export type Place =
  /** In the body of the entry. */
  | { readonly at: "inline" }
  /** In the sender's process, which is the receiver's: no bytes move. Of keys and values, a ticket for other threads of it. */
  | { readonly at: "process"; readonly process: string; readonly ticket: string }
  | { readonly at: "shared-memory"; readonly reference: KvSharedReference }
  /** In pieces, on the bus. `root` is the digest of the list of their digests, or of the piece if there is one alone. */
  | { readonly at: "bus"; readonly root: string; readonly pieces: number };

/** What a message says of latents. */
export interface LatentClaim {
  readonly form: "latent";
  readonly kind: LatentKind;
  readonly space: Space;
  /** `[n, d]` */
  readonly shape: readonly [number, number];
  readonly dtype: Dtype;
  /** Of the safetensors layout. */
  readonly bytes: number;
  /** BLAKE3 of these bytes, of `inline`; "" elsewhere, where pieces have their own. */
  readonly digest: string;
  readonly place: Place;
}

/** What a message says of keys and values. */
export interface KvClaim {
  readonly form: "kv";
  readonly identity: KvIdentity;
  readonly positions: number;
  readonly latents: number;
  /** Of keys and values, as they are stored. */
  readonly bytes: number;
  /** What the name of its maker for it is. */
  readonly label: string;
  /** How much of it was made by reading it, as far as its maker knows; of `process` only. */
  readonly mixedFrom: number | null;
  readonly place: Place;
}

/** What a message says of its content. */
export type ContentClaim = LatentClaim | KvClaim;

/** How content comes from there to here. */
export type Way = "message" | "process" | "shared-memory" | "bus";

/** Without a claim the content is the text of the message. */
export function wayOf(claim: ContentClaim | undefined): Way {
  const at = claim?.place.at ?? "inline";
  return at === "inline" ? "message" : at;
}

/** Positions or rows; 0 of text. */
export function positionsOf(claim: ContentClaim | undefined): number {
  if (claim === undefined) return 0;
  return claim.form === "kv" ? claim.positions : claim.shape[0];
}

const digest = /^[0-9a-f]{64}$/;
const latentKinds = ["embeds", "hidden", "relative", "pooled"] as const;
const dtypes = ["f32", "f16", "bf16", "i8", "i32"] as const;
const places = ["inline", "process", "shared-memory", "bus"] as const;
/** A list of digests, and a salt, fits into one piece. */
export const mostPieces = 16_383;
const most = Number.MAX_SAFE_INTEGER;

/** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function checkClaim(value: unknown): ContentClaim {
  if (typeof value !== "object" || value === null) throw invalid("claim", "an object", value);
  return checkOneOf("claim.form", Reflect.get(value, "form"), ["latent", "kv"]) === "latent" ? checkLatent(value) : checkKv(value);
}

function checkLatent(value: object): LatentClaim {
  checkKeys("claim", value, ["form", "kind", "space", "shape", "dtype", "bytes", "digest", "place"]);
  const claim = value as Readonly<Record<keyof LatentClaim, unknown>>;
  const space = checkSpace(claim.space);
  const [n, d, ...rest] = checkArray("claim.shape", claim.shape as readonly unknown[]);
  if (rest.length > 0) throw invalid("claim.shape", "two numbers", claim.shape);
  const place = checkPlace(claim.place);
  return {
    form: "latent",
    kind: checkOneOf("claim.kind", claim.kind, latentKinds),
    space,
    shape: [checkInteger("claim.shape", n, 0, 2 ** 31), checkInteger("claim.shape", d, space.dimension, space.dimension)],
    dtype: checkOneOf("claim.dtype", claim.dtype, dtypes),
    // memory is taken by this number, so it must be what can come
    bytes: checkInteger("claim.bytes", claim.bytes, 0, place.at === "bus" ? place.pieces * pieceBytes : most),
    digest: checkDigest("claim.digest", claim.digest, true),
    place,
  };
}

function checkKv(value: object): KvClaim {
  checkKeys("claim", value, ["form", "identity", "positions", "latents", "bytes", "label", "mixedFrom", "place"]);
  const claim = value as Readonly<Record<keyof KvClaim, unknown>>;
  const positions = checkInteger("claim.positions", claim.positions, 0, 2 ** 31);
  return {
    form: "kv",
    identity: checkIdentity(claim.identity),
    positions,
    latents: checkInteger("claim.latents", claim.latents, 0, positions),
    bytes: checkInteger("claim.bytes", claim.bytes, 0, most),
    label: checkString("claim.label", claim.label),
    mixedFrom: claim.mixedFrom === null ? null : checkInteger("claim.mixedFrom", claim.mixedFrom, 0, most),
    place: checkPlace(claim.place),
  };
}

const spaceFields = ["weights", "layer", "dimension", "positions", "normalisation"] as const;
/** The digest of these was computed before. */
const knownSpaces = new Recent<Space>(64, Infinity);

/** A space by its fields, whose digest its id must be. */
function checkSpace(value: unknown): Space {
  checkKeys("claim.space", value, ["id", "weights", "layer", "dimension", "positions", "normalisation"]);
  const given = value as Readonly<Record<keyof Space, unknown>>;
  const id = checkDigest("claim.space.id", given.id, false);
  const known = knownSpaces.get(id);
  if (known !== undefined && spaceFields.every((field) => known[field] === given[field])) return known;
  const space = makeSpace({
    weights: checkString("claim.space.weights", given.weights),
    layer: checkOneOf("claim.space.layer", given.layer, ["embeds", "hidden", "relative", "pooled"]),
    dimension: checkInteger("claim.space.dimension", given.dimension, 0, 2 ** 31),
    positions: checkString("claim.space.positions", given.positions),
    normalisation: checkString("claim.space.normalisation", given.normalisation),
  });
  if (space.id !== id) throw invalid("claim.space.id", "the digest of its fields", id);
  knownSpaces.set(id, space);
  return space;
}

function checkIdentity(value: unknown): KvIdentity {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid("claim.identity", "an object", value);
  for (const text of Object.values(value)) checkString("claim.identity", text);
  return value as KvIdentity;
}

function checkPlace(value: unknown): Place {
  if (typeof value !== "object" || value === null) throw invalid("claim.place", "an object", value);
  const field = (key: string): unknown => Reflect.get(value, key);
  const at = checkOneOf("claim.place.at", field("at"), places);
  switch (at) {
    case "inline":
      checkKeys("claim.place", value, ["at"]);
      return { at };
    case "process":
      checkKeys("claim.place", value, ["at", "process", "ticket"]);
      return {
        at,
        process: checkString("claim.place.process", field("process")),
        ticket: checkString("claim.place.ticket", field("ticket")),
      };
    case "shared-memory": {
      checkKeys("claim.place", value, ["at", "reference"]);
      const reference = field("reference") as KvSharedReference;
      placeOf(reference);
      return { at, reference };
    }
    case "bus":
      checkKeys("claim.place", value, ["at", "root", "pieces"]);
      return {
        at,
        root: checkDigest("claim.place.root", field("root"), false),
        pieces: checkInteger("claim.place.pieces", field("pieces"), 1, mostPieces),
      };
  }
}

function checkDigest(name: string, value: unknown, mayBeEmpty: boolean): string {
  const text = checkString(name, value);
  if (!digest.test(text) && !(mayBeEmpty && text === "")) throw invalid(name, "64 hex digits", value);
  return text;
}
