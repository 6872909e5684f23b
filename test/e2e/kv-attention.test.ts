// Keys and values of pools without flash attention, whose values lie channel by channel: content is the same as that of other pools, goes from
// one kind to the other, and what is not finite reaches no other sequence.
// The numbers in the titles are those of the conformance list of KV transfer.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, loadModel, digest128, type KvType, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { codeOf, filled, floats, greedy, klDivergence, maxAbsDifference, tinyModel } from "./helpers.js";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";

let model: Model;
let plain: Pool;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  plain = await model.createPool({ contextLength: 1024, maxSequences: 8 });
  pool = await model.createPool({ contextLength: 1024, maxSequences: 8, flashAttention: false });
});

afterAll(async () => {
  await pool.dispose();
  await plain.dispose();
  await model.dispose();
});

const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

/** Low half first. */
const digest = (bytes: Uint8Array): Buffer => Buffer.from(digest128(bytes), "hex").reverse();

/** The stream with an infinity in each of its tiles in turn, and all digests made anew, as a sender does who has one in its cache. */
async function spoiltStreams(source: Sequence, kvType: KvType): Promise<Buffer[]> {
  const sound = await bytesOf(source);
  const tiles: number[] = [];
  for (let at = 16; at < sound.length; at += 48 + Number(sound.readBigUInt64LE(at + 16)))
    if (sound.toString("latin1", at, at + 4) === "TILE") tiles.push(at);
  return tiles.map((tile) => {
    const bytes = Buffer.from(sound);
    if (kvType === "f32") bytes.writeUInt32LE(0x7f800000, tile + 48 + 4);
    else bytes.writeUInt16LE(0x7c00, tile + 48); // a number, or the scale of a block
    let leaves: Buffer[] = [];
    for (let at = 16; at < bytes.length; at += 48 + Number(bytes.readBigUInt64LE(at + 16))) {
      const payload = bytes.subarray(at + 48, at + 48 + Number(bytes.readBigUInt64LE(at + 16)));
      if (bytes.toString("latin1", at, at + 4) === "ROOT") {
        while (leaves.length > 1) {
          leaves = Array.from({ length: Math.ceil(leaves.length / 2) }, (_, i) => {
            const [left, right] = leaves.slice(2 * i, 2 * i + 2);
            return right === undefined ? (left ?? Buffer.alloc(0)) : digest(Buffer.concat([left ?? Buffer.alloc(0), right]));
          });
        }
        leaves[0]?.copy(payload);
      }
      digest(payload).copy(bytes, at + 24);
      digest(bytes.subarray(at, at + 40)).copy(bytes, at + 40, 0, 8);
      leaves.push(digest(bytes.subarray(at, at + 40)));
    }
    return bytes;
  });
}

