// How well two models agree about things in the relative space alone, where nothing is decoded: what is left to do with fewer anchors than dimensions.
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { checkCount, checkMatrix, checkSeed } from "../fits/input.js";
import { withSignal } from "../jobs.js";
import type { Tensor } from "../tensor.js";
import { AnchorSet } from "./anchors.js";
import { splitPairs } from "./fit.js";
import { range, SeededDraws } from "./random.js";
import { RelativeSpace, type RelativeSimilarity } from "./relative.js";
import { heldOutQuality, verdictOf, type HeldOutQuality, type Verdict } from "./report.js";
import { selectRows } from "./rows.js";
import type { TransformKind } from "./transforms.js";

/** Options of {@link relativeAgreement}. */
export interface RelativeAgreementOptions {
  /** Rows that tell the same things, from `[n, dx]` and to `[n, dy]`; n from 8. */
  readonly pairs: { readonly from: Tensor; readonly to: Tensor };
  /** Pairs that are anchors, drawn from those that are not kept apart. Default twice the larger dimension, or all of them. */
  readonly anchors?: number;
  /** Default `cosine`. */
  readonly similarity?: RelativeSimilarity;
  /** Default `["standardise"]`: without it, cosines of rows with a large common part say little. */
  readonly transforms?: readonly TransformKind[];
  /** See {@link RelativeSpace.fit}. */
  readonly shrinkage?: number;
  /** Default 0.2. */
  readonly holdout?: number;
  /** Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/** What {@link relativeAgreement} finds; the meaning is that of a translator's report. */
export interface RelativeAgreement {
  readonly anchors: number;
  readonly heldOut: HeldOutQuality;
  readonly null: HeldOutQuality;
  readonly verdict: Verdict;
}

/**
 * Tells the pairs that were kept apart relative to anchors on both sides and compares: the same split and the same anchors as {@link Translator.fit} has
 * for the same seed. The null has the anchors of one side shuffled.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function relativeAgreement(options: RelativeAgreementOptions): Promise<RelativeAgreement> {
  checkKeys("options", options, ["pairs", "anchors", "similarity", "transforms", "shrinkage", "holdout", "seed", "signal"]);
  checkKeys("pairs", options.pairs, ["from", "to"]);
  const { from, to } = options.pairs;
  const [x, y] = [checkMatrix("pairs.from", from), checkMatrix("pairs.to", to)];
  const { rows } = x;
  checkCount("pairs.to", "rows", y.rows, rows);
  checkInteger("the number of pairs", rows, 8, 2 ** 31);
  const seed = checkSeed(fallback(options.seed, 0));
  const holdout = checkNumber("holdout", fallback(options.holdout, 0.2), Number.EPSILON, 1 - Number.EPSILON);
  const anchors = options.anchors === undefined ? undefined : checkInteger("anchors", options.anchors, 1, rows);
  const standard = Math.min(2 * Math.max(x.columns, y.columns), splitPairs(rows, holdout, undefined, seed).fit.length);
  const split = splitPairs(rows, holdout, fallback(anchors, standard), seed);
  const shuffled = new SeededDraws(seed).sample(range(split.fit.length), split.fit.length).map((i) => split.fit[i] ?? 0);
  using own = await encodeHeldOut(from, split.fit, split.heldOut, options);
  using theirs = await encodeHeldOut(to, split.fit, split.heldOut, options);
  using wrong = await encodeHeldOut(to, Int32Array.from(shuffled), split.heldOut, options);
  const found = await heldOutQuality(own, theirs, options.signal);
  const chance = await heldOutQuality(own, wrong, options.signal);
  return {
    anchors: split.fit.length,
    heldOut: found.quality,
    null: chance.quality,
    verdict: verdictOf(found.quality.mrr, chance.quality.mrr, found.variance + chance.variance),
  };
}

async function encodeHeldOut(rows: Tensor, anchors: Int32Array, heldOut: Int32Array, options: RelativeAgreementOptions): Promise<Tensor> {
  const signal = withSignal(options.signal);
  const { similarity = "cosine", transforms = ["standardise"], shrinkage } = options;
  const given = { similarity, transforms, ...(shrinkage !== undefined && { shrinkage }), ...signal };
  using space = await RelativeSpace.fit(rows, new AnchorSet(anchors), given);
  using some = await selectRows(rows, heldOut, options.signal);
  return (await space.encode(some, signal)).tensor();
}
