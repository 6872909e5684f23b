// How good an alignment of two spaces is, as pure functions of rows that tell of the same things. Products and decompositions are native, in f64; only
// ranks and singular values are summed up here.
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix, checkMemory, fit, type Matrix, type RowSource } from "../fits/input.js";
import { packAnchors } from "../kernels/anchors.js";
import { native } from "../native.js";
import type { NativeJob } from "../native.js";
import type { NativeRowSource } from "../native-fits.js";
import type { NativePairedErrors } from "../native-spaces.js";
import { Tensor } from "../tensor.js";

/** Options of a measure. */
export interface MeasureOptions {
  readonly signal?: AbortSignal;
}

interface Pair {
  readonly x: Matrix;
  readonly y: Matrix;
}

/** Two matrices with one row each for every thing; for `sameWidth` also of one dimension. */
function checkPair(x: unknown, y: unknown, names: readonly [string, string], sameWidth = false): Pair {
  const pair = { x: checkMatrix(names[0], x), y: checkMatrix(names[1], y) };
  if (pair.x.rows !== pair.y.rows)
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `${names[1]} must have ${pair.x.rows} rows, as ${names[0]} has, got ${pair.y.rows}`,
    );
  if (sameWidth && pair.x.columns !== pair.y.columns) {
    const message = `${names[1]} must have ${pair.x.columns} columns, as ${names[0]} has, got ${pair.y.columns}`;
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", message);
  }
  return pair;
}

async function likeness(
  x: RowSource,
  y: RowSource,
  options: MeasureOptions,
  memory: (pair: Pair) => number,
  start: (x: NativeRowSource, y: NativeRowSource) => NativeJob<number>,
): Promise<number> {
  checkKeys("options", options, ["signal"]);
  const pair = checkPair(x, y, ["x", "y"]);
  checkMemory("the measure", memory(pair));
  return fit(() => start(pair.x.source, pair.y.source), options.signal);
}

// f64: the rows twice, and Gram matrices of the columns or the rows
const columnsMemory = ({ x, y }: Pair): number =>
  8 * (2 * x.rows * (x.columns + y.columns) + 2 * Math.min(x.rows, Math.max(x.columns, y.columns)) ** 2);
const rowsMemory = ({ x, y }: Pair): number => 8 * (2 * x.rows * (x.columns + y.columns) + 6 * x.rows ** 2);

/**
 * Centred kernel alignment of linear kernels, from 0 to 1 (Kornblith et al., ICML 2019): 1 where one side is the other turned, scaled and moved. By the
 * Gram matrices of the columns where there are more rows than columns, else by those of the rows. Biased upwards for few rows: {@link unbiasedCka}.
 * @param x `[n, dx]`, n from 2
 * @param y `[n, dy]`
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also where all rows of a side are equal), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
 * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function linearCka(x: RowSource, y: RowSource, options: MeasureOptions = {}): Promise<number> {
  return likeness(x, y, options, columnsMemory, (a, b) => native().linearCka(a, b));
}

/**
 * {@link linearCka} with the unbiased estimate of HSIC (Song et al., JMLR 2012): about 0, and so also below it, for independent rows, however few.
 * @param x `[n, dx]`, n from 4; n² numbers are held.
 * @param y `[n, dy]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function unbiasedCka(x: RowSource, y: RowSource, options: MeasureOptions = {}): Promise<number> {
  return likeness(x, y, options, rowsMemory, (a, b) => native().unbiasedCka(a, b));
}

/**
 * Centred kernel alignment of Gaussian kernels exp(-|a - b|² / 2m), m the lower median of the squared distances that are not 0 on that side.
 * @param x `[n, dx]`, n from 2; n² numbers are held.
 * @param y `[n, dy]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function rbfCka(x: RowSource, y: RowSource, options: MeasureOptions = {}): Promise<number> {
  return likeness(x, y, options, rowsMemory, (a, b) => native().rbfCka(a, b));
}

/**
 * Centred kernel nearest-neighbour alignment (Huh et al., ICML 2024): the unbiased alignment of inner products, of such pairs of rows only that are
 * among the k nearest on both sides. The paper brings rows to length 1 first; here they are taken as they are.
 * @param x `[n, dx]`, n from 4; n² numbers are held.
 * @param y `[n, dy]`
 * @param k From 1 to n - 1.
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function cknna(x: RowSource, y: RowSource, k: number, options: MeasureOptions = {}): Promise<number> {
  checkInteger("k", k, 1, checkMatrix("x", x).rows - 1);
  return likeness(x, y, options, rowsMemory, (a, b) => native().cknna(a, b, k));
}

/**
 * Orthogonal Procrustes distance 2 - 2 |xᵀy|_* of rows that are centred and brought to Frobenius norm 1, from 0 to 2: the least |x R - y|² of all
 * orthogonal R.
 * @param x `[n, dx]`, n from 2
 * @param y `[n, dy]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function procrustesDistance(x: RowSource, y: RowSource, options: MeasureOptions = {}): Promise<number> {
  const memory = ({ x: a, y: b }: Pair): number => 8 * (2 * a.rows * (a.columns + b.columns) + 6 * a.columns * b.columns);
  return likeness(x, y, options, memory, (a, b) => native().procrustesDistance(a, b));
}

/** Options of {@link canonicalCorrelations}. */
export interface CanonicalOptions extends MeasureOptions {
  /** Added to the diagonals of covariances whose largest element is 1, above 0 and below 1. Default 1e-6. */
  readonly epsilon?: number;
}

