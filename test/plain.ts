// Matrices of plain f64 numbers for the tests of spaces: references that share nothing with the code they are held against.
import { Tensor } from "../lib/index.js";
import { at } from "./helpers.js";

/** Rows of numbers. */
export type Rows = readonly (readonly number[])[];

/** Numbers that look normal, the same for a seed. */
export function normals(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** `[n, d]`, numbers that f32 holds. */
export function randomRows(n: number, d: number, seed: number, offset = 0): number[][] {
  const next = normals(seed);
  return Array.from({ length: n }, () => Array.from({ length: d }, () => Math.fround(next() + offset)));
}

export const transposed = (a: Rows): number[][] => (a[0] ?? []).map((_, j) => a.map((row) => at(row, j)));
export const dot = (a: readonly number[], b: readonly number[]): number => a.reduce((sum, value, i) => sum + value * at(b, i), 0);
export const norm = (a: readonly number[]): number => Math.sqrt(dot(a, a));
export const minus = (a: readonly number[], b: readonly number[]): number[] => a.map((value, i) => value - at(b, i));
export const times = (a: Rows, b: Rows): number[][] => {
  const columns = transposed(b);
  return a.map((row) => columns.map((column) => dot(row, column)));
};
export const meanRow = (a: Rows): number[] => transposed(a).map((column) => column.reduce((sum, value) => sum + value, 0) / column.length);
export const cosine = (a: readonly number[], b: readonly number[]): number => {
  const lengths = norm(a) * norm(b);
  return lengths === 0 ? 0 : dot(a, b) / lengths;
};

/** Orthonormal rows by Gram-Schmidt, twice: `[d, d]`. */
export function orthogonal(d: number, seed: number): number[][] {
  const done: number[][] = [];
  for (const row of randomRows(d, d, seed)) {
    let rest: number[] = row;
    for (let pass = 0; pass < 2; pass++)
      for (const other of done) {
        const part = dot(rest, other);
        rest = rest.map((value, i) => value - part * at(other, i));
      }
    const length = norm(rest);
    done.push(rest.map((value) => value / length));
  }
  return done;
}

/** scale · x q + shift */
export const moved = (x: Rows, q: Rows, scale = 1, shift = 0): number[][] =>
  times(x, q).map((row) => row.map((value) => scale * value + shift));

export const flat = (a: Rows): Float32Array => Float32Array.from(a.flat());
export const tensorOf = (a: Rows): Tensor => Tensor.fromTyped("f32", [a.length, a[0]?.length ?? 0], flat(a));

/** The largest difference between numbers of two lists, NaN if one has another length. */
export function worst(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Number.NaN;
  let most = 0;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(at(a, i) - at(b, i)));
  return most;
}
