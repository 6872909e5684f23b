// One pass over rows, then any number of fits that need nothing but their sums.
import { checkBoolean, checkInteger, checkKeys, checkNumber, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeMoments } from "../native-fits.js";
import { Tensor } from "../tensor.js";
import { checkWidths, hubSpaces, type GccaHub, type GccaOptions, type GeneralisedProcrustesOptions, type ProcrustesHub } from "./hub.js";
import { checkCount, checkMatrix, checkMemory, fit, maxInt32, type RowSource } from "./input.js";
import { linearFit, type LinearFit } from "./linear.js";

/** Options of {@link accumulateMoments}. */
export interface MomentsOptions {
  /** `[n, dx]` of f32, f16 or bf16. For a hub the rows of all spaces side by side. */
  readonly x: RowSource;
  /** `[n, dy]` of f32, f16 or bf16; default none, which is enough for components, whitening and hubs. */
  readonly y?: RowSource;
  /** `[n]`, how often each row counts, none negative; copied. Default once each. */
  readonly weights?: Float32Array;
  /** Moments about the means, so that maps have a bias and variances can be told, or about 0. Default true. */
  readonly centred?: boolean;
  readonly signal?: AbortSignal;
}

/** Options of {@link Moments.ridge}. */
export interface RidgeOptions {
  /** Added to the diagonal of xᵀx, 0 or more. */
  readonly lambda: number;
  /** Whether lambda is in units of that diagonal's mean, so that the map does not depend on the scale of x. Default true. */
  readonly relative?: boolean;
  readonly signal?: AbortSignal;
}

/** What {@link Moments.pca} finds. */
export interface Pca {
  /** `[d, k]`, orthonormal columns: scores = (x - mean) components = x components + bias. */
  readonly components: Tensor;
  /** `[k]`: -mean components. */
  readonly bias: Float32Array;
  /** `[d]` */
  readonly mean: Float32Array;
  /** `[k]`, of the scores, the largest first; the divisor is weight - 1. */
  readonly variances: Float64Array;
  /** Of all d components. */
  readonly totalVariance: number;
}

/** What {@link Moments.whitening} finds. */
export interface Whitening {
  /** `[d, d]`, S^(-1/2): white = (x - mean) whiten = x whiten + bias. Symmetric, so that white rows stay as near to x as they can (ZCA). */
  readonly whiten: Tensor;
  /** `[d]`: -mean whiten. */
  readonly bias: Float32Array;
  /** `[d, d]`, S^(1/2), the inverse: x = white colour + mean. */
  readonly colour: Tensor;
  /** `[d]` */
  readonly mean: Float32Array;
}

/** Options of {@link Moments.procrustes}. */
export interface ProcrustesOptions {
  /** Whether to refuse reflections: determinant 1. Only for dx = dy. Default false. */
  readonly rotationOnly?: boolean;
  /** Whether to fit a scale too. Default false: it is 1. */
  readonly scaled?: boolean;
  readonly signal?: AbortSignal;
}

/** An orthogonal map, y ≈ x weights + bias. */
export interface Procrustes {
  /** R `[dx, dy]`: RᵀR = I or RRᵀ = I, whichever is smaller. */
  readonly rotation: Tensor;
  /** 1 unless it was fitted; 0 where the best rotation points away from y, which only `rotationOnly` can cause. */
  readonly scale: number;
  /** `[dx, dy]`, scale · R; the same tensor as `rotation` unless the scale was fitted. */
  readonly weights: Tensor;
  /** `[dy]`; zeros for moments that are not centred. */
  readonly bias: Float32Array;
  /** |y - x weights - bias|² / |y - mean|² on the rows of the fit; 0 where y does not vary. */
  readonly residual: number;
}

