// The TypeScript face of the device on a real GPU: node --test test/gpu/device.test.mjs. It needs Node, dist/, the addon and latentwire_cuda.so
// beside it, and nothing else; without a GPU it fails and says why. The kernels' own numbers are tested by latentwire-cuda-tests.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, describe, it } from "node:test";
import {
  createThoughtStep,
  deviceMemory,
  deviceStatus,
  openTokenTable,
  packAnchors,
  packCodebook,
  packProjection,
  Tensor,
  TileCodec,
} from "../../dist/index.js";

let state = 1;
const numbers = (count, scale = 1) =>
  Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state / 2 ** 32) * 2 - 1) * scale;
  });

/** |a - b| / |b| */
function error(a, b) {
  assert.equal(a.length, b.length);
  let difference = 0;
  let size = 0;
  a.forEach((value, i) => {
    difference += (value - b[i]) ** 2;
    size += b[i] ** 2;
  });
  return Math.sqrt(difference / Math.max(size, 1e-60));
}

const read = async (tensor) => {
  const back = await tensor.to("cpu");
  return back.toTyped();
};

const bounds = { f32: 1e-5, f16: 4e-3, bf16: 1e-2 };

before(async () => {
  const status = await deviceStatus();
  assert.ok(status.available, JSON.stringify(status));
  console.log(`# ${status.build}: ${status.devices.map((one) => one.name).join(", ")}`);
});

describe("tensors", () => {
  it("come back bit for bit, small and large", async () => {
    for (const size of [0, 1, 1023, 3_000_001]) {
      const data = numbers(size);
      const there = await Tensor.fromTyped("f32", [size], data).to("cuda");
      assert.deepEqual(await read(there), data);
      there.dispose();
    }
  });

  it("are counted, and given back", async () => {
    const before = await deviceMemory();
    const there = await Tensor.zeros([1 << 20]).to("cuda");
    assert.equal((await deviceMemory()).ownBytes, before.ownBytes + (4 << 20));
    there.dispose();
    assert.equal((await deviceMemory()).ownBytes, before.ownBytes);
  });

  it("are shared by a reference", async () => {
    const data = numbers(1000);
    const there = await Tensor.fromTyped("f32", [10, 100], data).to("cuda");
    const shared = await there.share();
    const reference = JSON.parse(JSON.stringify(shared));
    const here = await Tensor.fromShared(reference);
    assert.deepEqual(await read(here), data);
    // another process may open it, too
    const program = `
      import { Tensor } from ${JSON.stringify(new URL("../../dist/index.js", import.meta.url).href)};
      const opened = await Tensor.fromShared(JSON.parse(process.argv[1]));
      const back = await opened.to("cpu");
      console.log(back.toTyped().reduce((sum, value) => sum + value, 0));`;
    const { stdout, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", program, JSON.stringify(reference)], {
      encoding: "utf8",
    });
    const sum = data.reduce((total, value) => total + value, 0);
    assert.ok(process.env.LATENTWIRE_CUDA_BACKEND || Math.abs(Number(stdout) - sum) < 1e-3, stdout + stderr);
    for (const one of [there, shared, here]) one.dispose();
    await assert.rejects(Tensor.fromShared(reference), { code: "ERR_LATENT_INVALID_ARGUMENT" });
  });

  it("do not hold up the event loop", async () => {
    const tensor = Tensor.zeros([64 << 20]);
    let turns = 0;
    const ticker = setInterval(() => turns++, 1);
    const there = await tensor.to("cuda");
    const back = await there.to("cpu");
    clearInterval(ticker);
    assert.ok(turns > 5, `${turns} turns`);
    for (const one of [tensor, there, back]) one.dispose();
  });

  it("that are too large are an error, and the rest goes on", async () => {
    const held = [];
    const { freeBytes } = await deviceMemory();
    const block = Tensor.zeros([1 << 28]);
    let code;
    while (code === undefined && held.length * 2 ** 30 < freeBytes + 2 ** 32)
      await block.to("cuda").then(
        (one) => held.push(one),
        (failure) => (code = failure.code),
      );
    assert.equal(code, "ERR_LATENT_OUT_OF_MEMORY");
    for (const one of held) one.dispose();
    const there = await Tensor.fromTyped("f32", [2], Float32Array.of(1, 2)).to("cuda");
    assert.deepEqual([...(await read(there))], [1, 2]);
  });
});

