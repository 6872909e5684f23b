// The kernels against the libraries that a TypeScript user would call instead, on the same thread count, interleaved; and against what the machine
// computes and reads at most, measured in the same minute. Rows are named as in docs/performance.md.
import { createHash } from "node:crypto";
import { blake3, createThoughtStep, openTokenTable, packAnchors, packProjection, Tensor, TileCodec } from "../dist/index.js";
import { native } from "../dist/native.js";
import { interleave, kernelRow, random, repetitions } from "./harness.mjs";
import {
  halfTable,
  ort,
  ortCosine,
  ortProjection,
  ortTopK,
  plainCosine,
  plainL1,
  plainQuantise,
  plainThought,
  simsimd,
  tunedCosine,
  unitRows,
  usearch,
} from "./peers.mjs";

const storages = ["f32", "f16", "i8"];

/** Milliseconds of one call, when `repeat(calls)` makes so many in a row: as many as take about 2 ms. */
async function perCall(repeat) {
  for (let calls = 1; ;) {
    const start = performance.now();
    await repeat(calls);
    const ms = performance.now() - start;
    if (ms > 2 || calls > 1e6) return ms / calls;
    calls = Math.max(calls * 2, Math.ceil((calls * 2.5) / Math.max(ms, 0.01)));
  }
}

/** A case of calls that return at once: awaiting each would cost more than some of them do. */
const sync = (work) => () =>
  perCall((calls) => {
    for (let i = 0; i < calls; i++) work();
  });

const onnxruntime = (session, feeds) => () =>
  perCall(async (calls) => {
    for (let i = 0; i < calls; i++) await session.run(feeds);
  });

async function measure(cases, rounds = repetitions) {
  const probe = () => {
    const { gflops, readGBs } = native().diagnostics.probe();
    return { gflops, readGBs };
  };
  const timed = Object.entries(cases).map(([name, work]) => async () => ({ [name]: await work() }));
  const { gflops, readGBs, ...times } = await interleave([probe, ...timed], { rounds });
  return { times, limits: { gflops, readGBs } };
}

/**
 * One row a storage: `packed[storage]` used by `product`, against the peers' cases and, where it is installed, onnxruntime's session on x [n, d].
 * `bytes(storage)` must be read at least.
 */
async function againstPeers({ name, shape, threads, targets, rounds, packed, product, peers, session, x, flops, bytes }) {
  const cases = { ...peers };
  for (const storage of storages) cases[storage] = sync(() => product(packed[storage]));
  if (session !== undefined) cases.onnxruntime = onnxruntime(session, { x });
  const { times, limits } = await measure(cases, rounds);
  await session?.release();
  const others = Object.fromEntries(Object.entries(times).filter(([key]) => !storages.includes(key)));
  return storages.map((storage) => {
    packed[storage].dispose();
    const limit = floor({ flops, bytes: bytes(storage), limits, storage });
    return kernelRow({ name, shape, dtype: storage, threads, ms: times[storage], peers: others, limit, target: targets[storage] });
  });
}

/** Milliseconds that the machine needs at least: for the arithmetic and for the bytes that must be read, whichever is more. */
function floor({ flops, bytes, limits, storage }) {
  // codes: four products a lane instead of one
  const compute = flops / (limits.gflops * (storage === "i8" ? 4 : 1) * 1e6);
  return Math.max(compute, bytes / (limits.readGBs * 1e6));
}

const bytesOf = { f32: 4, f16: 2, i8: 1 };

