// Decompositions of a matrix that is at hand.
import { checkInteger, checkKeys, checkNumber, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { checkMatrix, checkMemory, checkSeed, fit, type RowSource } from "./input.js";

/** a ≈ u diag(values) vᵀ, with k singular values. The largest component of every column of `v` is positive. */
export interface Svd {
  /** `[n, k]`, orthonormal columns. */
  readonly u: Tensor;
  /** `[k]`, the largest first. */
  readonly values: Float64Array;
  /** `[d, k]`, orthonormal columns. */
  readonly v: Tensor;
}

/** Options of {@link svd}. */
export interface SvdOptions {
  /** k, from 1 to min(n, d). Default min(n, d). */
  readonly rank?: number;
  /** Of the random projection by which a rank that is small against a large matrix is found; an integer from 0 to 2⁵³ - 1. Default 0. */
  readonly seed?: number;
  readonly signal?: AbortSignal;
}

/**
 * Singular value decomposition in f64. Exact, unless `rank` is small against a matrix of more than 256 rows and columns: then by a random projection
 * with power iterations (Halko, Martinsson and Tropp, SIAM Review 2011), where values close to those left out fall short of the exact ones. An abort is
 * heard between the steps.
 * @param a `[n, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function svd(a: RowSource, options: SvdOptions = {}): Promise<Svd> {
  checkKeys("options", options, ["rank", "seed", "signal"]);
  const { source, rows, columns } = checkMatrix("a", a);
  const { rank } = options;
  if (rank !== undefined) checkInteger("rank", rank, 1, Math.min(rows, columns));
  const seed = checkSeed(fallback(options.seed, 0));
  checkMemory("the decomposition of a", 8 * 8 * rows * columns);
  const { u, values, v } = await fit(() => native().svd(source, { rank, seed }), options.signal);
  return { u: Tensor.fromNative(u), values, v: Tensor.fromNative(v) };
}

/** a = vectors diag(values) vectorsᵀ. */
export interface SymmetricEigen {
  /** `[n]`, the largest first. */
  readonly values: Float64Array;
  /** `[n, n]`, one a column, orthonormal; the largest component of each is positive. */
  readonly vectors: Tensor;
}

/**
 * Eigenvalues and eigenvectors of a symmetric matrix, in f64. An abort is heard only before and after.
 * @param a `[n, n]` of f32, f16 or bf16. Only its lower half is read.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function symmetricEigen(a: RowSource, options: { readonly signal?: AbortSignal } = {}): Promise<SymmetricEigen> {
  checkKeys("options", options, ["signal"]);
  const { source, rows, columns } = checkMatrix("a", a);
  if (rows !== columns) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `a must be square, got [${rows}, ${columns}]`);
  checkMemory("the decomposition of a", 8 * 4 * rows * columns);
  const { values, vectors } = await fit(() => native().symmetricEigen(source), options.signal);
  return { values, vectors: Tensor.fromNative(vectors) };
}

/** Options of {@link parsevalFrame}. */
export interface ParsevalFrameOptions {
  /** From 0 to below 1: singular values of the anchors below so much of the largest count as 0. Default 1e-6, some ten times the rounding of f32. */
  readonly rcond?: number;
  readonly signal?: AbortSignal;
}

/** What {@link parsevalFrame} finds. */
export interface ParsevalFrame {
  /** `[k, d]` */
  readonly frame: Tensor;
  /** Of the anchors. Below min(k, d) the frame is one of their row space only. */
  readonly rank: number;
}

/**
 * The Parseval frame F (FᵀF)^(-1/2) of anchors F, the nearest matrix whose singular values are 1: its transpose is its pseudo-inverse, so the relative
 * representation c = x frameᵀ is decoded by c frame. For k ≥ d that gives x again, for fewer anchors its projection on their span.
 *
 * Frames as semantic equalisers: Parseval frame equalisation, arXiv 2507.17835. An abort is heard only before and after.
 *
 * ```ts
 * const { frame } = await parsevalFrame(anchors);
 * using encoder = await packAnchors(frame, { similarity: "inner" });
 * using decoder = await packProjection({ layers: [{ weights: frame }] });
 * ```
 * @param anchors F, `[k, d]` of f32, f16 or bf16, not all zero.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function parsevalFrame(anchors: RowSource, options: ParsevalFrameOptions = {}): Promise<ParsevalFrame> {
  checkKeys("options", options, ["rcond", "signal"]);
  const { source, rows, columns } = checkMatrix("anchors", anchors);
  const rcond = checkNumber("rcond", fallback(options.rcond, 1e-6), 0, 1 - Number.EPSILON);
  checkMemory("the frame of the anchors", 8 * 8 * rows * columns);
  const { frame, rank } = await fit(() => native().parsevalFrame(source, { rcond }), options.signal);
  return { frame: Tensor.fromNative(frame), rank };
}
