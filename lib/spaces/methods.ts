// The ways to fit a map between two spaces from pairs of rows. Each gives stages and what is to be said about them; none looks at rows that were kept
// apart.
import { LatentError } from "../errors.js";
import { parsevalFrame } from "../fits/decompositions.js";
import { leastSquares } from "../fits/linear.js";
import { accumulateMoments } from "../fits/moments.js";
import { withSignal } from "../jobs.js";
import { packAnchors } from "../kernels/anchors.js";
import { transpose } from "../kernels/transpose.js";
import { Tensor } from "../tensor.js";
import { pairedErrors } from "./metrics.js";
import { range, SeededDraws } from "./random.js";
import { columnStatistics, combineRows, selectRows } from "./rows.js";
import { disposeStages, linear, product, pseudoInverse, rowStages, runStages, scaling, type SimpleStage } from "./stages.js";
import { fitTransform, type RowTransform, type TransformKind } from "./transforms.js";

/**
 * `procrustes`: centred rows turned and scaled by one number. `procrustes-standardised`: standardised rows turned (Maiorca et al., NeurIPS 2023).
 * `ridge`: a linear map and a bias, regularised. `linear-ridge`: without a bias, so that it does not depend on the length of rows. `affine`, `linear`: the
 * same two by least squares. `low-rank`: ridge through `rank`
 * dimensions (reduced-rank regression, Izenman 1975). `inverse-relative`: cosines to anchors, decoded by the other side's (Maiorca et al., arXiv 2406.15057),
 * the mean of an ensemble of pruned sets. `parseval`: through Parseval frames (arXiv 2507.17835). `equaliser`: inner products with anchors, decoded by
 * the pseudo-inverse of the other side's (arXiv 2411.19719). `projector`: ridge, and rows brought to the mean length of the other
 * side's, as prefixes of input embeddings need it.
 */
export type TranslatorMethod =
  | "procrustes"
  | "procrustes-standardised"
  | "ridge"
  | "linear-ridge"
  | "affine"
  | "linear"
  | "low-rank"
  | "inverse-relative"
  | "parseval"
  | "equaliser"
  | "projector";

/** What a method is given. */
export interface MethodInput {
  /** `[n, dx]` */
  readonly from: Tensor;
  /** `[n, dy]` */
  readonly to: Tensor;
  readonly seed: number;
  /** Of `ridge`, `linear-ridge`, `low-rank` and `projector`, in units of the mean diagonal of xᵀx. */
  readonly lambda: number;
  /** Undefined where the user gave none. */
  readonly rcond: number | undefined;
  readonly rank: number;
  readonly rotationOnly: boolean;
  /** Whether all pairs are anchors, because the user said how many. */
  readonly allAnchors: boolean;
  readonly signal: AbortSignal | undefined;
}

/** What a method finds. */
export interface Fitted {
  readonly stages: SimpleStage[];
  /** Of what was inverted; 1 for orthogonal maps. */
  readonly condition: number;
  /** How many pairs the map was made from. */
  readonly anchors: number;
  readonly warnings: readonly string[];
  /** Before which stage the symbols are that a sender transmits, for methods that have a sender and a receiver. */
  readonly symbols?: number;
}

const fits: Readonly<Record<TranslatorMethod, (input: MethodInput) => Promise<Fitted>>> = {
  procrustes,
  "procrustes-standardised": standardisedProcrustes,
  ridge,
  "linear-ridge": linearRidge,
  affine: (input) => leastSquaresMap(input, true),
  linear: (input) => leastSquaresMap(input, false),
  "low-rank": lowRank,
  "inverse-relative": inverseRelative,
  parseval,
  equaliser,
  projector,
};

/** All methods. */
export const translatorMethods = Object.keys(fits) as readonly TranslatorMethod[];

export async function fitMethod(method: TranslatorMethod, input: MethodInput): Promise<Fitted> {
  return fits[method](input);
}

const size = (x: Tensor, axis: 0 | 1): number => x.shape[axis] ?? 0;

interface Sides {
  readonly x: RowTransform;
  readonly y: RowTransform;
}

async function fitSides({ from, to, signal }: MethodInput, chain: readonly TransformKind[]): Promise<Sides> {
  return { x: await fitTransform(from, chain, withSignal(signal)), y: await fitTransform(to, chain, withSignal(signal)) };
}