const cosines = [
  { name: "A1", n: 1, m: 300, d: 384, js: true, pairs: true, targets: { f32: ["onnxruntime", 4], i8: ["onnxruntime", 12] } },
  { name: "A2", n: 1, m: 1000, d: 4096, js: true, pairs: true, targets: {} },
  { name: "A3", n: 64, m: 1000, d: 768, js: true, pairs: true, targets: { f32: ["onnxruntime", 1.2] } },
  { name: "A4", n: 1000, m: 1000, d: 1024, targets: { f32: ["onnxruntime", 1.15], i8: ["onnxruntime", 3.3] } },
  { name: "A5", n: 8192, m: 512, d: 4096, rounds: 3, targets: { i8: ["onnxruntime", 3.3] } },
  { name: "A6", n: 100_000, m: 64, d: 384, rounds: 5, targets: { f32: ["onnxruntime", 2], i8: ["onnxruntime", 1.4] } },
];

async function cosine({ name, n, m, d, js, pairs, rounds, targets }, threads) {
  const x = random(n * d, 1);
  const a = random(m * d, 2);
  const unit = unitRows(a, m, d);
  const tensor = Tensor.fromTyped("f32", [m, d], a);
  const out = new Float32Array(n * m);
  const packed = {};
  for (const storage of storages) packed[storage] = await packAnchors(tensor, { storage });
  const peers = {};
  if (js) {
    peers["plain JS"] = sync(() => plainCosine(x, a, n, m, d, out));
    peers["tuned JS"] = sync(() => tunedCosine(x, unit, n, m, d, out));
  }
  if (pairs && simsimd !== undefined) {
    const rows = Array.from({ length: n }, (_, i) => x.subarray(i * d, (i + 1) * d));
    const anchors = Array.from({ length: m }, (_, j) => a.subarray(j * d, (j + 1) * d));
    peers["simsimd per pair"] = sync(() => {
      for (let i = 0; i < n; i++) for (let j = 0; j < m; j++) out[i * m + j] = simsimd.cosine(rows[i], anchors[j]);
    });
  }
  if (pairs && usearch !== undefined)
    peers["usearch exact top-10"] = sync(() => usearch.exactSearch(a, x, d, 10, usearch.MetricKind.Cos, threads));
  return againstPeers({
    name,
    shape: `cosine ${n} x ${m} x ${d}`,
    threads,
    targets,
    rounds,
    packed,
    product: (anchors) => anchors.relativeSync(x, out),
    peers,
    session: ort && (await ortCosine(unit, m, d, threads)),
    x: ort && new ort.Tensor("float32", x, [n, d]),
    flops: 2 * n * m * d,
    // one row and its anchors stay in the cache: only the arithmetic bounds it
    bytes: (storage) => (n * d * m > 1e7 ? n * d * 4 + m * d * bytesOf[storage] + n * m * 4 : 0),
  });
}

/** Distances that are no product, against our own cosines of the same shape. */
async function l1({ name, n, m, d }, threads) {
  const x = random(n * d, 1);
  const a = random(m * d, 2);
  const tensor = Tensor.fromTyped("f32", [m, d], a);
  const out = new Float32Array(n * m);
  const kinds = ["f32", "f16"];
  const packed = {};
  for (const storage of kinds) packed[storage] = await packAnchors(tensor, { storage, similarity: "l1" });
  const anchors = await packAnchors(tensor);
  const cases = {
    "plain JS": sync(() => plainL1(x, a, n, m, d, out)),
    "our cosines": sync(() => anchors.relativeSync(x, out)),
  };
  for (const storage of kinds) cases[storage] = sync(() => packed[storage].relativeSync(x, out));
  const { times } = await measure(cases);
  for (const held of [tensor, anchors, ...Object.values(packed)]) held.dispose();
  const peers = { "plain JS": times["plain JS"], "our cosines": times["our cosines"] };
  return kinds.map((dtype) => kernelRow({ name, shape: `L1 ${n} x ${m} x ${d}`, dtype, threads, ms: times[dtype], peers, limit: 0 }));
}

