// What the kernels take and give: rows of numbers in, results that are there at once or later.
import { checkInteger, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import type { NativeJob } from "../native.js";
import type { NativeRows } from "../native-kernels.js";
import { Tensor } from "../tensor.js";

/**
 * Rows of numbers: a Float32Array of whole rows, one after the other, or a {@link Tensor} `[n, d]` (or `[d]`) of f32, f16 or bf16. A Float32Array that
 * goes to another thread is copied first; a tensor is not.
 */
export type Rows = Float32Array | Tensor;

/**
 * How a packed operand is kept. `f16` and `bf16` halve the bytes that a product of a few rows has to read, `i8` quarters them and its arithmetic: codes
 * with one scale an anchor or output, and one a row of x.
 */
export type Storage = "f32" | "f16" | "bf16" | "i8";

/** @internal Why codes of 8 bits cannot be kept on a GPU; for `place`. */
export function onlyOnCpu(storage: Storage): string | undefined {
  return storage === "i8" ? "operands of i8 are for the CPU; on a GPU storage is f32, f16 or bf16" : undefined;
}

/** @internal */
export function checkStorage(value: unknown): Storage {
  return checkOneOf("storage", fallback(value, "f32"), ["f32", "f16", "bf16", "i8"]);
}

/** @internal */
export function nativeRows(name: string, x: Rows): NativeRows {
  const given: unknown = x; // JavaScript callers may pass anything
  if (given instanceof Tensor) return given.toNative();
  if (given instanceof Float32Array) return given;
  throw invalid(name, "a Float32Array or a Tensor", given);
}

/** @internal The result of a native call that may have been done at once. */
export async function settled<T extends object>(call: () => T | NativeJob<T>, signal?: AbortSignal): Promise<T> {
  signal?.throwIfAborted();
  const result = LatentError.translate(call);
  return "promise" in result ? run(result, signal) : result;
}

/** @internal The array that a synchronous call fills: the caller's, or a new one. */
export function output<T extends object>(name: string, out: T | undefined, type: new (size: number) => T, size: number): T {
  if (out !== undefined) return array(name, out, type);
  try {
    return new type(size);
  } catch (error) {
    throw new LatentError("ERR_LATENT_OUT_OF_MEMORY", `no memory for ${size} numbers`, { cause: error });
  }
}

/** @internal A typed array that a JavaScript caller may not have passed. */
export function array<T extends object>(name: string, value: T, type: new (size: number) => T): T {
  const given: unknown = value;
  if (given instanceof type) return given;
  throw invalid(name, `${type.name.startsWith("I") ? "an" : "a"} ${type.name}`, given);
}

/** @internal The columns of `x`: those of a tensor, or what goes with a Float32Array. */
export function columnsOf(x: Rows, columns: number | undefined): number {
  const own = x instanceof Tensor ? x.shape.at(-1) : undefined;
  if (own !== undefined && columns !== undefined && columns !== own) throw invalid("columns", `${own}, as in the shape of x`, columns);
  return checkInteger("columns", fallback(columns, own), 1, 2 ** 31);
}

/** @internal How many rows of `dimension` numbers `x` has; the native side checks that they are whole. */
export function rowCount(x: Rows, dimension: number): number {
  const size = x instanceof Tensor ? x.shape.reduce((product, extent) => product * extent, 1) : x.length;
  return Math.floor(size / dimension);
}
