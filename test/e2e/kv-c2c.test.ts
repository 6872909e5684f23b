// The fuser of Cache-to-Cache between two models, against f64: what it changes, what it leaves bit for bit, and what it refuses.
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  alignTokens,
  bundledModel,
  C2cFuser,
  loadModel,
  Tensor,
  writeSafetensors,
  type C2cFuseOptions,
  type KvHandle,
  type Model,
  type Pool,
} from "../../lib/index.js";
import { drawnWeights, erf, type Weights } from "../fixtures/wormhole.js";
import { at, isAborted, sameBits } from "../helpers.js";
import { codeOf, folder, tinyModel } from "./helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const format = "ERR_LATENT_FILE_FORMAT";
const [sharerChannels, channels, heads, hidden] = [16, 32, 2, 12];
// the receiver has three layers, the sharer two: the top ones meet, and the lowest of the receiver has none
const sharerLayers = [null, 0, 1] as const;
const config = {
  sharer_layers: sharerLayers,
  sharer_channels: sharerChannels,
  receiver_channels: channels,
  receiver_heads: heads,
  hidden,
  blocks: 1,
};

/** Layer 1 fuses keys and values, layer 2 keys only. */
function fuserWeights(seed: number): Map<string, { shape: readonly number[]; values: Float32Array }> {
  const { weights, put, layer } = drawnWeights(seed);
  const block = (name: string): void => {
    put(`${name}.norm.weight`, [hidden], 0.1, 1);
    put(`${name}.0.weight`, [hidden, hidden], 1 / Math.sqrt(hidden));
    put(`${name}.2.weight`, [hidden, hidden], 1 / Math.sqrt(hidden));
  };
  for (const i of [1, 2]) {
    for (const part of ["keys", "values"]) {
      const name = `layers.${i}.${part}`;
      layer(`${name}.in`, sharerChannels + channels, hidden);
      for (const one of ["embed", "project.0", "weigh.0"]) block(`${name}.${one}`);
      layer(`${name}.out`, hidden, channels);
      layer(`${name}.head`, hidden, heads);
      weights.set(`${name}.gate`, { shape: [1], values: Float32Array.of(i === 2 && part === "values" ? 0 : 0.3) });
    }
  }
  return weights;
}

async function write(name: string, weights: Weights, facts: object = config): Promise<string> {
  const file = path.join(folder, `${name}.safetensors`);
  const tensors = new Map([...weights].map(([key, { shape, values }]) => [key, Tensor.fromTyped("f32", shape, values)]));
  await writeSafetensors(file, tensors, new Map([["config", JSON.stringify(facts)]]));
  return file;
}

/** One row by the formula, in f64. */
function fusedRow(weights: Weights, name: string, s: ArrayLike<number>, t: ArrayLike<number>): number[] {
  const values = (one: string): Float32Array => weights.get(`${name}.${one}`)?.values ?? new Float32Array(0);
  const times = (matrix: Float32Array, x: readonly number[]): number[] =>
    Array.from({ length: matrix.length / x.length }, (_, j) => x.reduce((sum, value, k) => sum + value * at(matrix, j * x.length + k), 0));
  const layer = (one: string, x: readonly number[]): number[] =>
    times(values(`${one}.weight`), x).map((value, j) => value + at(values(`${one}.bias`), j));
  const block = (one: string, x: readonly number[]): number[] => {
    const root = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + 1e-6);
    const normed = x.map((value, k) => (value / root) * at(values(`${one}.norm.weight`), k));
    const inner = times(values(`${one}.0.weight`), normed).map((value) => (value / 2) * (1 + erf(value / Math.SQRT2)));
    return times(values(`${one}.2.weight`), inner).map((value, k) => value + at(x, k));
  };
  const e = block("embed", layer("in", [...Array.from(s), ...Array.from(t)]));
  const p = layer("out", block("project.0", e));
  const w = layer("head", block("weigh.0", e)).map((logit) => 1 / (1 + Math.exp(-logit)));
  return p.map((value, j) => at(t, j) + at(w, Math.floor(j / (channels / heads))) * value);
}

const weights = fuserWeights(1);
let receiver: Model;
let sharer: Model;
let pool: Pool;
let own: KvHandle;
let theirs: KvHandle;
let fuser: C2cFuser;
// more than one tile of 256 entries
const tokens = Int32Array.from({ length: 300 }, (_, i) => 5 + ((i * 7) % 200));