/** The stages between the two transforms. */
function between({ x, y }: Sides, stages: readonly SimpleStage[]): SimpleStage[] {
  return [...rowStages(x.forward()), ...stages, ...rowStages(y.backward())];
}

async function procrustes(input: MethodInput): Promise<Fitted> {
  const { from, to, rotationOnly, signal } = input;
  const sides = await fitSides(input, ["centre"]);
  using moments = await accumulateMoments({ x: from, y: to, ...withSignal(signal) });
  const { rotation, scale, weights } = await moments.procrustes({ rotationOnly, scaled: true, ...withSignal(signal) });
  if (weights !== rotation) weights.dispose();
  const stages = between(sides, [linear(rotation, { orthogonal: true }), scaling(scale, size(to, 1))]);
  return { stages, condition: 1, anchors: size(from, 0), warnings: [] };
}

async function standardisedProcrustes(input: MethodInput): Promise<Fitted> {
  const { from, to, rotationOnly, signal } = input;
  const sides = await fitSides(input, ["standardise"]);
  using x = await sides.x.apply(from, withSignal(signal));
  using y = await sides.y.apply(to, withSignal(signal));
  using moments = await accumulateMoments({ x, y, ...withSignal(signal) });
  const { rotation } = await moments.procrustes({ rotationOnly, ...withSignal(signal) });
  return { stages: between(sides, [linear(rotation, { orthogonal: true })]), condition: 1, anchors: size(from, 0), warnings: [] };
}

interface CentredRidge {
  readonly sides: Sides;
  /** `[dx, dy]`, of centred rows. */
  readonly weights: Tensor;
  readonly condition: number;
}

async function centredRidge(input: MethodInput): Promise<CentredRidge> {
  const { from, to, lambda, signal } = input;
  const sides = await fitSides(input, ["centre"]);
  using moments = await accumulateMoments({ x: from, y: to, ...withSignal(signal) });
  const { weights, condition } = await moments.ridge({ lambda, ...withSignal(signal) });
  return { sides, weights, condition };
}

async function ridge(input: MethodInput): Promise<Fitted> {
  const { sides, weights, condition } = await centredRidge(input);
  return { stages: between(sides, [linear(weights)]), condition, anchors: size(input.from, 0), warnings: [] };
}

async function linearRidge({ from, to, lambda, signal }: MethodInput): Promise<Fitted> {
  using moments = await accumulateMoments({ x: from, y: to, centred: false, ...withSignal(signal) });
  const { weights, condition } = await moments.ridge({ lambda, ...withSignal(signal) });
  return { stages: [linear(weights)], condition, anchors: size(from, 0), warnings: [] };
}

async function projector(input: MethodInput): Promise<Fitted> {
  const { sides, weights, condition } = await centredRidge(input);
  const { meanNorm } = await columnStatistics(input.to, input.signal);
  const length: SimpleStage[] = [{ kind: "rows", unit: true }, scaling(meanNorm, size(input.to, 1))];
  return { stages: [...between(sides, [linear(weights)]), ...length], condition, anchors: size(input.from, 0), warnings: [] };
}

async function lowRank(input: MethodInput): Promise<Fitted> {
  const { sides, weights, condition } = await centredRidge(input);
  using whole = weights;
  const { from, rank, signal } = input;
  // the directions in which the predictions vary most
  using centred = await sides.x.apply(from, withSignal(signal));
  using predicted = await product(centred, whole, signal);
  using moments = await accumulateMoments({ x: predicted, ...withSignal(signal) });
  const { components } = await moments.pca(rank, withSignal(signal));
  using leading = components;
  const into = await product(whole, leading, signal);
  const outOf = await transpose(leading, withSignal(signal));
  return { stages: between(sides, [linear(into), linear(outOf)]), condition, anchors: size(from, 0), warnings: [] };
}

/**
 * About as many rows as dimensions is where least squares fits its own rows and nothing else (the peak of double descent), and fewer do not determine it.
 */
export function requireDetermined(rows: number, dimension: number, rcond: number | undefined): string[] {
  if (rows >= 1.05 * dimension) return [];
  const facts = `${rows} pairs for ${dimension} dimensions`;
  if (rcond === undefined)
    throw new LatentError("ERR_LATENT_ILL_CONDITIONED", `${facts} do not determine the map; give rcond (0.1, say) or take a ridge`, {
      details: { rows, dimension },
    });
  return [`${facts} do not determine the map: it is what rcond ${rcond} makes of them`];
}

