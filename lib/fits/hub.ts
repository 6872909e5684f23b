// What the fits of one hub for many spaces take and give.
import { checkInteger, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { NativeHubSpace } from "../native-fits.js";
import { Tensor } from "../tensor.js";

/** The two maps between one space, rows `[n, width]`, and a hub of dimension `[n, k]`. */
export interface HubSpace {
  /** `[width, k]`: hub = (x - mean) into = x into + bias. */
  readonly into: Tensor;
  /** `[k]`: -mean into. */
  readonly bias: Float32Array;
  /** `[k, width]`: x is about hub outOf + mean. */
  readonly outOf: Tensor;
  /** `[width]`; zeros for moments that are not centred. */
  readonly mean: Float32Array;
}

/** Options of {@link Moments.gcca}. */
export interface GccaOptions {
  /** The dimension of each space, in the order of its columns in x; together the columns of x. */
  readonly widths: readonly number[];
  /** k, from 1 to the sum of the widths. */
  readonly dimension: number;
  /** Added to the diagonal of each space's Gram matrix, in units of that diagonal's mean, 0 or more. Default 0. */
  readonly ridge?: number;
  readonly signal?: AbortSignal;
}

/** What {@link Moments.gcca} finds. */
export interface GccaHub {
  /** One a width, in order. */
  readonly spaces: readonly HubSpace[];
  /** `[k]`, the largest first, one a hub dimension, from 0 to the number of spaces, which it is where all spaces agree. */
  readonly agreement: Float64Array;
}

/** Options of {@link Moments.generalisedProcrustes}. */
export interface GeneralisedProcrustesOptions {
  /** The dimension of each space, in the order of its columns in x; together the columns of x. */
  readonly widths: readonly number[];
  /** Default 100. */
  readonly maxIterations?: number;
  /** Of the change of the agreement from one iteration to the next, 0 or more. Default 1e-10. */
  readonly tolerance?: number;
  readonly signal?: AbortSignal;
}

/** What {@link Moments.generalisedProcrustes} finds. */
export interface ProcrustesHub {
  /** One a width, in order. `into` is orthogonal and `outOf` its transpose; k is the largest width. */
  readonly spaces: readonly HubSpace[];
  /** |hub|² / mean |x - mean|² of the spaces, from 0 to 1, where all spaces are rotations of each other. */
  readonly agreement: number;
  readonly iterations: number;
  /** False where `maxIterations` came first. */
  readonly converged: boolean;
}

/** Widths that add up to `columns`, as the native side takes them. */
export function checkWidths(widths: unknown, columns: number): Int32Array {
  if (!Array.isArray(widths) || widths.length < 1) throw invalid("widths", "an array of at least one integer", widths);
  const checked = widths.map((width: unknown, index) => checkInteger(`widths[${index}]`, width, 1, columns));
  const sum = checked.reduce((total, width) => total + width, 0);
  if (sum !== columns)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `widths must add up to ${columns}, the columns of x, got ${sum}`);
  return Int32Array.from(checked);
}

export function hubSpaces(spaces: readonly NativeHubSpace[]): HubSpace[] {
  return spaces.map(({ into, bias, outOf, mean }) => ({
    into: Tensor.fromNative(into),
    bias,
    outOf: Tensor.fromNative(outOf),
    mean,
  }));
}