beforeAll(async () => {
  receiver = await tinyModel({ layers: 3, seed: 1 });
  sharer = await tinyModel({ width: 32, layers: 2, seed: 2 });
  pool = await receiver.createPool({ contextLength: 1024, maxSequences: 3, kvType: "f32" });
  const sequence = pool.sequence();
  await sequence.prefill(tokens);
  own = await sequence.exportKv();
  await sequence.dispose();
  await using other = await sharer.createPool({ contextLength: 512, maxSequences: 1 });
  const reading = other.sequence();
  await reading.prefill(alignTokens(receiver, sharer, tokens));
  theirs = await reading.exportKv();
  fuser = await C2cFuser.load(await write("fuser", weights));
});
afterAll(async () => {
  for (const held of [own, theirs, fuser]) held.dispose();
  await pool.dispose();
  await Promise.all([receiver.dispose(), sharer.dispose()]);
});

async function rowsOf(kv: KvHandle, layer: number, part: string): Promise<Float32Array> {
  const pieces: number[] = [];
  for (const tile of kv.tiles()) {
    if (tile.layer !== layer || tile.part !== part) continue;
    using tensor = await tile.tensor();
    for (const value of tensor.toFloat32()) pieces.push(value);
  }
  return Float32Array.from(pieces);
}

