// What is done to rows before they are compared: centred, standardised, brought to a length. Fitted on anchors only, so that two agents who share
// anchors need to share nothing else, and undone on the way back.
import { checkArray, checkKeys, checkOneOf, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix } from "../fits/input.js";
import type { NativeRowMap } from "../native-spaces.js";
import { Tensor } from "../tensor.js";
import { columnStatistics, mapRows } from "./rows.js";

/**
 * `centre`: minus the anchors' mean. `standardise`: that, over their standard deviation (divisor n - 1; 1 where a column varies by no more than rounding).
 * `unit`: each row over its length, which is lost. `isotropic`: over the anchors' mean length, one number for all.
 */
export type TransformKind = "centre" | "standardise" | "unit" | "isotropic";

const kinds = ["centre", "standardise", "unit", "isotropic"] as const;

/** One step: (x - shift) / scale, or x / |x|. */
interface Step {
  readonly kind: TransformKind;
  /** `[d]` */
  readonly shift?: Float32Array;
  /** `[d]`, none 0. */
  readonly scale?: Float32Array;
}

/** A chain of transforms, fitted once; made by {@link fitTransform}. */
export class RowTransform {
  readonly #steps: readonly Step[];

  /** @internal */
  constructor(
    steps: readonly Step[],
    /** d */
    readonly dimension: number,
  ) {
    this.#steps = steps;
  }

  /** The chain, first to last. */
  get kinds(): readonly TransformKind[] {
    return this.#steps.map((step) => step.kind);
  }

  /** Whether {@link RowTransform.invert} is possible: no step of the chain is `unit`. */
  get invertible(): boolean {
    return this.#steps.every((step) => step.kind !== "unit");
  }

  /**
   * Transformed rows, f32 `[n, d]`, a tensor of their own.
   * @param x `[n, d]` of f32, f16 or bf16.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row),
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async apply(x: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    return this.#run(x, this.forward(), options.signal);
  }

  /**
   * The rows that {@link RowTransform.apply} makes y of.
   * @param y `[n, d]` of f32, f16 or bf16.
   * @throws {@link LatentError} as {@link RowTransform.apply}, and `ERR_LATENT_INVALID_ARGUMENT` unless the chain is invertible
   */
  async invert(y: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    if (!this.invertible)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `a chain with 'unit' cannot be undone: ${this.kinds.join(", ")}`);
    return this.#run(y, this.backward(), options.signal);
  }

  /** @internal What to do to rows, in order. */
  forward(): NativeRowMap[] {
    return this.#steps.map(({ kind, shift, scale }) => ({
      subtract: shift,
      multiply: scale?.map((value) => 1 / value),
      unit: kind === "unit",
    }));
  }

  /** @internal */
  backward(): NativeRowMap[] {
    return this.#steps.map(({ shift, scale }) => ({ multiply: scale, add: shift, unit: false })).reverse();
  }

  /** @internal The fitted state by name, for a file. */
  state(prefix: string): Map<string, Tensor> {
    const out = new Map<string, Tensor>();
    const put = (name: string, values: Float32Array | undefined): void => {
      if (values !== undefined) out.set(name, Tensor.fromTyped("f32", [values.length], values));
    };
    this.#steps.forEach(({ shift, scale }, i) => {
      put(`${prefix}.${i}.shift`, shift);
      put(`${prefix}.${i}.scale`, scale);
    });
    return out;
  }

  async #run(x: Tensor, maps: readonly NativeRowMap[], signal: AbortSignal | undefined): Promise<Tensor> {
    const { columns } = checkMatrix("x", x);
    if (columns !== this.dimension) throw invalid("the dimension of x", String(this.dimension), columns);
    return runMaps(x, maps, signal);
  }
}

/** @internal The maps one after the other; none gives a copy. */
export async function runMaps(x: Tensor, maps: readonly NativeRowMap[], signal: AbortSignal | undefined): Promise<Tensor> {
  let rows = await mapRows(x, maps[0] ?? { unit: false }, signal);
  for (const map of maps.slice(1)) {
    using last = rows;
    rows = await mapRows(last, map, signal);
  }
  return rows;
}

/**
 * Fits a chain of transforms on rows, usually anchors: each step on what those before it make of them.
 *
 * ```ts
 * const transform = await fitTransform(anchors, ["standardise", "unit"]);
 * using rows = await transform.apply(latents);
 * ```
 * @param x `[n, d]` of f32, f16 or bf16.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also of `isotropic` on rows of zeros), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
 * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function fitTransform(
  x: Tensor,
  chain: readonly TransformKind[],
  options: { readonly signal?: AbortSignal } = {},
): Promise<RowTransform> {
  checkKeys("options", options, ["signal"]);
  const { columns } = checkMatrix("x", x);
  const names = checkArray("the chain", chain).map((kind, i) => checkOneOf(`chain[${i}]`, kind, kinds));
  const steps: Step[] = [];
  let rows = await runMaps(x, [], options.signal);
  try {
    for (const kind of names) {
      const step = await fitStep(rows, kind, columns, options.signal);
      steps.push(step);
      using last = rows;
      rows = await runMaps(last, new RowTransform([step], columns).forward(), options.signal);
    }
  } finally {
    rows.dispose();
  }
  return new RowTransform(steps, columns);
}

async function fitStep(rows: Tensor, kind: TransformKind, columns: number, signal: AbortSignal | undefined): Promise<Step> {
  if (kind === "unit") return { kind };
  const { mean, deviation, meanNorm } = await columnStatistics(rows, signal);
  if (kind === "isotropic") {
    if (meanNorm === 0) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "rows of zeros have no length to scale by");
    return { kind, scale: new Float32Array(columns).fill(meanNorm) };
  }
  const shift = Float32Array.from(mean);
  if (kind === "centre") return { kind, shift };
  return { kind, shift, scale: Float32Array.from(deviation, (value) => (value > 0 ? value : 1)) };
}

/** @internal What {@link RowTransform.state} put into a file. */
export function restoreTransform(
  chain: readonly TransformKind[],
  dimension: number,
  tensors: ReadonlyMap<string, Tensor>,
  prefix: string,
): RowTransform {
  const take = (name: string): Float32Array => {
    const tensor = tensors.get(name);
    if (tensor?.dtype !== "f32" || tensor.shape.length !== 1 || tensor.shape[0] !== dimension)
      throw new LatentError("ERR_LATENT_FILE_FORMAT", `the file has no ${name} [${dimension}]`);
    return tensor.toFloat32();
  };
  const steps = chain.map((kind, i): Step => {
    if (kind === "unit") return { kind };
    if (kind === "isotropic") return { kind, scale: take(`${prefix}.${i}.scale`) };
    const shift = take(`${prefix}.${i}.shift`);
    return kind === "centre" ? { kind, shift } : { kind, shift, scale: take(`${prefix}.${i}.scale`) };
  });
  return new RowTransform(steps, dimension);
}

/** @internal */
export function checkChain(value: unknown): TransformKind[] {
  if (!Array.isArray(value)) throw invalid("the chain of transforms", "an array", value);
  return value.map((kind: unknown, i) => checkOneOf(`transforms[${i}]`, kind, kinds));
}