describe("without flash attention", () => {
  it("1. content comes back bit for bit and goes on with the same greedy tokens", async () => {
    expect(pool.info).toMatchObject({ flashAttention: false, canShift: true });
    expect(plain.info.flashAttention).toBe(true);
    for (const kvType of ["f16", "f32", "bf16"] as const) {
      await using own = await model.createPool({ contextLength: 512, maxSequences: 3, kvType, flashAttention: false });
      const source = await filled(own, text.repeat(3));
      await source.think({ steps: 2 });
      const bytes = await bytesOf(source);
      const target = await own.restore(bytes);
      expect((await bytesOf(target)).equals(bytes)).toBe(true);
      expect(await floats(target.logits())).toEqual(await floats(source.logits()));
      expect(await greedy(target, 16)).toEqual(await greedy(source, 16));
    }
  });

  it("8. content goes from one kind of pool to the other and back, and keeps its bits", async () => {
    for (const [from, to] of [
      [plain, pool],
      [pool, plain],
    ] as const) {
      const source = await filled(from, text);
      using kv = await source.exportKv();
      // a handle that holds the engine's own bytes must not be taken for a state of the other kind
      const target = to.sequence();
      await target.importKv(kv);
      expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
      expect(klDivergence(await floats(source.logits()), await floats(target.logits()))).toBeLessThan(1e-4);
      const back = await from.restore(await target.save());
      expect(await floats(back.logits())).toEqual(await floats(source.logits()));
      for (const sequence of [source, target, back]) await sequence.dispose();
    }
  });

  it("8. and between formats", async () => {
    const source = await filled(pool, text);
    const want = await floats(source.logits());
    const bound = { q8_0: 5e-3, q4_0: 0.3, f32: 1e-4, bf16: 3e-3 } as const;
    for (const kvType of ["q8_0", "q4_0", "f32", "bf16"] as const) {
      await using other = await model.createPool({ contextLength: 256, maxSequences: 2, kvType });
      const there = await other.restore(await source.save());
      expect(klDivergence(want, await floats(there.logits())), kvType).toBeLessThan(bound[kvType]);
      const back = await pool.restore(await there.save());
      expect(klDivergence(want, await floats(back.logits())), kvType).toBeLessThan(bound[kvType]);
      await back.dispose();
    }
    await source.dispose();
  });

  it("16. keys move, values stay", async () => {
    const [source, target] = [await filled(pool, text), await filled(pool, "ana is here.")];
    const start = target.length;
    using kv = await source.exportKv();
    expect(await target.importKv(kv)).toMatchObject({ moved: kv.length });
    using moved = await target.exportKv({ range: { from: start, to: start + kv.length } });
    const [before, after] = [[...kv.tiles()], [...moved.tiles()]];
    for (const [i, tile] of before.entries()) {
      const other = after[i];
      if (!other) throw new Error("no tile");
      const difference = maxAbsDifference(await floats(tile.tensor()), await floats(other.tensor()));
      if (tile.part === "values") expect(difference).toBe(0);
      else expect(difference).toBeGreaterThan(1e-2);
    }
    await target.drop({ from: 0, to: start });
    expect(target.nextPosition).toBe(kv.length);
    for (const sequence of [source, target]) await sequence.dispose();
  });

  it("15. comes out of a fragmented cache in the order of its positions", async () => {
    await using own = await model.createPool({ contextLength: 256, maxSequences: 4, flashAttention: false });
    const tokens = model.tokenize(text.repeat(4)).slice(0, 100);
    const [even, odd] = [own.sequence(), own.sequence()];
    // cells of the two alternate, and then every other one is free
    for (const token of tokens) {
      await even.prefill([token]);
      await odd.prefill([token]);
    }
    await odd.dispose();
    const whole = own.sequence();
    await whole.prefill(tokens.subarray(0, 50));
    await whole.prefill(tokens.subarray(50));
    const copy = await plain.restore(await even.save());
    const other = await plain.restore(await whole.save());
    expect(await greedy(copy, 12)).toEqual(await greedy(other, 12));
    for (const sequence of [copy, other]) await sequence.dispose();
  });

  it("of a model with sliding windows as well", async () => {
    await using gemma = await tinyModel({ architecture: "gemma3", layers: 7, slidingWindow: 12 });
    await using off = await gemma.createPool({ contextLength: 256, maxSequences: 3, flashAttention: false });
    await using on = await gemma.createPool({ contextLength: 256, maxSequences: 3 });
    const source = off.sequence();
    await source.prefill(Int32Array.from({ length: 100 }, (_, i) => 5 + ((i * 37) % 200)));
    const target = await on.restore(await source.save());
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    expect(klDivergence(await floats(source.logits()), await floats(target.logits()))).toBeLessThan(1e-4);
  });

  it("quantised values are refused by name, and so is a setting that is none", async () => {
    for (const kvType of ["q8_0", "q4_0"] as const)
      expect(await codeOf(() => model.createPool({ contextLength: 256, kvType, flashAttention: false }))).toBe("ERR_LATENT_DTYPE");
    expect(await codeOf(() => model.createPool({ flashAttention: "off" as unknown as boolean }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe.each([true, false])("9. with flash attention %s", (flashAttention) => {
  it("numbers that are not finite are refused, and no other sequence hears of them", async () => {
    for (const kvType of (flashAttention ? ["f16", "q8_0"] : ["f16", "f32"]) as KvType[]) {
      await using own = await model.createPool({ contextLength: 256, maxSequences: 4, kvType, flashAttention });
      const [source, neighbour] = [await filled(own, text), await filled(own, "ana is here.")];
      const want = await floats(neighbour.logits());
      const greedyWant = await (async () => {
        const fork = await neighbour.fork();
        const tokens = await greedy(fork, 8);
        await fork.dispose();
        return tokens;
      })();
      // infinities in another format pass its digests and are found when they are converted
      await using wide = await model.createPool({ contextLength: 256, maxSequences: 2, kvType: "f32" });
      const target = own.sequence();
      await target.prefill([5, 6, 7]);
      const before = await bytesOf(target);
      for (const spoilt of await spoiltStreams(source, kvType)) {
        expect(await codeOf(() => target.importKv(spoilt))).toBe("ERR_LATENT_NON_FINITE");
        expect(await codeOf(() => wide.restore(spoilt))).toBe("ERR_LATENT_NON_FINITE");
      }
      expect((await bytesOf(target)).equals(before)).toBe(true);
      // the cells that were free are used, and nothing is in them
      await target.prefill(model.tokenize(text).subarray(0, 60));
      expect((await floats(target.logits())).every(Number.isFinite)).toBe(true);
      expect(await floats(neighbour.logits())).toEqual(want);
      expect(await greedy(neighbour, 8)).toEqual(greedyWant);
    }
  });
});