describe("a fuser", () => {
  it("knows what it changes, and counts what was trained", () => {
    const block = hidden + 2 * hidden * hidden;
    const part = (sharerChannels + channels + 1) * hidden + 3 * block + (hidden + 1) * (channels + heads) + 1;
    expect(fuser.info).toEqual({
      sharerLayers,
      channels: [sharerChannels, channels],
      heads,
      parameters: 4 * part,
      open: { keys: [1, 2], values: [1] },
    });
  });

  it("adds to keys and values what f64 adds, in tiles of both models, and leaves what is behind a closed gate bit for bit", async () => {
    using fused = await fuser.fuse({ receiver: own, sharer: theirs, pool });
    expect(fused.length).toBe(300);
    expect(sameBits(fused.tokens(), own.tokens())).toBe(true);
    for (const layer of [0, 1, 2]) {
      for (const part of ["keys", "values"]) {
        const [before, after] = [await rowsOf(own, layer, part), await rowsOf(fused, layer, part)];
        if (layer === 0 || (layer === 2 && part === "values")) {
          expect(sameBits(before, after), `${layer} ${part}`).toBe(true);
          continue;
        }
        const other = await rowsOf(theirs, sharerLayers[layer] ?? 0, part);
        for (const entry of [0, 1, 255, 256, 299]) {
          const s = other.subarray(entry * sharerChannels, (entry + 1) * sharerChannels);
          const wanted = fusedRow(weights, `layers.${layer}.${part}`, s, before.subarray(entry * channels, (entry + 1) * channels));
          const found = after.subarray(entry * channels, (entry + 1) * channels);
          for (const [j, value] of wanted.entries()) expect(Math.abs(at(found, j) - value), `${layer} ${part} ${entry}`).toBeLessThan(1e-4);
        }
      }
    }
  });

  it("changes the entries of its spans only", async () => {
    using fused = await fuser.fuse({
      receiver: own,
      sharer: theirs,
      pool,
      spans: [
        { from: 3, to: 5 },
        { from: 260, to: 261 },
      ],
    });
    const [before, after] = [await rowsOf(own, 1, "keys"), await rowsOf(fused, 1, "keys")];
    const changed = Array.from({ length: 300 }, (_, entry) => entry).filter(
      (entry) => !sameBits(before.slice(entry * channels, (entry + 1) * channels), after.slice(entry * channels, (entry + 1) * channels)),
    );
    expect(changed).toEqual([3, 4, 260]);
    using none = await fuser.fuse({ receiver: own, sharer: theirs, pool, spans: [] });
    expect(sameBits(await rowsOf(none, 1, "keys"), before)).toBe(true);
  });

  it("is read by the receiver, whose next token depends on it", async () => {
    using fused = await fuser.fuse({ receiver: own, sharer: theirs, pool });
    const logitsOf = async (kv: KvHandle): Promise<Float32Array> => {
      await using sequence = pool.sequence();
      await sequence.importKv(kv, { positions: "keep" });
      await sequence.prefill([9]);
      using logits = await sequence.logits();
      return logits.toFloat32();
    };
    const [plain, enriched] = [await logitsOf(own), await logitsOf(fused)];
    expect(enriched.some((value, i) => Math.abs(value - at(plain, i)) > 1e-3)).toBe(true);
  });

  it("refuses caches that are not those of its models, and not of one length", async () => {
    using short = theirs.slice({ from: 0, to: 299 });
    const good = { receiver: own, sharer: theirs, pool };
    for (const more of [
      { sharer: short },
      { receiver: 1 },
      { sharer: null },
      { spans: [{ from: 0, to: 301 }] },
      { spans: 3 },
      { layers: [] },
    ])
      expect(await codeOf(() => fuser.fuse({ ...good, ...more } as C2cFuseOptions)), Object.keys(more).join()).toBe(bad);
    expect(await codeOf(() => fuser.fuse({ ...good, sharer: own }))).toBe("ERR_LATENT_KV_LAYOUT");
    expect(await codeOf(() => fuser.fuse({ ...good, receiver: theirs }))).toBe("ERR_LATENT_KV_LAYOUT");
    await using other = await sharer.createPool({ contextLength: 512, maxSequences: 1 });
    expect(await codeOf(() => fuser.fuse({ ...good, pool: other }))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    const reason = new Error("enough");
    expect(await isAborted((options) => fuser.fuse({ ...good, ...options }), reason)).toBe(true);
    const gone = await C2cFuser.load(await write("gone", weights));
    gone.dispose();
    expect(await codeOf(() => gone.fuse(good))).toBe("ERR_LATENT_DISPOSED");
  });

  it("refuses files that are no fuser", async () => {
    const without = new Map([...weights].filter(([name]) => name !== "layers.2.values.head.bias"));
    const extra = new Map([...weights, ["layers.0.keys.gate", { shape: [1], values: Float32Array.of(1) }]]);
    for (const all of [without, extra]) expect(await codeOf(async () => C2cFuser.load(await write("odd", all)))).toBe(format);
    for (const facts of [
      {},
      { ...config, receiver_heads: 3 },
      { ...config, hidden: 13 },
      { ...config, blocks: 2 },
      { ...config, sharer_layers: [0.5] },
      { ...config, x: 1 },
    ])
      expect(await codeOf(async () => C2cFuser.load(await write("odd", weights, facts))), JSON.stringify(facts)).toBe(format);
    const spoilt = new Map([...weights, ["layers.1.keys.gate", { shape: [1], values: Float32Array.of(Number.NaN) }]]);
    expect(await codeOf(async () => C2cFuser.load(await write("odd", spoilt)))).toBe("ERR_LATENT_NON_FINITE");
  });
});

describe("alignTokens", () => {
  it("gives a token for each, by its string, or the first or the longest of those that spell it", async () => {
    await using wren = await loadModel(bundledModel("wren"));
    await using finch = await loadModel(bundledModel("finch"));
    const text = "does the person live in oslo?";
    const given = wren.tokenize(text);
    for (const pick of ["first", "longest"] as const) {
      const aligned = alignTokens(wren, finch, given, { pick });
      expect(aligned).toHaveLength(given.length);
      for (const [i, token] of given.entries()) {
        const spelled = [...finch.tokenize(wren.piece(token))];
        expect(spelled).toContain(at(aligned, i));
        if (pick === "first") expect(at(aligned, i)).toBe(spelled[0]);
        else for (const one of spelled) expect(finch.piece(at(aligned, i)).length).toBeGreaterThanOrEqual(finch.piece(one).length);
      }
    }
    // tokens that end a text stand for each other, whatever they are called
    expect([...alignTokens(wren, finch, [wren.info.eos])]).toEqual([finch.info.eos]);
    expect([...alignTokens(wren, wren, given)]).toEqual([...given]);
    expect(await codeOf(() => alignTokens(wren, finch, [1e6]))).toBe(bad);
    expect(await codeOf(() => alignTokens(wren, finch, given, { pick: "last" as "first" }))).toBe(bad);
  });
});
