// The codec of the Vision Wormhole against f64, what it must be blind to, its hub and its injection; the numbers in brackets are those of the
// conformance list.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  fitHubMaps,
  injectSpan,
  resampleRows,
  SpaceHub,
  Tensor,
  Wormhole,
  WormholeCodec,
  type InjectSpanOptions,
} from "../../lib/index.js";
import { codecWeights, configOf, PlainCodec, writeCodec, type CodecShape, type Weights } from "../fixtures/wormhole.js";
import { codeOf, isAborted, sameBits } from "../helpers.js";
import { flat, randomRows, tensorOf, times, worst, type Rows } from "../plain.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const format = "ERR_LATENT_FILE_FORMAT";
const folder = mkdtempSync(path.join(tmpdir(), "latentwire-wormhole-"));
const file = (name: string): string => path.join(folder, `${name}.safetensors`);
const shape: CodecShape = { width: 20, dimension: 16, tokens: 5, imageTokens: 6, heads: 4, layers: 2 };
const weights = codecWeights(shape, 1);
const plain = new PlainCodec(shape, weights);
const latents = randomRows(9, shape.width, 2);

let codec: WormholeCodec;
beforeAll(async () => {
  await writeCodec(file("codec"), weights, configOf(shape));
  codec = await WormholeCodec.load(file("codec"));
});
afterAll(() => {
  codec.dispose();
  rmSync(folder, { recursive: true });
});

const encoded = async (rows: Rows, by = codec): Promise<Float32Array> => {
  using x = rows.length === 0 ? Tensor.zeros([0, by.width]) : tensorOf(rows);
  using message = await by.encode(x);
  return message.toFloat32();
};
const decoded = async (rows: Rows, by = codec): Promise<{ delta: Float32Array; gate: number }> => {
  using message = tensorOf(rows);
  const found = await by.decode(message);
  using delta = found.delta;
  return { delta: delta.toFloat32(), gate: found.gate };
};
const changed = (all: Weights, name: string, change: (values: Float32Array) => Float32Array): Weights =>
  new Map([...all].map(([key, one]) => [key, key === name ? { ...one, values: change(one.values) } : one]));

