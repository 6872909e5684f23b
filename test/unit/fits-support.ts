// Matrices of plain f64 numbers and the arithmetic that fits are held against.
import { expect } from "vitest";
import { Tensor } from "../../lib/index.js";
import { at } from "../helpers.js";
import { normals } from "../plain.js";

/** A matrix of plain numbers, row by row. */
export interface Plain {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float64Array;
}

export function plain(rows: number, columns: number, value: (i: number, j: number) => number): Plain {
  const values = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) values[i * columns + j] = value(i, j);
  return { rows, columns, values };
}

export const get = (a: Plain, i: number, j: number): number => at(a.values, i * a.columns + j);
export const transposed = (a: Plain): Plain => plain(a.columns, a.rows, (i, j) => get(a, j, i));
export const identity = (n: number): Plain => plain(n, n, (i, j) => (i === j ? 1 : 0));
export const diagonal = (values: ArrayLike<number>): Plain => plain(values.length, values.length, (i, j) => (i === j ? at(values, i) : 0));
export const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);
export const squares = (a: Plain): number => sum(a.values.map((value) => value ** 2));
export const plus = (a: Plain, row: ArrayLike<number>, factor = 1): Plain =>
  plain(a.rows, a.columns, (i, j) => get(a, i, j) + factor * at(row, j));
export const minus = (a: Plain, b: Plain): Plain => plain(a.rows, a.columns, (i, j) => get(a, i, j) - get(b, i, j));
export const columnsOf = (a: Plain, first: number, count: number): Plain => plain(a.rows, count, (i, j) => get(a, i, first + j));

export function times(a: Plain, b: Plain): Plain {
  expect(a.columns).toBe(b.rows);
  return plain(a.rows, b.columns, (i, j) => {
    let total = 0;
    for (let k = 0; k < a.columns; k++) total += get(a, i, k) * get(b, k, j);
    return total;
  });
}

/** The solution of a x = b by elimination with pivots. */
export function solve(a: Plain, b: Plain): Plain {
  const n = a.rows;
  const left = a.values.slice();
  const right = b.values.slice();
  const m = b.columns;
  const swap = (values: Float64Array, width: number, i: number, j: number): void => {
    for (let k = 0; k < width; k++) [values[i * width + k], values[j * width + k]] = [at(values, j * width + k), at(values, i * width + k)];
  };
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k; i < n; i++) if (Math.abs(at(left, i * n + k)) > Math.abs(at(left, pivot * n + k))) pivot = i;
    swap(left, n, k, pivot);
    swap(right, m, k, pivot);
    for (let i = 0; i < n; i++) {
      if (i === k) continue;
      const factor = at(left, i * n + k) / at(left, k * n + k);
      for (let j = k; j < n; j++) left[i * n + j] = at(left, i * n + j) - factor * at(left, k * n + j);
      for (let j = 0; j < m; j++) right[i * m + j] = at(right, i * m + j) - factor * at(right, k * m + j);
    }
  }
  return plain(n, m, (i, j) => at(right, i * m + j) / at(left, i * n + i));
}

/** By elimination with pivots. */
export function determinant(a: Plain): number {
  const n = a.rows;
  const left = a.values.slice();
  let product = 1;
  for (let k = 0; k < n; k++) {
    let pivot = k;
    for (let i = k; i < n; i++) if (Math.abs(at(left, i * n + k)) > Math.abs(at(left, pivot * n + k))) pivot = i;
    product *= at(left, pivot * n + k) * (pivot === k ? 1 : -1);
    for (let j = k; j < n; j++) [left[k * n + j], left[pivot * n + j]] = [at(left, pivot * n + j), at(left, k * n + j)];
    for (let i = k + 1; i < n; i++) {
      const factor = at(left, i * n + k) / at(left, k * n + k);
      for (let j = k; j < n; j++) left[i * n + j] = at(left, i * n + j) - factor * at(left, k * n + j);
    }
  }
  return product;
}

/** Random f32 numbers. */
export function random(rows: number, columns: number, seed: number, offset = 0): Plain {
  const next = normals(seed);
  return plain(rows, columns, () => Math.fround(next() + offset));
}

export const tensor = (a: Plain): Tensor => Tensor.fromTyped("f32", [a.rows, a.columns], Float32Array.from(a.values));

export function read(t: Tensor): Plain {
  const [rows = 0, columns = 0] = t.shape;
  expect(t.dtype).toBe("f32");
  return { rows, columns, values: Float64Array.from(t.toFloat32()) };
}

/** Every number of `a` is that of `b`, to `tolerance` of the largest. */
export function expectClose(a: Plain, b: Plain, tolerance = 1e-5): void {
  expect([a.rows, a.columns]).toEqual([b.rows, b.columns]);
  const scale = b.values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  let worst = 0;
  a.values.forEach((value, index) => {
    const error = Math.abs(value - at(b.values, index));
    worst = error <= worst ? worst : error;
  });
  expect(worst / scale).toBeLessThan(tolerance);
}

export const row = (values: ArrayLike<number>): Plain => plain(1, values.length, (_, j) => at(values, j));

/** An orthogonal matrix: the turned axes of Gram and Schmidt. */
export function orthogonal(n: number, seed: number): Plain {
  const a = random(n, n, seed);
  const axes: number[][] = [];
  for (let i = 0; i < n; i++) {
    let axis = Array.from({ length: n }, (_, j) => get(a, i, j));
    for (const other of [...axes, ...axes]) {
      const dot = sum(axis.map((value, j) => value * at(other, j)));
      axis = axis.map((value, j) => value - dot * at(other, j));
    }
    const length = Math.hypot(...axis);
    axes.push(axis.map((value) => value / length));
  }
  return plain(n, n, (i, j) => at(axes[i] ?? [], j));
}

/** Means and moments by plain loops. */
export function sums(
  x: Plain,
  y: Plain,
  weights: ArrayLike<number> | undefined,
  centred: boolean,
): { gram: Plain; cross: Plain; xMean: number[]; yMean: number[]; weight: number; ySquares: number } {
  const w = Array.from({ length: x.rows }, (_, i) => (weights === undefined ? 1 : at(weights, i)));
  const weight = sum(w);
  const mean = (a: Plain): number[] =>
    Array.from({ length: a.columns }, (_, j) => (centred ? sum(w.map((one, i) => one * get(a, i, j))) / weight : 0));
  const [xMean, yMean] = [mean(x), mean(y)];
  const [xc, yc] = [plus(x, xMean, -1), plus(y, yMean, -1)];
  const weighted = plain(x.rows, x.columns, (i, j) => at(w, i) * get(xc, i, j));
  const ySquares = sum(w.map((one, i) => one * sum(Array.from({ length: y.columns }, (_, j) => get(yc, i, j) ** 2))));
  return { gram: times(transposed(weighted), xc), cross: times(transposed(weighted), yc), xMean, yMean, weight, ySquares };
}

export const covariance = (a: Plain): Plain => {
  const { gram } = sums(a, a, undefined, true);
  return plain(a.columns, a.columns, (i, j) => get(gram, i, j) / (a.rows - 1));
};
