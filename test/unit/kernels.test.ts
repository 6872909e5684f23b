// The kernels as users see them: the numbers are those of plain arithmetic, small and large inputs go the same way, and bad values are named. The
// arithmetic itself is tested in test/native with every instruction set.
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, openTokenTable, packAnchors, packProjection, Tensor, type PackedAnchors, type Projection } from "../../lib/index.js";
import { at, codeOf, isAborted, numbers, runs, sameBits } from "../helpers.js";

function cosine(x: ArrayLike<number>, i: number, a: ArrayLike<number>, j: number, d: number): number {
  let dot = 0;
  let xx = 0;
  let aa = 0;
  for (let k = 0; k < d; k++) {
    dot += at(x, i * d + k) * at(a, j * d + k);
    xx += at(x, i * d + k) ** 2;
    aa += at(a, j * d + k) ** 2;
  }
  return xx > 0 && aa > 0 ? dot / Math.sqrt(xx * aa) : 0;
}

const m = 50;
const d = 70;
const anchorRows = numbers(m * d, 1);
let anchors: PackedAnchors;
let projection: Projection;

beforeAll(async () => {
  using tensor = Tensor.fromTyped("f32", [m, d], anchorRows);
  anchors = await packAnchors(tensor);
  using weights = Tensor.fromTyped("f32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6));
  projection = await packProjection({ layers: [{ weights, bias: Float32Array.of(0.5, -0.5) }] });
});
afterAll(() => {
  anchors.dispose();
  projection.dispose();
});

describe("packAnchors", () => {
  it("tells what it holds", () => {
    expect(anchors).toMatchObject({ count: m, dimension: d, similarity: "cosine", storage: "f32", disposed: false });
    expect(anchors.bytes).toBeGreaterThanOrEqual(m * d * 4);
  });

  it("gives cosines, at once and later, of arrays and of tensors, few and many", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 700 }), fc.integer(), async (n, seed) => {
        const x = numbers(n * d, seed);
        if (n > 3) x.fill(0, d, 2 * d);
        const sync = anchors.relativeSync(x);
        using tensor = Tensor.fromTyped("f32", [n, d], x);
        for (const input of [x, tensor]) {
          using r = await anchors.relative(input);
          expect(r.shape).toEqual([n, m]);
          expect(sameBits(r.toFloat32(), sync)).toBe(true);
        }
        for (let t = 0; t < 20 && n > 0; t++) {
          const i = t % n;
          const j = (t * 7) % m;
          expect(Math.abs(at(sync, i * m + j) - cosine(x, i, anchorRows, j, d))).toBeLessThan(2e-6);
        }
      }),
      runs(30),
    );
  });

  it("reads 16-bit tensors", async () => {
    const x = numbers(5 * d, 3);
    using tensor = Tensor.fromTyped("f32", [5, d], x);
    for (const dtype of ["f16", "bf16"] as const) {
      using half = await tensor.convert(dtype);
      const r = anchors.relativeSync(half);
      expect(sameBits(r, anchors.relativeSync(half.toFloat32()))).toBe(true);
    }
  });

  it("does not see what becomes of an array after the call", async () => {
    const x = numbers(2000 * d, 4);
    const before = anchors.relativeSync(x);
    const pending = anchors.relative(x);
    const { buffer } = x;
    if (buffer instanceof ArrayBuffer) structuredClone(buffer, { transfer: [buffer] });
    using r = await pending;
    expect(sameBits(r.toFloat32(), before)).toBe(true);
  });

  it("finds the k nearest", async () => {
    const n = 40;
    const x = numbers(n * d, 5);
    const r = anchors.relativeSync(x);
    const { indices, values } = await anchors.topK(x, 7);
    const ids = indices.toTyped();
    const best = values.toFloat32();
    for (let i = 0; i < n; i++) {
      const order = Array.from({ length: m }, (_, j) => j).sort((p, q) => at(r, i * m + q) - at(r, i * m + p) || p - q);
      expect([...ids.subarray(i * 7, i * 7 + 7)]).toEqual(order.slice(0, 7));
      expect([...best.subarray(i * 7, i * 7 + 7)]).toEqual(order.slice(0, 7).map((j) => at(r, i * m + j)));
    }
  });

  it("encodes cosines in 8, 4 and 1 bits", async () => {
    const x = numbers(3 * d, 6);
    const r = anchors.relativeSync(x);
    const bytes = async (bits: 8 | 4 | 1): Promise<Uint8Array> => {
      using codes = await anchors.codes(x, bits);
      expect(codes.shape).toEqual([3, Math.ceil((m * bits) / 8)]);
      return Uint8Array.from(codes.toTyped(), (code) => code & 255);
    };
    const [eight, four, one] = [await bytes(8), await bytes(4), await bytes(1)];
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < m; j++) {
        const value = at(r, i * m + j);
        expect((at(eight, i * m + j) << 24) >> 24).toBe(Math.round(value * 127) + 0);
        expect(((at(four, i * 25 + (j >> 1)) >> (4 * (j % 2))) << 28) >> 28).toBe(Math.round(value * 7) + 0);
        expect((at(one, i * 7 + (j >> 3)) >> (j % 8)) & 1).toBe(value >= 0 ? 1 : 0);
      }
    }
  });

  it.each(["f16", "bf16", "i8"] as const)("keeps anchors as %s", async (storage) => {
    using tensor = Tensor.fromTyped("f32", [m, d], anchorRows);
    using small = await packAnchors(tensor, { storage });
    expect(small.bytes).toBeLessThan(anchors.bytes);
    const x = numbers(9 * d, 7);
    const exact = anchors.relativeSync(x);
    small.relativeSync(x).forEach((value, index) => {
      expect(Math.abs(value - at(exact, index))).toBeLessThan(storage === "i8" ? 2e-2 : 4e-3);
    });
  });

  it("knows other similarities, centre and scale", async () => {
    using tensor = Tensor.fromTyped("f32", [2, 2], Float32Array.of(3, 4, 0, 1));
    const similarity = async (options: Parameters<typeof packAnchors>[1], x: Float32Array): Promise<number[]> => {
      using packed = await packAnchors(tensor, options);
      return [...packed.relativeSync(x)];
    };
    expect(await similarity({ similarity: "inner" }, Float32Array.of(1, 2))).toEqual([11, 2]);
    expect(
      await similarity({ similarity: "inner", centre: Float32Array.of(1, 1), scale: Float32Array.of(2, 1) }, Float32Array.of(2, 3)),
    ).toEqual([14, -4]);
    const [far, near] = await similarity({ similarity: "squared-euclidean" }, Float32Array.of(0, 0));
    expect(far).toBeCloseTo(25, 4);
    expect(near).toBeCloseTo(1, 4);
    const [angle] = await similarity({ similarity: "angular" }, Float32Array.of(-4, 3));
    expect(angle).toBeCloseTo(0.5, 5);
    expect(await similarity({ similarity: "l1" }, Float32Array.of(-1, 2))).toEqual([6, 2]);
    expect(await similarity({ similarity: "l1", storage: "bf16", scale: Float32Array.of(0, 2) }, Float32Array.of(-1, 2))).toEqual([4, 2]);
  });

  it("whitens anchors and rows by a matrix before the rest", async () => {
    using tensor = Tensor.fromTyped("f32", [2, 2], Float32Array.of(3, 4, 0, 1));
    const whitening = { mean: Float32Array.of(1, 1), whiten: Tensor.fromTyped("f32", [2, 3], Float32Array.of(1, 0, 2, 0, 1, -1)) };
    // anchors become (2, 3, 1) and (-1, 0, -2), this row (1, 2, 0)
    const x = Float32Array.of(2, 3);
    using inner = await packAnchors(tensor, { similarity: "inner", whitening });
    expect(inner.dimension).toBe(2);
    expect([...inner.relativeSync(x)]).toEqual([8, -1]);
    using l1 = await packAnchors(tensor, { similarity: "l1", whitening, scale: Float32Array.of(1, 2, 1) });
    expect([...l1.relativeSync(x)]).toEqual([4, 8]);
    const { indices } = await l1.topK(x, 2);
    expect([...indices.toTyped()]).toEqual([0, 1]);
    using many = await inner.relative(numbers(2 * 300_000, 11));
    expect(many.shape).toEqual([300_000, 2]);
    whitening.whiten.dispose();
    expect([...inner.relativeSync(x)]).toEqual([8, -1]);
    expect(await codeOf(() => packAnchors(tensor, { whitening }))).toBe("ERR_LATENT_DISPOSED");
  });

  it("fills the caller's array and nothing else", () => {
    const x = numbers(2 * d, 8);
    const buffer = new Float32Array(2 * m + 2).fill(9);
    const out = anchors.relativeSync(x, buffer.subarray(1, 2 * m + 1));
    expect(sameBits(out, anchors.relativeSync(x))).toBe(true);
    expect([at(buffer, 0), at(buffer, 2 * m + 1)]).toEqual([9, 9]);
  });

  it("refuses bad values by name", async () => {
    const bad = "ERR_LATENT_INVALID_ARGUMENT";
    using tensor = Tensor.fromTyped("f32", [m, d], anchorRows);
    const pack = packAnchors as (anchors: unknown, options?: unknown) => Promise<PackedAnchors>;
    for (const value of [
      undefined,
      null,
      5,
      [1, 2],
      anchorRows,
      Tensor.zeros([4]),
      Tensor.zeros([0, 4]),
      Tensor.zeros([4, 0]),
      Tensor.zeros([1, 2, 3]),
    ])
      expect(await codeOf(() => pack(value))).toBe(bad);
    const options: [string, unknown][] = [
      ["similarity", "manhattan"],
      ["storage", "i32"],
      ["centre", [1]],
      ["centre", new Float32Array(3)],
      ["scale", new Float32Array(d + 1)],
      ["signal", 1],
      ["colour", 1],
      ["whitening", null],
      ["whitening", {}],
      ["whitening", { mean: new Float32Array(d), whiten: new Float32Array(d * d) }],
      ["whitening", { whiten: Tensor.zeros([d, d]) }],
      ["whitening", { mean: [1], whiten: Tensor.zeros([d, d]) }],
      ["whitening", { mean: new Float32Array(d + 1), whiten: Tensor.zeros([d, d]) }],
      ["whitening", { mean: new Float32Array(d), whiten: Tensor.zeros([d + 1, d]) }],
      ["whitening", { mean: new Float32Array(d), whiten: Tensor.zeros([d]) }],
      ["whitening", { mean: new Float32Array(d), whiten: Tensor.zeros([d, d]), shrinkage: 0 }],
    ];
    for (const [key, value] of options) expect(await codeOf(() => pack(tensor, { [key]: value })), key).toBe(bad);
    expect(await codeOf(() => pack(tensor, { similarity: "l1", storage: "i8" }))).toBe(bad);
    for (const [mean, value, code] of [
      [NaN, 1, "ERR_LATENT_NON_FINITE"],
      [0, Infinity, "ERR_LATENT_NON_FINITE"],
    ] as const) {
      const whitening = { mean: new Float32Array(d).fill(mean), whiten: Tensor.fromTyped("f32", [d, 1], new Float32Array(d).fill(value)) };
      expect(await codeOf(() => pack(tensor, { whitening }))).toBe(code);
    }
    expect(await codeOf(() => pack(tensor, { whitening: { mean: new Float32Array(d), whiten: Tensor.zeros([d, d], "i32") } }))).toBe(
      "ERR_LATENT_DTYPE",
    );
    expect(await codeOf(() => pack(Tensor.zeros([2, 2], "i8")))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => pack(Tensor.fromTyped("f32", [1, 2], Float32Array.of(1, NaN))))).toBe("ERR_LATENT_NON_FINITE");
    const relative = anchors.relativeSync.bind(anchors) as (x?: unknown, out?: unknown) => Float32Array;
    for (const x of [
      undefined,
      null,
      7,
      "x",
      [1],
      new Float64Array(d),
      new Float32Array(d + 1),
      Tensor.zeros([2, d + 1]),
      Tensor.zeros([]),
    ])
      expect(await codeOf(() => relative(x))).toBe(bad);
    const x = new Float32Array(d).fill(1);
    for (const out of [null, 5, new Float64Array(m), new Float32Array(m - 1), new Float32Array(m + 1)])
      expect(await codeOf(() => relative(x, out))).toBe(bad);
    const shared = new Float32Array(m + d);
    expect(await codeOf(() => relative(shared.subarray(0, d), shared.subarray(d - 1, d - 1 + m)))).toBe(bad);
    expect(await codeOf(() => relative(Tensor.zeros([1, d], "i32")))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => relative(new Float32Array(d).fill(Infinity)))).toBe("ERR_LATENT_NON_FINITE");
    for (const k of [0, m + 1, 1.5, "3"]) expect(await codeOf(() => anchors.topK(x, k as number))).toBe(bad);
    for (const bits of [0, 2, 9, "8"]) expect(await codeOf(() => anchors.codes(x, bits as 8))).toBe(bad);
    const wrong = [1] as unknown as Float32Array;
    for (const call of [() => anchors.relative(wrong), () => anchors.topK(wrong, 1), () => anchors.codes(wrong, 8)])
      expect(await codeOf(call)).toBe(bad);
    expect(await codeOf(() => anchors.relative(x, { signals: 1 } as object))).toBe(bad);
  });

  it("ends an aborted product and stays usable", async () => {
    const x = Tensor.fromTyped("f32", [60_000, d], numbers(60_000 * d, 9));
    const reason = new Error("enough");
    expect(await isAborted((options) => anchors.relative(x, options), reason)).toBe(true);
    await expect(anchors.relative(x, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    using r = await anchors.relative(x);
    expect(r.shape).toEqual([60_000, m]);
    x.dispose();
  });

  it("ends with its disposal, but not under a running product", async () => {
    using tensor = Tensor.fromTyped("f32", [m, d], anchorRows);
    const mine = await packAnchors(tensor);
    const x = numbers(20_000 * d, 10);
    const pending = mine.relative(x);
    mine.dispose();
    mine.dispose();
    expect(mine.disposed).toBe(true);
    using r = await pending;
    expect(sameBits(r.toFloat32(), anchors.relativeSync(x))).toBe(true);
    for (const call of [() => mine.relativeSync(x), () => mine.relative(x), () => mine.topK(x, 1), () => mine.codes(x, 8)])
      expect(await codeOf(call)).toBe("ERR_LATENT_DISPOSED");
    const gone = Tensor.zeros([2, d]);
    gone.dispose();
    expect(await codeOf(() => anchors.relativeSync(gone))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => packAnchors(gone))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("int8 anchors", () => {
  it("err by 0.0003 in the mean square on random rows of 384 numbers, 0.0015 at most", async () => {
    const width = 384;
    using rows = Tensor.fromTyped("f32", [300, width], numbers(300 * width, 21));
    using exact = await packAnchors(rows);
    using coarse = await packAnchors(rows, { storage: "i8" });
    const x = numbers(200 * width, 22);
    const expected = exact.relativeSync(x);
    const errors = coarse.relativeSync(x).map((value, i) => Math.abs(value - at(expected, i)));
    expect(errors.reduce((most, error) => Math.max(most, error), 0)).toBeLessThan(1.5e-3);
    const meanSquare = errors.reduce((sum, error) => sum + error * error, 0) / errors.length;
    expect(Math.sqrt(meanSquare)).toBeLessThan(3e-4);
    expect(meanSquare).toBeGreaterThan(0);
  });

  it.each(["wren", "finch"] as const)("find the same nearest embedding of %s wherever it is clearly ahead", async (name) => {
    using table = await openTokenTable(bundledModel(name));
    const every = (step: number, first: number): Int32Array =>
      Int32Array.from({ length: Math.floor((table.count - first) / step) }, (_, i) => first + i * step);
    using rows = await table.rows(every(2, 0));
    using x = await table.rows(every(2, 1));
    using exact = await packAnchors(rows);
    using coarse = await packAnchors(rows, { storage: "i8" });
    const expected = exact.relativeSync(x);
    const worst = coarse.relativeSync(x).reduce((most, value, i) => Math.max(most, Math.abs(value - at(expected, i))), 0);
    expect(worst).toBeLessThan(4e-3);
    const best = await exact.topK(x, 2);
    const found = (await coarse.topK(x, 1)).indices.toTyped();
    const values = best.values.toFloat32();
    const clear = [...found.keys()].filter((i) => at(values, 2 * i) - at(values, 2 * i + 1) > 2 * worst);
    expect(clear.length).toBeGreaterThan(10);
    for (const i of clear) expect(at(found, i)).toBe(at(best.indices.toTyped(), 2 * i));
  });
});

describe("packProjection", () => {
  it("is the affine map", async () => {
    expect(projection).toMatchObject({ inputs: 3, outputs: 2, disposed: false });
    expect([...projection.applySync(Float32Array.of(1, 0, -1, 2, 2, 2))]).toEqual([-3.5, -4.5, 18.5, 23.5]);
    using y = await projection.apply(Float32Array.of(1, 0, -1));
    expect([...y.toFloat32()]).toEqual([-3.5, -4.5]);
    expect(y.shape).toEqual([1, 2]);
  });

  it("norms, activates, goes through a second layer and rescales", async () => {
    using one = Tensor.fromTyped("f32", [2, 3], Float32Array.of(1, 0, -1, 0.5, 2, 1));
    using two = Tensor.fromTyped("f32", [3, 2], Float32Array.of(1, -1, 0.5, 0.25, 2, 1));
    const x = [3, 4] as const;
    const norm = { kind: "rms", epsilon: 0, weight: Float32Array.of(2, 1), bias: Float32Array.of(0, 0.5) } as const;
    const root = Math.sqrt((x[0] ** 2 + x[1] ** 2) / 2);
    const [u, v] = [(x[0] / root) * 2, x[1] / root + 0.5];
    const hidden = [u + 0.5 * v + 0.1, 2 * v + 0.2, -u + v + 0.3].map((value) => value / (1 + Math.exp(-value)));
    const [h0, h1, h2] = hidden as [number, number, number];
    const want = [h0 + 0.5 * h1 + 2 * h2, -h0 + 0.25 * h1 + h2];
    const layers = [{ weights: one, bias: Float32Array.of(0.1, 0.2, 0.3) }, { weights: two }] as const;
    const apply = async (rescale?: "residual" | number): Promise<number[]> => {
      using packed = await packProjection({ norm, layers, activation: "silu", ...(rescale !== undefined && { rescale }) });
      return [...packed.applySync(Float32Array.from(x))];
    };
    const close = (have: number[], expected: number[]): void => {
      have.forEach((value, index) => {
        expect(value).toBeCloseTo(expected[index] ?? NaN, 5);
      });
    };
    close(await apply(), want);
    close(
      await apply("residual"),
      want.map((value, index) => value + (x[index] ?? NaN)),
    );
    const length = Math.hypot(...want);
    close(
      await apply(2.5),
      want.map((value) => (value / length) * 2.5),
    );
  });

  it("refuses bad values by name", async () => {
    const bad = "ERR_LATENT_INVALID_ARGUMENT";
    const weights = Tensor.fromTyped("f32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 6));
    const pack = packProjection as (options?: unknown) => Promise<Projection>;
    const cases: unknown[] = [
      undefined,
      {},
      { layers: [] },
      { layers: [{ weights }, { weights }, { weights }] },
      { layers: [{ weights: [1] }] },
      { layers: [{ weights: Tensor.zeros([3]) }] },
      { layers: [{ weights, bias: Float32Array.of(1) }] },
      { layers: [{ weights, bias: [1, 2] }] },
      { layers: [{ weights, colour: 1 }] },
      { layers: [{ weights }, { weights }] },
      { layers: [{ weights }], norm: { kind: "batch" } },
      { layers: [{ weights }], norm: { kind: "rms", epsilon: -1 } },
      { layers: [{ weights }], norm: { kind: "l2", weight: new Float32Array(3) } },
      { layers: [{ weights }], norm: { kind: "rms", weight: new Float32Array(2) } },
      { layers: [{ weights }], activation: "relu" },
      { layers: [{ weights }], rescale: "norm" },
      { layers: [{ weights }], rescale: -1 },
      { layers: [{ weights }], rescale: "residual" },
      { layers: [{ weights }], storage: "f64" },
      { layers: [{ weights }], signal: 1 },
    ];
    for (const [index, options] of cases.entries()) expect(await codeOf(() => pack(options)), String(index)).toBe(bad);
    expect(await codeOf(() => pack({ layers: [{ weights: Tensor.zeros([2, 2], "i32") }] }))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => pack({ layers: [{ weights, bias: Float32Array.of(NaN, 1) }] }))).toBe("ERR_LATENT_NON_FINITE");
    expect(
      await codeOf(() => pack({ layers: [{ weights: Tensor.fromTyped("f32", [1, 1], Float32Array.of(70000)) }], storage: "f16" })),
    ).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => projection.applySync(Float32Array.of(1, 2)))).toBe(bad);
    expect(await codeOf(() => projection.apply(Float32Array.of(1, 2)))).toBe(bad);
    expect(await codeOf(() => projection.applySync(Float32Array.of(1, 2, NaN)))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => projection.applySync(Float32Array.of(1, 2, 3), new Float32Array(3)))).toBe(bad);
    weights.dispose();
    expect(await codeOf(() => pack({ layers: [{ weights }] }))).toBe("ERR_LATENT_DISPOSED");
  });

  it("ends with its disposal", async () => {
    using weights = Tensor.zeros([2, 2]);
    const mine = await packProjection({ layers: [{ weights }] });
    mine.dispose();
    expect(mine.disposed).toBe(true);
    expect(await codeOf(() => mine.applySync(new Float32Array(2)))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => mine.apply(new Float32Array(2)))).toBe("ERR_LATENT_DISPOSED");
  });
});
