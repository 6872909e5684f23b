// Linear maps by least squares where the rows are at hand; ridge regression from sums is a method of Moments.
import { checkBoolean, checkKeys, checkNumber, fallback } from "../check.js";
import { native } from "../native.js";
import type { NativeLinearFit } from "../native-fits.js";
import { Tensor } from "../tensor.js";
import { checkCount, checkMatrix, checkMemory, fit, type RowSource } from "./input.js";

/** An affine map, y ≈ x weights + bias, that goes straight into {@link packProjection}. */
export interface LinearFit {
  /** `[dx, dy]` */
  readonly weights: Tensor;
  /** `[dy]`; zeros for a fit that is not centred. */
  readonly bias: Float32Array;
  /** What was added to the diagonal of the Gram matrix; 0 for {@link leastSquares}. */
  readonly lambda: number;
  /** Of the matrix that was solved with: above about 1e7, f32 rows do not determine the map. Infinity where it was singular. */
  readonly condition: number;
  /** |y - x weights - bias|² / |y - mean|² on the rows of the fit, from 0 to about 1; 0 where y does not vary. */
  readonly unexplained: number;
}

/** Options of {@link leastSquares}. */
export interface LeastSquaresOptions {
  /** From 0 to below 1: singular values of x below so much of the largest count as 0. Default 1e-6, some ten times the rounding of f32. */
  readonly rcond?: number;
  /** Whether to fit a bias. Default true. */
  readonly centred?: boolean;
  readonly signal?: AbortSignal;
}

export function linearFit({ weights, bias, lambda, condition, unexplained }: NativeLinearFit): LinearFit {
  return { weights: Tensor.fromNative(weights), bias, lambda, condition, unexplained };
}

/**
 * The map of least |x W + b - y|², and among equals of least |W|², by the singular value decomposition of x, after x = QR where
 * it is tall. All rows are held as f64: for many rows
 * take {@link accumulateMoments} and {@link Moments.ridge}. An abort is heard between its steps.
 *
 * ```ts
 * const { weights, bias } = await leastSquares(source, target);
 * using translator = await packProjection({ layers: [{ weights, bias }] });
 * ```
 * @param x `[n, dx]` of f32, f16 or bf16.
 * @param y `[n, dy]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (in x or y, or a map that
 * f32 cannot hold), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function leastSquares(x: RowSource, y: RowSource, options: LeastSquaresOptions = {}): Promise<LinearFit> {
  checkKeys("options", options, ["rcond", "centred", "signal"]);
  const from = checkMatrix("x", x);
  const to = checkMatrix("y", y);
  checkCount("y", "rows", to.rows, from.rows);
  const rcond = checkNumber("rcond", fallback(options.rcond, 1e-6), 0, 1 - Number.EPSILON);
  const centred = checkBoolean("centred", fallback(options.centred, true));
  checkMemory("the decomposition of x", 8 * from.rows * (9 * from.columns + 4 * to.columns));
  return linearFit(await fit(() => native().leastSquares(from.source, to.source, { rcond, centred }), options.signal));
}