describe("the codec", () => {
  it("encodes and decodes as f64 does, with the exact GELU and LayerNorm's epsilon of 1e-5 (23)", async () => {
    const message = plain.encode(latents);
    expect(worst(await encoded(latents), flat(message))).toBeLessThan(1e-4);
    const wanted = plain.decode(message);
    const found = await decoded(message);
    expect(worst(found.delta, flat(wanted.delta))).toBeLessThan(1e-4);
    expect(found.gate).toBeCloseTo(wanted.gate, 5);
  });

  it("keeps to 2 % in f16 (23)", async () => {
    using half = await WormholeCodec.load(file("codec"), { storage: "f16" });
    const message = plain.encode(latents);
    const relative = (a: ArrayLike<number>, b: ArrayLike<number>): number => worst(a, b) / Math.max(...Array.from(b, Math.abs));
    expect(relative(await encoded(latents, half), flat(message))).toBeLessThan(2e-2);
    expect(relative((await decoded(message, half)).delta, flat(plain.decode(message).delta))).toBeLessThan(2e-2);
  });

  it("has the shapes and numbers of the recipe (21)", async () => {
    const { width: h, dimension: d, tokens, imageTokens, layers: n } = shape;
    const block = 12 * d * d + 15 * d;
    expect(codec.parameters).toEqual({
      encoder: h * d + d + (tokens + 2) * d + n * block + 2 * d + (d * d + 5 * d),
      decoder: 4 * d + imageTokens * d + n * block + (d * h + h) + (d * d + 2 * d + 1),
    });
    using x = tensorOf(latents);
    using message = await codec.encode(x);
    expect(message.shape).toEqual([7, 16]);
    const { delta, gate } = await codec.decode(message);
    expect(delta.shape).toEqual([6, 20]);
    delta.dispose();
    expect(gate).toBeGreaterThan(0);
    expect(gate).toBeLessThan(1);
  });

  it("has 20 760 576 and 20 367 361 parameters at full size (21)", async () => {
    // under sanitizers one block stands for six
    const layers = process.env["LATENTWIRE_TEST_ROUNDS"] === undefined ? 6 : 1;
    const full: CodecShape = { width: 2048, dimension: 512, tokens: 1024, imageTokens: 256, heads: 8, layers };
    const missing = (6 - layers) * (12 * 512 * 512 + 15 * 512);
    const zeros: Weights = new Map(
      [...codecShapes(full)].map(([name, size]) => [name, { shape: size, values: new Float32Array(size.reduce((a, b) => a * b, 1)) }]),
    );
    await writeCodec(file("full"), zeros, configOf(full));
    using large = await WormholeCodec.load(file("full"));
    expect(large.parameters).toEqual({ encoder: 20_760_576 - missing, decoder: 20_367_361 - missing });
    using nothing = Tensor.zeros([0, 2048]);
    using message = await large.encode(nothing);
    expect(message.shape).toEqual([1026, 512]);
  });

  it("makes finite tokens of no latents, and nothing of no tokens (21)", async () => {
    expect(worst(await encoded([]), flat(plain.encode([])))).toBeLessThan(1e-4);
    using nothing = Tensor.zeros([0, 16]);
    const { delta, gate } = await codec.decode(nothing);
    expect(gate).toBe(0);
    expect(delta.shape).toEqual([6, 20]);
    expect(delta.toFloat32().every((value) => value === 0)).toBe(true);
    delta.dispose();
  });

  it("is blind to the order of latents and of tokens (22)", async () => {
    const order = [4, 0, 8, 2, 7, 1, 3, 6, 5];
    expect(worst(await encoded(order.map((i) => latents[i] ?? [])), await encoded(latents))).toBeLessThan(1e-4);
    const message = plain.encode(latents);
    const [there, back] = [await decoded(message), await decoded([...message].reverse())];
    expect(worst(there.delta, back.delta)).toBeLessThan(1e-4);
    expect(there.gate).toBeCloseTo(back.gate, 5);
    // and to nothing else
    expect(worst(await encoded(latents.slice(1)), await encoded(latents))).toBeGreaterThan(1e-3);
  });

  it("opens its gate by the last bias alone where the last weights are 0, and reads tokens as they are (24)", async () => {
    const closed = changed(
      changed(weights, "decoder.gate.2.weight", (values) => values.map(() => 0)),
      "decoder.gate.2.bias",
      () => Float32Array.of(-4),
    );
    await writeCodec(file("closed"), closed, configOf(shape));
    using shut = await WormholeCodec.load(file("closed"));
    expect(Math.abs((await decoded(plain.encode(latents), shut)).gate - 0.0179862)).toBeLessThan(1e-6);
    // a normalised mean would not see the length of the tokens
    const message = plain.encode(latents);
    const longer = message.map((row) => row.map((value) => 3 * value + 1));
    expect(Math.abs((await decoded(longer)).gate - plain.decode(longer).gate)).toBeLessThan(1e-5);
    expect(Math.abs((await decoded(longer)).gate - (await decoded(message)).gate)).toBeGreaterThan(1e-3);
  });

  it("decodes chunks as it decodes each alone (30)", async () => {
    const message = [...plain.encode(latents), ...plain.encode(latents.slice(3))];
    using together = tensorOf(message);
    const { delta, gate } = await codec.decode(together, { chunks: 2 });
    using rows = delta;
    expect(gate).toBe(1);
    expect(rows.shape).toEqual([12, 20]);
    const parts = [await decoded(message.slice(0, 7)), await decoded(message.slice(7))];
    const wanted = parts.flatMap((part) => Array.from(part.delta, (value) => part.gate * value));
    expect(worst(rows.toFloat32(), wanted)).toBeLessThan(1e-6);
    for (const chunks of [0, 3, 15, 1.5]) expect(await codeOf(() => codec.decode(together, { chunks })), String(chunks)).toBe(bad);
  });

  it("ends with a typed error where a delta is not finite (30)", async () => {
    const huge = changed(weights, "decoder.out.weight", (values) => values.map(() => 3e38));
    await writeCodec(file("huge"), huge, configOf(shape));
    using wild = await WormholeCodec.load(file("huge"));
    using message = tensorOf(plain.encode(latents));
    expect(await codeOf(() => wild.decode(message))).toBe("ERR_LATENT_NON_FINITE");
  });

  it("refuses files that are not such a codec, and says which tensor", async () => {
    const config = configOf(shape);
    const write = async (all: Weights, facts: object = config): Promise<string> => {
      await writeCodec(file("odd"), all, facts);
      return file("odd");
    };
    const without = (name: string): Weights => new Map([...weights].filter(([key]) => key !== name));
    const extra = new Map([...weights, ["decoder.more", { shape: [1], values: Float32Array.of(1) }]]);
    const stray = new Map([...weights, ["align.out", { shape: [1], values: Float32Array.of(1) }]]);
    for (const all of [
      without("encoder.in_proj.weight"),
      without("decoder.gate.2.bias"),
      without("encoder.blocks.1.ffn.2.weight"),
      extra,
      stray,
    ])
      expect(await codeOf(async () => WormholeCodec.load(await write(all)))).toBe(format);
    for (const facts of [
      {},
      { ...config, codec_heads: 3 },
      { ...config, codec_layers: 1 },
      { ...config, codec_dim: 8 },
      { ...config, more: 1 },
      { ...config, codec_tokens: "5" },
    ])
      expect(await codeOf(async () => WormholeCodec.load(await write(weights, facts))), JSON.stringify(facts)).toBe(format);
    const spoilt = changed(weights, "encoder.queries", (values) => values.map((value, i) => (i === 3 ? Number.NaN : value)));
    expect(await codeOf(async () => WormholeCodec.load(await write(spoilt)))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => WormholeCodec.load(file("nowhere")))).toBe(bad);
  });

  it("refuses rows that it cannot read, and ends with the reason of an abort", async () => {
    using wide = tensorOf(randomRows(3, 21, 1));
    using wrong = tensorOf([Array.from({ length: 20 }, () => Number.NaN)]);
    type Loose = (...args: readonly unknown[]) => unknown;
    const encode = codec.encode.bind(codec) as Loose;
    for (const given of [wide, [1], null]) expect(await codeOf(() => encode(given))).toBe(bad);
    expect(await codeOf(() => encode(wrong))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => codec.decode(wide))).toBe(bad);
    using many = tensorOf(randomRows(400, 20, 1));
    const reason = new Error("enough");
    expect(await isAborted((options) => codec.encode(many, options), reason)).toBe(true);
    const gone = await WormholeCodec.load(file("codec"));
    gone.dispose();
    expect(await codeOf(() => gone.encode(many))).toBe("ERR_LATENT_DISPOSED");
  });
});

