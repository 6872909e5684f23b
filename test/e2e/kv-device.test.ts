// Keys and values on the device, on the mock backend, as whose memory the caches of llama.cpp's CPU backend pass: all that is done between pools on
// the host, and then what stays on the device: from pool to pool, by references, over links, and when the device fails.
import "../mock.js";
import { generateKeyPairSync, randomBytes } from "node:crypto";
import { once } from "node:events";
import { duplexPair } from "node:stream";
import { Worker } from "node:worker_threads";
import { pathToFileURL } from "node:url";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  deviceMemory,
  DeviceKv,
  loadModel,
  sendKv,
  type Model,
  type DeviceKvReference,
  type KvHandle,
  type KvPart,
  type KvRecordsOptions,
  type Pool,
  type Sequence,
} from "../../lib/index.js";
import { withFaults } from "../mock.js";
import { codeOf, filled, floats, greedy, makePoolsInPlace, maxAbsDifference, tinyModel } from "./helpers.js";

process.env["LATENTWIRE_MOCK_HOST"] = "1";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";
makePoolsInPlace();

await import("./kv.test.js");

describe("content on the device", () => {
  let model: Model;
  let pool: Pool;
  let other: Pool;
  let source: Sequence;

  beforeAll(async () => {
    model = await loadModel(bundledModel("finch"));
    pool = await model.createPool({ contextLength: 1024, maxSequences: 8 });
    other = await model.createPool({ contextLength: 1024, maxSequences: 8 });
    source = await filled(pool, text);
    await source.think({ steps: 3 });
  });

  afterAll(async () => {
    await other.dispose();
    await pool.dispose();
    await model.dispose();
  });

  const collect = async (records: AsyncIterable<Uint8Array>): Promise<Buffer> => {
    const pieces: Uint8Array[] = [];
    for await (const piece of records) pieces.push(Uint8Array.from(piece));
    return Buffer.concat(pieces);
  };

  /** Of the device, once what others let go of has gone back. */
  const settledBytes = async (): Promise<number> => {
    for (let last = -1; ;) {
      const { processBytes } = await deviceMemory();
      if (processBytes === last) return last;
      last = processBytes;
      await new Promise((resolve) => setTimeout(resolve, 30));
    }
  };

  /** What a receiver holds that lost its sender about half way. */
  const partlyHeld = async (pool: Pool, kv: KvHandle): Promise<{ held: Uint8Array }> => {
    const bytes = await kv.toBytes();
    using receiver = pool.kvReceiver();
    const half = async function* (): AsyncGenerator<Uint8Array> {
      yield await Promise.resolve(bytes.subarray(0, bytes.length / 2));
    };
    await receiver.read(half()).catch(() => undefined);
    return { held: receiver.held() };
  };

  const bytesOf = async (sequence: Sequence): Promise<Buffer> => Buffer.from(await sequence.save());

  it("comes to another pool bit for bit, and its positions can be chosen", async () => {
    expect(pool.info).toMatchObject({ inPlace: true, device: "cuda" });
    using kv = await source.exportDeviceKv({ label: "the reader" });
    expect(kv).toMatchObject({ length: source.length, label: "the reader", disposed: false });
    expect(kv.info.latents).toBe(3);
    expect([...kv.tokens()]).toEqual([...source.log()]);
    const target = other.sequence();
    expect(await target.importKv(kv)).toMatchObject({
      positions: source.length,
      latents: 3,
      moved: 0,
      way: "device",
      bytes: kv.info.bytes,
    });
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    expect(await floats(target.logits())).toEqual(await floats(source.logits()));
    expect(await greedy(target, 12)).toEqual(await greedy(source, 12));
    await source.truncate(kv.length);

    // moved on the device, and moved on the host
    const [there, here] = [await filled(other, "ana has the key."), await filled(other, "ana has the key.")];
    using host = await source.exportKv();
    expect(await there.importKv(kv)).toMatchObject({ moved: source.length, way: "device" });
    expect(await here.importKv(host)).toMatchObject({ moved: source.length, way: "copy" });
    expect(maxAbsDifference(await floats(there.logits()), await floats(here.logits()))).toBeLessThan(1e-5);
    for (const sequence of [target, there, here]) await sequence.dispose();
  });

  it("goes to the host and back, and a part of it", async () => {
    using part = await source.exportDeviceKv({ range: { from: 3, to: 17 } });
    using host = await part.toHandle();
    using want = await source.exportKv({ range: { from: 3, to: 17 } });
    expect(Buffer.from(await host.toBytes()).equals(Buffer.from(await want.toBytes()))).toBe(true);
    using back = await DeviceKv.of(host);
    using again = await back.toHandle();
    expect(Buffer.from(await again.toBytes()).equals(Buffer.from(await want.toBytes()))).toBe(true);
    const target = other.sequence();
    expect((await target.importKv(back, { positions: { at: 100 } })).way).toBe("device");
    expect(target.nextPosition).toBe(114);
    expect(await codeOf(() => target.importKv(back, { positions: { at: 90 } }))).toBe("ERR_LATENT_KV_POSITION");
    expect(target.length).toBe(14);
    await target.dispose();
    using none = await other.sequence().exportDeviceKv();
    expect(none.length).toBe(0);
    using empty = await none.toHandle();
    expect(empty.length).toBe(0);
  });

  it("between two pools of a device nothing goes by the host", async () => {
    const target = other.sequence();
    expect((await target.importKv(source)).way).toBe("device");
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    // but where the device has no room
    await target.truncate(0);
    expect((await withFaults("allocate 2", () => target.importKv(source))).way).toBe("copy");
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    await target.dispose();
  });

  it("comes by the host where rows are stored otherwise, or the cache is not used in place", async () => {
    using kv = await source.exportDeviceKv();
    for (const options of [{ kvType: "q8_0" }, { kvType: "f32" }, { inPlace: false }] as const) {
      const pool = await model.createPool({ contextLength: 256, ...options });
      const target = pool.sequence();
      expect((await target.importKv(kv)).way).toBe("copy");
      using host = await source.exportKv();
      const reference = pool.sequence();
      await reference.importKv(host);
      expect((await bytesOf(target)).equals(await bytesOf(reference))).toBe(true);
      await pool.dispose();
    }
  });

  it("keys of quantised caches are turned on the host, those of bf16 and f32 on the device", async () => {
    for (const [kvType, way] of [
      ["q8_0", "copy"],
      ["bf16", "device"],
      ["f32", "device"],
    ] as const) {
      const [from, to] = [await model.createPool({ contextLength: 256, kvType }), await model.createPool({ contextLength: 256, kvType })];
      const sender = await filled(from, text);
      using kv = await sender.exportDeviceKv();
      const [there, here] = [await filled(to, "ana has the key."), await filled(to, "ana has the key.")];
      expect((await there.importKv(kv)).way).toBe(way);
      using host = await sender.exportKv();
      await here.importKv(host);
      expect(maxAbsDifference(await floats(there.logits()), await floats(here.logits()))).toBeLessThan(1e-4);
      await from.dispose();
      await to.dispose();
    }
  });

  it("of another model is refused", async () => {
    const stranger = await tinyModel({ layers: 3 });
    const strange = await stranger.createPool({ contextLength: 256 });
    using kv = await source.exportDeviceKv();
    expect(await codeOf(() => strange.sequence().importKv(kv))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    using shared = await kv.share();
    expect(await codeOf(() => strange.openDeviceKv(shared.reference))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    await strange.dispose();
    await stranger.dispose();
  });

  it("is taken by a reference, as long as it is shared", async () => {
    using kv = await source.exportDeviceKv({ label: "the reader" });
    const shared = await kv.share();
    const reference = JSON.parse(JSON.stringify(shared.reference)) as DeviceKvReference;
    using opened = await other.openDeviceKv(reference);
    expect(opened).toMatchObject({ length: kv.length, label: "the reader" });
    const target = other.sequence();
    expect((await target.importKv(reference)).way).toBe("device");
    shared.dispose();
    expect(await codeOf(() => other.openDeviceKv(reference))).toBe("ERR_LATENT_KV_UNREACHABLE");
    // who has taken it has a copy of its own
    await target.importKv(opened);
    expect(target.length).toBe(2 * kv.length);
    await target.dispose();
  });

  it("may be disposed while it is being shared: the copy is whole", async () => {
    const kv = await source.exportDeviceKv();
    const sharing = withFaults("slow 2", () => kv.share());
    kv.dispose();
    using shared = await sharing;
    // what was freed has other users by then
    for (let i = 0; i < 3; i++) (await source.exportDeviceKv({ range: { from: 0, to: 5 } })).dispose();
    const target = other.sequence();
    await target.importKv(shared.reference);
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    await target.dispose();
  });

  it("may be disposed while a copy to the host is given up: what reads it has ended before it goes", async () => {
    // parts of several stages each
    const wide = await tinyModel({ layers: 1, heads: 16, kvHeads: 16, headDim: 128 });
    const from = await wide.createPool({ contextLength: 4096 });
    const long = from.sequence();
    await long.prefill(Int32Array.from({ length: 500 }, (_, i) => 5 + (i % 90)));
    {
      using once = await long.exportKv();
      for (let i = 1; i < 7; i++) await long.importKv(once);
    }
    for (const ms of [5, 15, 25, 40]) {
      const kv = await long.exportDeviceKv();
      await withFaults("slow 8", async () => {
        const aborting = new AbortController();
        const copied = codeOf(() => kv.toHandle({ signal: aborting.signal }));
        kv.dispose();
        await new Promise((resolve) => setTimeout(resolve, ms));
        aborting.abort();
        // a busy machine may abort too late
        expect(["AbortError: This operation was aborted", "no error"]).toContain(await copied);
      });
    }
    // the mock loses the device when something reads what was freed
    using kv = await long.exportDeviceKv();
    expect(kv.length).toBe(3500);
    await from.dispose();
    await wide.dispose();
  });

  it("references from outside are checked in every field", async () => {
    using kv = await source.exportDeviceKv();
    using shared = await kv.share();
    const { reference } = shared;
    const open = (change: object): Promise<string | undefined> => codeOf(() => other.openDeviceKv({ ...reference, ...change }));
    expect(await open({ handle: randomBytes(64).toString("base64") })).toBe("ERR_LATENT_KV_UNREACHABLE");
    expect(await open({ nonce: "0".repeat(32) })).toBe("ERR_LATENT_KV_UNREACHABLE");
    expect(await open({ machine: "elsewhere" })).toBe("ERR_LATENT_KV_UNREACHABLE");
    for (const change of [{ handle: "AAAA" }, { nonce: "1" }, { signature: "?" }, { device: "cpu" }, { kind: "kv-shared" }, { more: 1 }])
      expect(await open(change), JSON.stringify(change)).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using small = await DeviceKv.of(await source.exportKv({ range: { from: 0, to: 2 } }));
    const tight = await model.createPool({ contextLength: 256 });
    const long = other.sequence();
    await long.prefill(Int32Array.from({ length: 600 }, (_, i) => 5 + (i % 90)));
    using large = await long.exportDeviceKv();
    using offered = await large.share();
    expect(await codeOf(() => tight.openDeviceKv(offered.reference))).toBe("ERR_LATENT_KV_LIMIT");
    using fits = await small.share();
    (await tight.openDeviceKv(fits.reference)).dispose();
    await tight.dispose();
    await long.dispose();
  });

  it("says who made it", async () => {
    const key = randomBytes(32);
    const { privateKey, publicKey } = generateKeyPairSync("ed25519");
    using kv = await source.exportDeviceKv();
    for (const [sign, keys] of [
      [{ key }, [key]],
      [{ key: privateKey }, [publicKey]],
    ] as const) {
      using shared = await kv.share({ sign });
      (await other.openDeviceKv(shared.reference, { verify: { keys } })).dispose();
      const target = other.sequence();
      expect((await target.importKv(shared.reference, { verify: { keys } })).way).toBe("device");
      await target.dispose();
      expect(await codeOf(() => other.openDeviceKv(shared.reference, { verify: { keys: [randomBytes(32)] } }))).toBe("ERR_LATENT_KV_AUTH");
    }
    using unsigned = await kv.share();
    expect(await codeOf(() => other.openDeviceKv(unsigned.reference, { verify: { keys: [key] } }))).toBe("ERR_LATENT_KV_AUTH");
    expect(await codeOf(() => other.sequence().importKv(kv, { verify: { keys: [key] } }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("over a link it stays on the device where both ends are there, and else goes by the host", async () => {
    using kv = await source.exportDeviceKv();
    const want = await bytesOf(source);
    const host = await model.createPool({ contextLength: 1024, inPlace: false });
    for (const [to, sender, receiver, way] of [
      [other, {}, {}, "device"],
      [host, {}, {}, "shared-memory"],
      [other, { sharedMemory: false }, {}, "stream"],
      [other, {}, { sharedMemory: false }, "stream"],
    ] as const) {
      const [a, b] = duplexPair();
      const target = to.sequence();
      const [sent, received] = await Promise.all([sendKv(a, kv, sender), target.receiveKv(b, receiver)]);
      expect(sent.way).toBe(way);
      expect(received).toMatchObject({ way, positions: source.length });
      expect((await bytesOf(target)).equals(want)).toBe(true);
      await target.dispose();
    }
    // of another format it came on the device, and went into the cache by the host
    const small = await model.createPool({ contextLength: 256, kvType: "q8_0" });
    using coded = await (await filled(small, text)).exportDeviceKv();
    const [c, d] = duplexPair();
    const target = other.sequence();
    const [offered, taken] = await Promise.all([sendKv(c, coded), target.receiveKv(d)]);
    expect([offered.way, taken.way]).toEqual(["device", "copy"]);
    await target.dispose();
    await small.dispose();
    // a handle that is to be kept lies on the host
    const [a, b] = duplexPair();
    const [sent, received] = await Promise.all([sendKv(a, kv), other.receiveKv(b)]);
    expect([sent.way, received.way]).toEqual(["shared-memory", "shared-memory"]);
    received.kv.dispose();
    await host.dispose();
  });

  it("where the device has no room for an offer, the link goes on with the next way", async () => {
    using kv = await source.exportDeviceKv();
    const [a, b] = duplexPair();
    const target = other.sequence();
    // the copy that is offered fails
    const [sent] = await withFaults("allocate 1", () => Promise.all([sendKv(a, kv), target.receiveKv(b)]));
    expect(sent.way).toBe("shared-memory");
    expect((await bytesOf(target)).equals(await bytesOf(source))).toBe(true);
    await target.dispose();
  });

  it("is the same stream of records, in every codec", async () => {
    const plugin = {
      name: "halves-1",
      encode: (numbers: Float32Array) => Uint8Array.from(numbers, (x) => Math.round(Math.min(Math.max(x * 8, -127), 127)) + 127),
      decode: (bytes: Uint8Array) => Float32Array.from(bytes, (x) => (x - 127) / 8),
    };
    for (const kvType of ["f16", "bf16", "f32", "q8_0"] as const) {
      const from = await model.createPool({ contextLength: 1024, kvType });
      const sequence = await filled(from, text);
      await sequence.prefill(Int32Array.from({ length: 700 }, (_, i) => 5 + (i % 90)));
      await sequence.think({ steps: 40 });
      for (const range of [
        { from: 0, to: 0 },
        { from: 7, to: 8 },
        { from: 3, to: 259 },
        { from: 0, to: sequence.length },
      ]) {
        using kv = await sequence.exportDeviceKv({ range, label: "the reader" });
        using host = await kv.toHandle();
        const { held } = await partlyHeld(from, host);
        for (const codec of [
          undefined,
          "fp8",
          "q8_0",
          "q4_0",
          "kivi4",
          "kivi2",
          plugin,
          (part: KvPart) => (part.part === "keys" ? "fp8" : undefined),
        ] as const) {
          for (const options of [{}, { held }, { bufferBytes: 1 }]) {
            const chosen = codec === undefined ? options : { ...options, codec };
            const [there, here] = [await collect(kv.records(chosen)), await collect(host.records(chosen))];
            expect(there.equals(here), `${kvType} ${JSON.stringify(range)} ${typeof codec}`).toBe(true);
          }
        }
        // in memory that is used again, as a socket's sender has it
        expect((await collect(kv.recordsIn({ codec: "fp8" }, true))).equals(await collect(host.records({ codec: "fp8" })))).toBe(true);
      }
      await from.dispose();
    }
  });

  it("of some layers it streams without a codec, as a handle of them does", async () => {
    using some = await source.exportKv({ layers: [1] });
    using kv = await DeviceKv.of(some);
    expect((await collect(kv.records())).equals(await collect(some.records()))).toBe(true);
    expect(await codeOf(() => collect(kv.records({ codec: "fp8" })))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("comes in pieces where it is large: what is read of it, and a failure between two of them", async () => {
    const wide = await tinyModel({ layers: 8, heads: 16, kvHeads: 16, headDim: 128 });
    const from = await wide.createPool({ contextLength: 1024 });
    const sequence = from.sequence();
    await sequence.prefill(Int32Array.from({ length: 600 }, (_, i) => 5 + (i % 90)));
    // latents in the last piece alone
    await sequence.think({ steps: 3 });
    using kv = await sequence.exportDeviceKv();
    expect(kv.info.bytes).toBeGreaterThan(32 << 20);
    using host = await kv.toHandle();
    for (const options of [{}, { codec: "fp8" }, { codec: "kivi4", bufferBytes: 1 }] as const) {
      const want = await collect(host.records(options));
      expect((await collect(kv.records(options))).equals(want)).toBe(true);
      expect((await collect(kv.recordsIn(options, true))).equals(want)).toBe(true);
    }
    const records = kv.records();
    await records.next();
    expect(await withFaults("launch", () => codeOf(() => collect(records)))).toBe("ERR_LATENT_DEVICE_FAILED");
    // left while a piece is under way, which goes
    const bytes = await settledBytes();
    await withFaults("slow 5", async () => {
      for await (const piece of kv.records()) {
        if (piece.length > 1000) break;
      }
      const aborting = new AbortController();
      const aborted = codeOf(() => collect(kv.records({ codec: "fp8", signal: aborting.signal })));
      setTimeout(() => {
        aborting.abort();
      }, 7);
      expect(await aborted).toMatch("AbortError");
    });
    expect(await settledBytes()).toBe(bytes);
    // resumed and signed, of some parts in a codec, over several pieces; and two streams at once
    const { held } = await partlyHeld(from, host);
    const choice = { codec: (part: KvPart) => (part.part === "keys" ? "fp8" : undefined), sign: { key: randomBytes(32) } } as const;
    for (const options of [{ held }, choice]) {
      const [one, two, want] = await Promise.all([kv, kv, host].map((content) => collect(content.records(options))));
      expect(one?.length).toBe(want?.length);
      // a signature has a time in it
      if (!("sign" in options)) expect(want !== undefined && one?.equals(want) && two?.equals(want)).toBe(true);
    }
    const [a, b] = duplexPair();
    const to = await wide.createPool({ contextLength: 1024, inPlace: false });
    const [sent, received] = await Promise.all([sendKv(a, kv, { sharedMemory: false }), to.receiveKv(b)]);
    expect(sent.way).toBe("stream");
    expect(Buffer.from(await received.kv.toBytes()).equals(Buffer.from(await host.toBytes()))).toBe(true);
    received.kv.dispose();
    await to.dispose();
    await from.dispose();
    await wide.dispose();
  });

  it("signs what it sends, and the receiver takes it for what it is", async () => {
    const key = randomBytes(32);
    using kv = await source.exportDeviceKv({ label: "the reader" });
    const [a, b] = duplexPair();
    const [sent, received] = await Promise.all([
      sendKv(a, kv, { sharedMemory: false, codec: "fp8", sign: { key } }),
      other.receiveKv(b, { verify: { keys: [key] } }),
    ]);
    expect([sent.way, received.way]).toEqual(["stream", "stream"]);
    expect(sent.bytes).toBeLessThan(kv.info.bytes);
    expect(received.kv).toMatchObject({ length: kv.length, label: "the reader" });
    received.kv.dispose();
  });

  it("a stream that fails or is left takes nothing with it", async () => {
    const processBytes = await settledBytes();
    const kv = await source.exportDeviceKv();
    const all = async (options: KvRecordsOptions = {}): Promise<number> => {
      let bytes = 0;
      for await (const piece of kv.records(options)) bytes += piece.length;
      return bytes;
    };
    const want = await all({ codec: "fp8" });
    expect(await withFaults("allocate", () => all({ codec: "fp8" }))).toBe(want);
    expect(await withFaults("launch", () => codeOf(() => all({ codec: "fp8" })))).toBe("ERR_LATENT_DEVICE_FAILED");
    expect(await codeOf(() => all({ signal: AbortSignal.abort() }))).toMatch("AbortError");
    for await (const piece of kv.records()) {
      expect(piece.length).toBeGreaterThan(0);
      break;
    }
    // what has begun goes on without the handle
    const records = kv.records({ codec: "fp8", bufferBytes: 1 });
    let bytes = (await records.next()).value?.length ?? 0;
    kv.dispose();
    for await (const piece of records) bytes += piece.length;
    expect(bytes).toBe(want);
    expect(await codeOf(() => all())).toBe("ERR_LATENT_DISPOSED");
    await expect.poll(async () => (await deviceMemory()).processBytes).toBe(processBytes);
  });

  it("without memory or launches it fails by itself: sequences are as they were, and the next call goes through", async () => {
    using kv = await source.exportDeviceKv();
    const target = await filled(other, "ana has the key.");
    const before = await bytesOf(target);
    const used = other.counters().usedCells;
    for (const [fault, code] of [
      ["allocate", "ERR_LATENT_OUT_OF_MEMORY"],
      ["launch", "ERR_LATENT_DEVICE_FAILED"],
    ] as const) {
      expect(await withFaults(fault, () => codeOf(() => source.exportDeviceKv()))).toBe(code);
      expect(await withFaults(fault, () => codeOf(() => target.importKv(kv)))).toBe(code);
      expect((await bytesOf(target)).equals(before)).toBe(true);
      expect(other.counters().usedCells).toBe(used);
    }
    using host = await source.exportKv();
    expect(await withFaults("launch", () => codeOf(() => target.importKv(host)))).toBe("ERR_LATENT_DEVICE_FAILED");
    expect((await bytesOf(target)).equals(before)).toBe(true);
    expect(other.counters().usedCells).toBe(used);
    expect((await target.importKv(kv)).way).toBe("device");
    await target.dispose();
  });

  it("what comes from the host or goes there needs no room on the device", async () => {
    using want = await source.exportKv();
    using kv = await source.exportDeviceKv();
    const bytes = Buffer.from(await want.toBytes());
    await withFaults("allocate", async () => {
      using got = await source.exportKv();
      expect(Buffer.from(await got.toBytes()).equals(bytes)).toBe(true);
      const target = other.sequence();
      await target.importKv(want);
      using back = await target.exportKv();
      expect(Buffer.from(await back.toBytes()).equals(bytes)).toBe(true);
      await target.dispose();
      const [a, b] = duplexPair();
      const [sent, received] = await Promise.all([
        sendKv(a, kv, { sharedMemory: false, codec: "fp8" }),
        other.receiveKv(b, { sharedMemory: false }),
      ]);
      expect(sent.way).toBe("stream");
      expect(received.kv.length).toBe(kv.length);
      received.kv.dispose();
    });
    expect(await withFaults("launch", () => codeOf(() => source.exportKv()))).toBe("ERR_LATENT_DEVICE_FAILED");
  });

  it("what a drop cannot move down stays where it was; without room on the device the host moves it", async () => {
    const [target, reference] = [await filled(other, text), await filled(other, text)];
    const before = await bytesOf(target);
    expect(await withFaults("launch 1", () => codeOf(() => target.drop({ from: 2, to: 5 })))).toBe("ERR_LATENT_DEVICE_FAILED");
    expect((await bytesOf(target)).equals(before)).toBe(true);
    await withFaults("allocate", () => target.drop({ from: 2, to: 5 }));
    await reference.drop({ from: 2, to: 5 });
    expect((await bytesOf(target)).equals(await bytesOf(reference))).toBe(true);
    using host = await source.exportKv();
    expect((await withFaults("allocate", () => target.importKv(host))).moved).toBe(host.length);
    await reference.importKv(host);
    expect((await bytesOf(target)).equals(await bytesOf(reference))).toBe(true);
    for (const one of [target, reference]) await one.truncate(10);
    const more = await filled(other, "ana has the key.");
    await withFaults("allocate", () => target.append(more, { mode: "shift" }));
    await reference.append(more, { mode: "shift" });
    expect((await bytesOf(target)).equals(await bytesOf(reference))).toBe(true);
    for (const one of [target, reference, more]) await one.dispose();
  });

  it("is counted, and given back", async () => {
    const processBytes = await settledBytes();
    const kv = await source.exportDeviceKv();
    expect((await deviceMemory()).processBytes - processBytes).toBeGreaterThanOrEqual(kv.info.bytes);
    kv.dispose();
    kv.dispose();
    expect(await codeOf(() => kv.toHandle())).toBe("ERR_LATENT_DISPOSED");
    expect(await codeOf(() => source.importKv(kv))).toBe("ERR_LATENT_DISPOSED");
    await expect.poll(async () => (await deviceMemory()).processBytes).toBe(processBytes);
  });

  it("outlives its pool", async () => {
    const short = await model.createPool({ contextLength: 256 });
    const sequence = await filled(short, text);
    const want = await floats(sequence.logits());
    using kv = await sequence.exportDeviceKv();
    await short.dispose();
    const target = other.sequence();
    expect((await target.importKv(kv)).way).toBe("device");
    expect(await floats(target.logits())).toEqual(want);
    await target.dispose();
  });

  it("a worker that is terminated in the middle of it takes nothing with it", async () => {
    const processBytes = await settledBytes();
    const program = `
      const { parentPort } = require("node:worker_threads");
      (async () => {
        const { bundledModel, loadModel } = await import(${JSON.stringify(pathToFileURL(path.resolve("dist/index.js")).href)});
        const model = await loadModel(bundledModel("finch"));
        const [a, b] = [await model.createPool({ contextLength: 512, inPlace: true }), await model.createPool({ contextLength: 512, inPlace: true })];
        const sequence = a.sequence();
        await sequence.prefill(${JSON.stringify(text)});
        for (let round = 0; ; round++) {
          const kv = await sequence.exportDeviceKv();
          const target = b.sequence();
          await target.importKv(kv);
          await target.dispose();
          kv.dispose();
          if (round === 0) parentPort.postMessage("busy");
        }
      })();`;
    for (let round = 0; round < 3; round++) {
      const worker = new Worker(program, { eval: true, env: { ...process.env } });
      await once(worker, "message");
      await withFaults("slow 3", async () => {
        await new Promise((resolve) => setTimeout(resolve, 5 + 10 * round));
        await worker.terminate();
      });
    }
    await expect.poll(async () => (await deviceMemory()).processBytes, { timeout: 10_000 }).toBe(processBytes);
    using kv = await source.exportDeviceKv();
    expect(kv.length).toBe(source.length);
  });

  // the last one: it holds for the process
  it("a lost device is an error of its own; what runs on the CPU goes on", async () => {
    const target = await filled(other, "ana has the key.");
    using kv = await source.exportDeviceKv();
    const logits = await floats(target.logits());
    expect(await withFaults("lost 1", () => codeOf(() => target.importKv(kv)))).toBe("ERR_LATENT_DEVICE_LOST");
    expect(await codeOf(() => source.exportDeviceKv())).toBe("ERR_LATENT_DEVICE_LOST");
    expect(await codeOf(() => source.exportKv())).toBe("ERR_LATENT_DEVICE_LOST");
    expect(await codeOf(() => kv.toHandle())).toBe("ERR_LATENT_DEVICE_LOST");
    expect(await floats(target.logits())).toEqual(logits);
    expect((await greedy(target, 4)).length).toBe(4);
  });
});
