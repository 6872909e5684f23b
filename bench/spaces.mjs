// What spaces cost: rows told relative to anchors that were packed once, fits of maps between spaces, a measure of likeness. A5 and F1 are jobs of
// docs/performance.md at the shapes of language models; the rest has no peer in JavaScript.
import { accumulateMoments, AnchorSet, linearCka, RelativeSpace, Tensor } from "../dist/index.js";
import { interleave, kernelRow, random, time } from "./harness.mjs";
import { ort, ortCosine, plainCosine, simsimd, unitRows } from "./peers.mjs";

const relatives = [
  { name: "A5", n: 8192, m: 512, d: 4096, rounds: 3 },
  { name: "one row", n: 1, m: 768, d: 4096, pairs: true, calls: 50 },
];

async function relative({ name, n, m, d, rounds, pairs, calls = 1 }, threads) {
  const values = random(n * d, 1);
  const anchors = random(m * d, 2);
  const rows = Tensor.fromTyped("f32", [m, d], anchors);
  const x = Tensor.fromTyped("f32", [n, d], values);
  const ids = Int32Array.from({ length: m }, (_, i) => i);
  const space = await RelativeSpace.fit(rows, new AnchorSet(ids, { corpus: "bench" }));
  const out = new Float32Array(n * m);
  const cases = {
    ours: async () => {
      const latent = await space.encode(x);
      latent.dispose();
    },
  };
  if (pairs) cases["plain JS"] = () => plainCosine(values, anchors, n, m, d, out);
  if (pairs && simsimd !== undefined) {
    const parts = Array.from({ length: m }, (_, j) => anchors.subarray(j * d, (j + 1) * d));
    cases["simsimd per pair"] = () => {
      for (let j = 0; j < m; j++) out[j] = simsimd.cosine(values, parts[j]);
    };
  }
  const session = ort && (await ortCosine(unitRows(anchors, m, d), m, d, threads));
  if (session !== undefined) {
    const feeds = { x: new ort.Tensor("float32", values, [n, d]) };
    cases.onnxruntime = () => session.run(feeds);
  }
  const timed = Object.entries(cases).map(([key, work]) => async () => {
    const all = await time(async () => {
      for (let i = 0; i < calls; i++) await work();
    });
    return { [key]: all / calls };
  });
  const { ours, ...peers } = await interleave(timed, { rounds });
  await session?.release();
  for (const held of [space, rows, x]) held.dispose();
  return [kernelRow({ name, shape: `relative ${n} x ${m} x ${d}`, dtype: "f32", threads, ms: ours, peers, limit: 0 })];
}

// twice as many pairs as dimensions, as a fit should have
const fits = [
  { d: 768, rounds: 5 },
  { d: 1536, rounds: 2 },
  { d: 2560, rounds: 1 },
];

/** Ridge and Procrustes from the same sums, which are what takes the rows; each row of results has its own solution alone beside it. */
async function fit({ d, rounds }, names, threads) {
  const n = 2 * d;
  const x = Tensor.fromTyped("f32", [n, d], random(n * d, 3));
  const y = Tensor.fromTyped("f32", [n, d], random(n * d, 4));
  let moments = await accumulateMoments({ x, y });
  const sums = async () => ({
    sums: await time(async () => {
      moments.dispose();
      moments = await accumulateMoments({ x, y });
    }),
  });
  const solve = {
    "F1 ridge": async () => {
      const { weights } = await moments.ridge({ lambda: 1e-2 });
      weights.dispose();
    },
    "F2 Procrustes": async () => {
      const { rotation } = await moments.procrustes();
      rotation.dispose();
    },
  };
  const cases = names.map((name) => async () => ({ [name]: await time(solve[name]) }));
  const times = await interleave([sums, ...cases], { rounds, warmUp: 0 });
  for (const held of [moments, x, y]) held.dispose();
  const shape = `${n} pairs, ${d} to ${d}`;
  return names.map((name) => {
    const peers = { "of it the sums": times.sums };
    return { ...kernelRow({ name, shape, dtype: "f32", threads, ms: times.sums + times[name], peers, limit: 0 }), ratio: null };
  });
}

async function cka(name, threads) {
  const [n, d] = [2000, 768];
  const x = Tensor.fromTyped("f32", [n, d], random(n * d, 5));
  const y = Tensor.fromTyped("f32", [n, d], random(n * d, 6));
  const { ours } = await interleave([async () => ({ ours: await time(() => linearCka(x, y)) })], { rounds: 5 });
  for (const held of [x, y]) held.dispose();
  return [kernelRow({ name, shape: `${n} rows, ${d} and ${d}`, dtype: "f32", threads, ms: ours, peers: {}, limit: 0 })];
}

export async function run(want, { threads }) {
  const rows = [];
  for (const one of relatives) if (want(one.name)) rows.push(...(await relative(one, threads)));
  const names = ["F1 ridge", "F2 Procrustes"].filter(want);
  if (names.length > 0) for (const one of fits) rows.push(...(await fit(one, names, threads)));
  if (want("CKA")) rows.push(...(await cka("CKA", threads)));
  return rows;
}
