// Keys and values between pools: what a sequence holds goes out of one cache and into another, of the same or of another format, whole or in
// parts, and whatever goes wrong leaves the receiving sequence as it was. The numbers in the titles are those of the conformance list of KV
// transfer.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, KvHandle, KvStore, loadModel, type KvFormat, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { codeOf, cosine, filled, floats, greedy, klDivergence, maxAbsDifference, tinyModel } from "./helpers.js";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";

let model: Model;
let pool: Pool;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 2048, maxSequences: 16 });
});

afterAll(async () => {
  await pool.dispose();
  await model.dispose();
});

const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

describe("content", () => {
  it("1. comes back bit for bit in another pool, and goes on with the same greedy tokens", async () => {
    const source = await filled(pool, text);
    await source.think({ steps: 3 });
    const other = await model.createPool({ contextLength: 512, maxSequences: 3 });
    const target = other.sequence();
    using kv = await source.exportKv({ label: "the reader" });
    expect(kv.length).toBe(source.length);
    expect(kv.info.latents).toBe(3);
    expect(kv.info.bytes).toBe(source.length * pool.info.kvBytesPerPosition - source.length * 12);
    const report = await target.importKv(kv);
    expect(report).toMatchObject({ positions: source.length, latents: 3, moved: 0, way: "copy" });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    expect(target.log()).toEqual(source.log());
    expect(await floats(target.logits())).toEqual(await floats(source.logits()));
    expect(await greedy(target, 24)).toEqual(await greedy(source, 24));
    await other.dispose();
    await source.dispose();
  });

  it("8. goes between caches of any two formats", async () => {
    const reference = await filled(pool, text);
    const want = await floats(reference.logits());
    const bound: Record<KvFormat, number> = { f32: 1e-4, f16: 1e-4, bf16: 3e-3, q8_0: 5e-3, q4_0: 0.3 };
    for (const from of ["f32", "f16", "bf16", "q8_0", "q4_0"] as const) {
      const sender = await model.createPool({ contextLength: 256, kvType: from });
      const source = await filled(sender, text);
      const mine = await floats(source.logits());
      for (const to of ["f32", "f16", "q8_0", "q4_0"] as const) {
        const receiver = await model.createPool({ contextLength: 256, kvType: to });
        const target = await receiver.restore(await source.save());
        const kl = klDivergence(mine, await floats(target.logits()));
        expect(kl, `${from} to ${to}`).toBeLessThan(Math.max(bound[from], bound[to]));
        await receiver.dispose();
      }
      expect(klDivergence(want, mine), from).toBeLessThan(bound[from]);
      await sender.dispose();
    }
    await reference.dispose();
  });

  it("8. is sent in another format, smaller, and says so", async () => {
    const source = await filled(pool, text);
    const want = await floats(source.logits());
    using plain = await source.exportKv();
    for (const [format, ratio, kl] of [
      ["q8_0", 34 / 64, 5e-3],
      ["q4_0", 18 / 64, 0.3],
      ["f32", 2, 1e-4],
    ] as const) {
      using kv = await source.exportKv({ format });
      expect(kv.toJSON().format).toBe(format);
      expect(kv.info.bytes).toBe(plain.info.bytes * ratio);
      const target = pool.sequence();
      await target.importKv(await kv.toBytes());
      expect(klDivergence(want, await floats(target.logits())), format).toBeLessThan(kl);
      await target.dispose();
    }
    await source.dispose();
  });

  it("19. in three deltas is the content at once, and a delta that is missing leaves a gap that is refused", async () => {
    const tokens = model.tokenize(text.repeat(10)).slice(0, 300);
    const source = pool.sequence();
    const deltas: KvHandle[] = [];
    for (let at = 0; at < 300; at += 100) {
      await source.prefill(tokens.slice(at, at + 100));
      deltas.push(await source.exportKv({ range: { from: at, to: at + 100 } }));
    }
    const target = pool.sequence();
    for (const delta of deltas) await target.importKv(delta, { positions: "keep" });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    const [first, , last] = deltas;
    if (!first || !last) throw new Error("no deltas");
    const gap = pool.sequence();
    await gap.importKv(first, { positions: "keep" });
    await gap.importKv(last, { positions: "keep" });
    expect(gap.contiguous).toBe(false);
    expect(await codeOf(() => gap.importKv(first, { positions: "keep" }))).toBe("ERR_LATENT_KV_POSITION");
    for (const sequence of [source, target, gap]) await sequence.dispose();
    for (const delta of deltas) delta.dispose();
  });

  it("15. comes out of a fragmented cache in the order of its positions", async () => {
    const own = await model.createPool({ contextLength: 256, maxSequences: 4 });
    const tokens = model.tokenize(text.repeat(4)).slice(0, 100);
    const [filler, source] = [own.sequence(), own.sequence()];
    await filler.prefill(tokens.slice(0, 50));
    await source.prefill(tokens.slice(0, 50));
    await filler.dispose();
    // these go into the cells that became free, before those of the first half
    await source.prefill(tokens.slice(50));
    const whole = pool.sequence();
    await whole.prefill(tokens);
    using there = await source.exportKv();
    using here = await whole.exportKv();
    expect([...there.positions()]).toEqual([...here.positions()]);
    for (const [i, tile] of [...there.tiles()].entries()) {
      const other = [...here.tiles()][i];
      if (!other) throw new Error("no tile");
      expect(cosine(await floats(tile.tensor()), await floats(other.tensor()))).toBeGreaterThan(0.999);
    }
    const copy = pool.sequence();
    await copy.importKv(there);
    // attention sums cells in their order, so a near tie may go either way
    expect(klDivergence(await floats(copy.logits()), await floats(source.logits()))).toBeLessThan(1e-4);
    await own.dispose();
    await copy.dispose();
    await whole.dispose();
  });

  it("is cut, joined and read without the cache", async () => {
    const source = await filled(pool, text);
    using kv = await source.exportKv();
    using first = kv.slice({ from: 0, to: 4 });
    using rest = kv.slice({ from: 4, to: kv.length });
    using joined = first.concat(rest);
    expect(Buffer.from(await joined.toBytes()).equals(await bytesOf(source))).toBe(true);
    using dropped = kv.drop({ from: 2, to: 6 });
    expect([...dropped.positions()]).toEqual([...kv.positions()].filter((position) => position < 2 || position >= 6));
    const tiles = [...kv.tiles()];
    expect(tiles).toHaveLength(2 * model.info.layers * Math.ceil(kv.length / 256));
    const [keys] = tiles;
    const numbers = await keys?.tensor();
    expect(numbers?.shape).toEqual([kv.length, kv.info.layers[0]?.keys.channels]);
    numbers?.dispose();
    expect(JSON.parse(JSON.stringify(kv))).toMatchObject({ kind: "kv", positions: kv.length, format: "f16" });
    await source.dispose();
  });
});