describe("resampling", () => {
  const reference = (rows: Rows, count: number): number[][] =>
    Array.from({ length: count }, (_, i) => {
      const place = Math.max(0, ((i + 0.5) * rows.length) / count - 0.5);
      const low = Math.floor(place);
      const high = Math.min(low + 1, rows.length - 1);
      return (rows[low] ?? []).map((value, k) => value + (place - low) * ((rows[high]?.[k] ?? 0) - value));
    });

  it.each([
    [7, 3],
    [3, 7],
    [256, 64],
    [1, 5],
    [5, 1],
    [49, 256],
  ])("of %d rows to %d takes two neighbours each (25)", (n, count) => {
    const rows = randomRows(n, 4, n);
    using x = tensorOf(rows);
    using out = resampleRows(x, count);
    expect(worst(out.toFloat32(), flat(reference(rows, count)))).toBeLessThan(2e-5);
  });

  it("is the identity for as many rows, and reads 128 of 256 for 64 (25)", () => {
    const rows = randomRows(256, 3, 1);
    using x = tensorOf(rows);
    using same = resampleRows(x, 256);
    expect(sameBits(same.toFloat32(), x.toFloat32())).toBe(true);
    using out = resampleRows(x, 64);
    const read = rows.filter((_, i) => {
      using other = tensorOf(rows.map((row, j) => (j === i ? row.map((value) => value + 1) : row)));
      using moved = resampleRows(other, 64);
      return worst(moved.toFloat32(), out.toFloat32()) > 0;
    });
    expect(read).toHaveLength(128);
  });

  it("refuses what is no number of rows", async () => {
    using x = tensorOf(randomRows(3, 3, 1));
    for (const count of [0, -1, 1.5]) expect(await codeOf(() => resampleRows(x, count))).toBe(bad);
    using wrong = tensorOf([[1, Number.NaN]]);
    expect(await codeOf(() => resampleRows(wrong, 2))).toBe("ERR_LATENT_NON_FINITE");
  });
});

