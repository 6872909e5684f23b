// A sender that sends what it has read while it reads the rest: the stream is that of a sequence which had read it all, its first part is there
// before the last token was read, and leaving it costs neither side what it had. The numbers in the titles are those of the conformance list of KV
// transfer.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, KvStore, loadModel, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { codeOf, greedy } from "./helpers.js";

let model: Model;
let pool: Pool;
let tokens: Int32Array;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 4096, maxSequences: 8 });
  tokens = model.tokenize("tom is in the red house. the key is in the box. ana has the blue ball. ".repeat(80)).slice(0, 1500);
});

afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

async function gathered(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
}

const saved = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

describe("records of a prefill", () => {
  it("19. are those of the sequence that has read it, whatever it held before and whatever the length", async () => {
    for (const [before, more] of [
      [0, 1500],
      [0, 0],
      [0, 1],
      [0, 512],
      [100, 412],
      [300, 1],
      [511, 700],
      [7, 0],
    ] as const) {
      await using sequence = pool.sequence();
      await sequence.prefill(tokens.subarray(0, before));
      const stream = await gathered(sequence.prefillRecords(tokens.subarray(before, before + more)));
      expect(sequence.length).toBe(before + more);
      expect(stream.equals(await saved(sequence)), `${before} and ${more}`).toBe(true);
    }
  });

  it("19. come before everything was read, and are taken by another pool for what they are", async () => {
    const other = await model.createPool({ contextLength: 2048, maxSequences: 2 });
    await using sequence = pool.sequence();
    await using target = other.sequence();
    const lengths: number[] = [];
    let bytes = 0;
    async function* watched(): AsyncGenerator<Uint8Array, void, undefined> {
      for await (const piece of sequence.prefillRecords(tokens, { bufferBytes: 4096 })) {
        bytes += piece.length;
        if (bytes > 100_000) lengths.push(sequence.length);
        yield piece;
      }
    }
    await target.importKv(watched(), { positions: "keep" });
    expect(lengths[0]).toBeLessThan(tokens.length);
    expect(lengths.at(-1)).toBe(tokens.length);
    expect((await saved(target)).equals(await saved(sequence))).toBe(true);
    expect(await greedy(target, 8)).toEqual(await greedy(sequence, 8));
    await other.dispose();
  });

  it("of what the receiver lacks: both hold the beginning, the rest is sent and kept where it was", async () => {
    const other = await model.createPool({ contextLength: 2048, maxSequences: 2 });
    await using sequence = pool.sequence();
    await sequence.prefill(tokens.subarray(0, 300));
    const target = await other.restore(await sequence.save());
    const report = await target.importKv(sequence.prefillRecords(tokens.subarray(300), { from: 300, label: "the rest" }), {
      positions: "keep",
    });
    expect(report).toMatchObject({ positions: 1200, moved: 0 });
    expect((await saved(target)).equals(await saved(sequence))).toBe(true);
    await other.dispose();
  });

  it("31. left or aborted at any piece leave the sequence as it was", async () => {
    await using sequence = pool.sequence();
    await sequence.prefill(tokens.subarray(0, 100));
    const before = await saved(sequence);
    for (const pieces of [1, 2, 5, 9]) {
      let taken = 0;
      for await (const piece of sequence.prefillRecords(tokens.subarray(100, 1400), { bufferBytes: 65_536 })) {
        expect(piece.length).toBeGreaterThan(0);
        if (++taken === pieces) break;
      }
      expect((await saved(sequence)).equals(before), `left after ${pieces}`).toBe(true);
      const stop = new AbortController();
      taken = 0;
      const aborted = async (): Promise<void> => {
        for await (const piece of sequence.prefillRecords(tokens.subarray(100, 1400), { bufferBytes: 65_536, signal: stop.signal })) {
          expect(piece.length).toBeGreaterThan(0);
          if (++taken === pieces) stop.abort();
        }
      };
      await expect(aborted()).rejects.toMatchObject({ name: "AbortError" });
      expect((await saved(sequence)).equals(before), `aborted after ${pieces}`).toBe(true);
    }
  });

  it("say so when the sequence was used for something else between two pieces", async () => {
    await using sequence = pool.sequence();
    await using other = pool.sequence();
    await other.prefill(tokens.subarray(0, 200));
    using foreign = await other.exportKv();
    for (const meddle of [() => sequence.truncate(400), () => sequence.importKv(foreign, { positions: "append" })]) {
      const outcome = await codeOf(async () => {
        let meddled = false;
        for await (const piece of sequence.prefillRecords(tokens.subarray(0, 1400), { bufferBytes: 65_536 })) {
          expect(piece.length).toBeGreaterThan(0);
          if (meddled || sequence.length < 512) continue;
          // it is busy as long as a piece is being read
          for (let tries = 0; tries < 200 && !meddled; tries++) {
            meddled = (await codeOf(meddle)) === "no error";
            if (!meddled) await new Promise((resolve) => setTimeout(resolve, 5));
          }
        }
      });
      expect(outcome).toBe("ERR_LATENT_SEQUENCE_BUSY");
      await sequence.truncate(0);
    }
  });

  it("a text that does not fit is refused before the first byte", async () => {
    const small = await model.createPool({ contextLength: 512, maxSequences: 2 });
    await using sequence = small.sequence();
    await sequence.prefill(tokens.subarray(0, 10));
    const pieces = sequence.prefillRecords(tokens.subarray(0, 503));
    expect(await codeOf(() => pieces.next())).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect(sequence.length).toBe(10);
    expect(await codeOf(() => sequence.prefillRecords(tokens, { from: 11 }).next())).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => sequence.prefillRecords(tokens, { bufferBytes: 0 }).next())).toBe("ERR_LATENT_INVALID_ARGUMENT");
    await small.dispose();
  });
});

