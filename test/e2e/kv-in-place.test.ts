// Everything that keys and values do between pools, with caches that are read and written where llama.cpp keeps them; and which caches are not.
import { describe, expect, it } from "vitest";
import { bundledModel, LatentError, loadModel, type PoolOptions } from "../../lib/index.js";
import { codeOf, filled, floats, makePoolsInPlace, tinyModel } from "./helpers.js";

describe("a cache that cannot be used in place", () => {
  const cases: readonly (readonly [string, Parameters<typeof tinyModel>[0], PoolOptions, RegExp])[] = [
    ["values without flash attention", {}, { flashAttention: false }, /channel by channel without flash attention/],
    ["two caches under sliding windows", { architecture: "gemma2", headDim: 32 }, {}, /it is two caches/],
    ["one that cannot be read at all", { architecture: "deepseek2", headDim: 32 }, {}, /latent attention/],
  ];
  for (const [what, options, pool, message] of cases) {
    it(`${what}: createPool says why, and without the option there is a pool`, async () => {
      const model = await tinyModel(options);
      const refused: unknown = await model.createPool({ contextLength: 256, ...pool, inPlace: true }).catch((error: unknown) => error);
      expect(LatentError.isInstance(refused) && refused.code).toBe("ERR_LATENT_KV_LAYOUT");
      expect(String(refused)).toMatch(message);
      const made = await model.createPool({ contextLength: 256, ...pool, inPlace: false });
      expect(made.info).toMatchObject({ inPlace: false, device: "cpu" });
      await made.dispose();
      await model.dispose();
    });
  }
});

describe("a cache in place, without a device", () => {
  it("goes on like one that is not, and content goes between the two", async () => {
    const model = await loadModel(bundledModel("finch"));
    const pools = [
      await model.createPool({ contextLength: 512, inPlace: false }),
      await model.createPool({ contextLength: 512, inPlace: true }),
    ] as const;
    const [plain, inPlace] = [await filled(pools[0], "tom is in the red house."), await filled(pools[1], "tom is in the red house.")];
    expect(pools[1].info).toMatchObject({ inPlace: true, device: "cpu" });
    expect(await floats(inPlace.logits())).toEqual(await floats(plain.logits()));
    expect(Buffer.from(await inPlace.save()).equals(Buffer.from(await plain.save()))).toBe(true);
    for (const [from, to] of [
      [plain, pools[1]],
      [inPlace, pools[0]],
      [inPlace, pools[1]],
    ] as const) {
      const copy = to.sequence();
      expect((await copy.importKv(from, { positions: "keep" })).positions).toBe(plain.length);
      expect(await floats(copy.logits())).toEqual(await floats(plain.logits()));
    }
    expect(await codeOf(() => inPlace.exportDeviceKv())).toBe("ERR_LATENT_DEVICE_UNAVAILABLE");
    for (const pool of pools) await pool.dispose();
    await model.dispose();
  });
});

makePoolsInPlace();

await import("./kv.test.js");
