// The fits of points, labels, distributions and hubs of several spaces, as users see them.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  accumulateMoments,
  EmpiricalDistribution,
  farthestPoints,
  kmeans,
  logisticRegression,
  packAnchors,
  packProjection,
  parsevalFrame,
  Tensor,
  type HubSpace,
} from "../../lib/index.js";
import { at, codeOf, runs } from "../helpers.js";
import { normals } from "../plain.js";
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
  times,
  random,
  tensor,
  read,
  expectClose,
  row,
  orthogonal,
} from "./fits-support.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

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