describe("kernels", () => {
  const cases = [
    [1, 300, 384],
    [70, 300, 384],
    [600, 1000, 1000],
  ];

  it("compare and project as the cpu does", async () => {
    for (const storage of ["f32", "f16", "bf16"]) {
      for (const [n, m, d] of cases) {
        const x = numbers(n * d);
        const rows = Tensor.fromTyped("f32", [m, d], numbers(m * d));
        for (const similarity of ["cosine", "angular", "inner", "squared-euclidean", "euclidean", "l1"]) {
          const there = await packAnchors(rows, { storage, similarity, device: "cuda" });
          const here = await packAnchors(rows, { storage, similarity });
          const r = (await there.relative(x)).toFloat32();
          const bound = Math.max(bounds[storage], similarity === "euclidean" ? 1e-4 : 0);
          assert.ok(error(r, (await here.relative(x)).toFloat32()) < bound, `${similarity} ${storage} ${n} ${m} ${d}`);
          there.dispose();
        }
        const weights = Tensor.fromTyped("f32", [d, m], numbers(d * m, 0.05));
        const options = { layers: [{ weights, bias: numbers(m) }], norm: { kind: "rms", weight: numbers(d) }, activation: "gelu", storage };
        const there = await packProjection({ ...options, device: "cuda" });
        const here = await packProjection(options);
        const xThere = await Tensor.fromTyped("f32", [n, d], x).to("cuda");
        const y = await there.apply(xThere);
        assert.equal(y.device, "cuda");
        assert.ok(error(await read(y), (await here.apply(x)).toFloat32()) < bounds[storage], `projection ${storage} ${n} ${m} ${d}`);
        for (const one of [there, xThere, y]) one.dispose();
      }
    }
  });

  it("find codewords, code tiles and think as the cpu does", async () => {
    const words = Tensor.fromTyped("f32", [256, 64], numbers(256 * 64));
    const x = numbers(100 * 64);
    const there = await packCodebook(words, { device: "cuda" });
    const here = await packCodebook(words);
    const { indices } = await there.nearest(x);
    const same = here.nearestSync(x).filter((index, i) => index === indices.toTyped()[i]).length;
    assert.ok(same >= 99, `${same} of 100 codewords`);

    const rows = Tensor.fromTyped("f32", [50, 200], numbers(10_000));
    const rowsThere = await rows.to("cuda");
    for (const options of [{}, { code: "fp8" }, { code: "i4-zero", group: 32 }, { code: "i4" }]) {
      const codec = new TileCodec(options);
      assert.deepEqual(await read(await codec.quantise(rowsThere)), (await codec.quantise(rows)).toTyped(), JSON.stringify(options));
    }

    const table = Tensor.fromTyped("f32", [5000, 256], numbers(5000 * 256));
    const tableThere = await openTokenTable(table, { device: "cuda" });
    const tableHere = await openTokenTable(table);
    const logits = numbers(3 * 5000, 8);
    for (const recipe of [{}, { topK: 50, topP: 0.9 }, { token: 1, mix: 0.5, topK: 8, norm: 1 }]) {
      const inputs = recipe.token === undefined ? {} : { tokens: Int32Array.of(1, 2, 3) };
      const a = await createThoughtStep(tableThere, recipe).run(logits, inputs);
      const b = await createThoughtStep(tableHere, recipe).run(logits, inputs);
      assert.ok(error(a.embeddings.toFloat32(), b.embeddings.toFloat32()) < 1e-5, JSON.stringify(recipe));
      assert.deepEqual(a.argmax, b.argmax);
      assert.deepEqual(a.selected, b.selected);
    }
  });
});

after(async () => {
  console.log(`# ${JSON.stringify(await deviceMemory())}`);
});