/**
 * Sums xᵀx, xᵀy and the means over all rows, in one pass on all threads; no fit of {@link Moments} reads the rows again.
 *
 * ```ts
 * using moments = await accumulateMoments({ x: source, y: target });
 * const { weights, bias, unexplained } = await moments.ridge({ lambda: 1e-2 });
 * using translator = await packProjection({ layers: [{ weights, bias }] });
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (NaN, an infinity, or
 * squares beyond f32), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function accumulateMoments(options: MomentsOptions): Promise<Moments> {
  checkKeys("options", options, ["x", "y", "weights", "centred", "signal"]);
  const x = checkMatrix("x", options.x);
  const y = options.y === undefined ? undefined : checkMatrix("y", options.y);
  if (y !== undefined) checkCount("y", "rows", y.rows, x.rows);
  const weights = options.weights === undefined ? undefined : checkWeights(options.weights, x.rows);
  const centred = checkBoolean("centred", fallback(options.centred, true));
  // f64 sums, f32 sums of some blocks, and the mirror image
  checkMemory("the moments", 12 * x.columns * (x.columns + (y?.columns ?? 0)));
  const handle = await fit(() => native().accumulateMoments({ x: x.source, y: y?.source, weights, centred }), options.signal);
  return new Moments(handle);
}

function checkWeights(weights: unknown, rows: number): Float32Array {
  if (!(weights instanceof Float32Array)) throw invalid("weights", "a Float32Array", weights);
  checkCount("weights", "elements", weights.length, rows);
  weights.forEach((weight, index) => checkNumber(`weights[${index}]`, weight, 0, Number.MAX_VALUE));
  if (weights.every((weight) => weight === 0))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "weights must have an element above 0, all are 0");
  return weights;
}

/**
 * Sums over rows in native memory, made by {@link accumulateMoments}. Every fit runs on a thread of its own, in f64, and gives matrices as f32 tensors.
 * An abort is heard between the steps of a fit; a decomposition, which takes most of the time, is not interrupted.
 */
export class Moments {
  readonly #native: NativeMoments;
  /** The sum of the weights: the number of rows unless they have weights. */
  readonly weight: number;
  /** dx */
  readonly xColumns: number;
  /** dy, 0 without y. */
  readonly yColumns: number;
  /** Whether the moments are about the means. */
  readonly centred: boolean;
  /** Native memory in bytes. */
  readonly bytes: number;

  /** @internal */
  constructor(handle: NativeMoments) {
    this.#native = handle;
    ({ weight: this.weight, xColumns: this.xColumns, yColumns: this.yColumns, centred: this.centred, bytes: this.bytes } = handle.info());
  }

