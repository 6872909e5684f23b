// Keys and values of models with sliding windows, which llama.cpp keeps in two caches: one for the global layers, one for the local ones. Content
// holds all layers in the order of the model, with every position, though a state of the engine leaves out what a window does not see.
// The numbers in the titles are those of the conformance list of KV transfer.
import { describe, expect, it } from "vitest";
import { KvHandle, type KvType, type Model, type Pool, type Sequence } from "../../lib/index.js";
import type { TinyModelOptions } from "../fixtures/gguf.js";
import { codeOf, filled, floats, greedy, klDivergence, maxAbsDifference, tinyModel } from "./helpers.js";

const families: readonly (readonly [string, TinyModelOptions])[] = [
  ["gemma2", { architecture: "gemma2", layers: 4, headDim: 32, contextLength: 1024 }],
  ["gemma3", { architecture: "gemma3", layers: 7, headDim: 32, slidingWindow: 12, contextLength: 1024 }],
];

/** As many tokens as asked for, the same for the same seed. */
const tokensOf = (count: number, seed = 1): number[] => Array.from({ length: count }, (_, i) => 5 + ((i * 37 + seed * 101 + ((i * i) % 23)) % 260));

const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

async function keysOf(source: Sequence, layer: number): Promise<Float32Array> {
  using kv = await source.exportKv();
  const tile = [...kv.tiles()].find((one) => one.layer === layer && one.part === "keys");
  if (!tile) throw new Error("no tile");
  return floats(tile.tensor());
}

async function read(pool: Pool, tokens: readonly number[]): Promise<Sequence> {
  const sequence = pool.sequence();
  await sequence.prefill(tokens, { hidden: "last" });
  return sequence;
}

describe.each(families)("%s", (_, options) => {
  const open = async (kvType: KvType = "f16", settings = {}): Promise<readonly [Model, Pool]> => {
    const model = await tinyModel(options);
    return [model, await model.createPool({ contextLength: 512, maxSequences: 8, kvType, ...settings })];
  };

  it("1. and 34. content longer than the window comes back bit for bit and goes on with the same greedy tokens", async () => {
    for (const kvType of ["f16", "f32", "bf16", "q8_0", "q4_0"] as const) {
      const [model, pool] = await open(kvType);
      expect(pool.info.canShift, kvType).toBe(true);
      const source = await read(pool, tokensOf(100));
      await source.think({ steps: 3 });
      using kv = await source.exportKv();
      expect(kv.length).toBe(103);
      expect(kv.info.layers).toHaveLength(options.layers ?? 0);
      const other = await model.createPool({ contextLength: 256, maxSequences: 3, kvType });
      const target = other.sequence();
      await target.importKv(kv);
      expect((await bytesOf(target)).equals(await bytesOf(source)), kvType).toBe(true);
      expect(await greedy(target, 24), kvType).toEqual(await greedy(source, 24));
      const again = await other.restore(await kv.toBytes());
      expect((await again.save()).length).toBeGreaterThan(0);
      await other.dispose();
      await pool.dispose();
      await model.dispose();
    }
  });
});
