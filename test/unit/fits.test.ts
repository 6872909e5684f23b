// The fits as users see them: the numbers are those of plain f64 arithmetic, results go straight into the kernels, bad values are named, and aborts and
// disposals are safe. The arithmetic itself is tested in test/native at length.
import os from "node:os";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  accumulateMoments,
  bundledModel,
  EmpiricalDistribution,
  farthestPoints,
  kmeans,
  leastSquares,
  logisticRegression,
  openTokenTable,
  packAnchors,
  packProjection,
  parsevalFrame,
  svd,
  symmetricEigen,
  Tensor,
  type HubSpace,
  type MomentsOptions,
} from "../../lib/index.js";
import { native } from "../../lib/native.js";
import { at, codeOf, isAborted, runs } from "../helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

/** A matrix of plain numbers, row by row. */
interface Plain {
  readonly rows: number;
  readonly columns: number;
  readonly values: Float64Array;
}

function plain(rows: number, columns: number, value: (i: number, j: number) => number): Plain {
  const values = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) values[i * columns + j] = value(i, j);
  return { rows, columns, values };
}

const get = (a: Plain, i: number, j: number): number => at(a.values, i * a.columns + j);
const transposed = (a: Plain): Plain => plain(a.columns, a.rows, (i, j) => get(a, j, i));
const identity = (n: number): Plain => plain(n, n, (i, j) => (i === j ? 1 : 0));
const diagonal = (values: ArrayLike<number>): Plain => plain(values.length, values.length, (i, j) => (i === j ? at(values, i) : 0));
const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0);
const squares = (a: Plain): number => sum(a.values.map((value) => value ** 2));
const plus = (a: Plain, row: ArrayLike<number>, factor = 1): Plain =>
  plain(a.rows, a.columns, (i, j) => get(a, i, j) + factor * at(row, j));
const minus = (a: Plain, b: Plain): Plain => plain(a.rows, a.columns, (i, j) => get(a, i, j) - get(b, i, j));
const columnsOf = (a: Plain, first: number, count: number): Plain => plain(a.rows, count, (i, j) => get(a, i, first + j));

function times(a: Plain, b: Plain): Plain {
  expect(a.columns).toBe(b.rows);
  return plain(a.rows, b.columns, (i, j) => {
    let total = 0;
    for (let k = 0; k < a.columns; k++) total += get(a, i, k) * get(b, k, j);
    return total;
  });
}

