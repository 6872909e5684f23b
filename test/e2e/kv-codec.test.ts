// Codecs on the way between real pools: what a model predicts from what arrived, how many bytes it took, which codecs a receiver must be told of, and
// what is left when a plug-in fails. The numbers in the titles are those of the conformance list of KV transfer.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  bundledModel,
  kvQuality,
  Kvtc,
  loadModel,
  type KvCodecName,
  type KvHandle,
  type KvPlugin,
  type Model,
  type Pool,
  type Sequence,
} from "../../lib/index.js";
import { LatentError } from "../../lib/errors.js";
import { native } from "../../lib/native.js";
import { codeOf, filled, floats, klDivergence } from "./helpers.js";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key? ";
const other = "ana is in the box. tom has the key. the blue house has the red ball. where is tom? ";

let model: Model;
let pool: Pool;
let source: Sequence;
let kv: KvHandle;
let want: Float32Array;

beforeAll(async () => {
  model = await loadModel(bundledModel("finch"));
  pool = await model.createPool({ contextLength: 4096, maxSequences: 8 });
  source = await filled(pool, text.repeat(20));
  kv = await source.exportKv({ label: "the reader" });
  want = await floats(source.logits());
});

afterAll(async () => {
  kv.dispose();
  await pool.dispose();
  await model.dispose();
});

/** KL of the next token where it goes on from these bytes. */
async function kl(bytes: Uint8Array, codecs: readonly (Kvtc | KvPlugin)[] = [], into: Pool = pool): Promise<number> {
  const sequence = await into.restore(bytes, { codecs });
  const found = klDivergence(want, await floats(sequence.logits()));
  await sequence.dispose();
  return found;
}

/** Two bytes a number, and a mark: sixteen bits between the least and the greatest. */
const plugin: KvPlugin = {
  name: "sixteen-1",
  encode(numbers) {
    const least = numbers.reduce((a, x) => Math.min(a, x), Infinity);
    const step = (numbers.reduce((a, x) => Math.max(a, x), -Infinity) - least) / 65535;
    const bytes = new Uint8Array(8 + numbers.length * 2);
    const view = new DataView(bytes.buffer);
    view.setFloat32(0, least, true);
    view.setFloat32(4, step, true);
    numbers.forEach((x, i) => {
      view.setUint16(8 + 2 * i, step === 0 ? 0 : Math.round((x - least) / step), true);
    });
    return bytes;
  },
  decode(bytes, tile) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const [least, step] = [view.getFloat32(0, true), view.getFloat32(4, true)];
    return Float32Array.from({ length: (tile.to - tile.from) * tile.channels }, (_, i) => least + step * view.getUint16(8 + 2 * i, true));
  },
};