/**
 * Canonical correlations (Hotelling 1936), the largest first: what is shared whatever invertible linear maps are between the two sides.
 * @param x `[n, dx]`, n above dx and dy: with fewer rows every correlation is 1.
 * @param y `[n, dy]`
 * @returns `[min(dx, dy)]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function canonicalCorrelations(x: RowSource, y: RowSource, options: CanonicalOptions = {}): Promise<Float64Array> {
  checkKeys("options", options, ["epsilon", "signal"]);
  const pair = checkPair(x, y, ["x", "y"]);
  const epsilon = checkNumber("epsilon", fallback(options.epsilon, 1e-6), Number.MIN_VALUE, 1 - Number.EPSILON);
  checkMemory("the correlations", columnsMemory(pair) + 8 * 8 * Math.max(pair.x.columns, pair.y.columns) ** 2);
  const { values } = await fit(() => native().canonicalCorrelations(pair.x.source, pair.y.source, epsilon), options.signal);
  return values;
}

/**
 * The mean of the leading canonical correlations, as many as make up 98 % of their sum, from 0 to 1: what google/svcca and latentis print as SVCCA
 * (Raghu et al., NeurIPS 2017).
 * @param x `[n, dx]`, n above dx and dy
 * @param y `[n, dy]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function svcca(x: RowSource, y: RowSource, options: MeasureOptions = {}): Promise<number> {
  const values = await canonicalCorrelations(x, y, options);
  const all = sum(values);
  let part = 0;
  let count = 0;
  while (count < values.length && part < 0.98 * all) part += values[count++] ?? 0;
  return count === 0 ? 0 : part / count;
}

function sum(values: ArrayLike<number>): number {
  let total = 0;
  for (const value of Array.from(values)) total += value;
  return total;
}

/** The k nearest rows of `index` by cosine for each row of `queries`, `[n, k]`. */
async function neighbours(queries: Tensor, index: Tensor, k: number, signal: AbortSignal | undefined): Promise<Int32Array> {
  const options = signal === undefined ? {} : { signal };
  using anchors = await packAnchors(index, options);
  const { indices, values } = await anchors.topK(queries, k, options);
  values.dispose();
  using found = indices;
  return found.toTyped() as Int32Array;
}

