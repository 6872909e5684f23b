// What fits refuse, by name, in what they are given and for want of memory; and that aborts end them.
import os from "node:os";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  accumulateMoments,
  EmpiricalDistribution,
  farthestPoints,
  kmeans,
  leastSquares,
  logisticRegression,
  parsevalFrame,
  svd,
  symmetricEigen,
  Tensor,
  type MomentsOptions,
} from "../../lib/index.js";
import { native } from "../../lib/native.js";
import { codeOf, isAborted } from "../helpers.js";
import { random, tensor } from "./fits-support.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

afterEach(() => {
  vi.restoreAllMocks();
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
