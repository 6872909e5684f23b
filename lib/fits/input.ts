// What the fits have in common: matrices of rows in, limits that protect the process, and jobs that can be aborted.
import os from "node:os";
import process from "node:process";
import { checkInteger, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import type { NativeJob } from "../native.js";
import { TokenTable } from "../kernels/token-table.js";
import type { NativeRowSource } from "../native-fits.js";
import { Tensor } from "../tensor.js";

/** The most columns that a fit takes; max_fit_columns in native/fit/gram.h. */
export const maxColumns = 65_536;
/** The most iterations, and the most rows of what is told by index. */
export const maxInt32 = 2 ** 31 - 1;

/** How the seeded fits compare rows: by |x - y|², or by their directions, 2 - 2 cosine. */
export type RowDistance = "euclidean" | "cosine";

/** @internal */
export const rowDistances = ["euclidean", "cosine"] as const;

/** Rows `[n, d]` that a fit reads: a tensor of f32, f16 or bf16, or a table of tokens, row by row as it lies in a tensor or a mapped model file. */
export type RowSource = Tensor | TokenTable;

export interface Matrix {
  readonly source: NativeRowSource;
  readonly rows: number;
  readonly columns: number;
}

/** Rows `[n, d]`, neither side empty. */
export function checkMatrix(name: string, value: unknown): Matrix {
  const table = value instanceof TokenTable;
  if (!table && !(value instanceof Tensor)) throw invalid(name, "a Tensor [n, d] or a TokenTable", value);
  const shape = table ? [value.count, value.width] : value.shape;
  const [rows = 0, columns = 0] = shape;
  if (shape.length !== 2 || rows < 1 || columns < 1 || columns > maxColumns) {
    const want = `[n, d], n from 1 and d from 1 to ${maxColumns}`;
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} must be ${want}, got [${shape.join(", ")}]`);
  }
  if (!table && (value.dtype === "i8" || value.dtype === "i32"))
    throw new LatentError("ERR_LATENT_DTYPE", `${name} must be f32, f16 or bf16, got ${value.dtype}`);
  return { source: value.toNative(), rows, columns };
}

/** That `name` has one for every row of x. */
export function checkCount(name: string, unit: string, count: number, wanted: number): void {
  if (count === wanted) return;
  throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} must have ${wanted} ${unit}, as many as x has rows, got ${count}`);
}

export function checkSeed(value: unknown): number {
  return checkInteger("seed", value, 0, Number.MAX_SAFE_INTEGER);
}

/**
 * Refuses what cannot fit into memory. A system promises more than it has and later ends the process: nothing could catch that. Where the system does
 * not tell what is available, what it has in all is the limit.
 */
export function checkMemory(what: string, bytes: number): void {
  // a container has less than its machine
  const limit = os.platform() === "linux" ? Math.min(os.freemem(), process.availableMemory()) : os.totalmem();
  if (bytes <= limit) return;
  const text = (size: number): string => `${(size / 2 ** 30).toFixed(1)} GiB`;
  throw new LatentError("ERR_LATENT_OUT_OF_MEMORY", `${what} takes about ${text(bytes)} of memory, there are ${text(limit)}`, {
    details: { bytes, limit },
  });
}

/** Starts a native fit unless the signal is aborted already, and waits for it. */
export async function fit<T>(start: () => NativeJob<T>, signal: AbortSignal | undefined): Promise<T> {
  signal?.throwIfAborted();
  return run(LatentError.translate(start), signal);
}
