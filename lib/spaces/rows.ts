// Small native operations on rows that the spaces are put together from.
import { openTokenTable } from "../kernels/token-table.js";
import { checkMatrix, checkMemory, fit, type RowSource } from "../fits/input.js";
import { native } from "../native.js";
import type { NativeColumnStatistics, NativeRowMap } from "../native-spaces.js";
import { Tensor } from "../tensor.js";

type Signal = AbortSignal | undefined;

/** unit((x - subtract) · multiply) + add, f32 `[n, d]`. */
export async function mapRows(x: RowSource, map: NativeRowMap, signal: Signal): Promise<Tensor> {
  const { source, rows, columns } = checkMatrix("x", x);
  checkMemory("the rows", 8 * rows * columns);
  return Tensor.fromNative(await fit(() => native().mapRows(source, map), signal));
}

export async function columnStatistics(x: RowSource, signal: Signal): Promise<NativeColumnStatistics> {
  const { source } = checkMatrix("x", x);
  return fit(() => native().columnStatistics(source), signal);
}

/** Rows `ids` of x as f32 `[ids.length, d]`, in their order; the caller knows that they are there. */
export async function selectRows(x: Tensor, ids: Int32Array, signal: Signal): Promise<Tensor> {
  using table = await openTokenTable(x, signal === undefined ? {} : { signal });
  return await table.rows(ids, signal === undefined ? {} : { signal });
}

/** Row i is the mean of the k rows that ids `[m, k]` names, f32 `[m, d]`. */
export async function averageRows(x: RowSource, ids: Int32Array, k: number, signal: Signal): Promise<Tensor> {
  const { source } = checkMatrix("x", x);
  return Tensor.fromNative(await fit(() => native().averageRows(source, ids, k), signal));
}

/** Side by side `[n, Σ d]`, or the sum or mean `[n, d]`. */
export async function combineRows(parts: readonly RowSource[], how: "concat" | "sum" | "mean", signal: Signal): Promise<Tensor> {
  const sources = parts.map((part, i) => checkMatrix(`parts[${i}]`, part).source);
  return Tensor.fromNative(await fit(() => native().combineRows(sources, { how }), signal));
}

/** f32 `[n, n]` of ones on the diagonal. */
export function identity(n: number): Tensor {
  const values = new Float32Array(n * n);
  for (let i = 0; i < n; i++) values[i * n + i] = 1;
  return Tensor.fromTyped("f32", [n, n], values);
}

/** Matrices `[rows, d]` one below the other. Copies bytes. */
export function stackRows(parts: readonly Tensor[]): Tensor {
  const columns = parts[0]?.shape[1] ?? 0;
  const rows = parts.reduce((total, part) => total + (part.shape[0] ?? 0), 0);
  const values = new Float32Array(rows * columns);
  let at = 0;
  for (const part of parts) {
    values.set(part.toFloat32(), at);
    at += (part.shape[0] ?? 0) * columns;
  }
  return Tensor.fromTyped("f32", [rows, columns], values);
}