/** The solution of a x = b by elimination with pivots. */
function solve(a: Plain, b: Plain): Plain {
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
function determinant(a: Plain): number {
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

/** Numbers that look normal, the same for a seed. */
function normals(seed: number): () => number {
  let state = (seed ^ 0x9e3779b9) >>> 0;
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

/** Random f32 numbers. */
function random(rows: number, columns: number, seed: number, offset = 0): Plain {
  const next = normals(seed);
  return plain(rows, columns, () => Math.fround(next() + offset));
}

const tensor = (a: Plain): Tensor => Tensor.fromTyped("f32", [a.rows, a.columns], Float32Array.from(a.values));

function read(t: Tensor): Plain {
  const [rows = 0, columns = 0] = t.shape;
  expect(t.dtype).toBe("f32");
  return { rows, columns, values: Float64Array.from(t.toFloat32()) };
}

/** Every number of `a` is that of `b`, to `tolerance` of the largest. */
function expectClose(a: Plain, b: Plain, tolerance = 1e-5): void {
  expect([a.rows, a.columns]).toEqual([b.rows, b.columns]);
  const scale = b.values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  let worst = 0;
  a.values.forEach((value, index) => {
    const error = Math.abs(value - at(b.values, index));
    worst = error <= worst ? worst : error;
  });
  expect(worst / scale).toBeLessThan(tolerance);
}

const row = (values: ArrayLike<number>): Plain => plain(1, values.length, (_, j) => at(values, j));

/** An orthogonal matrix: the turned axes of Gram and Schmidt. */
function orthogonal(n: number, seed: number): Plain {
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
function sums(
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

const covariance = (a: Plain): Plain => {
  const { gram } = sums(a, a, undefined, true);
  return plain(a.columns, a.columns, (i, j) => get(gram, i, j) / (a.rows - 1));
};

afterEach(() => {
  vi.restoreAllMocks();
});

describe("accumulateMoments", () => {
  it("tells what it holds", async () => {
    const x = tensor(random(9, 3, 1));
    using moments = await accumulateMoments({ x, y: tensor(random(9, 2, 2)), weights: new Float32Array(9).fill(0.5) });
    expect(moments).toMatchObject({ weight: 4.5, xColumns: 3, yColumns: 2, centred: true, disposed: false });
    expect(moments.bytes).toBe((9 + 6 + 3 + 2) * 8);
    using alone = await accumulateMoments({ x, centred: false });
    expect(alone).toMatchObject({ weight: 9, xColumns: 3, yColumns: 0, centred: false });
  });

  it("does not see what becomes of the weights after the call", async () => {
    const x = random(3000, 20, 3);
    const y = random(3000, 2, 4);
    const weights = Float32Array.from({ length: 3000 }, (_, i) => (i < 1500 ? 1 : 0));
    const pending = accumulateMoments({ x: tensor(x), y: tensor(y), weights });
    structuredClone(weights.buffer, { transfer: [weights.buffer] });
    expect(weights.length).toBe(0);
    using moments = await pending;
    expect(moments.weight).toBe(1500);
  });

  it("keeps its input alive, and its memory under a running fit", async () => {
    const x = random(4000, 150, 5);
    const mine = tensor(x);
    const pending = accumulateMoments({ x: mine });
    mine.dispose();
    const moments = await pending;
    const fit = moments.pca(3);
    moments.dispose();
    moments.dispose();
    expect(moments.disposed).toBe(true);
    expect((await fit).variances.length).toBe(3);
    for (const call of [
      () => moments.pca(1),
      () => moments.whitening(),
      () => moments.gcca({ widths: [150], dimension: 1 }),
      () => moments.generalisedProcrustes({ widths: [150] }),
    ])
      expect(await codeOf(call)).toBe("ERR_LATENT_DISPOSED");
    const joint = await accumulateMoments({ x: tensor(random(9, 3, 1)), y: tensor(random(9, 2, 2)) });
    joint.dispose();
    for (const call of [() => joint.ridge({ lambda: 1 }), () => joint.procrustes()]) expect(await codeOf(call)).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => accumulateMoments({ x: mine }))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("token tables as rows", () => {
  it("give the very fits of the tensors that they hold, from a model file too", async () => {
    const path = bundledModel("wren");
    using input = await openTokenTable(path);
    using output = await openTokenTable(path, { matrix: "output" });
    const all = Int32Array.from({ length: input.count }, (_, i) => i);
    using x = await output.rows(all);
    using y = await input.rows(all);
    using fromFile = await accumulateMoments({ x: output, y: input });
    using fromMemory = await accumulateMoments({ x, y });
    const options = { lambda: 1e-3 };
    const [one, two] = [await fromFile.ridge(options), await fromMemory.ridge(options)];
    expect(one.weights.toFloat32()).toEqual(two.weights.toFloat32());
    expect(one.unexplained).toBe(two.unexplained);
    expect(await farthestPoints(input, 5)).toEqual(await farthestPoints(y, 5));
    expect((await kmeans(input, { clusters: 4 })).labels).toEqual((await kmeans(y, { clusters: 4 })).labels);
    expect((await svd(input, { rank: 3 })).values).toEqual((await svd(y, { rank: 3 })).values);
    input.dispose();
    expect(await codeOf(() => kmeans(input, { clusters: 4 }))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("ridge", () => {
  it("solves the normal equations", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.record({
          dx: fc.integer({ min: 1, max: 7 }),
          dy: fc.integer({ min: 1, max: 4 }),
          spare: fc.integer({ min: 0, max: 40 }),
          lambda: fc.constantFrom(0, 0.01, 3),
          relative: fc.boolean(),
          centred: fc.boolean(),
          weighted: fc.boolean(),
          offset: fc.constantFrom(0, 5),
          seed: fc.integer(),
        }),
        async ({ dx, dy, spare, lambda, relative, centred, weighted, offset, seed }) => {
          // without lambda the rows have to determine the map
          const n = spare + (lambda === 0 ? 4 * dx + 4 : 2);
          const x = random(n, dx, seed, offset);
          const y = random(n, dy, seed + 1, offset);
          const weights = weighted ? Float32Array.from({ length: n }, (_, i) => 0.25 + ((i * 7) % 5) / 4) : undefined;
          const { gram, cross, xMean, yMean, ySquares } = sums(x, y, weights, centred);
          const trace = sum(Array.from({ length: dx }, (_, i) => get(gram, i, i)));
          const added = relative ? (lambda * trace) / dx : lambda;
          const want = solve(
            plain(dx, dx, (i, j) => get(gram, i, j) + (i === j ? added : 0)),
            cross,
          );
          using moments = await accumulateMoments({ x: tensor(x), y: tensor(y), centred, ...(weights !== undefined && { weights }) });
          const fit = await moments.ridge({ lambda, relative });
          expectClose(read(fit.weights), want, 2e-4);
          expectClose(row(fit.bias), minus(row(yMean), times(row(xMean), want)), 2e-4);
          expect(fit.lambda).toBeCloseTo(added, 5);
          expect(fit.condition).toBeGreaterThanOrEqual(1);
          const missed = minus(plus(y, fit.bias, -1), times(x, read(fit.weights)));
          const weightedSquares = sum(
            Array.from({ length: n }, (_, i) => squares(plain(1, dy, (__, j) => get(missed, i, j))) * (weights?.[i] ?? 1)),
          );
          // the fit counts the penalty out, the loop above has no penalty: they are the same number
          expect(fit.unexplained).toBeCloseTo(weightedSquares / ySquares, 3);
        },
      ),
      runs(60),
    );
  });

  it("finds a planted map of many rows again, of every float type, and that goes into a projection", async () => {
    const [n, dx, dy] = [6000, 96, 40];
    const x = random(n, dx, 6);
    const w = random(dx, dy, 7);
    const b = random(1, dy, 8).values;
    const y = plus(times(x, w), b);
    using from = tensor(x);
    using to = tensor(y);
    using moments = await accumulateMoments({ x: from, y: to });
    const { weights, bias, unexplained, condition } = await moments.ridge({ lambda: 0 });
    expectClose(read(weights), w, 1e-5);
    expectClose(row(bias), row(b), 1e-5);
    expect(unexplained).toBeLessThan(1e-6);
    expect(condition).toBeLessThan(10);
    using projection = await packProjection({ layers: [{ weights, bias }] });
    using mapped = await projection.apply(from);
    expectClose(read(mapped), y, 1e-5);
    for (const dtype of ["f16", "bf16"] as const) {
      using half = await from.convert(dtype);
      using back = await half.convert("f32");
      const fits = [];
      for (const source of [half, back]) {
        using sixteen = await accumulateMoments({ x: source, y: to });
        fits.push((await sixteen.ridge({ lambda: 1e-3 })).weights.toFloat32());
      }
      expect(fits[0]).toEqual(fits[1]);
    }
  });

  it("refuses what has no solution, or none that f32 holds", async () => {
    const x = random(20, 1, 9);
    using twice = tensor(plain(20, 2, (i) => get(x, i, 0)));
    using y = tensor(random(20, 1, 10));
    using moments = await accumulateMoments({ x: twice, y, centred: false });
    // equal columns share the map in no way of their own: the equations hold, but the condition says so
    expect((await moments.ridge({ lambda: 0 })).condition).toBe(Infinity);
    expect((await moments.ridge({ lambda: 1e-3 })).condition).toBeLessThan(1e4);
    using small = Tensor.fromTyped("f32", [2, 1], Float32Array.of(1e-20, 2e-20));
    using large = Tensor.fromTyped("f32", [2, 1], Float32Array.of(1e30, 2e30));
    using beyond = await accumulateMoments({ x: small, y: large, centred: false });
    await expect(beyond.ridge({ lambda: 0 })).rejects.toMatchObject({
      code: "ERR_LATENT_NON_FINITE",
      message: expect.stringContaining("weights") as unknown,
    });
    await expect(leastSquares(small, large, { centred: false })).rejects.toMatchObject({ code: "ERR_LATENT_NON_FINITE" });
  });
});

describe("leastSquares", () => {
  it("is the solution of least norm where columns depend on each other", async () => {
    const x = random(30, 3, 11);
    const y = random(30, 2, 12);
    const twice = plain(30, 6, (i, j) => get(x, i, j % 3));
    for (const centred of [true, false]) {
      const { gram, cross, xMean, yMean } = sums(x, y, undefined, centred);
      const want = solve(gram, cross);
      const full = await leastSquares(tensor(x), tensor(y), { centred });
      expectClose(read(full.weights), want);
      expectClose(row(full.bias), minus(row(yMean), times(row(xMean), want)));
      expect(full).toMatchObject({ lambda: 0 });
      // of two equal columns each takes half, which is the least norm
      const half = await leastSquares(tensor(twice), tensor(y), { centred });
      expectClose(
        read(half.weights),
        plain(6, 2, (i, j) => get(want, i % 3, j) / 2),
      );
      expect(half.condition).toBeLessThan(100);
      expect(half.unexplained).toBeCloseTo(full.unexplained, 6);
    }
  });

  it("counts singular values below rcond as 0", async () => {
    const x = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 0, 0, 1e-3));
    const y = Tensor.fromTyped("f32", [2, 1], Float32Array.of(1, 1));
    expect([...(await leastSquares(x, y, { centred: false })).weights.toFloat32()]).toEqual([1, expect.closeTo(1000, 2)]);
    expect([...(await leastSquares(x, y, { centred: false, rcond: 0.01 })).weights.toFloat32()]).toEqual([1, 0]);
  });
});

describe("procrustes", () => {
  it("finds a rotation, a scale and a shift again", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 6 }), fc.integer(), fc.boolean(), async (d, seed, reflect) => {
        let turn = orthogonal(d, seed);
        if (determinant(turn) < 0 !== reflect) turn = plain(d, d, (i, j) => get(turn, i, j) * (j === 0 ? -1 : 1));
        const x = random(d + 20, d, seed + 1, 2);
        const shift = random(1, d, seed + 2).values;
        const turned = times(x, turn);
        const y = plus(
          plain(turned.rows, d, (i, j) => 3 * get(turned, i, j)),
          shift,
        );
        using moments = await accumulateMoments({ x: tensor(x), y: tensor(y) });
        const fit = await moments.procrustes({ scaled: true });
        expectClose(read(fit.rotation), turn);
        expect(fit.scale).toBeCloseTo(3, 5);
        expectClose(
          read(fit.weights),
          plain(d, d, (i, j) => 3 * get(turn, i, j)),
        );
        expectClose(row(fit.bias), row(shift), 1e-4);
        expect(fit.residual).toBeLessThan(1e-6);
        const unscaled = await moments.procrustes();
        expect(unscaled.scale).toBe(1);
        expect(unscaled.weights).toBe(unscaled.rotation);
        expectClose(read(unscaled.rotation), turn);
        const proper = await moments.procrustes({ rotationOnly: true, scaled: true });
        expect(determinant(read(proper.rotation))).toBeCloseTo(1, 4);
        expectClose(times(transposed(read(proper.rotation)), read(proper.rotation)), identity(d));
        if (reflect) expect(proper.residual).toBeGreaterThan(1e-3);
        else expect(proper.residual).toBeLessThan(1e-6);
      }),
      runs(30),
    );
  });

  it("is orthogonal, finds a planted map, and misses no more than the identity; the last axis turns for a rotation (16)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 24 }), fc.integer(), async (d, seed) => {
        const x = random(d + 3, d, seed);
        const planted = orthogonal(d, seed + 1);
        const y = random(d + 3, d, seed + 2);
        using exact = await accumulateMoments({ x: tensor(x), y: tensor(times(x, planted)), centred: false });
        expectClose(read((await exact.procrustes()).rotation), planted, 5e-6);
        using moments = await accumulateMoments({ x: tensor(x), y: tensor(y), centred: false });
        const { rotation, residual } = await moments.procrustes();
        const r = read(rotation);
        expectClose(times(transposed(r), r), identity(d), 5e-6);
        expect(residual).toBeLessThanOrEqual(squares(minus(x, y)) / squares(y) + 1e-6);
        const { u, v } = await svd(tensor(times(transposed(x), y)));
        const signs = new Float64Array(d).fill(1);
        const reflects = determinant(r) < 0;
        if (reflects) signs[d - 1] = -1;
        const proper = read((await moments.procrustes({ rotationOnly: true })).rotation);
        expectClose(proper, times(times(read(u), diagonal(signs)), transposed(read(v))), 1e-3);
        if (!reflects) expectClose(proper, r, 5e-6);
      }),
      runs(40),
    );
  });

  it("of y and x is the transpose of that of x and y (17)", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 24 }),
        fc.integer({ min: 1, max: 24 }),
        fc.boolean(),
        fc.integer(),
        async (dx, dy, centred, seed) => {
          const shared = random(60, Math.max(dx, dy), seed, 1);
          const x = columnsOf(shared, 0, dx);
          const noise = random(60, dy, seed + 1);
          const y = plain(60, dy, (i, j) => Math.fround(2 * get(shared, i, j) + get(noise, i, j)));
          using there = await accumulateMoments({ x: tensor(x), y: tensor(y), centred });
          using back = await accumulateMoments({ x: tensor(y), y: tensor(x), centred });
          expectClose(read((await back.procrustes()).rotation), transposed(read((await there.procrustes()).rotation)), 1e-5);
        },
      ),
      runs(40),
    );
  });

  it("leads back by its transpose (18)", async () => {
    const [n, d] = [300, 48];
    const x = random(n, d, 31, 2);
    const noise = random(n, d, 32);
    const mapped = times(x, orthogonal(d, 33));
    const y = plain(n, d, (i, j) => 1.7 * get(mapped, i, j) - 4 + 0.1 * get(noise, i, j));
    using moments = await accumulateMoments({ x: tensor(x), y: tensor(y) });
    const { rotation, scale, weights, bias } = await moments.procrustes({ scaled: true });
    const undo = transposed(read(rotation));
    const weightsBack = plain(d, d, (i, j) => get(undo, i, j) / scale);
    const biasBack = Float32Array.from(times(row(bias), weightsBack).values, (value) => -value);
    using there = await packProjection({ layers: [{ weights, bias }] });
    using back = await packProjection({ layers: [{ weights: tensor(weightsBack), bias: biasBack }] });
    const again = back.applySync(there.applySync(Float32Array.from(x.values)));
    again.forEach((value, i) => {
      expect(Math.abs(value - at(x.values, i))).toBeLessThan(1e-4);
    });
  });

  it("maps spaces of unequal dimensions", async () => {
    const narrow = random(40, 3, 13);
    const wide = times(
      narrow,
      plain(3, 5, (i, j) => get(orthogonal(5, 14), i, j)),
    );
    using up = await accumulateMoments({ x: tensor(narrow), y: tensor(wide) });
    const into = await up.procrustes();
    expect(into.rotation.shape).toEqual([3, 5]);
    expect(into.residual).toBeLessThan(1e-6);
    using down = await accumulateMoments({ x: tensor(wide), y: tensor(narrow) });
    const back = await down.procrustes();
    expect(back.rotation.shape).toEqual([5, 3]);
    expect(back.residual).toBeLessThan(1e-6);
    expect(await codeOf(() => down.procrustes({ rotationOnly: true }))).toBe(bad);
  });
});