describe("some layers", () => {
  it("are exported, read and sent under their numbers, and no cache takes them", async () => {
    const deep = await tinyModel({ layers: 7, headDim: 32 });
    const own = await deep.createPool({ contextLength: 512, maxSequences: 4 });
    const source = own.sequence();
    await source.prefill(Array.from({ length: 300 }, (_, i) => 5 + (i % 250)));
    const before = await bytesOf(source);
    using whole = await source.exportKv();
    expect(whole.info).toMatchObject({ partial: false, layers: Array.from({ length: 7 }, (_, layer) => ({ layer })) });
    using some = await source.exportKv({ layers: [5, 0, 6, 5], label: "three" });
    expect(some.info).toMatchObject({ partial: true, positions: 300, bytes: (whole.info.bytes / 7) * 3 });
    expect(some.info.layers.map(({ layer }) => layer)).toEqual([0, 5, 6]);
    expect(some.toJSON()).toMatchObject({ layers: 3, label: "three" });
    const wanted = [...whole.tiles()].filter(({ layer }) => [0, 5, 6].includes(layer));
    const tiles = [...some.tiles()];
    expect(tiles.map(({ layer, part, from, to }) => [layer, part, from, to])).toEqual(
      wanted.map(({ layer, part, from, to }) => [layer, part, from, to]),
    );
    for (const [i, tile] of tiles.entries())
      expect(await floats(tile.tensor())).toEqual(await floats(wanted[i]?.tensor() ?? tile.tensor()));

    using received = await own.readKv(some.records());
    expect(received.info).toEqual(some.info);
    expect(Buffer.from(await received.toBytes()).equals(Buffer.from(await some.toBytes()))).toBe(true);
    using small = await source.exportKv({ layers: [3], format: "q8_0", range: { from: 10, to: 20 } });
    expect(small.info).toMatchObject({ partial: true, positions: 10, layers: [{ layer: 3, keys: { format: "q8_0" } }] });
    using cut = some.slice({ from: 0, to: 10 });
    using joined = cut.concat(some.slice({ from: 10, to: 300 }));
    expect(Buffer.from(await joined.toBytes()).equals(Buffer.from(await some.toBytes()))).toBe(true);
    using all = await source.exportKv({ layers: [6, 5, 4, 3, 2, 1, 0] });
    expect(all.info.partial).toBe(false);
    expect(Buffer.from(await all.toBytes()).equals(before)).toBe(true);

    const target = own.sequence();
    await target.prefill([5, 6, 7]);
    const held = await bytesOf(target);
    const error: unknown = await target.importKv(some).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ERR_LATENT_KV_LAYOUT" });
    expect(String(error)).toMatch(/lacks those of the numbers 1, 2, 3, 4$/);
    expect(await codeOf(() => target.importKv(some.records()))).toBe("ERR_LATENT_KV_LAYOUT");
    expect(await codeOf(() => some.concat(whole))).toBe("ERR_LATENT_KV_LAYOUT");
    await using store = await KvStore.open({ ramBytes: 1 << 24 });
    expect(await codeOf(() => store.put(some))).toBe("ERR_LATENT_KV_LAYOUT");
    expect((await bytesOf(target)).equals(held)).toBe(true);
    for (const layers of [[], [-1], [7], [0.5], "0"] as unknown[])
      expect(await codeOf(() => source.exportKv({ layers: layers as number[] }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect((await bytesOf(source)).equals(before)).toBe(true);
    await own.dispose();
    await deep.dispose();
  });
});

describe("positions", () => {
  it("16. keys that moved are those that llama.cpp computes at the new position, in the first layer, whose input is the token alone", async () => {
    for (const options of [{}, { architecture: "llama" as const }]) {
      const tiny = await tinyModel(options);
      const own = await tiny.createPool({ contextLength: 512, kvType: "f32" });
      const start = [3, 4, 5, 6, 8, 9, 10, 11];
      const one = own.sequence();
      await one.prefill([7, 20]);
      const target = own.sequence();
      await target.prefill(start);
      const before = await bytesOf(target);
      using kv = await one.exportKv();
      expect(await target.importKv(kv, { positions: "append" })).toMatchObject({ positions: 2, moved: 2 });
      const native = own.sequence();
      await native.prefill([...start, 7, 20]);
      const keys = async (sequence: Sequence | KvHandle): Promise<Float32Array> => {
        using handle =
          sequence instanceof KvHandle ? sequence.slice({ from: 0, to: 2 }) : await sequence.exportKv({ range: { from: 8, to: 10 } });
        const [first] = handle.tiles();
        if (!first) throw new Error("no tile");
        return await floats(first.tensor());
      };
      expect(maxAbsDifference(await keys(target), await keys(native))).toBeLessThan(1e-5);
      expect(maxAbsDifference(await keys(kv), await keys(native))).toBeGreaterThan(1e-2);
      await target.truncate(8);
      expect((await bytesOf(target)).equals(before)).toBe(true);
      const far = own.sequence();
      await far.importKv(kv, { positions: { at: 0 } });
      expect((await bytesOf(far)).equals(await bytesOf(one))).toBe(true);
      await own.dispose();
      await tiny.dispose();
    }
  });

  it("10. repeated, unordered or outside of the context are refused, and the sequence stays as it was", async () => {
    const source = await filled(pool, text);
    using kv = await source.exportKv();
    const before = await bytesOf(source);
    expect(await codeOf(() => source.importKv(kv, { positions: "keep" }))).toBe("ERR_LATENT_KV_POSITION");
    expect(await codeOf(() => source.importKv(kv, { positions: { at: 3 } }))).toBe("ERR_LATENT_KV_POSITION");
    expect(await codeOf(() => source.importKv(kv, { positions: { at: 2040 } }))).toBe("ERR_LATENT_KV_POSITION");
    using twice = kv.concat(kv);
    expect(await codeOf(() => pool.sequence().importKv(twice, { positions: "keep" }))).toBe("ERR_LATENT_KV_POSITION");
    expect((await bytesOf(source)).equals(before)).toBe(true);
    await source.dispose();
  });

  it("14. without free cells an import is refused, and the sequence stays as it was", async () => {
    const own = await model.createPool({ contextLength: 256, maxSequences: 4 });
    const full = own.sequence();
    await full.prefill(model.tokenize(text.repeat(10)).slice(0, 200));
    using kv = await full.exportKv();
    const target = own.sequence();
    await target.prefill([5, 6, 7]);
    const before = await bytesOf(target);
    const used = own.counters().usedCells;
    expect(await codeOf(() => target.importKv(kv))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect((await bytesOf(target)).equals(before)).toBe(true);
    expect(own.counters().usedCells).toBe(used);
    await own.dispose();
  });
});

describe("what is refused", () => {
  it("5. and 6. content of other weights, and of the same with other positions", async () => {
    const source = await filled(pool, text);
    const wren = await loadModel(bundledModel("wren"));
    const other = await wren.createPool({ contextLength: 256 });
    using kv = await source.exportKv();
    expect(await codeOf(() => other.sequence().importKv(kv))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(async () => other.restore(await kv.toBytes()))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    const plain = await loadModel(bundledModel("finch"), { template: "plain" });
    const same = await plain.createPool({ contextLength: 256 });
    const error: unknown = await same
      .sequence()
      .importKv(kv)
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      code: "ERR_LATENT_KV_MODEL_MISMATCH",
      details: { name: "chat template", theirs: "model", ours: "plain" },
    });
    await same.dispose();
    await plain.dispose();
    await other.dispose();
    await wren.dispose();
    await source.dispose();
  });

  it("6. the same weights under LongRoPE with short and with long factors, which the size of the context chooses", async () => {
    const tiny = await tinyModel({ architecture: "llama", contextLength: 1024, rope: { type: "longrope", factor: 4 } });
    const [small, large, other] = await Promise.all([256, 1024, 512].map((contextLength) => tiny.createPool({ contextLength })));
    if (!small || !large || !other) throw new Error("no pools");
    expect(small.kvIdentity).not.toEqual(large.kvIdentity);
    expect(large.kvIdentity).toEqual(other.kvIdentity);
    const source = small.sequence();
    await source.prefill([5, 6, 7]);
    using kv = await source.exportKv();
    const error: unknown = await large
      .sequence()
      .importKv(kv)
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ERR_LATENT_KV_MODEL_MISMATCH", details: { name: "key positions" } });
    for (const one of [small, large, other]) await one.dispose();
    await tiny.dispose();
  });

  it("5. contents of two models of one shape are not joined", async () => {
    const [a, b] = [await tinyModel({ seed: 1 }), await tinyModel({ seed: 2 })];
    const [pa, pb] = [await a.createPool({ contextLength: 256 }), await b.createPool({ contextLength: 256 })];
    const [sa, sb] = [pa.sequence(), pb.sequence()];
    await sa.prefill([5, 6, 7]);
    await sb.prefill([5, 6, 7]);
    using ka = await sa.exportKv();
    using kb = await sb.exportKv();
    expect(await codeOf(() => ka.concat(kb))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(() => sa.importKv(kb))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    for (const one of [pa, pb, a, b]) await one.dispose();
  });

  it("32. a sequence is busy from the call of an import on, and its log waits for the end", async () => {
    const source = pool.sequence();
    await source.prefill(model.tokenize(text.repeat(20)).slice(0, 400));
    using kv = await source.exportKv();
    let target = pool.sequence();
    let busy = false;
    // on a machine that takes the core away between two calls, an import may be over before the second
    for (let attempt = 0; attempt < 10 && !busy; attempt++) {
      await target.dispose();
      target = pool.sequence();
      await target.prefill([5, 6, 7]);
      const running = target.importKv(kv);
      const refused = [codeOf(() => target.log()), codeOf(() => target.truncate(1)), codeOf(() => target.importKv(kv))];
      busy = (await Promise.all(refused)).every((code) => code === "ERR_LATENT_SEQUENCE_BUSY");
      await running;
      if (busy) expect(target.length).toBe(403);
    }
    expect(busy).toBe(true);
    const again = codeOf(() => target.importKv(kv));
    await target.dispose();
    expect(["no error", "ERR_LATENT_DISPOSED", "AbortError: the operation was aborted"]).toContain(await again);
    await source.dispose();
  });

  it("10. a cut that would leave a gap before the last entry is refused", async () => {
    const source = pool.sequence();
    await source.prefill([5, 6, 7, 8]);
    using kv = await source.exportKv();
    const target = pool.sequence();
    await target.prefill([9, 10, 11]);
    await target.importKv(kv, { positions: { at: 50 } });
    expect(await codeOf(() => target.truncate(4))).toBe("ERR_LATENT_POSITION_SCHEME");
    expect(await codeOf(() => target.drop({ from: 4, to: 7 }))).toBe("ERR_LATENT_POSITION_SCHEME");
    await target.truncate(5);
    expect(target.nextPosition).toBe(52);
    await floats(target.logits());
    expect(target.nextPosition).toBe(52);
    await source.dispose();
    await target.dispose();
  });

  it("11. content joined with itself until no context can hold it is refused before memory is made for it", async () => {
    const source = await filled(pool, text);
    let kv = await source.exportKv();
    for (let i = 0; i < 12; i++) kv = kv.concat(kv);
    const before = process.memoryUsage().rss;
    expect(await codeOf(() => pool.sequence().importKv(kv))).toBe("ERR_LATENT_CONTEXT_OVERFLOW");
    expect(process.memoryUsage().rss - before).toBeLessThan(16 << 20);
    await source.dispose();
  });

  it("32. the event loop has its turns while a large stream is read from memory", async () => {
    const source = pool.sequence();
    await source.prefill(model.tokenize(text.repeat(60)).slice(0, 1500));
    const bytes = await source.save();
    let turns = 0;
    let reading = true;
    const turn = (): void => {
      turns++;
      if (reading) setImmediate(turn);
    };
    setImmediate(turn);
    using kv = await pool.readKv([bytes]);
    reading = false;
    expect(kv.length).toBe(1500);
    expect(turns).toBeGreaterThan(Math.floor(bytes.length / (2 << 20)));
    await source.dispose();
  });

  it("2. to 4. streams that are cut, damaged, too long or silent, and other sequences do not notice", async () => {
    const source = await filled(pool, text);
    const neighbour = await filled(pool, "ana is here.");
    const next = await floats(neighbour.logits());
    const bytes = Buffer.from(await source.save());
    const cells = pool.counters().usedCells;
    const sequences = pool.counters().openSequences;
    for (let i = 0; i < 40; i++) {
      const cut = Math.floor((bytes.length * i) / 40);
      expect(await codeOf(() => pool.restore(bytes.subarray(0, cut)))).toBe("ERR_LATENT_KV_TRUNCATED");
      const flipped = Buffer.from(bytes);
      flipped[cut] = (flipped[cut] ?? 0) ^ (1 << (i % 8));
      expect(await codeOf(() => pool.restore(flipped))).toBe("ERR_LATENT_KV_CHECKSUM");
    }
    expect(await codeOf(() => pool.restore(Buffer.concat([bytes, Buffer.from([0])])))).toBe("ERR_LATENT_KV_FORMAT");
    expect(await codeOf(() => pool.readKv([bytes.subarray(0, 100), "text"] as unknown as Uint8Array[]))).toBe(
      "ERR_LATENT_INVALID_ARGUMENT",
    );
    const silent = (async function* () {
      yield bytes.subarray(0, 5000);
      await new Promise((resolve) => setTimeout(resolve, 2000).unref());
    })();
    expect(await codeOf(() => pool.readKv(silent, { idleMs: 30 }))).toBe("ERR_LATENT_KV_STALLED");
    const failing = (async function* () {
      yield bytes.subarray(0, 5000);
      await Promise.resolve();
      throw new Error("ECONNRESET");
    })();
    expect(await codeOf(() => pool.readKv(failing))).toBe("ERR_LATENT_KV_PEER_LOST");
    expect(pool.counters().usedCells).toBe(cells);
    expect(pool.counters().openSequences).toBe(sequences);
    expect(await floats(neighbour.logits())).toEqual(next);
    await source.dispose();
    await neighbour.dispose();
  });

  it("20. a lost stream is resumed with what is missing", async () => {
    const source = pool.sequence();
    await source.prefill(model.tokenize(text.repeat(40)).slice(0, 900));
    using kv = await source.exportKv();
    const bytes = Buffer.from(await kv.toBytes());
    for (const part of [0.25, 0.5, 0.75]) {
      using receiver = pool.kvReceiver();
      expect(await codeOf(() => receiver.read(bytes.subarray(0, bytes.length * part)))).toBe("ERR_LATENT_KV_TRUNCATED");
      const before = receiver.bytes;
      expect(before).toBeGreaterThan(bytes.length * part * 0.9 - 200_000);
      let sent = 0;
      const rest = (async function* () {
        for await (const piece of kv.records({ held: receiver.held(), bufferBytes: 10_000 })) {
          sent += piece.length;
          yield piece;
        }
      })();
      using received = await receiver.read(rest);
      expect(sent).toBeLessThan(bytes.length - before + 20_000);
      expect(Buffer.from(await received.toBytes()).equals(bytes)).toBe(true);
      expect(await codeOf(() => receiver.read(bytes))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    }
    await source.dispose();
  });

  it("31. aborted at random points, nothing is lost and the pool goes on", async () => {
    const source = pool.sequence();
    await source.prefill(model.tokenize(text.repeat(20)).slice(0, 400));
    const before = await bytesOf(source);
    const cells = pool.counters().usedCells;
    const reason = new Error("enough");
    for (let i = 0; i < Number(process.env["LATENTWIRE_TEST_ROUNDS"] ?? 200); i++) {
      const controller = new AbortController();
      const target = pool.sequence();
      const signal = controller.signal;
      const work = (async () => {
        using kv = await source.exportKv({ signal });
        using small = await kv.convert(i % 2 === 0 ? "q8_0" : "f32", { signal });
        await target.importKv(small.records({ signal, bufferBytes: 1 << (10 + (i % 10)) }), { signal });
      })();
      setTimeout(
        () => {
          controller.abort(reason);
        },
        (i % 16) * 0.25,
      );
      await work.catch((error: unknown) => {
        if (error !== reason) throw error;
      });
      await target.dispose();
    }
    expect(pool.counters().usedCells).toBe(cells);
    expect((await bytesOf(source)).equals(before)).toBe(true);
    await source.dispose();
  });

  it("32. sixty-four exports and imports at once are done in order", async () => {
    const source = await filled(pool, text);
    const bytes = await source.save();
    const own = await model.createPool({ contextLength: 4096, maxSequences: 64, batch: 512 });
    const targets = Array.from({ length: 64 }, () => own.sequence());
    await Promise.all(targets.map((target) => target.importKv(bytes)));
    const back = await Promise.all(targets.map((target) => target.save()));
    for (const one of back) expect(Buffer.compare(one, bytes)).toBe(0);
    await own.dispose();
    await source.dispose();
  });

  it("36. empty content adds nothing, and an empty sequence exports it", async () => {
    const empty = pool.sequence();
    using kv = await empty.exportKv();
    expect(kv.length).toBe(0);
    const source = await filled(pool, text);
    const before = await bytesOf(source);
    await source.importKv(await kv.toBytes());
    expect((await bytesOf(source)).equals(before)).toBe(true);
    await source.dispose();
    await empty.dispose();
  });

  it("disposed handles, receivers and pools say so", async () => {
    const source = await filled(pool, text);
    const kv = await source.exportKv();
    kv.dispose();
    expect(kv.disposed).toBe(true);
    expect(await codeOf(() => kv.tokens())).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => kv.toBytes())).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => pool.sequence().importKv(kv))).toBe("ERR_LATENT_DISPOSED");
    const receiver = pool.kvReceiver();
    receiver.dispose();
    expect(await codeOf(() => receiver.read(new Uint8Array(3)))).toBe("ERR_LATENT_DISPOSED");
    const own = await model.createPool({ contextLength: 256 });
    await own.dispose();
    expect(await codeOf(() => own.kvReceiver())).toBe("ERR_LATENT_DISPOSED");
    await source.dispose();
  });
});
