// The fits of maps as users see them: the numbers are those of plain f64 arithmetic, and results go straight into the kernels. The arithmetic itself is
// tested in test/native at length.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  accumulateMoments,
  bundledModel,
  farthestPoints,
  kmeans,
  leastSquares,
  openTokenTable,
  packAnchors,
  packProjection,
  svd,
  symmetricEigen,
  Tensor,
} from "../../lib/index.js";
import { at, codeOf, runs } from "../helpers.js";
import {
  type Plain,
  plain,
  get,
  transposed,
  identity,
  diagonal,
  sum,
  squares,
  plus,
  minus,
  columnsOf,
  times,
  solve,
  determinant,
  random,
  tensor,
  read,
  expectClose,
  row,
  orthogonal,
  sums,
  covariance,
} from "./fits-support.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

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
