// Tensors and kernels on a device as users see them, with the mock backend in its place: numbers are those of the CPU, results lie where the input lies,
// order is kept, memory is counted and comes back, and every failure is an error with its code after which the rest goes on.
import fc from "fast-check";
import { afterEach, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  createThoughtStep,
  deviceMemory,
  deviceStatus,
  openTokenTable,
  packAnchors,
  packCodebook,
  packProjection,
  Tensor,
  TileCodec,
  transpose,
  type Dtype,
  type PackAnchorsOptions,
  type PackProjectionOptions,
  type ThoughtRecipe,
} from "../../lib/index.js";
import { native } from "../../lib/native.js";
import { at, codeOf, numbers, runs, sameBits } from "../helpers.js";
import { mockLibrary, withFaults } from "../mock.js";

const floats = ["f32", "f16", "bf16"] as const;

async function tensorOf(dtype: Dtype, shape: readonly number[], seed: number): Promise<Tensor> {
  using wide = Tensor.fromTyped(
    "f32",
    shape,
    numbers(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
  );
  return await wide.convert(dtype);
}

/** The largest difference, relative to the largest number. */
function difference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  const largest = b.reduce((most, value) => Math.max(most, Math.abs(value)), 1e-30);
  return a.reduce((most, value, i) => Math.max(most, Math.abs(value - at(b, i))), 0) / largest;
}

/** How far rounding operands to a dtype may take a result: the CPU multiplies some of them unrounded. */
const tolerance = (dtype: Dtype, storage: Dtype): number => (dtype === "f32" && storage === "f32" ? 1e-5 : 2e-2);

beforeAll(async () => {
  expect(await deviceStatus()).toMatchObject({ available: true, backend: "mock", file: mockLibrary });
});

afterEach(async () => {
  // what a test has disposed is gone, and nothing else was held
  expect((await deviceMemory()).ownBytes).toBe(0);
});

describe("the status of the device", () => {
  it("tells the library and its devices", async () => {
    const status = await deviceStatus();
    expect(status).toMatchObject({ available: true, devices: [{ name: "mock", processors: 1 }] });
    expect(Object.keys(await deviceMemory()).sort()).toEqual(["freeBytes", "ownBytes", "pinnedBytes", "processBytes", "totalBytes"]);
  });
});