describe("pca and whitening", () => {
  const n = 200;
  const d = 5;
  const x = plus(times(random(n, d, 15), random(d, d, 16)), [3, -2, 1, 0, 50]);

  it("tells variances that add up, along orthonormal components", async () => {
    using moments = await accumulateMoments({ x: tensor(x) });
    const all = await moments.pca(d);
    const components = read(all.components);
    expectClose(times(transposed(components), components), identity(d));
    expect(sum(all.variances)).toBeCloseTo(all.totalVariance, 3);
    const cov = covariance(x);
    expect(all.totalVariance).toBeCloseTo(sum(Array.from({ length: d }, (_, i) => get(cov, i, i))), 3);
    const scores = plus(times(x, components), all.bias);
    expectClose(covariance(scores), diagonal(all.variances), 1e-4);
    expectClose(scores, times(plus(x, all.mean, -1), components), 1e-4);
    expect([...all.variances]).toEqual([...all.variances].sort((a, b) => b - a));
    const two = await moments.pca(2);
    expect(two.components.shape).toEqual([d, 2]);
    expectClose(read(two.components), columnsOf(components, 0, 2));
    expect([...two.variances]).toEqual([...all.variances.subarray(0, 2)]);
    expect(two.totalVariance).toBe(all.totalVariance);
  });

  it("makes the covariance the identity, and undoes it", async () => {
    using moments = await accumulateMoments({ x: tensor(x) });
    const { whiten, bias, colour, mean } = await moments.whitening();
    const white = plus(times(x, read(whiten)), bias);
    expectClose(covariance(white), identity(d), 1e-3);
    expectClose(plus(times(white, read(colour)), mean), x, 1e-4);
    expectClose(read(whiten), transposed(read(whiten)), 1e-6);
    // all shrunk, it is a division by one number
    const even = read((await moments.whitening(1)).whiten);
    const { totalVariance } = await moments.pca(1);
    expectClose(even, diagonal(new Float64Array(d).fill(1 / Math.sqrt(totalVariance / d))), 1e-5);
  });

  it("makes similarities that no affine map of everything changes, nor any rotation if it is shrunk (14)", async () => {
    const rows = times(random(n, d, 20, 1), random(d, d, 16));
    const anchorRows = plain(30, d, (i, j) => get(rows, i, j));
    const turn = orthogonal(d, 18);
    const stretch = times(times(turn, diagonal([0.3, 0.7, 1, 2, 3])), orthogonal(d, 19));
    const similarities = async (map: Plain, shift: number, shrinkage: number): Promise<Plain[]> => {
      const mapped = (a: Plain): Plain => plus(times(a, map), new Float64Array(d).fill(shift));
      using moments = await accumulateMoments({ x: tensor(mapped(rows)) });
      const whitening = await moments.whitening(shrinkage);
      const found: Plain[] = [];
      for (const similarity of ["inner", "squared-euclidean", "cosine"] as const) {
        using anchors = await packAnchors(tensor(mapped(anchorRows)), { similarity, whitening });
        found.push(read(await anchors.relative(tensor(mapped(rows)))));
      }
      return found;
    };
    const before = await similarities(identity(d), 0, 0);
    (await similarities(stretch, -7, 0)).forEach((after, i) => {
      expectClose(after, before[i] ?? row([]), 1e-4);
    });
    const shrunk = await similarities(identity(d), 0, 0.3);
    (await similarities(turn, 5, 0.3)).forEach((after, i) => {
      expectClose(after, shrunk[i] ?? row([]), 1e-4);
    });
    (await similarities(stretch, 0, 0.3)).forEach((after, i) => {
      expect(squares(minus(after, shrunk[i] ?? row([])))).toBeGreaterThan(1);
    });
    // the squared distance of Mahalanobis
    const inverse = solve(covariance(rows), identity(d));
    const difference = minus(columnsOf(transposed(rows), 3, 1), columnsOf(transposed(rows), 100, 1));
    const want = get(times(times(transposed(difference), inverse), difference), 0, 0);
    expect(get(before[1] ?? row([]), 100, 3) / want).toBeCloseTo(1, 3);
  });

  it("needs shrinkage for a singular covariance, and centred moments", async () => {
    using few = await accumulateMoments({ x: tensor(random(4, 6, 17)) });
    await expect(few.whitening()).rejects.toMatchObject({ code: bad, message: expect.stringContaining("shrinkage") as unknown });
    expect((await few.whitening(0.1)).whiten.shape).toEqual([6, 6]);
    using about0 = await accumulateMoments({ x: tensor(x), centred: false });
    using one = await accumulateMoments({ x: tensor(random(1, 6, 17)) });
    for (const moments of [about0, one])
      for (const call of [() => moments.pca(1), () => moments.whitening()]) expect(await codeOf(call)).toBe(bad);
  });
});

