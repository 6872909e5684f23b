// Keys and values of models with sliding windows, which llama.cpp keeps in two caches: one for the global layers, one for the local ones. Content
// holds all layers in the order of the model, with every position, though a state of the engine leaves out what a window does not see.
// The numbers in the titles are those of the conformance list of KV transfer.
import { mkdtempSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { KvStore, type KvHandle, type KvType, type Model, type Pool, type Sequence } from "../../lib/index.js";
import type { TinyModelOptions } from "../fixtures/gguf.js";
import { codeOf, floats, folder, greedy, klDivergence, maxAbsDifference, tinyModel } from "./helpers.js";

const families: readonly (readonly [string, TinyModelOptions])[] = [
  ["gemma2", { architecture: "gemma2", layers: 4, headDim: 32, contextLength: 1024 }],
  ["gemma3", { architecture: "gemma3", layers: 7, headDim: 32, slidingWindow: 12, contextLength: 1024 }],
];

/** As many tokens as asked for, the same for the same seed. */
const tokensOf = (count: number, seed = 1): number[] =>
  Array.from({ length: count }, (_, i) => 5 + ((i * 37 + seed * 101 + ((i * i) % 23)) % 260));

const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

async function read(pool: Pool, tokens: readonly number[]): Promise<Sequence> {
  const sequence = pool.sequence();
  await sequence.prefill(tokens, { hidden: "last" });
  return sequence;
}

/** Keys or values of a layer, `[positions, channels]`. */
async function rowsOf(kv: KvHandle, layer: number, part: "keys" | "values"): Promise<Float32Array> {
  const tile = [...kv.tiles()].find((one) => one.layer === layer && one.part === part);
  if (!tile) throw new Error("no tile");
  return floats(tile.tensor());
}

/** Keys of heads of 32 channels turned on by `shift` positions, pairs half a head apart. */
function turned(keys: Float32Array, shift: number, base: number): Float32Array {
  const head = 32;
  return keys.map((x, i) => {
    const channel = i % head;
    const pair = channel % (head / 2);
    const angle = shift * base ** ((-2 * pair) / head);
    const other = keys[channel < head / 2 ? i + head / 2 : i - head / 2] ?? Number.NaN;
    return x * Math.cos(angle) + (channel < head / 2 ? -other : other) * Math.sin(angle);
  });
}

describe.each(families)("%s", (name, options) => {
  const layers = options.layers ?? 0;
  const isLocal = (layer: number): boolean => (name === "gemma2" ? layer % 2 === 0 : layer % 6 < 5);

  async function open(
    kvType: KvType = "f16",
    settings = {},
  ): Promise<{ model: Model; pool: Pool; [Symbol.asyncDispose](): Promise<void> }> {
    const model = await tinyModel(options);
    const pool = await model.createPool({ contextLength: 512, maxSequences: 8, kvType, ...settings });
    return {
      model,
      pool,
      async [Symbol.asyncDispose]() {
        await pool.dispose();
        await model.dispose();
      },
    };
  }

  it("1. and 34. content longer than the window comes back bit for bit and goes on with the same greedy tokens", async () => {
    for (const kvType of ["f16", "f32", "bf16", "q8_0", "q4_0"] as const) {
      await using one = await open(kvType);
      expect(one.pool.info.canShift, kvType).toBe(true);
      const source = await read(one.pool, tokensOf(100));
      await source.think({ steps: 3 });
      using kv = await source.exportKv();
      expect(kv.info).toMatchObject({ positions: 103, latents: 3 });
      expect(kv.info.layers).toHaveLength(layers);
      await using other = await one.model.createPool({ contextLength: 256, maxSequences: 3, kvType });
      const target = other.sequence();
      expect(await target.importKv(kv)).toMatchObject({ positions: 103, moved: 0 });
      const bytes = await bytesOf(source);
      expect((await bytesOf(target)).equals(bytes), kvType).toBe(true);
      const restored = await other.restore(bytes);
      const tokens = await greedy(source, 24);
      expect(await greedy(target, 24), kvType).toEqual(tokens);
      expect(await greedy(restored, 24), kvType).toEqual(tokens);
    }
  });

  it("8. goes between caches of two formats", async () => {
    await using plain = await open("f32");
    const source = await read(plain.pool, tokensOf(60));
    const want = await floats(source.logits());
    for (const [kvType, bound] of [
      ["f16", 1e-4],
      ["q8_0", 5e-3],
      ["q4_0", 0.3],
    ] as const) {
      await using other = await plain.model.createPool({ contextLength: 256, maxSequences: 2, kvType });
      const target = await other.restore(await source.save());
      expect(klDivergence(want, await floats(target.logits())), kvType).toBeLessThan(bound);
      const back = await plain.pool.restore(await target.save());
      expect(klDivergence(want, await floats(back.logits())), kvType).toBeLessThan(bound);
    }
  });

  it("every layer lies at its own number: rows of one that is computed from its input alone, and no two alike", async () => {
    await using one = await open("f32");
    const source = await read(one.pool, [40]);
    using kv = await source.exportKv();
    // the rows of the first layer are those of the token alone, however the window cuts what follows
    const longer = await read(one.pool, [40, ...tokensOf(50)]);
    using whole = await longer.exportKv();
    using first = whole.slice({ from: 0, to: 1 });
    const seen = new Set<string>();
    for (let layer = 0; layer < layers; layer++) {
      for (const part of ["keys", "values"] as const) {
        const rows = await rowsOf(kv, layer, part);
        expect(maxAbsDifference(await rowsOf(first, layer, part), rows)).toBeLessThan(1e-5);
        seen.add(rows.join());
      }
    }
    expect(seen.size).toBe(2 * layers);
  });

  it("16. keys of each layer move by its own rotation", async () => {
    await using one = await open("f32");
    const source = await read(one.pool, tokensOf(30));
    using kv = await source.exportKv();
    const target = one.pool.sequence();
    expect(await target.importKv(kv, { positions: { at: 200 } })).toMatchObject({ moved: 30 });
    using moved = await target.exportKv();
    expect([...moved.positions()]).toEqual(Array.from({ length: 30 }, (_, i) => 200 + i));
    for (let layer = 0; layer < layers; layer++) {
      const base = name === "gemma3" && !isLocal(layer) ? 1e6 : 1e4;
      const keys = await rowsOf(kv, layer, "keys");
      expect(maxAbsDifference(await rowsOf(moved, layer, "keys"), turned(keys, 200, base))).toBeLessThan(2e-5);
      expect(await rowsOf(moved, layer, "values")).toEqual(await rowsOf(kv, layer, "values"));
    }
    // in the first layer that is what the model computes there
    const start = tokensOf(40, 2);
    const native = await read(one.pool, [...start, ...tokensOf(5)]);
    const joined = await read(one.pool, start);
    await joined.append(await read(one.pool, tokensOf(5)), { mode: "shift" });
    using a = await native.exportKv({ range: { from: 40, to: 45 } });
    using b = await joined.exportKv({ range: { from: 40, to: 45 } });
    expect(maxAbsDifference(await rowsOf(a, 0, "keys"), await rowsOf(b, 0, "keys"))).toBeLessThan(1e-5);
  });

  it("34. what a window has left behind stays in the cache, whoever writes beside it, and is there when the sequence is cut back", async () => {
    await using one = await open("f16", { contextLength: 256, threads: 1 });
    const [gap, long] = [await read(one.pool, tokensOf(40, 2)), await read(one.pool, tokensOf(100))];
    const bytes = await bytesOf(long);
    await gap.dispose();
    // its cells begin where the gap is, and go on behind those of the long one
    const filler = await read(one.pool, tokensOf(90, 3));
    expect((await bytesOf(long)).equals(bytes)).toBe(true);
    await using other = await one.model.createPool({ contextLength: 256, maxSequences: 2 });
    for (const length of [99, 50, 20]) {
      await long.truncate(length);
      const fresh = await read(other, tokensOf(length));
      expect(maxAbsDifference(await floats(long.logits()), await floats(fresh.logits())), `${length}`).toBeLessThan(2e-2);
      await fresh.dispose();
    }
    // forks and imports hold theirs as well
    const fork = await filler.fork();
    await filler.dispose();
    const copy = await one.pool.restore(bytes);
    await read(one.pool, tokensOf(40, 4));
    expect((await bytesOf(copy)).equals(bytes)).toBe(true);
    await fork.truncate(30);
    const fresh = await read(other, tokensOf(30, 3));
    expect(maxAbsDifference(await floats(fork.logits()), await floats(fresh.logits()))).toBeLessThan(2e-2);
    // and all of it is free again in the end
    for (const sequence of [long, fork, copy]) await sequence.dispose();
    expect(one.pool.counters().usedCells).toBe(40);
    await read(one.pool, tokensOf(216, 5));
  });

  it("14. without free cells an import is refused, and the sequence stays as it was", async () => {
    await using one = await open("f16", { contextLength: 256 });
    const source = await read(one.pool, tokensOf(150));
    using kv = await source.exportKv();
    const target = await read(one.pool, [5, 6, 7]);
    const before = await bytesOf(target);
    const cells = one.pool.counters().usedCells;
    expect(await codeOf(() => target.importKv(kv))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect((await bytesOf(target)).equals(before)).toBe(true);
    expect(one.pool.counters().usedCells).toBe(cells);
    await source.dispose();
    await target.importKv(kv);
    expect(target.length).toBe(153);
  });

  it("19. deltas, slices, cuts and joins are what they are in one cache", async () => {
    await using one = await open();
    const source = one.pool.sequence();
    const tokens = tokensOf(90);
    const target = one.pool.sequence();
    for (let at = 0; at < 90; at += 30) {
      await source.prefill(tokens.slice(at, at + 30));
      using delta = await source.exportKv({ range: { from: at, to: at + 30 } });
      await target.importKv(delta, { positions: "keep" });
    }
    const bytes = await bytesOf(source);
    expect((await bytesOf(target)).equals(bytes)).toBe(true);
    using kv = await source.exportKv();
    using joined = kv.slice({ from: 0, to: 31 }).concat(kv.slice({ from: 31, to: 90 }));
    expect(Buffer.from(await joined.toBytes()).equals(bytes)).toBe(true);
    using cut = kv.drop({ from: 20, to: 50 });
    const gapped = one.pool.sequence();
    await gapped.importKv(cut, { positions: "keep" });
    await target.drop({ from: 20, to: 50 }, { positions: "keep" });
    expect((await bytesOf(gapped)).equals(await bytesOf(target))).toBe(true);
    expect(await greedy(gapped, 12)).toEqual(await greedy(target, 12));
    await source.drop({ from: 20, to: 50 });
    const closed = one.pool.sequence();
    await closed.importKv(cut);
    expect(source.nextPosition).toBe(60);
    expect(await greedy(closed, 12)).toEqual(await greedy(source, 12));
  });

  it("15. comes out of fragmented caches in the order of its positions", async () => {
    await using one = await open("f16", { contextLength: 256 });
    const tokens = tokensOf(100);
    const [filler, source] = [await read(one.pool, tokensOf(50, 2)), await read(one.pool, tokens.slice(0, 50))];
    await filler.dispose();
    await source.prefill(tokens.slice(50));
    await using other = await one.model.createPool({ contextLength: 256, maxSequences: 2 });
    const whole = await read(other, tokens.slice(0, 50));
    await whole.prefill(tokens.slice(50));
    const copy = await other.restore(await source.save());
    expect(await greedy(copy, 12)).toEqual(await greedy(whole, 12));
  });

  it("is kept in a store and found by its tokens", async () => {
    await using one = await open("q8_0", { contextLength: 1024 });
    await using store = await KvStore.open({ path: mkdtempSync(path.join(folder, "windows-")), ramBytes: 1 << 20 });
    const tokens = tokensOf(520);
    const source = await read(one.pool, tokens);
    expect(await store.put(source)).toMatchObject({ positions: 512 });
    using lease = await store.find(one.pool, Int32Array.from(tokens));
    if (!lease) throw new Error("nothing was found");
    await using other = await one.model.createPool({ contextLength: 1024, maxSequences: 2, kvType: "q8_0" });
    const target = other.sequence();
    await target.importKv(lease.handle, { positions: "keep" });
    await source.truncate(512);
    expect(await greedy(target, 8)).toEqual(await greedy(source, 8));
  });

  it("5. is refused by the same shape with other weights, and takes at most 127 sequences", async () => {
    await using one = await open();
    const source = await read(one.pool, tokensOf(20));
    await using other = await tinyModel({ ...options, seed: 2 });
    await using pool = await other.createPool({ contextLength: 256, maxSequences: 2 });
    const bytes = await source.save();
    expect(await codeOf(() => pool.restore(bytes))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(() => one.model.createPool({ maxSequences: 128 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    await (await one.model.createPool({ contextLength: 256, maxSequences: 127 })).dispose();
  });
});