describe("Tensor.to", () => {
  it("brings every dtype and shape there and back, bit for bit", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom<Dtype>("f32", "f16", "bf16", "i8", "i32"),
        fc.array(fc.integer({ min: 0, max: 7 }), { maxLength: 4 }),
        fc.integer(),
        async (dtype, shape, seed) => {
          using zeros = Tensor.zeros(shape, dtype);
          const bytes = new Uint8Array(Float32Array.from(numbers(zeros.byteLength, seed), (value) => value * 127).map(Math.floor));
          using tensor = Tensor.fromTyped(dtype, shape, new DataView(bytes.buffer));
          using there = await tensor.to("cuda");
          expect(there).toMatchObject({ dtype, shape, byteLength: tensor.byteLength, device: "cuda", disposed: false });
          using copy = await there.to("cuda");
          there.dispose();
          using back = await copy.to("cpu");
          expect(back.device).toBe("cpu");
          expect(sameBits(back.toTyped(), tensor.toTyped())).toBe(true);
        },
      ),
      runs(60),
    );
  });

  it("copies on the cpu too, so that each can be disposed by itself", async () => {
    using tensor = Tensor.fromTyped("f32", [2], Float32Array.of(1, 2));
    using copy = await tensor.to("cpu");
    tensor.dispose();
    expect([...copy.toTyped()]).toEqual([1, 2]);
  });

  it("moves more than the pinned memory holds, in parts", async () => {
    const size = 5_000_000; // 20 MB through 12
    const data = numbers(size, 4);
    using tensor = Tensor.fromTyped("f32", [size], data);
    using there = await tensor.to("cuda");
    const { ownBytes, pinnedBytes } = await deviceMemory();
    expect(ownBytes).toBe(4 * size);
    expect(pinnedBytes).toBeLessThan(13 << 20);
    using back = await there.to("cpu");
    expect(sameBits(back.toTyped(), data)).toBe(true);
  });

  it("does not wait for itself: the calls return while the device is slow, and end in their order", async () => {
    using tensor = Tensor.zeros([1000]);
    await withFaults("slow 20", async () => {
      const order: number[] = [];
      let turns = 0;
      const ticker = setInterval(() => {
        turns++;
      }, 1);
      const begin = performance.now();
      const copies = Array.from({ length: 5 }, async (_, i) => {
        const copy = await tensor.to("cuda");
        order.push(i);
        return copy;
      });
      const launched = performance.now() - begin;
      for (const copy of await Promise.all(copies)) copy.dispose();
      clearInterval(ticker);
      expect(order).toEqual([0, 1, 2, 3, 4]);
      // five copies of 20 ms each on one stream: the loop turned meanwhile
      expect(turns).toBeGreaterThan(10);
      expect(launched).toBeLessThan(performance.now() - begin);
    });
  });

  it("takes the numbers as they are at the call, whatever becomes of the tensor", async () => {
    const tensor = Tensor.fromTyped("f32", [3], Float32Array.of(7, 8, 9));
    const pending = tensor.to("cuda");
    tensor.dispose();
    using there = await pending;
    using back = await there.to("cpu");
    expect([...back.toTyped()]).toEqual([7, 8, 9]);
  });

  it("refuses to be read, written or computed with on the cpu", async () => {
    using tensor = Tensor.zeros([2, 3]);
    using there = await tensor.to("cuda");
    const lies: unknown = expect.objectContaining({
      code: "ERR_LATENT_INVALID_ARGUMENT",
      message: expect.stringContaining("to('cpu')") as string,
    });
    expect(() => there.toTyped()).toThrow(lies);
    expect(() => there.toFloat32()).toThrow(lies);
    expect(() => {
      there.copyTo(new Float32Array(6));
    }).toThrow(lies);
    await expect(there.convert("f16")).rejects.toThrow(lies);
    await expect(transpose(there)).rejects.toThrow(lies);
    await expect(packAnchors(there)).rejects.toThrow(lies);
    using here = await packAnchors(tensor.shape.length === 2 ? Tensor.fromTyped("f32", [1, 3], numbers(3, 1)) : tensor);
    await expect(here.relative(there)).rejects.toThrow(lies);
    expect(() => here.relativeSync(there)).toThrow(lies);
    expect(() => new TileCodec().quantiseSync(there)).toThrow(lies);
    expect(await codeOf(() => tensor.to("gpu" as "cuda"))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("is disposed once and says so", async () => {
    using tensor = Tensor.zeros([2]);
    const there = await tensor.to("cuda");
    there.dispose();
    there.dispose();
    expect(there.disposed).toBe(true);
    expect(there.shape).toEqual([2]);
    expect(await codeOf(() => there.to("cpu"))).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => there.toTyped())).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => tensor.to("cuda", { signal: AbortSignal.abort(new Error("enough")) }))).toContain("enough");
  });

  it("can be aborted before its turn", async () => {
    using tensor = Tensor.zeros([100]);
    await withFaults("slow 30", async () => {
      const controller = new AbortController();
      const first = tensor.to("cpu").then(async (one) => one.to("cuda"));
      const second = tensor.to("cuda", { signal: controller.signal });
      const outcome = second.then(
        (one) => {
          one.dispose(); // it had begun
          return "copied";
        },
        (error: unknown) => String(error),
      );
      controller.abort(new Error("no more"));
      expect(["copied", "Error: no more"]).toContain(await outcome);
      (await first).dispose();
    });
  });
});

