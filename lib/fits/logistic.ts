// A probe: which class a latent is of, by logistic regression.
import { checkInteger, checkKeys, checkNumber, fallback, invalid } from "../check.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { checkCount, checkMatrix, checkMemory, fit, maxColumns, maxInt32, type RowSource } from "./input.js";

/** Options of {@link logisticRegression}. */
export interface LogisticOptions {
  /** From 2 to n. Default 2. */
  readonly classes?: number;
  /** The penalty: the loss is Σ -log p(label) + l2 / 2 · |w|², above 0; the bias is free. Default 1. */
  readonly l2?: number;
  /** Newton steps at most. Default 100. */
  readonly maxIterations?: number;
  /** Of the decrease of the loss that is still to be had, relative to the loss, 0 or more. Default 1e-12. */
  readonly tolerance?: number;
  readonly signal?: AbortSignal;
}

/** How the fit of one output ended. */
export interface LogisticReport {
  /** Σ -log p(label) + l2 / 2 · |w|², in nats. */
  readonly loss: number;
  /** The largest component of the loss's gradient. */
  readonly gradient: number;
  readonly iterations: number;
  readonly converged: boolean;
}

/** Log-odds of classes, x weights + bias: for two classes one output, of class 1; for more one a class against the rest. */
export interface LogisticFit {
  /** `[d, outputs]`, for {@link packProjection}. */
  readonly weights: Tensor;
  /** `[outputs]` */
  readonly bias: Float32Array;
  /** One an output. */
  readonly reports: readonly LogisticReport[];
}

/**
 * Logistic regression with an L2 penalty, by Newton's method (iteratively reweighted least squares) in f64.
 * @param x `[n, d]` of f32, f16 or bf16.
 * @param labels `[n]`, each from 0 to classes - 1, and every class occurs.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (in x, or an l2 that is too
 * small), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function logisticRegression(x: RowSource, labels: Int32Array, options: LogisticOptions = {}): Promise<LogisticFit> {
  checkKeys("options", options, ["classes", "l2", "maxIterations", "tolerance", "signal"]);
  const { source, rows, columns } = checkMatrix("x", x);
  const given: unknown = labels; // JavaScript callers may pass anything
  if (!(given instanceof Int32Array)) throw invalid("labels", "an Int32Array", given);
  checkCount("labels", "elements", given.length, rows);
  const classes = checkInteger("classes", fallback(options.classes, 2), 2, Math.min(maxColumns, Math.max(rows, 2)));
  given.forEach((label, index) => checkInteger(`labels[${index}]`, label, 0, classes - 1));
  const settings = {
    classes,
    l2: checkNumber("l2", fallback(options.l2, 1), Number.MIN_VALUE, Number.MAX_VALUE),
    maxIterations: checkInteger("maxIterations", fallback(options.maxIterations, 100), 1, maxInt32),
    tolerance: checkNumber("tolerance", fallback(options.tolerance, 1e-12), 0, 1),
  };
  checkMemory("the regression", 4 * rows * columns + 8 * (5 * columns * columns + classes * columns));
  const { weights, bias, reports } = await fit(() => native().logisticRegression(source, given, settings), options.signal);
  return { weights: Tensor.fromNative(weights), bias, reports };
}