/** Whitened inner products, where the anchors took the matrix in, against the matrix first and against none. */
async function whitened({ name, n, m, d }, threads) {
  const x = random(n * d, 1);
  const tensor = Tensor.fromTyped("f32", [m, d], random(m * d, 2));
  const whiten = Tensor.fromTyped("f32", [d, d], random(d * d, 3));
  const out = new Float32Array(n * m);
  const between = new Float32Array(n * d);
  const folded = await packAnchors(tensor, { similarity: "inner", whitening: { mean: random(d, 4), whiten } });
  const anchors = await packAnchors(tensor, { similarity: "inner" });
  const matrix = await packProjection({ layers: [{ weights: whiten, bias: random(d, 5) }] });
  const { times } = await measure({
    ours: sync(() => folded.relativeSync(x, out)),
    "the matrix first": sync(() => {
      matrix.applySync(x, between);
      anchors.relativeSync(between, out);
    }),
    "not whitened": sync(() => anchors.relativeSync(x, out)),
  });
  for (const held of [tensor, whiten, folded, anchors, matrix]) held.dispose();
  const { ours, ...peers } = times;
  const shape = `whitened inner products ${n} x ${m} x ${d}`;
  return [kernelRow({ name, shape, dtype: "f32", threads, ms: ours, peers, limit: 0 })];
}

const distances = [
  { name: "A9", n: 1, m: 300, d: 384 },
  { name: "A9", n: 64, m: 1000, d: 768 },
];

const projections = [
  { name: "B1", n: 1, d: 896, targets: { f32: ["onnxruntime", 1.5], f16: ["onnxruntime", 1.6] } },
  { name: "B2", n: 8, d: 896, targets: { f32: ["onnxruntime", 1.25], f16: ["onnxruntime", 1.3] } },
  { name: "B3", n: 64, d: 896, targets: { i8: ["onnxruntime", 3.5] } },
  { name: "B4", n: 512, d: 896, targets: { f32: ["onnxruntime", 1.1], i8: ["onnxruntime", 3.2] } },
];

async function projection({ name, n, d, rounds, targets }, threads) {
  const x = random(n * d, 3);
  const w = random(d * d, 4);
  const bias = random(d, 5);
  const weights = Tensor.fromTyped("f32", [d, d], w);
  const out = new Float32Array(n * d);
  const packed = {};
  for (const storage of storages) packed[storage] = await packProjection({ layers: [{ weights, bias }], activation: "gelu", storage });
  return againstPeers({
    name,
    shape: `gelu(x W + b) ${n} x ${d} x ${d}`,
    threads,
    targets,
    rounds,
    packed,
    product: (projection) => projection.applySync(x, out),
    peers: {},
    session: ort && (await ortProjection(w, bias, d, d, threads)),
    x: ort && new ort.Tensor("float32", x, [n, d]),
    flops: 2 * n * d * d,
    bytes: () => 0,
  });
}

async function thought(threads) {
  const vocabulary = 151_936;
  const d = 896;
  const k = 64;
  const logits = random(vocabulary, 6).map((x) => 5 * x);
  // halves of the size of embeddings, 272 MB: the rows that are mixed come from memory
  const embeddings = new Uint16Array(vocabulary * d);
  for (let i = 0; i < embeddings.length; i++) embeddings[i] = 0x2000 + ((Math.imul(i, 2654435761) >>> 20) & 0x7ff);
  const tensor = Tensor.fromTyped("f16", [vocabulary, d], embeddings);
  const table = await openTokenTable(tensor);
  const step = createThoughtStep(table, { topK: k });
  const out = new Float32Array(d);
  const statistics = new Float64Array(5);
  const halves = halfTable();
  const cases = {
    ours: sync(() => step.runSync(logits, {}, out, statistics)),
    "plain JS": sync(() => plainThought(logits, embeddings, halves, k, d, out)),
  };
  const session = ort && (await ortTopK(vocabulary, k, threads));
  if (session) cases["onnxruntime Softmax + TopK"] = onnxruntime(session, { z: new ort.Tensor("float32", logits, [1, vocabulary]) });
  const { times, limits } = await measure(cases);
  await session?.release();
  for (const held of [step, table, tensor]) held.dispose();
  const { ours, ...peers } = times;
  const shape = `mix of the ${k} likeliest of ${vocabulary}, ${d} wide, with entropy`;
  const limit = floor({ flops: 0, bytes: vocabulary * 4 + k * d * 2, limits });
  const rows = [{ target: ["onnxruntime Softmax + TopK", 5] }, { target: ["plain JS", 50] }, { absolute: 0.07 }];
  return rows.map((target) => kernelRow({ name: "C1", shape, dtype: "f16", threads, ms: ours, peers, limit, ...target }));
}

