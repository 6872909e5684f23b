// Whether keys and values are those of the tokens that come with them: some of the tokens are read again, and what the model makes of them is
// held against what was sent. A stream can be sound, signed, and still be of another text.
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import type { Pool } from "../models/pool.js";
import type { KvHandle } from "./handle.js";

/** Options of {@link ImportKvOptions.spot}. */
export interface KvSpot {
  /** How many tokens from the beginning on are read again. Default 16. */
  readonly positions?: number;
  /**
   * The least cosine between sent and recomputed keys, or values, of any layer. Default 0.98: quantised caches reach it (q4_0 measures 0.99), another
   * text does not.
   */
  readonly minCosine?: number;
}

/** @internal */
export interface SpotCheck {
  readonly positions: number;
  readonly minCosine: number;
}

/** @internal */
export function spotOf(options: KvSpot): SpotCheck {
  checkKeys("spot", options, ["positions", "minCosine"]);
  return {
    positions: checkInteger("spot.positions", fallback(options.positions, 16), 1, 2 ** 31 - 1),
    minCosine: checkNumber("spot.minCosine", fallback(options.minCosine, 0.98), -1, 1),
  };
}

/**
 * @internal Needs a free sequence and `positions` free cells of the pool for a moment.
 * @throws {@link LatentError} `ERR_LATENT_KV_FORGED`; `ERR_LATENT_KV_POSITION` (content that does not begin at position 0, or begins with latents,
 * cannot be computed again)
 */
export async function checkSpot(
  pool: Pool,
  kv: KvHandle,
  { positions, minCosine }: SpotCheck,
  signal: AbortSignal | undefined,
): Promise<void> {
  const options = signal === undefined ? {} : { signal };
  const firstLatent = kv.tokens().indexOf(-1);
  const there = kv.positions();
  const gap = there.findIndex((position, entry) => position !== entry);
  const count = Math.min(positions, ...[firstLatent, gap].filter((end) => end >= 0), kv.length);
  if (count === 0) {
    throw new LatentError("ERR_LATENT_KV_POSITION", "only content that begins with tokens at position 0 can be computed again");
  }
  await using sequence = pool.sequence();
  await sequence.prefill(kv.tokens().subarray(0, count), options);
  using computed = await sequence.exportKv(options);
  using sent = kv.slice({ from: 0, to: count });
  const own = [...computed.tiles()];
  for (const [index, tile] of [...sent.tiles()].entries()) {
    const mine = own[index];
    if (mine === undefined) throw new LatentError("ERR_LATENT_KV_LAYOUT", "another number of layers");
    const [theirs, ours] = await Promise.all([tile.tensor(), mine.tensor()]);
    const cosine = cosineOf(theirs.toFloat32(), ours.toFloat32());
    theirs.dispose();
    ours.dispose();
    if (cosine >= minCosine) continue;
    throw new LatentError("ERR_LATENT_KV_FORGED", `the ${tile.part} of layer ${tile.layer} are not those of the tokens`, {
      details: { layer: tile.layer, part: tile.part, cosine, minCosine, positions: count },
    });
  }
}

function cosineOf(a: Float32Array, b: Float32Array): number {
  let [ab, aa, bb] = [0, 0, 0];
  for (const [i, x] of a.entries()) {
    const y = b[i] ?? 0;
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  // values of a layer may all be zero
  return aa === 0 && bb === 0 ? 1 : ab / Math.sqrt(aa * bb);
}