describe("injection", () => {
  const rows = randomRows(10, 6, 1);
  const base = randomRows(4, 6, 2);
  const delta = randomRows(8, 6, 3);
  const injected = (more: { delta?: Tensor; gate?: number } = {}): Float32Array => {
    using x = tensorOf(rows);
    using b = tensorOf(base);
    using out = injectSpan({ rows: x, span: { from: 3, to: 7 }, base: b, ...more });
    return out.toFloat32();
  };

  it("puts the picture and the gated delta into the span, and leaves all other rows as they are (26)", () => {
    using d = tensorOf(delta);
    using resampledDelta = resampleRows(d, 4);
    const added = resampledDelta.toFloat32();
    const found = injected({ delta: d, gate: 0.25 });
    const wanted = flat(base).map((value, i) => value + 0.25 * (added[i] ?? Number.NaN));
    expect(worst(found.subarray(18, 42), wanted)).toBeLessThan(1e-5);
    expect(sameBits(found.slice(0, 18), flat(rows.slice(0, 3)))).toBe(true);
    expect(sameBits(found.slice(42), flat(rows.slice(7)))).toBe(true);
  });

  it("is the plain picture without a message and with a closed gate (26)", () => {
    using d = tensorOf(delta);
    expect(sameBits(injected().slice(18, 42), flat(base))).toBe(true);
    expect(sameBits(injected({ delta: d, gate: 0 }), injected())).toBe(true);
  });

  it("refuses a span that is not there, and numbers that do not meet (30)", async () => {
    using x = tensorOf(rows);
    using b = tensorOf(base);
    using d = tensorOf(delta);
    using narrow = tensorOf(randomRows(4, 5, 1));
    using wrong = tensorOf([[1, 2, 3, 4, 5, Number.NaN]]);
    const good = { rows: x, span: { from: 3, to: 7 }, base: b };
    for (const more of [
      { span: { from: 3, to: 3 } },
      { span: { from: 3, to: 11 } },
      { span: { from: -1, to: 4 } },
      { span: undefined },
      { base: narrow },
      { delta: d },
      { gate: 0.5 },
      { delta: d, gate: 1.5 },
      { delta: narrow, gate: 0.5 },
      { strength: 1 },
    ])
      expect(await codeOf(() => injectSpan({ ...good, ...more } as InjectSpanOptions)), Object.keys(more).join()).toBe(bad);
    expect(await codeOf(() => injectSpan({ ...good, delta: wrong, gate: 0.5 }))).toBe("ERR_LATENT_NON_FINITE");
    expect(await codeOf(() => injectSpan({ ...good, base: wrong }))).toBe("ERR_LATENT_NON_FINITE");
  });
});

