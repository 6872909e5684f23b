// What a receiver makes of streams that go wrong in every way that a stream can: it has all of the content, bit for bit, or a typed error and what it
// had before.
import { once } from "node:events";
import { Readable } from "node:stream";
import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { bundledModel, loadModel, type KvHandle, type Model, type Pool, type Sequence } from "../../lib/index.js";
import { faultyStream, type FaultyStreamOptions } from "../../lib/testing/index.js";
import { runs } from "../helpers.js";
import { codeOf, filled } from "./helpers.js";

let model: Model;
let pool: Pool;
let source: Sequence;
let kv: KvHandle;
let bytes: Buffer;

beforeAll(async () => {
  model = await loadModel(bundledModel("wren"));
  pool = await model.createPool({ contextLength: 1024, maxSequences: 6 });
  source = pool.sequence();
  await source.prefill(Int32Array.from({ length: 300 }, (_, i) => 5 + (i % 60)));
  kv = await source.exportKv();
  bytes = Buffer.from(await kv.toBytes());
});

afterAll(async () => {
  kv.dispose();
  await pool.dispose();
  await model.dispose();
});

const gathered = async (stream: AsyncIterable<Uint8Array>): Promise<Buffer> => {
  const pieces: Uint8Array[] = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
};

it("passes everything on if nothing is to go wrong, however it is cut", async () => {
  const stream = faultyStream(kv.records({ bufferBytes: 5000 }), { pieceBytes: 700, seed: 3 });
  expect((await gathered(stream)).equals(bytes)).toBe(true);
  expect(stream.faults).toEqual([]);
});

it("does the same for the same seed, and what it says", async () => {
  const options = { pieceBytes: 2000, flip: 0.1, drop: 0.1, repeat: 0.1, swap: 0.1, seed: 7 };
  const [a, b] = [faultyStream(bytes, options), faultyStream(bytes, options)];
  const out = await gathered(a);
  expect(out.equals(await gathered(b))).toBe(true);
  expect(a.faults).toEqual(b.faults);
  expect(new Set(a.faults.map(({ kind }) => kind))).toEqual(new Set(["flip", "drop", "repeat", "swap"]));
  expect(out.equals(await gathered(faultyStream(bytes, { ...options, seed: 8 })))).toBe(false);
  // one bit, and nothing else
  const flipped = await gathered(faultyStream([bytes], { flip: 1 }));
  expect(flipped.length).toBe(bytes.length);
  const differing = flipped.reduce((count, byte, i) => count + (byte === bytes[i] ? 0 : 1), 0);
  expect(differing).toBe(1);
  expect(
    (await gathered(faultyStream([bytes.subarray(0, 3), bytes.subarray(3, 5)], { swap: 1 }))).equals(
      Buffer.concat([bytes.subarray(3, 5), bytes.subarray(0, 3)]),
    ),
  ).toBe(true);
  // an option moves no fault of another
  const flips = { pieceBytes: 2000, flip: 0.1, seed: 5 };
  const [alone, among] = [faultyStream(bytes, flips), faultyStream(bytes, { ...flips, repeat: 0.3 })];
  await gathered(alone);
  await gathered(among);
  expect(among.faults.filter(({ kind }) => kind === "flip")).toEqual(alone.faults);
  for (const wrong of [{ flip: 2 }, { pieceBytes: 0 }, { endAfter: -1 }, { flop: 1 } as FaultyStreamOptions])
    expect(await codeOf(() => faultyStream(bytes, wrong))).toBe("ERR_LATENT_INVALID_ARGUMENT");
});

it("a stream that fell silent ends when it is closed", async () => {
  const silent = Readable.from(faultyStream(bytes, { hangAfter: 1000 }));
  const closed = once(silent, "close");
  silent.once("data", () => silent.destroy());
  await closed;
  const iterator = faultyStream(bytes, { hangAfter: 0 })[Symbol.asyncIterator]();
  const pending = iterator.next();
  await iterator.return?.();
  expect(await pending).toMatchObject({ done: true });
});

it("20., 25. and 26. streams that end, fail or fall silent have their own codes, and are resumed", async () => {
  for (const [options, code] of [
    [{ endAfter: 20_000 }, "ERR_LATENT_KV_TRUNCATED"],
    [{ failAfter: 20_000 }, "ERR_LATENT_KV_PEER_LOST"],
    [{ hangAfter: 20_000 }, "ERR_LATENT_KV_STALLED"],
  ] as const) {
    using receiver = pool.kvReceiver();
    const stream = faultyStream(kv.records({ bufferBytes: 5000 }), options);
    expect(await codeOf(() => receiver.read(stream, { idleMs: 200 }))).toBe(code);
    expect(stream.faults).toHaveLength(1);
    expect(receiver.bytes).toBeGreaterThan(0);
    using received = await receiver.read(kv.records({ held: receiver.held() }));
    expect(Buffer.from(await received.toBytes()).equals(bytes)).toBe(true);
  }
});

it("whatever happens on the way, an import has all of it or is as it was, and the next attempt gets through", async () => {
  const target = await filled(pool, "ana is here.");
  const before = Buffer.from(await target.save());
  const cells = pool.counters().usedCells;
  const chance = fc.constantFrom(0, 0, 0.01, 0.1);
  const options = fc.record({
    seed: fc.nat(),
    pieceBytes: fc.integer({ min: 300, max: 30_000 }),
    flip: chance,
    drop: chance,
    repeat: chance,
    swap: chance,
  });
  await fc.assert(
    fc.asyncProperty(options, fc.option(fc.nat({ max: bytes.length + 1000 })), async (faults, end) => {
      const stream = faultyStream(bytes, end === null ? faults : { ...faults, endAfter: end });
      using receiver = pool.kvReceiver();
      const code = await codeOf(async () => {
        using received = await receiver.read(stream);
        expect(Buffer.from(await received.toBytes()).equals(bytes)).toBe(true);
      });
      if (stream.faults.length === 0) expect(code).toBe("no error");
      if (code === "no error") return;
      expect(code).toMatch(/^ERR_LATENT_KV_(TRUNCATED|CHECKSUM|FORMAT|VERSION|LIMIT)$/);
      expect(await codeOf(() => target.importKv(faultyStream(bytes, end === null ? faults : { ...faults, endAfter: end })))).toBe(code);
      expect(pool.counters().usedCells).toBe(cells);
      // what was whole is kept, and the rest is asked for; a manifest that was damaged may have cost all of it
      using received = await receiver.read(kv.records({ held: receiver.held() }));
      expect(Buffer.from(await received.toBytes()).equals(bytes)).toBe(true);
    }),
    runs(150),
  );
  expect(Buffer.compare(await target.save(), before)).toBe(0);
  await target.dispose();
});
