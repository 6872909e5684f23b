// Rows that stand for many: anchors, prototypes and codebooks are chosen by these.
import { checkInteger, checkKeys, checkNumber, checkOneOf, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import {
  checkMatrix,
  checkMemory,
  checkSeed,
  fit,
  maxInt32,
  rowDistances,
  type Matrix,
  type RowDistance,
  type RowSource,
} from "./input.js";

/** Options of {@link kmeans}. */
export interface KmeansOptions {
  /** k, from 1 to n. */
  readonly clusters: number;
  /** `cosine` is spherical k-means; a row of zeros has no direction and is refused. Default `euclidean`. */
  readonly distance?: RowDistance;
  /** An integer from 0 to 2⁵³ - 1; the same seed gives the same clusters on one machine. Default 0. */
  readonly seed?: number;
  /** Default 100. */
  readonly maxIterations?: number;
  /** Of the relative decrease of the inertia at which the iterations end, 0 or more. Default 1e-6. */
  readonly tolerance?: number;
  readonly signal?: AbortSignal;
}

/** What {@link kmeans} finds. No cluster is empty. */
export interface Kmeans {
  /** `[k, d]`; of length 1 for `cosine`. */
  readonly centres: Tensor;
  /** `[n]`: the cluster of each row. */
  readonly labels: Int32Array;
  /** `[k]`: the index of the row in each cluster that is nearest to its centre. */
  readonly medoids: Int32Array;
  /** The sum of squared distances to the centres (2 - 2 cosine for `cosine`), one an iteration. */
  readonly inertia: Float64Array;
  /** False where `maxIterations` came first. */
  readonly converged: boolean;
}

/** Options of {@link farthestPoints}. */
export interface FarthestPointsOptions {
  /** Default `euclidean`. */
  readonly distance?: RowDistance;
  /** Of the first point, an integer from 0 to 2⁵³ - 1. Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

function checkRows(x: unknown): Matrix {
  const rows = checkMatrix("x", x);
  if (rows.rows > maxInt32) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `x must have at most ${maxInt32} rows, got ${rows.rows}`);
  // f32 rows, and their directions
  checkMemory("the rows of x", 8 * rows.rows * rows.columns);
  return rows;
}

/**
 * k-means: seeds by k-means++ (Arthur and Vassilvitskii, SODA 2007), then Lloyd's iterations.
 *
 * ```ts
 * const { centres } = await kmeans(rows, { clusters: 300, distance: "cosine" });
 * using anchors = await packAnchors(centres);
 * ```
 * @param x `[n, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row, or distances
 * beyond f32), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function kmeans(x: RowSource, options: KmeansOptions): Promise<Kmeans> {
  checkKeys("options", options, ["clusters", "distance", "seed", "maxIterations", "tolerance", "signal"]);
  const { source, rows } = checkRows(x);
  const given = {
    clusters: checkInteger("clusters", options.clusters, 1, rows),
    distance: checkOneOf("distance", fallback(options.distance, "euclidean"), rowDistances),
    seed: checkSeed(fallback(options.seed, 0)),
    maxIterations: checkInteger("maxIterations", fallback(options.maxIterations, 100), 1, maxInt32),
    tolerance: checkNumber("tolerance", fallback(options.tolerance, 1e-6), 0, 1),
  };
  const found = await fit(() => native().kmeans(source, given), options.signal);
  return { ...found, centres: Tensor.fromNative(found.centres) };
}

/**
 * Farthest point sampling (Gonzalez 1985): the first by the seed, then always the row farthest from those before, the lowest index among equals. The
 * first m of `count` points are those of a call for m.
 * @param x `[n, d]` of f32, f16 or bf16.
 * @param count From 1 to n.
 * @returns `[count]`, indices of rows
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function farthestPoints(x: RowSource, count: number, options: FarthestPointsOptions = {}): Promise<Int32Array> {
  checkKeys("options", options, ["distance", "seed", "signal"]);
  const { source, rows } = checkRows(x);
  checkInteger("count", count, 1, rows);
  const distance = checkOneOf("distance", fallback(options.distance, "euclidean"), rowDistances);
  const seed = checkSeed(fallback(options.seed, 0));
  return fit(() => native().farthestPoints(source, count, { distance, seed }), options.signal);
}