describe("built-in codecs", () => {
  it("carry content in fewer bytes, into a cache of another format as well, and are decoded on arrival", async () => {
    const other = await model.createPool({ contextLength: 4096, kvType: "q8_0" });
    const bound: Record<KvCodecName, number> = { q8_0: 5e-3, fp8: 2e-2, q4_0: 0.5, kivi4: 0.1, kivi2: 2 };
    for (const [codec, limit] of Object.entries(bound) as [KvCodecName, number][]) {
      const bytes = await kv.toBytes({ codec });
      expect(bytes.length, codec).toBeLessThan(kv.info.bytes * 0.62);
      expect(await kl(bytes), codec).toBeLessThan(limit);
      expect(await kl(bytes, [], other), codec).toBeLessThan(limit * 2);
      using arrived = await pool.readKv(bytes);
      expect(arrived.info).toEqual(kv.info);
      expect(arrived.label).toBe("the reader");
      expect(arrived.tokens()).toEqual(kv.tokens());
    }
    await other.dispose();
  });

  it("are chosen for each layer, keys and values; what has none arrives bit by bit", async () => {
    const last = model.info.layers - 1;
    const mixed = await kv.toBytes({ codec: ({ layer, part }) => (layer === last ? undefined : part === "keys" ? "fp8" : "kivi2") });
    using arrived = await pool.readKv(mixed);
    for (const [i, tile] of [...arrived.tiles()].entries()) {
      const mine = [...kv.tiles()][i];
      if (!mine) throw new Error("no tile");
      const same = Buffer.from((await floats(tile.tensor())).buffer).equals(Buffer.from((await floats(mine.tensor())).buffer));
      // the tail of 128 is exact in KIVI: the last tile may be all of it
      if (tile.layer === last) expect(same).toBe(true);
      else if (tile.from === 0) expect(same).toBe(false);
    }
    const none = await kv.toBytes({ codec: () => undefined });
    expect(Buffer.from(none).equals(Buffer.from(await kv.toBytes()))).toBe(true);
  });

  it("go with signatures, broken streams, save and moved positions", async () => {
    const key = Buffer.alloc(32, 7);
    const pieces: Uint8Array[] = [];
    for await (const piece of kv.records({ codec: "fp8", sign: { key }, bufferBytes: 4096 })) pieces.push(piece);
    using receiver = pool.kvReceiver({ verify: { keys: [key] } });
    expect(await codeOf(() => receiver.read(pieces.slice(0, pieces.length / 2)))).toBe("ERR_LATENT_KV_TRUNCATED");
    using resumed = await receiver.read(kv.records({ codec: "fp8", sign: { key }, held: receiver.held() }));
    expect(resumed.length).toBe(kv.length);
    expect(await codeOf(() => pool.readKv(pieces, { verify: { keys: [Buffer.alloc(32, 8)] } }))).toBe("ERR_LATENT_KV_AUTH");
    expect(await kl(await source.save({ codec: "q8_0" }))).toBeLessThan(5e-3);
    const target = await filled(pool, "where is ana?");
    const before = target.length;
    expect(await target.importKv(await kv.toBytes({ codec: "fp8" }))).toMatchObject({
      positions: kv.length,
      moved: kv.length,
      way: "stream",
    });
    expect(target.length).toBe(before + kv.length);
    await target.dispose();
  });

  it("are refused by name, and a stream of another codec is not taken for the rest of one", async () => {
    expect(await codeOf(() => kv.toBytes({ codec: "q9" as KvCodecName }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => kv.toBytes({ codec: 7 as never }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    for (const name of ["", "fp8", "kvtc-1", "with space", "x".repeat(101)])
      expect(await codeOf(() => kv.toBytes({ codec: { ...plugin, name } })), name).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const two = ({ part }: { part: string }): KvPlugin => (part === "keys" ? plugin : { ...plugin });
    expect(await codeOf(() => kv.toBytes({ codec: two }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    using receiver = pool.kvReceiver();
    const bytes = await kv.toBytes({ codec: "fp8" });
    expect(await codeOf(() => receiver.read(bytes.subarray(0, bytes.length / 2)))).toBe("ERR_LATENT_KV_TRUNCATED");
    expect(await codeOf(async () => receiver.read(await kv.toBytes({ codec: "kivi4" })))).toBe("ERR_LATENT_KV_FORMAT");
  });
});

describe("plug-ins", () => {
  it("a tile that could not be decoded comes again with the next stream", async () => {
    let failing = true;
    const moody: KvPlugin = {
      ...plugin,
      decode: (bytes, tile) => {
        if (failing && tile.layer === 1) throw new Error("not today");
        return plugin.decode(bytes, tile);
      },
    };
    const pieces = await kv.toBytes({ codec: plugin });
    using receiver = pool.kvReceiver({ codecs: [moody] });
    expect(await codeOf(() => receiver.read(pieces))).toBe("ERR_LATENT_KV_FORMAT");
    const { bytes } = receiver;
    failing = false;
    using whole = await receiver.read(kv.records({ codec: plugin, held: receiver.held() }));
    expect(receiver.bytes).toBeGreaterThan(bytes);
    expect(whole.length).toBe(kv.length);
  });

  it("encode and decode tiles of numbers, and both ends must name them", async () => {
    const bytes = await kv.toBytes({ codec: plugin });
    expect(await kl(bytes, [plugin])).toBeLessThan(1e-3);
    expect(await codeOf(() => pool.readKv(bytes))).toBe("ERR_LATENT_KV_CODEC");
    expect(await codeOf(() => pool.readKv(bytes, { codecs: [{ ...plugin, name: "sixteen-2" }] }))).toBe("ERR_LATENT_KV_CODEC");
    // with other codecs beside it, in pieces, and what a receiver holds already
    const codec = ({ layer }: { layer: number }): KvPlugin | "fp8" => (layer === 0 ? plugin : "fp8");
    using receiver = pool.kvReceiver({ codecs: [plugin] });
    const mixed = await kv.toBytes({ codec });
    await codeOf(() => receiver.read(mixed.subarray(0, mixed.length / 2)));
    let sent = 0;
    const rest = kv.records({ codec, held: receiver.held() });
    const counted = (async function* () {
      for await (const piece of rest) {
        sent += piece.length;
        yield piece;
      }
    })();
    using arrived = await receiver.read(counted);
    expect(sent).toBeLessThan(mixed.length * 0.7);
    expect(arrived.length).toBe(kv.length);
  });

  it("that throw, or give what is no tile, end the import with a code, and the sequence is as it was", async () => {
    const target = await filled(pool, "where is ana?");
    const before = Buffer.from(await target.save());
    const bytes = await kv.toBytes({ codec: plugin });
    const bad: Partial<KvPlugin>[] = [
      {
        decode: () => {
          throw new Error("no");
        },
      },
      { decode: () => new Float32Array(3) },
      { decode: (_bytes, tile) => new Float32Array((tile.to - tile.from) * tile.channels).fill(Number.NaN) },
      { decode: (_bytes, tile) => new Float32Array((tile.to - tile.from) * tile.channels).fill(1e20) },
      { decode: () => "numbers" as never },
    ];
    for (const one of bad)
      expect(await codeOf(() => target.importKv(bytes, { codecs: [{ ...plugin, ...one }] }))).toBe("ERR_LATENT_KV_FORMAT");
    expect(Buffer.from(await target.save()).equals(before)).toBe(true);
    const failing = (encode: unknown): KvPlugin => ({ ...plugin, encode: encode as KvPlugin["encode"] });
    expect(await codeOf(() => kv.toBytes({ codec: failing(() => [1, 2, 3]) }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => kv.toBytes({ codec: failing((x: Float32Array) => new Uint8Array(x.length * 8 + 1025)) }))).toBe(
      "ERR_LATENT_KV_LIMIT",
    );
    await target.dispose();
  });
});

describe("native code", () => {
  it("refuses what lib/ would not have passed", async () => {
    const open = (codecs: unknown): unknown => native().kvWriter(kv.toNative(), [], [], false, kv.length, codecs as never);
    const parts = 2 * model.info.layers;
    const fill = (one: unknown): unknown[] => Array.from({ length: parts }, () => one);
    for (const codecs of [
      undefined,
      {},
      ["fp8"],
      fill(7),
      fill("q9"),
      fill({}),
      fill({ outside: "" }),
      fill({ outside: 7 }),
      fill(kv.toNative()),
    ])
      expect(await codeOf(() => LatentError.translate(() => open(codecs)))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const writer = native().kvWriter(kv.toNative(), [], [], false, kv.length, fill({ outside: "mine" }) as never);
    const refused = async (call: () => unknown): Promise<void> => {
      expect(await codeOf(() => LatentError.translate(call))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    };
    await refused(() => {
      writer.provide(0, new Uint8Array(1));
    });
    await refused(() => {
      writer.provide(2, "bytes" as never);
    });
    await refused(() => writer.outside(5, 2));
    await expect(writer.write(2, 3).promise).rejects.toMatchObject({ code: "ERR_LATENT_INVALID_ARGUMENT" });
    writer.dispose();
    const plain = native().kvWriter(kv.toNative(), [], [], false, kv.length, []);
    await refused(() => plain.staging(0));
    await refused(() => plain.writeTo(0, 0, 1));
    const staging = plain.staging(64)?.fill(7);
    await refused(() => plain.writeTo(1, 0, 1));
    await refused(() => plain.writeTo(0, 0, plain.records + 1));
    // the record has no room there, and nothing is written
    await expect(plain.writeTo(0, 0, 1).promise).rejects.toMatchObject({ code: "ERR_LATENT_INVALID_ARGUMENT" });
    expect(staging?.every((byte) => byte === 7)).toBe(true);
    plain.dispose();
    expect(() => Reflect.construct(writer.constructor, [{}]) as unknown).toThrow(TypeError);
    await refused(() => native().readKvtc("file" as never));
  });
});

describe("KVTC", () => {
  let sample: KvHandle;
  let codec: Kvtc;

  beforeAll(async () => {
    await using reader = await filled(pool, (text + other).repeat(16));
    sample = await reader.exportKv();
    codec = await pool.fitKvtc([sample], { bits: 3 });
  });

  it("is fitted, saved, loaded, and carries content of its model into pools that have it", async () => {
    const loaded = await Kvtc.load(codec.save());
    expect(loaded.name).toBe(codec.name);
    expect(loaded.identity).toEqual(pool.kvIdentity);
    expect(loaded.ranks).toHaveLength(model.info.layers);
    const bytes = await kv.toBytes({ codec });
    expect(Buffer.from(bytes).equals(Buffer.from(await kv.toBytes({ codec: loaded })))).toBe(true);
    expect(await codeOf(() => pool.readKv(bytes))).toBe("ERR_LATENT_KV_CODEC");
    expect(await kl(bytes, [loaded])).toBeLessThan(0.1);
    const coarse = await pool.fitKvtc([sample], { bits: ({ layer }) => (layer === 0 ? 3 : 1) });
    expect((await kv.toBytes({ codec: coarse })).length).toBeLessThan(bytes.length);
    expect(await codeOf(() => pool.readKv(bytes, { codecs: [coarse] }))).toBe("ERR_LATENT_KV_CODEC");
    const damaged = codec.save();
    damaged[100] = (damaged[100] ?? 0) ^ 1;
    expect(await codeOf(() => Kvtc.load(damaged))).toBe("ERR_LATENT_KV_CHECKSUM");
    expect(await codeOf(() => Kvtc.load(codec.save().subarray(0, 20)))).toBe("ERR_LATENT_KV_TRUNCATED");
    loaded.dispose();
    expect(await codeOf(() => kv.toBytes({ codec: loaded }))).toBe("ERR_LATENT_DISPOSED");
  });

  it("is of no use to another model, and is not fitted to what is none", async () => {
    const wren = await loadModel(bundledModel("wren"));
    const pools = await wren.createPool({ contextLength: 256 });
    const theirs = await filled(pools, "tom");
    using mine = await theirs.exportKv();
    expect(await codeOf(() => mine.toBytes({ codec }))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(() => pools.kvReceiver({ codecs: [codec] }))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(() => pool.fitKvtc([mine], { bits: 2 }))).toBe("ERR_LATENT_KV_MODEL_MISMATCH");
    expect(await codeOf(() => pool.fitKvtc([], { bits: 2 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => pool.fitKvtc([sample], { bits: 9 }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => pool.fitKvtc([sample], { bits: () => Number.NaN }))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    const stop = new AbortController();
    stop.abort(new Error("enough"));
    await expect(pool.fitKvtc([sample], { bits: 2, signal: stop.signal })).rejects.toThrow("enough");
    await pools.dispose();
    await wren.dispose();
  });

  it("kvQuality reports codecs as it does formats: exact ratios, and a divergence that falls with the bits", async () => {
    const tokens = model.tokenize((text + other).repeat(16)).subarray(0, 700);
    const fine = await pool.fitKvtc([sample], { bits: 4 });
    const coarse = await pool.fitKvtc([sample], { bits: 0.5 });
    const rows = await kvQuality(pool, tokens, {
      codecs: { fp8: "fp8", kivi4: "kivi4", fine, coarse, mixed: ({ layer }) => (layer === 0 ? "fp8" : coarse) },
      known: [fine, coarse],
      predicted: 32,
    });
    expect(rows.map(({ format }) => format)).toEqual(["fp8", "kivi4", "fine", "coarse", "mixed"]);
    const of = Object.fromEntries(rows.map((row) => [row.format, row]));
    const channels = kv.info.layers[0]?.keys.channels ?? 0;
    const n = tokens.length - 32;
    expect(of["fp8"]?.bytes).toBe(2 * model.info.layers * n * (channels + 4 * Math.ceil(channels / 128)));
    expect(of["fp8"]?.kl.mean).toBeLessThan(0.02);
    expect(of["fine"]?.kl.mean).toBeLessThan(of["coarse"]?.kl.mean ?? 0);
    expect(of["coarse"]?.ratio).toBeGreaterThan(of["kivi4"]?.ratio ?? Infinity);
    expect(of["mixed"]?.bytes).toBeGreaterThan(of["coarse"]?.bytes ?? Infinity);
    for (const one of [fine, coarse]) one.dispose();
  });
});
