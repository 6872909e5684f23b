// The identity of a geometry. Two latents may be read by the same model only if their spaces are equal; every hop compares them.
import { createHash } from "node:crypto";
import { LatentError } from "../errors.js";

/** Where vectors live: the weights they belong to, the point in the model, and how positions enter. */
export interface Space {
  /** Digest of all the other fields, hex. */
  readonly id: string;
  /** SHA-256 of the model file, hex. Of a relative space that of its anchors' identities, which models share; of {@link createEncoder} that of its name. */
  readonly weights: string;
  /**
   * `embeds`: rows as the first layer reads them. `hidden`: states after the final norm. `relative`: similarities to anchors. `pooled`: one row that stands
   * for a text.
   */
  readonly layer: "embeds" | "hidden" | "relative" | "pooled";
  readonly dimension: number;
  /** Position scheme, e.g. `neox/none`; `none` where rows have no positions. */
  readonly positions: string;
  /** What rows are scaled to, e.g. `norm 3.75`. Of a relative space the similarity and what is done to rows before it. */
  readonly normalisation: string;
}

export function makeSpace({ weights, layer, dimension, positions, normalisation }: Omit<Space, "id">): Space {
  const id = createHash("sha256")
    .update(JSON.stringify([weights, layer, dimension, positions, normalisation]))
    .digest("hex");
  return Object.freeze({ id, weights, layer, dimension, positions, normalisation });
}

/**
 * Refuses a latent of another space.
 * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH`
 */
export function requireSameSpace(have: Space, want: Space, what: string): void {
  if (have.id === want.id) return;
  const difference = (["weights", "layer", "dimension", "positions", "normalisation"] as const).find((key) => have[key] !== want[key]);
  const anchors = difference === "weights" && have.layer === "relative" && want.layer === "relative";
  const name = anchors ? "the set of anchors" : (difference ?? "id");
  throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `${what} lives in another space: ${name} differs`, {
    details: { have, want },
  });
}