async function leastSquaresMap(input: MethodInput, centred: boolean): Promise<Fitted> {
  const { from, to, rcond, signal } = input;
  const warnings = requireDetermined(size(from, 0) - (centred ? 1 : 0), size(from, 1), rcond);
  const sides = await fitSides(input, centred ? ["centre"] : []);
  const given = rcond === undefined ? {} : { rcond };
  const { weights, condition } = await leastSquares(from, to, { centred, ...given, ...withSignal(signal) });
  return { stages: between(sides, [linear(weights)]), condition, anchors: size(from, 0), warnings };
}

/** Singular values below a tenth of the largest are left out of decoders: at as many anchors as dimensions nothing else helps. */
const decoderRcond = 0.1;

/** The anchors of both sides: all pairs, or twice as many as there are dimensions. */
async function drawAnchors({ from, to, seed, allAnchors, signal }: MethodInput): Promise<{ x: Tensor; y: Tensor; count: number }> {
  const n = size(from, 0);
  const count = allAnchors ? n : Math.min(n, 2 * Math.max(size(from, 1), size(to, 1)));
  const ids = Int32Array.from(new SeededDraws(seed).sample(range(n), count)).sort();
  return { x: await selectRows(from, ids, signal), y: await selectRows(to, ids, signal), count };
}

async function inverseRelative(input: MethodInput): Promise<Fitted> {
  const { seed, rcond, signal } = input;
  const anchors = await drawAnchors(input);
  using x = anchors.x;
  using y = anchors.y;
  const centres: Sides = {
    x: await fitTransform(x, ["centre"], withSignal(signal)),
    y: await fitTransform(y, ["centre"], withSignal(signal)),
  };
  using unitX = await runStages([...rowStages(centres.x.forward()), { kind: "rows", unit: true }], x, signal);
  using unitY = await runStages([...rowStages(centres.y.forward()), { kind: "rows", unit: true }], y, signal);
  using centredY = await centres.y.apply(y, withSignal(signal));
  const { meanNorm } = await columnStatistics(centredY, signal);
  const { matrix, condition } = await ensembleDecoder(unitY, seed, rcond ?? decoderRcond, signal);
  const stages: SimpleStage[] = [
    ...rowStages(centres.x.forward()),
    { kind: "rows", unit: true },
    linear(await transpose(unitX, withSignal(signal))),
    linear(matrix),
    // lengths are lost: that of the anchors stands for all
    { kind: "rows", unit: true },
    scaling(meanNorm, size(y, 1)),
    ...rowStages(centres.y.backward()),
  ];
  return { stages, condition, anchors: anchors.count, warnings: [], symbols: 3 };
}

const ensembleSize = 8;
const pruneDistance = 0.7;

/** The mean of the pseudo-inverses of pruned sets of anchors, `[k, d]` with zeros for those that a set has not. Anchors `[k, d]` are of length 1. */
async function ensembleDecoder(
  anchors: Tensor,
  seed: number,
  rcond: number,
  signal: AbortSignal | undefined,
): Promise<{ matrix: Tensor; condition: number }> {
  const [count, dimension] = [size(anchors, 0), size(anchors, 1)];
  const members: Tensor[] = [];
  let condition = 1;
  try {
    const draws = new SeededDraws(seed);
    const subsets = await prunedSubsets(anchors, draws, signal);
    for (const ids of subsets) {
      using some = await selectRows(anchors, Int32Array.from(ids), signal);
      using across = await transpose(some, withSignal(signal));
      const found = await pseudoInverse(across, rcond, signal);
      using decoder = found.matrix;
      condition = Math.max(condition, found.condition);
      members.push(scatterRows(decoder, ids, count, dimension));
    }
    return { matrix: await combineRows(members, "mean", signal), condition };
  } finally {
    for (const member of members) member.dispose();
  }
}

function scatterRows(rows: Tensor, ids: readonly number[], count: number, dimension: number): Tensor {
  const values = rows.toFloat32();
  const all = new Float32Array(count * dimension);
  ids.forEach((id, i) => {
    all.set(values.subarray(i * dimension, (i + 1) * dimension), id * dimension);
  });
  return Tensor.fromTyped("f32", [count, dimension], all);
}

/**
 * Different sets of anchors of which no two are nearer than 0.7 by 1 - |cosine|, at most 8; all anchors where pruning leaves fewer than there are
 * dimensions.
 */