describe("what came in a stream", () => {
  const key = Buffer.alloc(32, 7);

  it("is stored if its sender is known: to have been read in order, as far as the sender says", async () => {
    const other = await model.createPool({ contextLength: 2048, maxSequences: 4 });
    await using sequence = pool.sequence();
    const stream = await gathered(sequence.prefillRecords(tokens.subarray(0, 600), { sign: { key } }));
    await using store = await KvStore.open({ ramBytes: 2 ** 26 });
    const target = await other.restore(stream, { verify: { keys: [key] } });
    expect(await store.put(target)).toMatchObject({ chunks: 2, positions: 512 });
    // what was joined in the sender's cache is no content of its tokens alone, and the stream says so
    await sequence.drop({ from: 300, to: 310 });
    const joined = await other.restore(await sequence.save({ sign: { key } }), { verify: { keys: [key] } });
    await using second = await KvStore.open({ ramBytes: 2 ** 26 });
    expect(await second.put(joined)).toMatchObject({ chunks: 1, positions: 256 });
    await target.dispose();
    await joined.dispose();
    // and neither is what a codec has rounded
    for (const rounded of [
      await gathered((await sequence.exportKv()).records({ sign: { key }, codec: "q8_0" })),
      await gathered(sequence.prefillRecords(tokens.subarray(600, 601), { sign: { key }, codec: "q8_0" })),
    ]) {
      await using coarse = await other.restore(rounded, { verify: { keys: [key] } });
      await using third = await KvStore.open({ ramBytes: 2 ** 26 });
      expect(await third.put(coarse)).toMatchObject({ chunks: 0 });
    }
    await other.dispose();
  });

  it("is not stored if nobody signed it", async () => {
    await using sequence = pool.sequence();
    await sequence.prefill(tokens.subarray(0, 600));
    const target = await pool.restore(await sequence.save());
    await using store = await KvStore.open({ ramBytes: 2 ** 26 });
    expect(await store.put(target)).toMatchObject({ chunks: 0, positions: 0 });
    await target.dispose();
  });
});
