// What cached keys and values mean: everything that they depend on besides the tokens. Two pools may exchange content if and only if all of
// it is equal.
import { LatentError } from "../errors.js";
import type { ModelInfo } from "../models/model.js";

/** Names and values, in the order of the names. */
export type KvIdentity = Readonly<Record<string, string>>;

/**
 * @internal
 * `keyPositions`: what the pool says of how its keys are rotated, which can depend on the size of its context.
 */
export function kvIdentity(info: ModelInfo, keyPositions: string): KvIdentity {
  return Object.freeze({
    adapters: "none",
    architecture: info.architecture,
    "chat template": info.template,
    heads: `${info.kvHeads}`,
    "key positions": keyPositions,
    vocabulary: `${info.vocabularySize}`,
    weights: info.fingerprint,
  });
}

/** @internal */
export function requireSameIdentity(theirs: KvIdentity, ours: KvIdentity): void {
  const name = Object.keys({ ...theirs, ...ours }).find((key) => theirs[key] !== ours[key]);
  if (name === undefined) return;
  const details = { name, theirs: theirs[name] ?? "absent", ours: ours[name] ?? "absent" };
  throw new LatentError("ERR_LATENT_KV_MODEL_MISMATCH", `made with another ${name}: ${details.theirs}, here ${details.ours}`, { details });
}