describe("hub maps", () => {
  const d = 6;
  const slots = 10;
  const x = randomRows(30 * slots, d, 4);
  const a = randomRows(d, d, 5);
  const c = [1, -2, 3, 0.5, 0, 7];
  const y = times(x, a).map((row) => row.map((value, j) => value + (c[j] ?? 0)));
  const identity = Array.from({ length: d }, (_, i) => Array.from({ length: d }, (_unused, j) => (i === j ? 1 : 0)));
  /** The matrix and the bias of a map, by what it makes of unit rows and of zeros. */
  const facts = async (map: { apply(rows: Tensor): Promise<Tensor> }): Promise<{ matrix: number[]; bias: number[] }> => {
    using probe = tensorOf([...identity, Array.from({ length: d }, () => 0)]);
    using out = await map.apply(probe);
    const values = out.toFloat32();
    const bias = [...values.subarray(d * d)];
    return { matrix: Array.from(values.subarray(0, d * d), (value, i) => value - (bias[i % d] ?? 0)), bias };
  };

  it("find a planted map and its way back, each fitted on its own (27)", async () => {
    using own = tensorOf(x);
    using reference = tensorOf(y);
    const { into, outOf, heldOut } = await fitHubMaps(own, reference, { slots });
    const found = await facts(into);
    expect(worst(found.matrix, a.flat())).toBeLessThan(1e-3);
    expect(worst(found.bias, c)).toBeLessThan(1e-3);
    using there = await into.apply(own);
    using back = await outOf.apply(there);
    expect(worst(back.toFloat32(), flat(x))).toBeLessThan(5e-2);
    for (const { r2, cosine } of [heldOut.into, heldOut.outOf]) {
      expect(r2).toBeGreaterThan(0.999);
      expect(cosine).toBeGreaterThan(0.999);
    }
    into.dispose();
    outOf.dispose();
  });

  it("of the reference itself are the identity (27)", async () => {
    using reference = tensorOf(y);
    const { into, outOf } = await fitHubMaps(reference, reference, { slots });
    for (const map of [into, outOf]) {
      const { matrix, bias } = await facts(map);
      expect(worst(matrix, identity.flat())).toBeLessThan(1e-3);
      expect(Math.max(...bias.map(Math.abs))).toBeLessThan(1e-3);
      map.dispose();
    }
  });

  it("shrink the map by lambda and not the bias (27)", async () => {
    using own = tensorOf(x);
    using reference = tensorOf(y);
    const { into, outOf } = await fitHubMaps(own, reference, { slots, lambda: 1e9 });
    const { matrix, bias } = await facts(into);
    expect(Math.max(...matrix.map(Math.abs))).toBeLessThan(1e-4);
    const means = c.map((_, j) => y.reduce((sum, row) => sum + (row[j] ?? 0), 0) / y.length);
    expect(worst(bias, means)).toBeLessThan(1e-3);
    for (const map of [into, outOf]) map.dispose();
  });

  it("tell by rows that were kept apart that tokens have nothing to do with each other", async () => {
    using own = tensorOf(x);
    using unrelated = tensorOf(randomRows(30 * slots, d, 9));
    const { into, outOf, heldOut } = await fitHubMaps(own, unrelated, { slots });
    expect(heldOut.into.r2).toBeLessThan(0.2);
    for (const map of [into, outOf]) map.dispose();
  });

  it("refuse rows that are no whole messages", async () => {
    using own = tensorOf(x);
    using short = tensorOf(x.slice(slots));
    expect(await codeOf(() => fitHubMaps(own, short, { slots }))).toBe(bad);
    for (const more of [{ slots: 7 }, { slots: 0 }, { slots: 300 }, { slots, lambda: -1 }, { slots, holdout: 1 }, { slots, seed: -1 }])
      expect(await codeOf(() => fitHubMaps(own, own, more)), JSON.stringify(more)).toBe(bad);
  });
});

