// Whether keys and values are those of the tokens that come with them: some of the tokens are read again, and what the model makes of them is
// held against what was sent. A stream can be sound, signed, and still be of another text.
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import type { Pool } from "../models/pool.js";
import type { KvHandle } from "./handle.js";

/** Options of {@link ImportKvOptions.spot}. */
export interface KvSpot {
  /** How many tokens from the beginning on are read again. Default 16. */
  readonly positions?: number;
  /**
   * How far the keys, or values, of any position and layer may lie from the recomputed ones, as a part of their length. Default 0.25: quantised caches
   * stay below it, another text does not.
   */
  readonly maxError?: number;
}

/** @internal */
export interface SpotCheck {
  readonly positions: number;
  readonly maxError: number;
}

/** @internal */
export function spotOf(options: KvSpot): SpotCheck {
  checkKeys("spot", options, ["positions", "maxError"]);
  return {
    positions: checkInteger("spot.positions", fallback(options.positions, 16), 1, 2 ** 31 - 1),
    maxError: checkNumber("spot.maxError", fallback(options.maxError, 0.25), 0, Number.MAX_VALUE),
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
  { positions, maxError }: SpotCheck,
  signal: AbortSignal | undefined,
): Promise<void> {
  const options = withSignal(signal);
  const firstLatent = kv.tokens().indexOf(-1);
  const there = kv.positions();
  const gap = there.findIndex((position, entry) => position !== entry);
  const count = Math.min(positions, kv.length);
  // no fewer than were asked for: the sender would choose how few
  const end = Math.min(...[firstLatent, gap].filter((found) => found >= 0), kv.length);
  if (count === 0 || end < count) {
    throw new LatentError(
      "ERR_LATENT_KV_POSITION",
      `only content that begins with ${positions} tokens from position 0 on can be computed again, this one with ${end}`,
    );
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
    const error = largestError(theirs.toFloat32(), ours.toFloat32(), count);
    theirs.dispose();
    ours.dispose();
    if (error <= maxError) continue;
    throw new LatentError("ERR_LATENT_KV_FORGED", `the ${tile.part} of layer ${tile.layer} are not those of the tokens`, {
      details: { layer: tile.layer, part: tile.part, error, maxError, positions: count },
    });
  }
}

/** The largest distance between two rows of the same number, over the length of the second. */
function largestError(theirs: Float32Array, ours: Float32Array, rows: number): number {
  const channels = ours.length / rows;
  let largest = 0;
  for (let row = 0; row < rows; row++) {
    let [distance, length] = [0, 0];
    for (let i = row * channels; i < (row + 1) * channels; i++) {
      const own = ours[i] ?? 0;
      distance += ((theirs[i] ?? 0) - own) ** 2;
      length += own * own;
    }
    // a row may be all zeros
    if (distance > 0) largest = Math.max(largest, Math.sqrt(distance / length));
  }
  return largest;
}