describe("svd and symmetricEigen", () => {
  it("take a matrix apart that comes together again", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 12 }), fc.integer(), async (n, d, seed) => {
        const a = random(n, d, seed);
        const k = Math.min(n, d);
        const { u, values, v } = await svd(tensor(a));
        expect([u.shape, values.length, v.shape]).toEqual([[n, k], k, [d, k]]);
        expectClose(times(times(read(u), diagonal(values)), transposed(read(v))), a);
        expectClose(times(transposed(read(u)), read(u)), identity(k));
        expectClose(times(transposed(read(v)), read(v)), identity(k));
        expect([...values]).toEqual([...values].sort((p, q) => q - p));
        const truncated = await svd(tensor(a), { rank: Math.ceil(k / 2) });
        expectClose(row(truncated.values), row(values.subarray(0, Math.ceil(k / 2))));
        const gram = times(transposed(a), a);
        const eigen = await symmetricEigen(tensor(gram));
        expectClose(times(gram, read(eigen.vectors)), times(read(eigen.vectors), diagonal(eigen.values)), 1e-5);
        expectClose(row(eigen.values.subarray(0, k).map((value) => Math.sqrt(Math.max(0, value)))), row(values), 2e-3);
      }),
      runs(40),
    );
  });

  it("finds a few singular values of a large matrix by its seed", async () => {
    const [n, d, k] = [500, 300, 4];
    const low = times(random(n, k, 18), random(k, d, 19));
    const noise = random(n, d, 20);
    using a = tensor(plain(n, d, (i, j) => get(low, i, j) + 0.001 * get(noise, i, j)));
    const first = await svd(a, { rank: k, seed: 5 });
    const again = await svd(a, { rank: k, seed: 5 });
    expect(again.u.toFloat32()).toEqual(first.u.toFloat32());
    expectClose(times(times(read(first.u), diagonal(first.values)), transposed(read(first.v))), low, 1e-3);
    const exact = await svd(a);
    expectClose(row(first.values), row(exact.values.subarray(0, k)), 1e-6);
    const other = await svd(a, { rank: k, seed: 6 });
    expect(other.values).not.toEqual(first.values);
  });

  it("reads the lower half of a symmetric matrix", async () => {
    const { values, vectors } = await symmetricEigen(Tensor.fromTyped("f32", [2, 2], Float32Array.of(2, 99, 1, 2)));
    expectClose(row(values), row([3, 1]));
    const half = Math.SQRT1_2;
    expectClose(
      read(vectors),
      plain(2, 2, (i, j) => (j === 1 && i === 1 ? -half : half)),
    );
  });
});

describe("parsevalFrame", () => {
  it("has singular values of 1", async () => {
    for (const [k, d] of [
      [12, 5],
      [5, 5],
      [3, 8],
    ] as const) {
      const { frame, rank } = await parsevalFrame(tensor(random(k, d, 21 + k)));
      expect(frame.shape).toEqual([k, d]);
      expect(rank).toBe(Math.min(k, d));
      const f = read(frame);
      expectClose(k >= d ? times(transposed(f), f) : times(f, transposed(f)), identity(rank));
    }
    const line = random(1, 4, 30);
    const flat = await parsevalFrame(tensor(plain(6, 4, (i, j) => (i + 1) * get(line, 0, j))));
    expect(flat.rank).toBe(1);
    expect(squares(read(flat.frame))).toBeCloseTo(1, 5);
    expect(await codeOf(() => parsevalFrame(Tensor.zeros([2, 3])))).toBe(bad);
  });

  it("decodes what it encodes", async () => {
    const { frame } = await parsevalFrame(tensor(random(12, 5, 31)));
    using encoder = await packAnchors(frame, { similarity: "inner" });
    using decoder = await packProjection({ layers: [{ weights: frame }] });
    const x = random(7, 5, 32);
    using codes = await encoder.relative(tensor(x));
    using back = await decoder.apply(codes);
    expectClose(read(back), x);
  });
});