describe("Wormhole", () => {
  const other: CodecShape = { ...shape, width: 12 };
  const otherWeights = codecWeights(other, 7);
  const otherPlain = new PlainCodec(other, otherWeights);
  let receiver: WormholeCodec;
  let hub: SpaceHub;
  // messages of both about the same 12 texts
  const texts = Array.from({ length: 12 }, (_, i) => ({ wren: randomRows(4, 20, 20 + i), finch: randomRows(4, 12, 40 + i) }));
  const messages = {
    wren: texts.flatMap(({ wren }) => plain.encode(wren)),
    finch: texts.flatMap(({ finch }) => otherPlain.encode(finch)),
  };

  beforeAll(async () => {
    await writeCodec(file("other"), otherWeights, configOf(other));
    receiver = await WormholeCodec.load(file("other"));
    using wren = tensorOf(messages.wren);
    using finch = tensorOf(messages.finch);
    hub = SpaceHub.of({ wren: await fitHubMaps(wren, wren, { slots: 7 }), finch: await fitHubMaps(finch, wren, { slots: 7 }) });
  });
  afterAll(() => {
    receiver.dispose();
    hub.dispose();
  });

  it("sends through the hub what the receiver's decoder reads, from several senders as one set (22, 30)", async () => {
    const wormhole = Wormhole.of({ codecs: { wren: codec, finch: receiver }, hub });
    using a = tensorOf(latents);
    using b = tensorOf(randomRows(3, 12, 8));
    using one = await wormhole.send("wren", a);
    using two = await wormhole.send("finch", b);
    expect(one.shape).toEqual([7, 16]);
    using own = await codec.encode(a);
    using byHand = await hub.into("wren").apply(own);
    expect(sameBits(one.toFloat32(), byHand.toFloat32())).toBe(true);
    const found = await wormhole.receive("finch", [one, two]);
    using delta = found.delta;
    expect(delta.shape).toEqual([6, 12]);
    const back = await wormhole.receive("finch", [two, one]);
    using other_ = back.delta;
    expect(worst(delta.toFloat32(), other_.toFloat32())).toBeLessThan(1e-4);
    expect(found.gate).toBeCloseTo(back.gate, 5);
    const nothing = await wormhole.receive("finch", []);
    using zeros = nothing.delta;
    expect(nothing.gate).toBe(0);
    expect(zeros.toFloat32().every((value) => value === 0)).toBe(true);
    const chunked = await wormhole.receive("finch", [one, two], { chunks: 2 });
    using rows = chunked.delta;
    expect(rows.shape).toEqual([12, 12]);
  });

  it("has 2 N maps, and another model leaves all others byte for byte (28)", async () => {
    const before = await Promise.all(hub.names.map((name) => probe(hub, name)));
    using wren = tensorOf(messages.wren);
    using third = tensorOf(messages.finch.map((row) => row.map((value) => value * 2)));
    const { into, outOf } = await fitHubMaps(third, wren, { slots: 7 });
    const grown = SpaceHub.of({
      wren: { into: hub.into("wren"), outOf: hub.outOf("wren") },
      finch: { into: hub.into("finch"), outOf: hub.outOf("finch") },
      robin: { into, outOf },
    });
    expect(grown.names).toHaveLength(3);
    const after = await Promise.all(hub.names.map((name) => probe(grown, name)));
    for (const [i, one] of before.entries()) expect(sameBits(one, after[i] ?? new Float32Array(0))).toBe(true);
    into.dispose();
    outOf.dispose();
  });

  it.each(["dimension", "tokens", "imageTokens", "heads", "layers", "dropout", "gateBias"] as const)(
    "refuses codecs of another %s (28)",
    async (field) => {
      const odd = { ...other, ...(field in other && { [field]: field === "heads" ? 8 : field === "dimension" ? 8 : 3 }) };
      const config = {
        ...configOf(odd),
        ...(field === "dropout" && { codec_dropout: 0.2 }),
        ...(field === "gateBias" && { codec_gate_init_bias: -3 }),
      };
      await writeCodec(file("another"), codecWeights(odd, 3), config);
      using another = await WormholeCodec.load(file("another"));
      const make = (): Wormhole => Wormhole.of({ codecs: { wren: codec, finch: another }, hub });
      expect(make).toThrow(new RegExp(field));
      expect(await codeOf(make)).toBe("ERR_LATENT_SPACE_MISMATCH");
    },
  );

  it("names a codec or map that is missing (30)", async () => {
    const wormhole = Wormhole.of({ codecs: { wren: codec, finch: receiver }, hub });
    using a = tensorOf(latents);
    expect(await codeOf(() => wormhole.send("robin", a))).toBe(bad);
    expect(await codeOf(() => wormhole.receive("robin", []))).toBe(bad);
    expect(await codeOf(() => wormhole.receive("wren", [a]))).toBe(bad);
    expect(await codeOf(() => wormhole.receive("wren", 3 as unknown as Tensor[]))).toBe(bad);
    expect(await codeOf(() => Wormhole.of({ codecs: { wren: codec, robin: receiver }, hub }))).toBe(bad);
    expect(await codeOf(() => Wormhole.of({ codecs: {}, hub }))).toBe(bad);
    expect(await codeOf(() => Wormhole.of({ codecs: { wren: 1 as unknown as WormholeCodec }, hub }))).toBe(bad);
    expect(await codeOf(() => Wormhole.of({ codecs: { wren: codec }, hub: 1 as unknown as SpaceHub }))).toBe(bad);
  });
});

async function probe(hub: SpaceHub, name: string): Promise<Float32Array> {
  using rows = tensorOf(randomRows(5, 16, 77));
  using into = await hub.into(name).apply(rows);
  using outOf = await hub.outOf(name).apply(rows);
  return Float32Array.of(...into.toFloat32(), ...outOf.toFloat32());
}

/** Names and shapes at any size, without drawing numbers for them. */
function codecShapes(full: CodecShape): Map<string, readonly number[]> {
  const [d, small] = [full.dimension, { ...full, dimension: 8, width: 12, tokens: 3, imageTokens: 5, heads: 1 }];
  const extents = new Map([
    [8, d],
    [24, 3 * d],
    [32, 4 * d],
    [12, full.width],
    [5, full.tokens + 2],
  ]);
  return new Map(
    [...codecWeights(small, 1)].map(([name, { shape: size }]) => {
      const queries = name === "decoder.queries" ? full.imageTokens : undefined;
      return [name, size.map((extent, i) => (i === 0 && queries !== undefined ? queries : (extents.get(extent) ?? extent)))];
    }),
  );
}