describe("Tensor.share", () => {
  it("gives others a copy by a reference that is plain JSON", async () => {
    using tensor = Tensor.fromTyped("f32", [2, 3], numbers(6, 1));
    using there = await tensor.to("cuda");
    using shared = await there.share();
    const reference = JSON.parse(JSON.stringify(shared)) as ReturnType<typeof shared.toJSON>;
    expect(reference).toMatchObject({ device: "cuda", dtype: "f32", shape: [2, 3] });
    there.dispose();
    using opened = await Tensor.fromShared(reference);
    shared.dispose();
    shared.dispose();
    expect(shared.disposed).toBe(true);
    using back = await opened.to("cpu");
    expect(sameBits(back.toTyped(), tensor.toTyped())).toBe(true);
    // the memory is gone, and so is what the reference named
    await deviceMemory();
    expect(await codeOf(() => Tensor.fromShared(reference))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("refuses references of nothing, and of less than they say", async () => {
    using tensor = Tensor.zeros([4]);
    expect(await codeOf(() => tensor.share())).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using there = await tensor.to("cuda");
    using shared = await there.share();
    const reference = shared.toJSON();
    for (const wrong of [
      { ...reference, shape: [5] },
      { ...reference, shape: [-1] },
      { ...reference, handle: Buffer.alloc(64, 7).toString("base64") },
      { ...reference, handle: "AAAA" },
      { ...reference, extra: 1 },
      undefined as never,
    ])
      expect(await codeOf(() => Tensor.fromShared(wrong))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => Tensor.fromShared({ ...reference, dtype: "f64" as "f32" }))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => Tensor.fromShared({ ...reference, shape: [2 ** 50] }))).toBe("ERR_LATENT_OUT_OF_MEMORY");
    using part = await Tensor.fromShared({ ...reference, shape: [2] });
    expect(part.shape).toEqual([2]);
    const gone = await there.share();
    there.dispose();
    gone.dispose();
    expect(await codeOf(() => there.share())).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("kernels on the device", () => {
  const similarities = ["cosine", "angular", "inner", "squared-euclidean", "euclidean", "l1"] as const;

  it("packAnchors compares as the cpu does, and the results lie where the rows lie", async () => {
    for (const similarity of similarities) {
      for (const [dtype, storage] of [
        ["f32", "f32"],
        ["f16", "f32"],
        ["bf16", "bf16"],
        ["f32", "f16"],
      ] as const) {
        using anchorRows = Tensor.fromTyped("f32", [9, 20], numbers(180, 1));
        const options: PackAnchorsOptions = { similarity, storage, ...(similarity !== "angular" && { scale: numbers(20, 5) }) };
        using there = await packAnchors(anchorRows, { ...options, device: "cuda" });
        using here = await packAnchors(anchorRows, options);
        expect(there).toMatchObject({ count: 9, dimension: 20, device: "cuda", deviceReason: undefined, similarity, storage });
        using x = await tensorOf(dtype, [5, 20], 2);
        using xThere = await x.to("cuda");
        using expected = await here.relative(x);
        using fromHere = await there.relative(x);
        using fromThere = await there.relative(xThere);
        expect([fromHere.device, fromThere.device]).toEqual(["cpu", "cuda"]);
        using back = await fromThere.to("cpu");
        expect(sameBits(back.toTyped(), fromHere.toTyped())).toBe(true);
        expect(difference(fromHere.toFloat32(), expected.toFloat32())).toBeLessThan(tolerance(dtype, storage));
        const best = await there.topK(xThere, 3);
        using indices = await best.indices.to("cpu");
        using values = await best.values.to("cpu");
        const all = fromHere.toFloat32();
        indices.toTyped().forEach((index, i) => {
          expect(at(all, Math.floor(i / 3) * 9 + index)).toBe(at(values.toTyped(), i));
        });
        best.indices.dispose();
        best.values.dispose();
      }
    }
  });

  it("packAnchors whitens and centres on the device", async () => {
    using anchorRows = Tensor.fromTyped("f32", [6, 8], numbers(48, 1));
    using whiten = Tensor.fromTyped("f32", [8, 5], numbers(40, 2));
    const options: PackAnchorsOptions = { whitening: { mean: numbers(8, 3), whiten }, centre: numbers(5, 4), similarity: "euclidean" };
    using there = await packAnchors(anchorRows, { ...options, device: "cuda" });
    using here = await packAnchors(anchorRows, options);
    const x = numbers(24, 5);
    using result = await there.relative(x);
    expect(difference(result.toFloat32(), here.relativeSync(x))).toBeLessThan(1e-5);
  });

  it("packAnchors makes the codes of the cpu", async () => {
    using anchorRows = Tensor.fromTyped("f32", [13, 8], numbers(104, 1));
    using there = await packAnchors(anchorRows, { device: "cuda" });
    using here = await packAnchors(anchorRows);
    const x = numbers(40, 6);
    for (const bits of [8, 4, 1] as const) {
      using a = await there.codes(x, bits);
      using b = await here.codes(x, bits);
      expect(a.shape).toEqual(b.shape);
      if (bits !== 1) expect(difference(a.toFloat32(), b.toFloat32())).toBeLessThan(0.2);
      else expect(sameBits(a.toTyped(), b.toTyped())).toBe(true);
    }
  });

  it("packProjection projects as the cpu does", async () => {
    const shapes: readonly Omit<PackProjectionOptions, "layers">[] = [
      {},
      { norm: { kind: "rms", weight: numbers(12, 7), bias: numbers(12, 8) }, activation: "gelu" },
      { norm: { kind: "layer", epsilon: 1e-3, bias: numbers(12, 8) }, activation: "silu", rescale: 3 },
      { norm: { kind: "l2" }, activation: "tanh", rescale: "residual" },
    ];
    for (const shape of shapes) {
      for (const storage of floats) {
        using first = await tensorOf("f32", [12, 30], 1);
        using second = await tensorOf("f16", [30, 12], 2);
        const layers = [
          { weights: first, bias: numbers(30, 3) },
          { weights: second, bias: numbers(12, 4) },
        ] as const;
        const options = { ...shape, layers, storage };
        using there = await packProjection({ ...options, device: "cuda" });
        using here = await packProjection(options);
        expect(there).toMatchObject({ inputs: 12, outputs: 12, device: "cuda" });
        const x = numbers(7 * 12, 9);
        using result = await there.apply(x);
        expect(result.shape).toEqual([7, 12]);
        expect(difference(result.toFloat32(), here.applySync(x))).toBeLessThan(tolerance("f32", storage));
      }
    }
  });

  it("packCodebook finds the codewords that the cpu finds", async () => {
    using codewords = Tensor.fromTyped("f32", [40, 6], numbers(240, 1));
    using there = await packCodebook(codewords, { device: "cuda" });
    using here = await packCodebook(codewords);
    const x = numbers(60, 2);
    const { indices, distances } = await there.nearest(x);
    expect([...indices.toTyped()]).toEqual([...here.nearestSync(x)]);
    expect(distances.shape).toEqual([10]);
    indices.dispose();
    distances.dispose();
  });

  it("thought steps mix as the cpu does, of plain and of quantised tables", async () => {
    using plain = Tensor.fromTyped("f32", [50, 16], numbers(800, 1));
    for (const source of [plain, bundledModel()]) {
      using there = await openTokenTable(source, { device: "cuda" });
      using here = await openTokenTable(source);
      expect(there.device).toBe("cuda");
      const { count, width } = here;
      using alignWeights = Tensor.fromTyped("f32", [10, width], numbers(10 * width, 2));
      using alignThere = await packProjection({ layers: [{ weights: alignWeights }], device: "cuda" });
      using alignHere = await packProjection({ layers: [{ weights: alignWeights }] });
      const recipes: readonly ThoughtRecipe[] = [
        {},
        { topK: 5, topP: 0.9, temperature: 0.7, unitMix: true, norm: 2 },
        { token: 0.5, mix: 1, masked: Int32Array.of(0, 3, 17), topK: 8, noise: { kind: "gumbel", amount: 0.5 } },
        { token: 1, mix: 0.25, hidden: 2, topK: 3 },
      ];
      for (const recipe of recipes) {
        const aligned = recipe.hidden !== undefined;
        using stepThere = createThoughtStep(there, { ...recipe, ...(aligned && { align: alignThere }) });
        using stepHere = createThoughtStep(here, { ...recipe, ...(aligned && { align: alignHere }) });
        const logits = numbers(3 * count, 3).map((value) => value * 5);
        const inputs = {
          ...(recipe.token !== undefined && { tokens: Int32Array.of(1, 2, 5) }),
          ...(aligned && { hidden: numbers(30, 4) }),
          seed: 7,
          step: 11,
        };
        const a = await stepThere.run(logits, inputs, { mixture: true });
        const b = await stepHere.run(logits, inputs, { mixture: true });
        expect(difference(a.embeddings.toFloat32(), b.embeddings.toFloat32())).toBeLessThan(1e-5);
        expect(a.argmax).toEqual(b.argmax);
        expect(a.selected).toEqual(b.selected);
        expect(a.mixture?.ids.toTyped()).toEqual(b.mixture?.ids.toTyped());
        for (const one of [a, b]) {
          one.embeddings.dispose();
          one.mixture?.ids.dispose();
          one.mixture?.weights.dispose();
        }
      }
      expect(() => createThoughtStep(there, { hidden: 1, align: alignHere })).toThrow(/must be there too/);
      expect(() => createThoughtStep(here, { hidden: 1, align: alignThere })).toThrow(/must be there too/);
      using rows = await there.rows(Int32Array.of(2));
      using same = await here.rows(Int32Array.of(2));
      expect(sameBits(rows.toTyped(), same.toTyped())).toBe(true);
    }
  });

  it("tiles are coded where the rows lie, to the same bits", async () => {
    for (const options of [{}, { code: "fp8" }, { code: "i4-zero", group: 32 }, { code: "i4", scale: "f32", group: 64 }] as const) {
      const codec = new TileCodec(options);
      using x = Tensor.fromTyped("f32", [6, 100], numbers(600, 1));
      using xThere = await x.to("cuda");
      using there = await codec.quantise(xThere);
      using here = await codec.quantise(x);
      using back = await there.to("cpu");
      expect(there.device).toBe("cuda");
      expect(sameBits(back.toTyped(), here.toTyped())).toBe(true);
      using y = await codec.dequantise(there, { rows: 6, columns: 100, dtype: "f16" });
      using expected = await codec.dequantise(here, { rows: 6, columns: 100, dtype: "f16" });
      using yBack = await y.to("cpu");
      expect(sameBits(yBack.toTyped(), expected.toTyped())).toBe(true);
      expect(await codeOf(() => codec.dequantise(there, { rows: 7, columns: 100 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
      expect(await codeOf(() => codec.dequantise(xThere, { rows: 6, columns: 100 }))).toBe("ERR_LATENT_DTYPE");
      x.dispose();
      using bad = Tensor.fromTyped("f32", [2, 3], Float32Array.of(1, 2, 3, 4, NaN, 6));
      using badThere = await bad.to("cuda");
      await expect(codec.quantise(badThere)).rejects.toMatchObject({
        code: "ERR_LATENT_NON_FINITE",
        message: expect.stringContaining("row 1") as string,
      });
    }
  });

  it("names rows that are not finite, and refuses what cannot be kept", async () => {
    using anchorRows = Tensor.fromTyped("f32", [3, 4], numbers(12, 1));
    using there = await packAnchors(anchorRows, { device: "cuda" });
    const x = numbers(16, 2);
    x[9] = Infinity;
    await expect(there.relative(x)).rejects.toMatchObject({
      code: "ERR_LATENT_NON_FINITE",
      message: expect.stringContaining("row 2") as string,
    });
    using bad = Tensor.fromTyped("f32", [1, 2], Float32Array.of(1, NaN));
    expect(await codeOf(() => packAnchors(bad, { device: "cuda" }))).toBe("ERR_LATENT_NON_FINITE");
    using large = Tensor.fromTyped("f32", [1, 2], Float32Array.of(1, 1e30));
    expect(await codeOf(() => packCodebook(large, { device: "cuda", storage: "f16" }))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => there.relative(new Float32Array(5)))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using wide = await Tensor.zeros([2, 5]).to("cuda");
    expect(await codeOf(() => there.relative(wide))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using integers = await Tensor.zeros([2, 4], "i8").to("cuda");
    expect(await codeOf(() => there.relative(integers))).toBe("ERR_LATENT_DTYPE");
    expect(() => there.relativeSync(x)).toThrow(expect.objectContaining({ code: "ERR_LATENT_INVALID_ARGUMENT" }));
    using none = await there.relative(new Float32Array(0));
    expect(none.shape).toEqual([0, 3]);
    there.dispose();
    expect(await codeOf(() => there.relative(numbers(4, 1)))).toBe("ERR_LATENT_DISPOSED");
  });

  it("thought steps name the row that has no answer", async () => {
    using plain = Tensor.fromTyped("f32", [4, 2], numbers(8, 1));
    using table = await openTokenTable(plain, { device: "cuda" });
    using step = createThoughtStep(table, { token: 1 });
    const run = async (logits: readonly number[], tokens: readonly number[]): Promise<string> =>
      codeOf(() => step.run(Float32Array.from(logits), { tokens: Int32Array.from(tokens) }));
    expect(await run([1, 2, 3, NaN], [0])).toBe("ERR_LATENT_NON_FINITE");
    expect(await run([-Infinity, -Infinity, -Infinity, -Infinity], [0])).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await run([1, 2, 3, 4], [4])).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await run([1, 2, 3, 4], [])).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(() => step.runSync(new Float32Array(4), { tokens: Int32Array.of(1) })).toThrow(/without Sync/);
  });

  it("auto takes the device where there is one; i8 stays on the cpu and says so", async () => {
    using anchorRows = Tensor.fromTyped("f32", [3, 4], numbers(12, 1));
    using there = await packAnchors(anchorRows, { device: "auto" });
    expect(there.device).toBe("cuda");
    using codes = await packAnchors(anchorRows, { device: "auto", storage: "i8" });
    expect(codes).toMatchObject({ device: "cpu", deviceReason: expect.stringContaining("i8") as string });
    expect(await codeOf(() => packAnchors(anchorRows, { device: "cuda", storage: "i8" }))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => packAnchors(anchorRows, { device: "gpu" as "cuda" }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe("faults of the device", () => {
  it("no memory is an error of that call, and everything goes on", async () => {
    using tensor = Tensor.fromTyped("f32", [4], Float32Array.of(1, 2, 3, 4));
    using held = await tensor.to("cuda");
    using anchorRows = Tensor.fromTyped("f32", [3, 4], numbers(12, 1));
    await withFaults("allocate 2", async () => {
      expect(await codeOf(() => packAnchors(anchorRows, { device: "cuda" }))).toBe("ERR_LATENT_OUT_OF_MEMORY");
    });
    using there = await packAnchors(anchorRows, { device: "cuda" });
    using result = await there.relative(held);
    expect(result.device).toBe("cuda");
    const { totalBytes } = await deviceMemory();
    using huge = Tensor.zeros([Math.ceil(totalBytes / 4) + 1], "f32");
    await expect(huge.to("cuda")).rejects.toMatchObject({
      code: "ERR_LATENT_OUT_OF_MEMORY",
      message: expect.stringMatching(/bytes left on device/) as string,
    });
    using back = await held.to("cpu");
    expect([...back.toTyped()]).toEqual([1, 2, 3, 4]);
  });

  it("a failed launch is an error of that call", async () => {
    using anchorRows = Tensor.fromTyped("f32", [3, 4], numbers(12, 1));
    using there = await packAnchors(anchorRows, { device: "cuda" });
    await withFaults("launch 1", async () => {
      expect(await codeOf(() => there.relative(numbers(8, 1)))).toBe("ERR_LATENT_DEVICE_FAILED");
      using result = await there.relative(numbers(8, 1));
      expect(result.shape).toEqual([2, 3]);
    });
  });
});

describe("this", () => {
  it("of a method on the device is an object of its class, or the call throws", async () => {
    using matrix = Tensor.fromTyped("f32", [2, 3], numbers(6, 1));
    const raw = matrix.toNative();
    const own = [
      await raw.to("cuda").promise,
      await native().packAnchors(raw, {}, true).promise,
      await native().packProjection({ weights: raw }, true).promise,
      await native().packCodebook(raw, "f32", true).promise,
    ];
    const table = await native().openTokenTable(raw, undefined, true).promise;
    own.push(native().createThoughtStep(table, {}) as never);
    for (const object of own) {
      const prototype: unknown = Object.getPrototypeOf(object);
      for (const stranger of [{}, raw, Object.create(prototype as object) as object]) {
        for (const name of Object.getOwnPropertyNames(prototype)) {
          if (name === "constructor") continue;
          const property = Object.getOwnPropertyDescriptor(prototype, name);
          const call: unknown = Reflect.get(property ?? {}, "value") ?? Reflect.get(property ?? {}, "get");
          expect(() => Reflect.apply(call as () => unknown, stranger, [])).toThrow(/this is not a|Illegal invocation|Invalid argument/i);
        }
      }
      object.dispose();
    }
    table.dispose();
  });
});