describe("kmeans and farthestPoints", () => {
  const n = 300;
  const d = 4;
  const corners = random(5, d, 33);
  const noise = random(n, d, 34);
  const x = plain(n, d, (i, j) => Math.fround(10 * get(corners, i % 5, j) + 0.1 * get(noise, i, j)));
  const distance = (a: Plain, i: number, b: Plain, j: number): number =>
    sum(Array.from({ length: a.columns }, (_, k) => (get(a, i, k) - get(b, j, k)) ** 2));

  it("finds clusters, their centres and their medoids", async () => {
    using rows = tensor(x);
    const found = await kmeans(rows, { clusters: 5, seed: 3 });
    expect(found.converged).toBe(true);
    expect(found.centres.shape).toEqual([5, d]);
    for (let i = 0; i < n; i++) expect(found.labels[i]).toBe(found.labels[i % 5]);
    expect(new Set(found.labels).size).toBe(5);
    const centres = read(found.centres);
    for (let c = 0; c < 5; c++) {
      const members = Array.from({ length: n }, (_, i) => i).filter((i) => found.labels[i] === c);
      const mean = Array.from({ length: d }, (_, j) => sum(members.map((i) => get(x, i, j))) / members.length);
      expectClose(
        plain(1, d, (_, j) => get(centres, c, j)),
        row(mean),
      );
      const nearest = members.reduce((p, q) => (distance(x, q, centres, c) < distance(x, p, centres, c) ? q : p));
      expect(found.medoids[c]).toBe(nearest);
    }
    const inertia = sum(Array.from({ length: n }, (_, i) => distance(x, i, centres, at(found.labels, i))));
    expect(at(found.inertia, found.inertia.length - 1)).toBeCloseTo(inertia, 1);
  });

  it("decreases the inertia, and is the same for a seed", async () => {
    using rows = tensor(random(500, 8, 35));
    for (const metric of ["euclidean", "cosine"] as const) {
      const found = await kmeans(rows, { clusters: 20, distance: metric, seed: 7, tolerance: 0 });
      expect(found.inertia.length).toBeGreaterThan(2);
      for (let i = 1; i < found.inertia.length; i++) expect(found.inertia[i]).toBeLessThanOrEqual(at(found.inertia, i - 1) * (1 + 1e-6));
      const again = await kmeans(rows, { clusters: 20, distance: metric, seed: 7, tolerance: 0 });
      expect(again.labels).toEqual(found.labels);
      expect(again.inertia).toEqual(found.inertia);
      expect(again.centres.toFloat32()).toEqual(found.centres.toFloat32());
      const other = await kmeans(rows, { clusters: 20, distance: metric, seed: 8, tolerance: 0 });
      expect(other.labels).not.toEqual(found.labels);
      const short = await kmeans(rows, { clusters: 20, distance: metric, seed: 7, maxIterations: 1 });
      expect([short.inertia.length, short.converged]).toEqual([1, false]);
      if (metric === "cosine")
        for (let c = 0; c < 20; c++) expect(squares(row(found.centres.toFloat32().subarray(8 * c, 8 * c + 8)))).toBeCloseTo(1, 5);
    }
  });

  it("chooses the farthest points, each set within the next", async () => {
    using rows = tensor(x);
    using half = await rows.convert("bf16");
    for (const source of [rows, half]) {
      const values = Float64Array.from(source.toFloat32());
      const plainRows: Plain = { rows: n, columns: d, values };
      const many = await farthestPoints(source, 12, { seed: 9 });
      expect(many).toBeInstanceOf(Int32Array);
      expect(new Set(many).size).toBe(12);
      for (const count of [1, 5]) expect(await farthestPoints(source, count, { seed: 9 })).toEqual(many.slice(0, count));
      const nearest = new Float64Array(n).fill(Infinity);
      for (let m = 1; m < 5; m++) {
        for (let i = 0; i < n; i++) nearest[i] = Math.min(at(nearest, i), distance(plainRows, i, plainRows, at(many, m - 1)));
        expect(nearest[at(many, m)]).toBeCloseTo(Math.max(...nearest), 3);
      }
    }
    // cosine knows directions alone
    const ray = Tensor.fromTyped("f32", [3, 2], Float32Array.of(1, 0, 100, 0, 0, 1));
    for (const seed of [0, 1, 2, 3]) expect(await farthestPoints(ray, 2, { distance: "cosine", seed })).toContain(2);
  });

  it("refuses rows without direction, and more points than rows", async () => {
    const zero = Tensor.zeros([3, 2]);
    expect(await codeOf(() => kmeans(zero, { clusters: 1, distance: "cosine" }))).toBe(bad);
    expect(await codeOf(() => farthestPoints(zero, 1, { distance: "cosine" }))).toBe(bad);
    expect((await kmeans(zero, { clusters: 3 })).labels.length).toBe(3);
    expect(await codeOf(() => kmeans(zero, { clusters: 4 }))).toBe(bad);
    expect(await codeOf(() => farthestPoints(zero, 4))).toBe(bad);
  });
});

describe("logisticRegression", () => {
  const gradient = (x: Plain, labels: Int32Array, positive: number, w: number[], bias: number, l2: number): number => {
    const out = [...w.map((value) => l2 * value), 0];
    for (let i = 0; i < x.rows; i++) {
      const z = bias + sum(w.map((value, k) => value * get(x, i, k)));
      const error = 1 / (1 + Math.exp(-z)) - (labels[i] === positive ? 1 : 0);
      for (let k = 0; k <= x.columns; k++) out[k] = at(out, k) + error * (k < x.columns ? get(x, i, k) : 1);
    }
    return Math.max(...out.map(Math.abs));
  };

  it("is where the gradient vanishes", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1, max: 6 }),
        fc.integer({ min: 2, max: 4 }),
        fc.constantFrom(0.1, 1, 10),
        fc.integer(),
        async (d, classes, l2, seed) => {
          const n = 30 + classes;
          const next = normals(seed);
          const labels = Int32Array.from({ length: n }, (_, i) => (i < classes ? i : Math.floor(Math.abs(next() * 10)) % classes));
          const x = plain(n, d, (i, j) => Math.fround(next() + (j === 0 ? at(labels, i) : 0)));
          const { weights, bias, reports } = await logisticRegression(tensor(x), labels, { classes, l2 });
          const outputs = classes === 2 ? 1 : classes;
          expect([weights.shape, bias.length, reports.length]).toEqual([[d, outputs], outputs, outputs]);
          const w = read(weights);
          for (let p = 0; p < outputs; p++) {
            const column = Array.from({ length: d }, (_, k) => get(w, k, p));
            // f32 weights: their rounding is what is left
            expect(gradient(x, labels, classes === 2 ? 1 : p, column, at(bias, p), l2)).toBeLessThan(1e-4);
            expect(reports[p]).toMatchObject({ converged: true });
            expect(reports[p]?.gradient).toBeLessThan(1e-6);
            expect(reports[p]?.loss).toBeGreaterThan(0);
          }
        },
      ),
      runs(30),
    );
  });

  it("separates what can be separated, and reads the copy of the labels", async () => {
    const noise = random(200, 2, 36);
    const labels = Int32Array.from({ length: 200 }, (_, i) => i % 2);
    const x = plain(200, 2, (i, j) => Math.fround(get(noise, i, j) / 4 + (i % 2 === 0 ? -3 : 3)));
    const given = labels.slice();
    const pending = logisticRegression(tensor(x), given, { l2: 1e-3 });
    given.fill(0);
    const { weights, bias } = await pending;
    using probe = await packProjection({ layers: [{ weights, bias }] });
    const odds = probe.applySync(Float32Array.from(x.values));
    odds.forEach((value, i) => {
      expect(value > 0).toBe(labels[i] === 1);
    });
    const firm = await logisticRegression(tensor(x), labels, { l2: 100 });
    expect(squares(read(firm.weights))).toBeLessThan(squares(read(weights)));
  });
});

