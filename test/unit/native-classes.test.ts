// The addon's own objects, called as the library never calls them: with another `this`, and with options that lib/ would have refused. None of
// it may reach memory that is not there, or an assertion of llama.cpp.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel } from "../../lib/index.js";
import { loadRuntime } from "../../lib/models/runtime.js";
import type { NativeModel, NativePool, NativePoolOptions, NativeSequence } from "../../lib/native-engine.js";
import type { NativeDistribution, NativeMoments } from "../../lib/native-fits.js";
import { native, type NativeTensor } from "../../lib/native.js";

const options: NativePoolOptions = {
  contextLength: 256,
  maxSequences: 4,
  batch: 5,
  threads: 1,
  kvType: "f16",
  flashAttention: true,
  inPlace: false,
};
let tensor: NativeTensor;
let model: NativeModel;
let pool: NativePool;
let sequence: NativeSequence;
let moments: NativeMoments;
let distribution: NativeDistribution;
let packed: Record<"PackedAnchors" | "Projection" | "TokenTable" | "ThoughtStep" | "TileCodec" | "Codebook", object>;

beforeAll(async () => {
  await loadRuntime();
  tensor = new (native().Tensor)("f32", [2]);
  model = await native().loadModel(bundledModel(), { gpuLayers: 0, mmap: true }, () => undefined).promise;
  pool = await model.createPool(options).promise;
  sequence = pool.createSequence();
  moments = await native().accumulateMoments({ x: new (native().Tensor)("f32", [2, 3]), centred: true }).promise;
  distribution = await native().empiricalDistribution(new Float32Array(2)).promise;
  const matrix = new (native().Tensor)("f32", [2, 3]);
  const table = await native().openTokenTable(matrix, undefined, false).promise;
  packed = {
    PackedAnchors: await native().packAnchors(matrix, {}, false).promise,
    Projection: await native().packProjection({ weights: matrix }, false).promise,
    TokenTable: table,
    ThoughtStep: native().createThoughtStep(table, {}),
    TileCodec: native().createTileCodec({ code: "i8" }),
    Codebook: await native().packCodebook(matrix, "f32", false).promise,
  };
});
afterAll(async () => {
  await pool.dispose().promise;
  await model.dispose().promise;
});

describe("this", () => {
  const classes = {
    Tensor: () => tensor,
    Model: () => model,
    Pool: () => pool,
    Sequence: () => sequence,
    Moments: () => moments,
    EmpiricalDistribution: () => distribution,
    PackedAnchors: () => packed.PackedAnchors,
    Projection: () => packed.Projection,
    TokenTable: () => packed.TokenTable,
    ThoughtStep: () => packed.ThoughtStep,
    TileCodec: () => packed.TileCodec,
    Codebook: () => packed.Codebook,
  };

  it.each(Object.entries(classes))("of %s is an object of that class, or the call throws", (name, get) => {
    const own: object = get();
    const prototype = Object.getPrototypeOf(own) as object;
    const others = Object.values(classes)
      .map((other): object => other())
      .filter((other) => other !== own);
    const heirs = [Object.create(prototype), Object.create(own), Object.setPrototypeOf({}, prototype), new Proxy(own, {})] as object[];
    const { constructor: _, ...members } = Object.getOwnPropertyDescriptors(prototype);
    let called = 0;
    for (const member of Object.values(members)) {
      const getter: unknown = Reflect.get(member, "get");
      const call = (getter ?? member.value) as () => unknown;
      called++;
      for (const self of [...others, ...heirs, {}, [], () => 1, undefined, null, 1, "text", Symbol("s"), native().diagnostics]) {
        // V8 itself refuses a method's `this`, before the addon is asked
        const refusal =
          getter === undefined ? { name: "TypeError" } : { code: "ERR_LATENT_INVALID_ARGUMENT", message: `this is not a ${name}` };
        expect(() => Reflect.apply(call, self, [])).toThrow(expect.objectContaining(refusal));
      }
    }
    expect(called).toBeGreaterThan(0);
    expect(Reflect.get(own, "disposed") ?? false).toBe(false); // a TileCodec has none
  });

  it("is not made by calling a constructor", () => {
    for (const object of [model, pool, sequence, moments, distribution]) {
      for (const argument of [undefined, {}, object])
        expect(() => Reflect.construct(object.constructor, [argument]) as unknown).toThrow(TypeError);
    }
  });
});

describe("createPool", () => {
  it.each([
    [1, 1],
    [4, 4],
    [16, 3],
    [255, 255],
  ])("refuses for %i sequences a batch of %i", (maxSequences, batch) => {
    expect(() => model.createPool({ ...options, maxSequences, batch })).toThrow(
      expect.objectContaining({ code: "ERR_LATENT_INVALID_ARGUMENT", message: expect.stringContaining("batch") as unknown }),
    );
  });

  // one for the pool's own sequence: each of these is the least that llama.cpp takes, also of a context that is shorter than the batch
  it.each([
    [1, 2, 256],
    [16, 17, 1],
    [255, 256, 1],
  ])("takes for %i sequences a batch of %i in a context of %i", async (maxSequences, batch, contextLength) => {
    const least = await model.createPool({ ...options, maxSequences, batch, contextLength }).promise;
    expect(least.info()).toMatchObject({ maxSequences, batch, contextLength: 256 });
    await least.dispose().promise;
  });
});