async function quantise(threads) {
  const rows = 8192;
  const columns = 128;
  const x = Uint16Array.from(random(rows * columns, 7), (value) => 0x3000 + ((Math.abs(value) * 4096) & 0xfff) + (value < 0 ? 0x8000 : 0));
  const tensor = Tensor.fromTyped("f16", [rows, columns], x);
  const codec = new TileCodec({ code: "i8", scale: "f16", group: 128 });
  const out = new Uint8Array(codec.byteLength(rows, columns));
  const halves = halfTable();
  const codes = new Int8Array(rows * columns);
  const scales = new Float32Array(rows);
  const { times, limits } = await measure({
    ours: sync(() => codec.quantiseSync(tensor, { out })),
    "plain JS": sync(() => plainQuantise(x, halves, columns, codes, scales)),
  });
  tensor.dispose();
  const { ours, ...peers } = times;
  const limit = floor({ flops: 0, bytes: 2 * rows * columns, limits });
  const shape = `f16 to int8 tiles ${rows} x ${columns}`;
  return [kernelRow({ name: "D5", shape, dtype: "f16", threads, ms: ours, peers, limit, target: ["plain JS", 50] })];
}

/** One thread; node:crypto hashes with what OpenSSL has for this processor. */
async function digest() {
  const data = new Uint8Array(random((16 << 20) / 4, 8).buffer);
  const copy = new Uint8Array(data.length);
  const { times } = await measure({
    ours: sync(() => blake3(data)),
    "node:crypto SHA-256": sync(() => createHash("sha256").update(data).digest("hex")),
    "Uint8Array.set": sync(() => {
      copy.set(data);
    }),
  });
  const { ours, ...peers } = times;
  return [kernelRow({ name: "D3", shape: "BLAKE3, 16 MiB from JavaScript", dtype: "i8", threads: 1, ms: ours, peers, limit: 0 })];
}

async function border(threads) {
  const d = 4;
  const tensor = Tensor.fromTyped("f32", [1, d], Float32Array.of(1, 2, 3, 4));
  const anchors = await packAnchors(tensor);
  const x = Float32Array.of(4, 3, 2, 1);
  const out = new Float32Array(1);
  const { times } = await measure({ ours: sync(() => anchors.relativeSync(x, out)) });
  return [
    kernelRow({
      name: "G1",
      shape: "a handle, two arrays and a product of 4 numbers",
      dtype: "f32",
      threads,
      ms: times.ours,
      peers: {},
      limit: 0,
      absolute: 0.00025,
    }),
  ];
}

export async function run(want, { threads }) {
  const rows = [];
  for (const one of cosines) if (want(one.name)) rows.push(...(await cosine(one, threads)));
  for (const one of distances) if (want(one.name)) rows.push(...(await l1(one, threads)));
  if (want("A9")) rows.push(...(await whitened({ name: "A9", n: 1, m: 300, d: 4096 }, threads)));
  for (const one of projections) if (want(one.name)) rows.push(...(await projection(one, threads)));
  if (want("C1")) rows.push(...(await thought(threads)));
  if (want("D3")) rows.push(...(await digest()));
  if (want("D5")) rows.push(...(await quantise(threads)));
  if (want("G1")) rows.push(...(await border(threads)));
  return rows;
}