describe("EmpiricalDistribution", () => {
  it("has the quantiles of R's type 7 and NumPy", async () => {
    using ten = await EmpiricalDistribution.fit(Float32Array.of(10, 9, 8, 7, 6, 5, 4, 3, 2, 1));
    expect(ten).toMatchObject({ count: 10, bytes: 40, disposed: false });
    expect([0, 0.25, 0.5, 0.9, 1].map((p) => ten.quantile(p))).toEqual([1, 3.25, 5.5, expect.closeTo(9.1, 12), 10]);
    expect([0, 1, 1.5, 10, 11, -Infinity, Infinity].map((x) => ten.cdf(x))).toEqual([0, 0.1, 0.1, 1, 1, 0, 1]);
    using four = await EmpiricalDistribution.fit(Float32Array.of(8, 1, 4, 2));
    expect([0.5, 0.9, 1 / 3].map((p) => four.quantile(p))).toEqual([3, expect.closeTo(6.8, 12), expect.closeTo(2, 12)]);
    using one = await EmpiricalDistribution.fit(Float32Array.of(7));
    expect([one.quantile(0), one.quantile(0.3), one.cdf(6.9), one.cdf(7)]).toEqual([7, 7, 0, 1]);
  });

  it("is what sorting says", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.float32Array({ minLength: 1, maxLength: 50, noNaN: true, noDefaultInfinity: true }),
        fc.double({ min: 0, max: 1, noNaN: true }),
        async (sample, p) => {
          using distribution = await EmpiricalDistribution.fit(sample);
          const sorted = sample.slice().sort();
          const position = p * (sorted.length - 1);
          const low = Math.floor(position);
          const want = at(sorted, low) + (position - low) * (at(sorted, Math.min(low + 1, sorted.length - 1)) - at(sorted, low));
          const scale = Math.max(1, ...sorted.map(Math.abs));
          expect(Math.abs(distribution.quantile(p) - want) / scale).toBeLessThan(1e-9);
          const x = at(sample, 0);
          expect(distribution.cdf(x)).toBe(sorted.filter((value) => value <= x).length / sorted.length);
        },
      ),
      runs(100),
    );
  });

  it("takes tensors, infinities, and a copy", async () => {
    using half = await Tensor.fromTyped("f32", [2, 2], Float32Array.of(4, 3, 2, 1)).convert("f16");
    using distribution = await EmpiricalDistribution.fit(half);
    expect(distribution.quantile(0.5)).toBe(2.5);
    using endless = await EmpiricalDistribution.fit(Float32Array.of(Infinity, -Infinity, 0, Infinity));
    expect([0, 0.1, 1 / 3, 0.5, 0.8, 1].map((p) => endless.quantile(p))).toEqual([-Infinity, -Infinity, 0, Infinity, Infinity, Infinity]);
    using poles = await EmpiricalDistribution.fit(Float32Array.of(Infinity, -Infinity));
    expect(poles.quantile(0.5)).toBe(-Infinity);
    const mine = Float32Array.of(1, 2, 3);
    const pending = EmpiricalDistribution.fit(mine);
    mine.fill(9);
    using copied = await pending;
    expect(copied.quantile(1)).toBe(3);
  });

  it("refuses bad values by name", async () => {
    const fit = (sample?: unknown, options?: object): Promise<EmpiricalDistribution> =>
      EmpiricalDistribution.fit(sample as Float32Array, options);
    for (const sample of [undefined, null, 3, [1], new Float64Array(2), new Float32Array(0), Tensor.zeros([0, 3])])
      expect(await codeOf(() => fit(sample))).toBe(bad);
    expect(await codeOf(() => fit(Float32Array.of(1), { seed: 1 }))).toBe(bad);
    expect(await codeOf(() => fit(Tensor.zeros([2], "i32")))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => fit(Float32Array.of(1, NaN)))).toBe("ERR_LATENT_NON_FINITE");
    const gone = Tensor.zeros([2]);
    gone.dispose();
    expect(await codeOf(() => fit(gone))).toBe("ERR_LATENT_DISPOSED");
    const distribution = await fit(Float32Array.of(1, 2));
    for (const x of [undefined, NaN, "1", null, 1n]) {
      expect(await codeOf(() => distribution.cdf(x as number))).toBe(bad);
      expect(await codeOf(() => distribution.quantile(x as number))).toBe(bad);
    }
    for (const p of [-0.1, 1.1, Infinity]) expect(await codeOf(() => distribution.quantile(p))).toBe(bad);
    distribution.dispose();
    distribution.dispose();
    expect(distribution.disposed).toBe(true);
    expect(await codeOf(() => distribution.cdf(1))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => distribution.quantile(1))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("hubs", () => {
  const n = 150;
  const truth = random(n, 4, 37);
  const turns = [38, 39, 40].map((seed) => orthogonal(4, seed));
  const spaces = turns.map((turn, v) => plus(times(truth, turn), random(1, 4, 50 + v).values));
  const beside = (parts: readonly Plain[]): Plain => {
    const owner = parts.flatMap((part) => Array.from({ length: part.columns }, (_, j) => ({ part, j })));
    return plain(n, owner.length, (i, column) => {
      const { part, j } = owner[column] ?? { part: truth, j: 0 };
      return get(part, i, j);
    });
  };
  const intoHub = (x: Plain, space: HubSpace | undefined): Plain => {
    if (space === undefined) throw new Error("a space is missing");
    return plus(times(x, read(space.into)), space.bias);
  };
  const outOfHub = (hub: Plain, space: HubSpace | undefined): Plain => {
    if (space === undefined) throw new Error("a space is missing");
    return plus(times(hub, read(space.outOf)), space.mean);
  };

  it("of rotated copies agree in every dimension", async () => {
    using moments = await accumulateMoments({ x: tensor(beside(spaces)) });
    const hub = await moments.gcca({ widths: [4, 4, 4], dimension: 4, ridge: 1e-9 });
    hub.agreement.forEach((value) => {
      expect(value).toBeCloseTo(3, 4);
    });
    const turned = await moments.generalisedProcrustes({ widths: [4, 4, 4] });
    expect(turned.agreement).toBeCloseTo(1, 5);
    expect(turned.converged).toBe(true);
    expect(turned.iterations).toBeGreaterThan(0);
    for (const { spaces: maps } of [hub, turned]) {
      spaces.forEach((x, v) => {
        const mapped = intoHub(x, maps[v]);
        spaces.forEach((other, w) => {
          expectClose(outOfHub(mapped, maps[w]), other, 1e-3);
        });
      });
    }
    // the maps of all spaces add up to the hub's coordinates, which are orthonormal over the rows
    const parts = spaces.map((x, v) => intoHub(x, hub.spaces[v]));
    const coordinates = plain(n, 4, (i, j) => sum(parts.map((part) => get(part, i, j))) / 3);
    const gram = times(transposed(coordinates), coordinates);
    expectClose(gram, diagonal(Array.from({ length: 4 }, (_, i) => get(gram, i, i))), 1e-4);
  });

  it("tell spaces that have nothing in common from those that have", async () => {
    const strangers = [random(n, 2, 60), random(n, 3, 61)];
    using moments = await accumulateMoments({ x: tensor(beside(strangers)) });
    const hub = await moments.gcca({ widths: [2, 3], dimension: 5 });
    expect(hub.agreement.length).toBe(5);
    expect(sum(hub.agreement)).toBeCloseTo(5, 4);
    expect(at(hub.agreement, 0)).toBeLessThan(1.5);
    const turned = await moments.generalisedProcrustes({ widths: [2, 3], maxIterations: 1 });
    expect(turned.spaces.map(({ into, outOf }) => [into.shape, outOf.shape])).toEqual([
      [
        [2, 3],
        [3, 2],
      ],
      [
        [3, 3],
        [3, 3],
      ],
    ]);
    expect(turned.agreement).toBeLessThan(0.8);
    expect([turned.iterations, turned.converged]).toEqual([1, false]);
  });

  it("refuse dependent dimensions without a ridge, and hubs of more dimensions than there are", async () => {
    const twice = plain(n, 4, (i, j) => get(truth, i, j % 2));
    using moments = await accumulateMoments({ x: tensor(beside([twice, truth])) });
    expect(await codeOf(() => moments.gcca({ widths: [4, 4], dimension: 2 }))).toBe(bad);
    expect((await moments.gcca({ widths: [4, 4], dimension: 2, ridge: 1e-2 })).agreement.length).toBe(2);
  });
});

describe("bad values", () => {
  const x = Tensor.fromTyped("f32", [4, 2], Float32Array.of(1, 2, 3, 4, 5, 7, 7, 8));
  const y = Tensor.fromTyped("f32", [4, 1], Float32Array.of(1, 2, 3, 5));
  const labels = Int32Array.of(0, 1, 0, 1);
  const matrices: unknown[] = [
    undefined,
    null,
    5,
    [1],
    new Float32Array(4),
    Tensor.zeros([4]),
    Tensor.zeros([1, 2, 3]),
    Tensor.zeros([0, 2]),
    Tensor.zeros([2, 0]),
    Tensor.zeros([1, 65_537]),
  ];
  const ofMatrix: [string, (a: Tensor) => Promise<unknown>][] = [
    ["moments x", (a) => accumulateMoments({ x: a })],
    ["moments y", (a) => accumulateMoments({ x: Tensor.zeros([Math.max(1, 4), 2]), y: a })],
    ["leastSquares x", (a) => leastSquares(a, y)],
    ["leastSquares y", (a) => leastSquares(x, a)],
    ["svd", (a) => svd(a)],
    ["symmetricEigen", (a) => symmetricEigen(a)],
    ["parsevalFrame", (a) => parsevalFrame(a)],
    ["kmeans", (a) => kmeans(a, { clusters: 1 })],
    ["farthestPoints", (a) => farthestPoints(a, 1)],
    ["logisticRegression", (a) => logisticRegression(a, labels)],
  ];

  it.each(ofMatrix)("of the matrix of %s are refused by name", async (name, call) => {
    for (const [index, matrix] of matrices.entries()) {
      if (matrix === undefined && name === "moments y") continue; // no y
      await expect(call(matrix as Tensor), String(index)).rejects.toMatchObject({
        code: bad,
        message: expect.stringMatching(/^(x|y|a|anchors) must be (a Tensor )?\[n, d\]/) as unknown,
      });
    }
    for (const dtype of ["i8", "i32"] as const) expect(await codeOf(() => call(Tensor.zeros([4, 4], dtype)))).toBe("ERR_LATENT_DTYPE");
    const broken = Tensor.fromTyped(
      "f32",
      [4, 4],
      Float32Array.from({ length: 16 }, (_, i) => (i === 5 ? NaN : i)),
    );
    expect(await codeOf(() => call(broken))).toBe("ERR_LATENT_NON_FINITE");
    const gone = Tensor.zeros([4, 4]);
    gone.dispose();
    expect(await codeOf(() => call(gone))).toBe("ERR_LATENT_DISPOSED");
  });

  it("of options are refused by name", async () => {
    using moments = await accumulateMoments({ x, y });
    using alone = await accumulateMoments({ x });
    const calls: [string, (options: never) => Promise<unknown>, object, [string, unknown][]][] = [
      [
        "accumulateMoments",
        accumulateMoments,
        { x, y },
        [
          ["y", Tensor.zeros([3, 1])],
          ["weights", [1, 1, 1, 1]],
          ["weights", new Float32Array(3)],
          ["weights", new Float32Array(5)],
          ["weights", Float32Array.of(1, 1, -1, 1)],
          ["weights", Float32Array.of(1, 1, NaN, 1)],
          ["weights", Float32Array.of(1, 1, Infinity, 1)],
          ["weights", new Float32Array(4)],
          ["centred", 1],
          ["signal", 1],
          ["centered", true],
        ],
      ],
      [
        "ridge",
        (options) => moments.ridge(options),
        { lambda: 1 },
        [
          ["lambda", undefined],
          ["lambda", -1],
          ["lambda", Infinity],
          ["lambda", "1"],
          ["relative", 0],
          ["signal", {}],
          ["alpha", 1],
        ],
      ],
      [
        "procrustes",
        (options) => moments.procrustes(options),
        {},
        [
          ["rotationOnly", true],
          ["rotationOnly", 1],
          ["scaled", "yes"],
          ["scale", true],
          ["signal", 1],
        ],
      ],
      [
        "gcca",
        (options) => moments.gcca(options),
        { widths: [1, 1], dimension: 1 },
        [
          ["widths", undefined],
          ["widths", []],
          ["widths", [1]],
          ["widths", [1, 2]],
          ["widths", [0, 2]],
          ["widths", [1.5, 0.5]],
          ["widths", Int32Array.of(1, 1)],
          ["dimension", 0],
          ["dimension", 3],
          ["dimension", undefined],
          ["ridge", -1],
          ["ridge", NaN],
          ["k", 1],
          ["signal", 1],
        ],
      ],
      [
        "generalisedProcrustes",
        (options) => moments.generalisedProcrustes(options),
        { widths: [1, 1] },
        [
          ["widths", [3]],
          ["maxIterations", 0],
          ["maxIterations", 2 ** 31],
          ["tolerance", -1],
          ["tolerance", NaN],
          ["iterations", 1],
          ["signal", 1],
        ],
      ],
      [
        "leastSquares",
        (options) => leastSquares(x, y, options),
        {},
        [
          ["rcond", -1],
          ["rcond", 1],
          ["rcond", "0"],
          ["centred", null],
          ["lambda", 1],
          ["signal", 1],
        ],
      ],
      [
        "svd",
        (options) => svd(x, options),
        {},
        [
          ["rank", 0],
          ["rank", 3],
          ["rank", 1.5],
          ["seed", -1],
          ["seed", 2 ** 53],
          ["k", 1],
          ["signal", 1],
        ],
      ],
      ["symmetricEigen", (options) => symmetricEigen(Tensor.zeros([2, 2]), options), {}, [["k", 1]]],
      [
        "parsevalFrame",
        (options) => parsevalFrame(x, options),
        {},
        [
          ["k", 1],
          ["rcond", -1],
          ["rcond", 1],
        ],
      ],
      [
        "kmeans",
        (options) => kmeans(x, options),
        { clusters: 2 },
        [
          ["clusters", undefined],
          ["clusters", 0],
          ["clusters", 5],
          ["distance", "manhattan"],
          ["seed", 0.5],
          ["seed", 1n],
          ["maxIterations", 0],
          ["tolerance", -1],
          ["k", 1],
          ["signal", 1],
        ],
      ],
      [
        "farthestPoints",
        (options) => farthestPoints(x, 2, options),
        {},
        [
          ["distance", "dot"],
          ["seed", -1],
          ["k", 1],
          ["signal", 1],
        ],
      ],
      [
        "logisticRegression",
        (options) => logisticRegression(x, labels, options),
        {},
        [
          ["classes", 1],
          ["classes", 3],
          ["classes", 5],
          ["l2", 0],
          ["l2", -1],
          ["l2", Infinity],
          ["maxIterations", 0],
          ["tolerance", -1],
          ["c", 1],
          ["signal", 1],
        ],
      ],
      ["pca", (options) => moments.pca(1, options), {}, [["k", 1]]],
      ["whitening", (options) => moments.whitening(0.5, options), {}, [["k", 1]]],
    ];
    for (const [name, call, good, wrong] of calls) {
      await call(good as never);
      for (const [key, value] of wrong) {
        const label = `${name} ${key} ${String(value)}`;
        expect(await codeOf(() => call({ ...good, [key]: value } as never)), label).toBe(bad);
      }
      for (const options of [null, 1, []]) expect(await codeOf(() => call(options as never)), name).toBe(bad);
    }
    for (const k of [0, 3, 1.5, "1", undefined]) expect(await codeOf(() => moments.pca(k as number))).toBe(bad);
    for (const shrinkage of [-0.1, 1.1, "0", NaN]) expect(await codeOf(() => moments.whitening(shrinkage as number))).toBe(bad);
    for (const count of [0, 5, 1.5, undefined]) expect(await codeOf(() => farthestPoints(x, count as number))).toBe(bad);
    for (const call of [() => alone.ridge({ lambda: 1 }), () => alone.procrustes()]) expect(await codeOf(call)).toBe(bad);
    expect(await codeOf(() => symmetricEigen(x))).toBe(bad);
    for (const wrong of [
      undefined,
      [0, 1, 0, 1],
      Int32Array.of(0, 1),
      Int32Array.of(0, 1, 2, 1),
      Int32Array.of(0, -1, 0, 1),
      new Int32Array(4),
    ])
      expect(await codeOf(() => logisticRegression(x, wrong as Int32Array)), String(wrong)).toBe(bad);
    await expect(logisticRegression(x, Int32Array.of(0, 1, 2, 1))).rejects.toThrow("labels[2] must be an integer from 0 to 1, got 2");
    await expect(leastSquares(x, Tensor.zeros([3, 1]))).rejects.toThrow("y must have 4 rows, as many as x has rows, got 3");
  });

  it("are refused by the addon too", async () => {
    const handles = { x: x.toNative(), y: y.toNative() };
    const moments = await native().accumulateMoments({ ...handles, centred: true }).promise;
    const about0 = await native().accumulateMoments({ x: handles.x, centred: false }).promise;
    const distribution = await native().empiricalDistribution(Float32Array.of(1)).promise;
    const garbage: unknown[] = [undefined, null, 1, "x", {}, [], new Float32Array(1), Int32Array.of(-1), Symbol("s"), () => 1, handles.x];
    type Loose = Record<string, (...values: unknown[]) => { promise: Promise<unknown> }>;
    const addon = native() as unknown as Loose;
    const loose = moments as unknown as Loose;
    const refused = async (call: () => { promise: Promise<unknown> }): Promise<void> => {
      let pending: { promise: Promise<unknown> };
      try {
        pending = call();
      } catch (error) {
        expect(error).toMatchObject({ code: bad });
        return;
      }
      // options without any required field may be right
      await pending.promise.catch((error: unknown) => {
        expect(error).toMatchObject({ code: bad });
      });
    };
    for (const value of garbage) {
      for (const name of ["accumulateMoments", "symmetricEigen", "empiricalDistribution"])
        await refused(() => addon[name]?.(value) ?? { promise: Promise.resolve() });
      for (const name of ["svd", "kmeans", "parsevalFrame"])
        await refused(() => addon[name]?.(handles.x, value) ?? { promise: Promise.resolve() });
      for (const name of ["leastSquares", "farthestPoints", "logisticRegression"]) {
        await refused(() => addon[name]?.(handles.x, value, {}) ?? { promise: Promise.resolve() });
        await refused(() => addon[name]?.(handles.x, handles.y, value) ?? { promise: Promise.resolve() });
      }
      for (const name of ["ridge", "pca", "whitening", "procrustes", "gcca", "generalisedProcrustes"])
        await refused(() => loose[name]?.(value) ?? { promise: Promise.resolve() });
      for (const widths of garbage)
        await refused(() => loose["gcca"]?.({ widths, dimension: 1, ridge: 0 }) ?? { promise: Promise.resolve() });
    }
    for (const call of [() => about0.pca(1), () => about0.whitening(0), () => about0.ridge({ lambda: 1, relative: true })])
      expect(call).toThrow(expect.objectContaining({ code: bad }));
    for (const [handle, name] of [
      [moments, "Moments"],
      [distribution, "EmpiricalDistribution"],
    ] as const) {
      expect(() => Reflect.construct(handle.constructor, [{}]) as unknown).toThrow(TypeError);
      const heir = Object.create(handle) as typeof handle;
      expect(() => heir.disposed).toThrow(`this is not a ${name}`);
    }
  });
});

describe("limits", () => {
  it("are told before memory runs out", async () => {
    const x = tensor(random(40, 30, 70));
    const square = tensor(random(30, 30, 71));
    const labels = Int32Array.from({ length: 40 }, (_, i) => i % 2);
    using moments = await accumulateMoments({ x, y: x });
    const sample = new Float32Array(1000);
    vi.spyOn(os, "freemem").mockReturnValue(1000);
    vi.spyOn(os, "totalmem").mockReturnValue(1000);
    const calls: [string, () => unknown][] = [
      ["accumulateMoments", () => accumulateMoments({ x })],
      ["ridge", () => moments.ridge({ lambda: 1 })],
      ["pca", () => moments.pca(1)],
      ["whitening", () => moments.whitening()],
      ["procrustes", () => moments.procrustes()],
      ["gcca", () => moments.gcca({ widths: [30], dimension: 1 })],
      ["generalisedProcrustes", () => moments.generalisedProcrustes({ widths: [30] })],
      ["leastSquares", () => leastSquares(x, x)],
      ["svd", () => svd(x)],
      ["symmetricEigen", () => symmetricEigen(square)],
      ["parsevalFrame", () => parsevalFrame(x)],
      ["kmeans", () => kmeans(x, { clusters: 2 })],
      ["farthestPoints", () => farthestPoints(x, 2)],
      ["logisticRegression", () => logisticRegression(x, labels)],
      ["EmpiricalDistribution.fit", () => EmpiricalDistribution.fit(sample)],
    ];
    for (const [name, call] of calls) expect(await codeOf(call), name).toBe("ERR_LATENT_OUT_OF_MEMORY");
  });
});

describe("aborts", () => {
  it("end a fit with their reason, before and during it, and a following fit works", async () => {
    const x = tensor(random(3000, 200, 80));
    const y = tensor(random(3000, 8, 81));
    const labels = Int32Array.from({ length: 3000 }, (_, i) => i % 2);
    const square = tensor(random(200, 200, 82));
    using moments = await accumulateMoments({ x, y });
    const calls: [string, (options: Pick<MomentsOptions, "signal">) => Promise<unknown>][] = [
      ["accumulateMoments", (options) => accumulateMoments({ x, y, ...options })],
      ["ridge", (options) => moments.ridge({ lambda: 1, ...options })],
      ["pca", (options) => moments.pca(3, options)],
      ["whitening", (options) => moments.whitening(0.1, options)],
      ["procrustes", (options) => moments.procrustes(options)],
      ["gcca", (options) => moments.gcca({ widths: [100, 100], dimension: 2, ...options })],
      ["generalisedProcrustes", (options) => moments.generalisedProcrustes({ widths: [100, 100], maxIterations: 3, ...options })],
      ["leastSquares", (options) => leastSquares(square, square, options)],
      ["svd", (options) => svd(square, options)],
      ["symmetricEigen", (options) => symmetricEigen(square, options)],
      ["parsevalFrame", (options) => parsevalFrame(square, options)],
      ["kmeans", (options) => kmeans(x, { clusters: 30, maxIterations: 5, ...options })],
      ["farthestPoints", (options) => farthestPoints(x, 100, options)],
      ["logisticRegression", (options) => logisticRegression(x, labels, { maxIterations: 3, ...options })],
      ["EmpiricalDistribution.fit", (options) => EmpiricalDistribution.fit(x, options)],
    ];
    const reason = new Error("enough");
    for (const [name, call] of calls) {
      await expect(call({ signal: AbortSignal.abort(reason) }), name).rejects.toBe(reason);
      expect(await isAborted(call, reason), name).toBe(true);
    }
    expect(await isAborted((options) => kmeans(x, { clusters: 200, maxIterations: 1000, tolerance: 0, ...options }), reason, 20)).toBe(
      true,
    );
    const results = await Promise.all(calls.map(([, call]) => call({ signal: new AbortController().signal })));
    expect(results.length).toBe(calls.length);
  });
});