  /** Whether {@link Moments.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * Ridge regression of y on x, (xᵀx + λI) W = xᵀy (Hoerl and Kennard 1970), by Cholesky. Lambda 0 is ordinary least squares.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of moments without y), `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (the matrix is
   * singular: lambda is needed, or a map that f32 cannot hold), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async ridge(options: RidgeOptions): Promise<LinearFit> {
    checkKeys("options", options, ["lambda", "relative", "signal"]);
    this.#needsY("ridge");
    const lambda = checkNumber("lambda", options.lambda, 0, Number.MAX_VALUE);
    const relative = checkBoolean("relative", fallback(options.relative, true));
    checkMemory("ridge regression", 8 * this.xColumns * (3 * this.xColumns + 4 * this.yColumns));
    return linearFit(await fit(() => this.#native.ridge({ lambda, relative }), options.signal));
  }

  /**
   * The k leading principal components of x, by the eigenvectors of its covariance (Pearson 1901, Hotelling 1933).
   * @param k From 1 to {@link Moments.xColumns}.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of moments that are not centred, or of a weight of 1 or less), `ERR_LATENT_DISPOSED`,
   * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async pca(k: number, options: { readonly signal?: AbortSignal } = {}): Promise<Pca> {
    checkKeys("options", options, ["signal"]);
    this.#needsVariances("pca");
    checkInteger("k", k, 1, this.xColumns);
    checkMemory("the eigenvectors", 8 * 4 * this.xColumns ** 2);
    const found = await fit(() => this.#native.pca(k), options.signal);
    return { ...found, components: Tensor.fromNative(found.components) };
  }

  /**
   * The map of x to rows whose covariance is the identity, and back (ZCA whitening: Kessy, Lewin and Strimmer 2018), for
   * S = (1 - shrinkage) covariance + shrinkage · mean variance · I (Ledoit and Wolf 2004).
   * @param shrinkage From 0 to 1. Default 0: the covariance itself.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of a singular S, which more shrinkage prevents, of moments that are not centred, or of a
   * weight of 1 or less), `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async whitening(shrinkage = 0, options: { readonly signal?: AbortSignal } = {}): Promise<Whitening> {
    checkKeys("options", options, ["signal"]);
    this.#needsVariances("whitening");
    checkNumber("shrinkage", shrinkage, 0, 1);
    checkMemory("the eigenvectors", 8 * 6 * this.xColumns ** 2);
    const { whiten, bias, colour, mean } = await fit(() => this.#native.whitening(shrinkage), options.signal);
    return { whiten: Tensor.fromNative(whiten), bias, colour: Tensor.fromNative(colour), mean };
  }

  /**
   * The orthogonal map of x that is nearest to y: R = U Vᵀ of the singular value decomposition xᵀy = U D Vᵀ (Schönemann 1966), without reflections by
   * Kabsch's correction. Of unequal dimensions the smaller space is mapped into the larger as if padded with zeros, and the larger onto the smaller.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of moments without y), `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async procrustes(options: ProcrustesOptions = {}): Promise<Procrustes> {
    checkKeys("options", options, ["rotationOnly", "scaled", "signal"]);
    this.#needsY("procrustes");
    const rotationOnly = checkBoolean("rotationOnly", fallback(options.rotationOnly, false));
    const scaled = checkBoolean("scaled", fallback(options.scaled, false));
    if (rotationOnly && this.xColumns !== this.yColumns)
      throw new LatentError(
        "ERR_LATENT_INVALID_ARGUMENT",
        `rotationOnly must be false where x and y have different dimensions, ${this.xColumns} and ${this.yColumns}, got true`,
      );
    checkMemory("the singular values", 8 * 5 * this.xColumns * this.yColumns);
    const found = await fit(() => this.#native.procrustes({ rotationOnly, scaled }), options.signal);
    const rotation = Tensor.fromNative(found.rotation);
    const weights = found.weights === undefined ? rotation : Tensor.fromNative(found.weights);
    return { rotation, scale: found.scale, weights, bias: found.bias, residual: found.residual };
  }

  /**
   * One hub for the spaces that x holds side by side: MAXVAR generalised canonical correlation analysis (Kettenring 1971). The hub's coordinates are
   * orthonormal over the rows, and all spaces together predict them best.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of a space with dependent dimensions on these rows: it needs more ridge, or of a hub with
   * more dimensions than the spaces have), `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async gcca(options: GccaOptions): Promise<GccaHub> {
    checkKeys("options", options, ["widths", "dimension", "ridge", "signal"]);
    const widths = checkWidths(options.widths, this.xColumns);
    const dimension = checkInteger("dimension", options.dimension, 1, this.xColumns);
    const ridge = checkNumber("ridge", fallback(options.ridge, 0), 0, Number.MAX_VALUE);
    checkMemory("the eigenvectors", 8 * 5 * this.xColumns ** 2);
    const { spaces, agreement } = await fit(() => this.#native.gcca({ widths, dimension, ridge }), options.signal);
    return { spaces: hubSpaces(spaces), agreement };
  }

  /**
   * One hub for the spaces that x holds side by side, by orthogonal maps: generalised Procrustes analysis (Gower 1975), the mean of the turned spaces
   * and their turns to it, one after the other. The hub is as wide as the widest space.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's
   * reason on abort
   */
  async generalisedProcrustes(options: GeneralisedProcrustesOptions): Promise<ProcrustesHub> {
    checkKeys("options", options, ["widths", "maxIterations", "tolerance", "signal"]);
    const widths = checkWidths(options.widths, this.xColumns);
    const maxIterations = checkInteger("maxIterations", fallback(options.maxIterations, 100), 1, maxInt32);
    const tolerance = checkNumber("tolerance", fallback(options.tolerance, 1e-10), 0, 1);
    checkMemory("the turns", 8 * 5 * this.xColumns * Math.max(...widths));
    const found = await fit(() => this.#native.generalisedProcrustes({ widths, maxIterations, tolerance }), options.signal);
    return { ...found, spaces: hubSpaces(found.spaces) };
  }

  /** Frees the memory as soon as no running fit uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link Moments.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #needsY(method: string): void {
    if (this.yColumns === 0)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${method} must have moments of x and y, these are of x alone`);
  }

  #needsVariances(method: string): void {
    if (!this.centred || this.weight <= 1) {
      const found = this.centred ? `these have ${this.weight}` : "these are about 0";
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${method} must have centred moments of a weight above 1, ${found}`);
    }
  }
}