async function prunedSubsets(anchors: Tensor, draws: SeededDraws, signal: AbortSignal | undefined): Promise<number[][]> {
  const [count, dimension] = [size(anchors, 0), size(anchors, 1)];
  using packed = await packAnchors(anchors, withSignal(signal));
  using table = await packed.relative(anchors, withSignal(signal));
  const cosines = table.toFloat32();
  const subsets = range(ensembleSize).map(() => pruneAnchors(cosines, count, draws.below(count)));
  if (subsets.some((ids) => ids.length < Math.min(count, dimension))) return [range(count)];
  return [...new Map(subsets.map((ids) => [ids.join(), ids])).values()];
}

/**
 * Greedy farthest points under 1 - |cosine| from `first` on, until the farthest is nearer than 0.7.
 * @internal
 */
export function pruneAnchors(cosines: Float32Array, count: number, first: number): number[] {
  const nearest = new Float64Array(count).fill(Infinity);
  const ids: number[] = [];
  for (let next = first; ids.length < count;) {
    ids.push(next);
    let farthest = -1;
    for (let j = 0; j < count; j++) {
      nearest[j] = j === next ? -1 : Math.min(nearest[j] ?? 0, 1 - Math.abs(cosines[next * count + j] ?? 0));
      if (farthest < 0 || (nearest[j] ?? 0) > (nearest[farthest] ?? 0)) farthest = j;
    }
    if ((nearest[farthest] ?? 0) < pruneDistance) break;
    next = farthest;
  }
  return ids.sort((a, b) => a - b);
}

function parseval(input: MethodInput): Promise<Fitted> {
  return throughSymbols(input, async (x, y, signal) => {
    const encoder = await parsevalFrame(x, withSignal(signal));
    const decoder = await parsevalFrame(y, withSignal(signal));
    using frame = encoder.frame;
    return { coder: [linear(await transpose(frame, withSignal(signal))), linear(decoder.frame)], condition: 1 };
  });
}

function equaliser(input: MethodInput): Promise<Fitted> {
  return throughSymbols(input, async (x, y, signal) => {
    using across = await transpose(y, withSignal(signal));
    const { matrix, condition } = await pseudoInverse(across, input.rcond ?? decoderRcond, signal);
    return { coder: [linear(await transpose(x, withSignal(signal))), linear(matrix)], condition };
  });
}

/** Standardised rows to one symbol an anchor and back, by the two stages that `coderOf` makes of the standardised anchors of both sides. */
async function throughSymbols(
  input: MethodInput,
  coderOf: (
    x: Tensor,
    y: Tensor,
    signal: AbortSignal | undefined,
  ) => Promise<{ readonly coder: SimpleStage[]; readonly condition: number }>,
): Promise<Fitted> {
  const { from, to, signal } = input;
  const anchors = await drawAnchors(input);
  using x = anchors.x;
  using y = anchors.y;
  const sides = await standardisedBy(x, y, signal);
  using standardX = await sides.x.apply(x, withSignal(signal));
  using standardY = await sides.y.apply(y, withSignal(signal));
  const { coder, condition } = await coderOf(standardX, standardY, signal);
  try {
    using decoded = await runStages([...rowStages(sides.x.forward()), ...coder], from, signal);
    using wanted = await sides.y.apply(to, withSignal(signal));
    const factor = await scaleTo(decoded, wanted, signal);
    const stages = between(sides, [...coder, scaling(factor, size(y, 1))]);
    return { stages, condition, anchors: anchors.count, warnings: [], symbols: 2 };
  } catch (error) {
    disposeStages(coder);
    throw error;
  }
}

async function standardisedBy(x: Tensor, y: Tensor, signal: AbortSignal | undefined): Promise<Sides> {
  return { x: await fitTransform(x, ["standardise"], withSignal(signal)), y: await fitTransform(y, ["standardise"], withSignal(signal)) };
}

/** The one number that gives what is decoded the power of what is wanted; without it the mean that is added back would outweigh it. */
async function scaleTo(decoded: Tensor, wanted: Tensor, signal: AbortSignal | undefined): Promise<number> {
  const { targetSquares: power } = await pairedErrors(decoded, wanted, signal);
  const { targetSquares: found } = await pairedErrors(wanted, decoded, signal);
  return found > 0 ? Math.sqrt(power / found) : 1;
}