function checkTensors(x: unknown, y: unknown, names: readonly [string, string], sameWidth: boolean): [Tensor, Tensor] {
  checkPair(x, y, names, sameWidth);
  if (!(x instanceof Tensor) || !(y instanceof Tensor))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${names[0]} and ${names[1]} must be Tensors`);
  return [x, y];
}

/**
 * The share of the k nearest rows by cosine, without the row itself, that both sides have in common, from 0 to 1 (Huh et al., ICML 2024).
 * @param x `[n, dx]`
 * @param y `[n, dy]`
 * @param k From 1 to n - 1.
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function mutualKnn(x: Tensor, y: Tensor, k: number, options: MeasureOptions = {}): Promise<number> {
  checkKeys("options", options, ["signal"]);
  const [a, b] = checkTensors(x, y, ["x", "y"], false);
  const n = a.shape[0] ?? 0;
  checkInteger("k", k, 1, n - 1);
  const others = async (rows: Tensor): Promise<Set<number>[]> => {
    const found = await neighbours(rows, rows, k + 1, options.signal);
    return Array.from({ length: n }, (_, i) => {
      const row = found.subarray(i * (k + 1), (i + 1) * (k + 1));
      return new Set(row.filter((j) => j !== i).subarray(0, k));
    });
  };
  const [ofA, ofB] = [await others(a), await others(b)];
  let common = 0;
  ofA.forEach((mine, i) => {
    for (const j of mine) if (ofB[i]?.has(j) === true) common++;
  });
  return common / (n * k);
}

/**
 * Mean Jaccard index of the k nearest candidates of query i and those of candidate i itself (which is one of them), by cosine, from 0 to 1: the measure
 * of the word embeddings in Moschella et al., ICLR 2023.
 * @param queries `[n, d]`, e.g. one model's things in the space of the candidates
 * @param candidates `[n, d]`
 * @param k From 1 to n.
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function jaccard(queries: Tensor, candidates: Tensor, k: number, options: MeasureOptions = {}): Promise<number> {
  checkKeys("options", options, ["signal"]);
  const [a, b] = checkTensors(queries, candidates, ["queries", "candidates"], true);
  const n = a.shape[0] ?? 0;
  checkInteger("k", k, 1, n);
  const [theirs, own] = [await neighbours(a, b, k, options.signal), await neighbours(b, b, k, options.signal)];
  let total = 0;
  for (let i = 0; i < n; i++) {
    const mine = new Set(own.subarray(i * k, (i + 1) * k));
    const common = theirs.subarray(i * k, (i + 1) * k).filter((j) => mine.has(j)).length;
    total += common / (2 * k - common);
  }
  return total / n;
}

/** Where the right candidate stands among all by cosine. Of chance: {@link Retrieval.retrieval1} is 1/n, {@link Retrieval.foscttm} a half. */
export interface Retrieval {
  /** The share of queries whose most similar candidate is their own. */
  readonly retrieval1: number;
  /** The share whose own is among the `k` most similar. */
  readonly retrievalK: number;
  readonly k: number;
  /** Mean of 1 / rank. */
  readonly mrr: number;
  /** The same with 0 for ranks beyond `k`. */
  readonly mrrK: number;
  /** From 1 to n. */
  readonly meanRank: number;
  /** Fraction of samples closer than the true match, (mean rank - 1) / (n - 1); 0 for one row. */
  readonly foscttm: number;
}

/** Options of {@link retrieval}. */
export interface RetrievalOptions extends MeasureOptions {
  /** Default 10, or n if that is less. */
  readonly k?: number;
}

/**
 * Row i of `queries` looks for row i of `candidates`. Its rank is one more than the candidates with a strictly greater cosine (f32), so that copies of the
 * right one do not count against it.
 * @param queries `[n, d]`
 * @param candidates `[n, d]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function retrieval(queries: RowSource, candidates: RowSource, options: RetrievalOptions = {}): Promise<Retrieval> {
  checkKeys("options", options, ["k", "signal"]);
  const { rows } = checkPair(queries, candidates, ["queries", "candidates"], true).x;
  const k = checkInteger("k", fallback(options.k, Math.min(10, rows)), 1, rows);
  return retrievalOf(await pairedRanks(queries, candidates, options.signal), k);
}

/** @internal The rank of each right candidate, `[n]`, from 1. */
export async function pairedRanks(queries: RowSource, candidates: RowSource, signal: AbortSignal | undefined): Promise<Int32Array> {
  const { x, y } = checkPair(queries, candidates, ["queries", "candidates"], true);
  return fit(() => native().pairedRanks(x.source, y.source), signal);
}

/** @internal What ranks come to. */
export function retrievalOf(ranks: Int32Array, k: number): Retrieval {
  const n = ranks.length;
  const mean = (value: (rank: number) => number): number => sum(Float64Array.from(ranks, value)) / n;
  const meanRank = mean((rank) => rank);
  return {
    retrieval1: mean((rank) => (rank === 1 ? 1 : 0)),
    retrievalK: mean((rank) => (rank <= k ? 1 : 0)),
    k,
    mrr: mean((rank) => 1 / rank),
    mrrK: mean((rank) => (rank <= k ? 1 / rank : 0)),
    meanRank,
    foscttm: n === 1 ? 0 : (meanRank - 1) / (n - 1),
  };
}

/** How far predicted rows are from the true ones. */
export interface PredictionError {
  /** Mean over the rows; that of a zero row is 0. */
  readonly cosine: number;
  /** Mean squared error of an element. */
  readonly mse: number;
  /** Σ |p - t|² / Σ |t|²; Infinity where the true rows are 0. */
  readonly nmse: number;
  /** 1 - Σ |p - t|² / Σ |t - mean|²: 0 is what the mean of the true rows reaches; -Infinity where they do not vary. */
  readonly r2: number;
}

/**
 * Errors of predictions, in f64.
 * @param predicted `[n, d]`
 * @param target `[n, d]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function predictionError(predicted: RowSource, target: RowSource, options: MeasureOptions = {}): Promise<PredictionError> {
  checkKeys("options", options, ["signal"]);
  const { x } = checkPair(predicted, target, ["predicted", "target"], true);
  const { cosine, squaredError, targetSquares, targetSpread } = await pairedErrors(predicted, target, options.signal);
  const ratio = (whole: number): number => (squaredError === 0 ? 0 : whole === 0 ? Infinity : squaredError / whole);
  return { cosine, mse: squaredError / (x.rows * x.columns), nmse: ratio(targetSquares), r2: 1 - ratio(targetSpread) };
}

/** @internal */
export async function pairedErrors(predicted: RowSource, target: RowSource, signal: AbortSignal | undefined): Promise<NativePairedErrors> {
  const { x, y } = checkPair(predicted, target, ["predicted", "target"], true);
  return fit(() => native().pairedErrors(x.source, y.source), signal);
}

/** What the singular values of centred rows tell. */
export interface Spectrum {
  /** `[min(n, d)]`, the largest first. */
  readonly values: Float64Array;
  /** exp of the entropy of values / Σ values (Roy and Vetterli 2007), from 1; 0 where nothing varies. */
  readonly effectiveRank: number;
  /** The largest over the smallest; Infinity where a direction does not vary. With n ≤ d one never does. */
  readonly condition: number;
}

/**
 * Singular values of rows about their mean, by their decomposition in f64.
 * @param x `[n, d]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function spectrum(x: RowSource, options: MeasureOptions = {}): Promise<Spectrum> {
  checkKeys("options", options, ["signal"]);
  const { source, rows, columns } = checkMatrix("x", x);
  checkMemory("the decomposition of x", 8 * 8 * rows * columns);
  const { values } = await fit(() => native().centredSingularValues(source), options.signal);
  const all = sum(values);
  // what is below the rounding of f32 rows is not theirs
  const used = Array.from(values).filter((value) => value > 1e-7 * (values[0] ?? 0));
  const entropy = -sum(used.map((value) => (value / all) * Math.log(value / all)));
  const smallest = used.length < columns ? 0 : (used.at(-1) ?? 0);
  return {
    values,
    effectiveRank: used.length === 0 ? 0 : Math.exp(entropy),
    condition: smallest === 0 ? Infinity : (values[0] ?? 0) / smallest,
  };
}

/**
 * How near rows are to their nearest anchor: the mean of the largest cosine, from -1 to 1.
 * @param x `[n, d]`
 * @param anchors `[k, d]`
 * @throws {@link LatentError} as {@link linearCka}
 */
export async function anchorCoverage(x: Tensor, anchors: Tensor, options: MeasureOptions = {}): Promise<number> {
  checkKeys("options", options, ["signal"]);
  const { rows } = checkMatrix("x", x);
  checkMatrix("anchors", anchors);
  using packed = await packAnchors(anchors, options);
  const { indices, values } = await packed.topK(x, 1, options);
  indices.dispose();
  using best = values;
  return sum(best.toFloat32()) / rows;
}
