// Keys and values on a real GPU, with llama.cpp computing there: node --test test/gpu/kv.test.mjs. Besides what device.test.mjs needs, it needs a CUDA
// build of llama.cpp: the package @node-llama-cpp/linux-x64-cuda, or a folder in LATENTWIRE_LLAMA_DIR. The model has random weights and heads of 128,
// for those of the bundled ones are of no size that llama.cpp's attention knows there; LATENTWIRE_GPU_MODEL names another.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { deviceMemory, loadModel, loadRuntime, sendKv } from "../../dist/index.js";

const text = "tom is in the red house. the key is in the box. ana has the blue ball. where is the key?";
const built = new URL("../../dist/index.js", import.meta.url).href;

let file;
let model;
let inPlace;
let other;
let plain;

const filled = async (pool, input) => {
  const sequence = pool.sequence();
  await sequence.prefill(input, { hidden: "last" });
  return sequence;
};
const floats = async (tensor) => (await tensor).toFloat32();
const bytesOf = async (kv) => Buffer.from(await kv.toBytes());
/** The largest difference against the largest number. */
const apart = (a, b) =>
  a.reduce((most, x, i) => Math.max(most, Math.abs(x - b[i])), 0) / b.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
const greedy = async (sequence, maxTokens) => (await sequence.generate({ maxTokens }).result).tokens;

before(async () => {
  const { devices } = await loadRuntime();
  assert.ok(
    devices.some(({ name }) => name.startsWith("CUDA")),
    `llama.cpp has no CUDA device here: ${JSON.stringify(devices)}`,
  );
  file = process.env.LATENTWIRE_GPU_MODEL ?? (await (await import("../../bench/models.mjs")).qwenCacheModel());
  model = await loadModel(file, { gpuLayers: 1000 });
  inPlace = await model.createPool({ contextLength: 1024, maxSequences: 8, inPlace: true });
  other = await model.createPool({ contextLength: 1024, maxSequences: 8, inPlace: true });
  plain = await model.createPool({ contextLength: 1024, maxSequences: 8 });
});

after(async () => {
  for (const pool of [inPlace, other, plain]) await pool?.dispose();
  await model?.dispose();
});

describe("a cache of llama.cpp on the GPU", () => {
  it("lies on the device", () => {
    assert.deepEqual([inPlace.info.device, plain.info.device, plain.info.inPlace], ["cuda", "cpu", false]);
  });

  it("gives the bytes that llama.cpp gives, and takes them", async () => {
    const source = await filled(inPlace, text);
    const kv = await source.exportKv();
    const through = plain.sequence();
    await through.importKv(kv, { positions: "keep" });
    const states = await through.exportKv();
    assert.ok((await bytesOf(states)).equals(await bytesOf(kv)));
    const back = other.sequence();
    await back.importKv(states);
    const again = await back.exportKv();
    assert.ok((await bytesOf(again)).equals(await bytesOf(kv)));
    assert.deepEqual(await greedy(back, 16), await greedy(through, 16));
    for (const one of [kv, states, again, source, through, back]) await one.dispose();
  });

  it("goes to another pool on the device, whole, in parts and to other positions", async () => {
    const source = await filled(inPlace, text);
    await source.think({ steps: 4 });
    const target = other.sequence();
    assert.equal((await target.importKv(source)).way, "device");
    assert.ok(apart(await floats(target.logits()), await floats(source.logits())) < 1e-2);
    const [there, here] = [await filled(other, "ana has the key."), await filled(other, "ana has the key.")];
    const kv = await source.exportDeviceKv({ range: { from: 2, to: 20 } });
    const host = await source.exportKv({ range: { from: 2, to: 20 } });
    assert.equal((await there.importKv(kv)).way, "device");
    // its keys are turned once they are there
    assert.equal((await here.importKv(host)).way, "copy");
    assert.ok(apart(await floats(there.logits()), await floats(here.logits())) < 2e-2);
    const elsewhere = await filled(plain, "ana has the key.");
    await elsewhere.importKv(host);
    assert.ok(apart(await floats(here.logits()), await floats(elsewhere.logits())) < 2e-2);
    await elsewhere.dispose();
    for (const one of [kv, host, source, target, there, here]) await one.dispose();
  });

  it("streams from there what a handle streams, in codecs and without, and by pieces", async () => {
    const source = inPlace.sequence();
    await source.prefill(Int32Array.from({ length: 700 }, (_, i) => 5 + (i % 90)));
    const kv = await source.exportDeviceKv();
    const host = await kv.toHandle();
    const collect = async (records) => {
      const pieces = [];
      for await (const piece of records) pieces.push(Uint8Array.from(piece));
      return Buffer.concat(pieces);
    };
    for (const options of [{}, { codec: "fp8" }, { codec: "q8_0" }, { codec: "kivi4" }])
      assert.ok((await collect(kv.records(options))).equals(await collect(host.records(options))), JSON.stringify(options));
    for (const one of [kv, host, source]) await one.dispose();
  });

  it("comes out of a fragmented cache in order", async () => {
    const tokens = model.tokenize(text.repeat(4)).slice(0, 100);
    const small = await model.createPool({ contextLength: 256, maxSequences: 4, inPlace: true });
    const [filler, source] = [small.sequence(), small.sequence()];
    await filler.prefill(tokens.slice(0, 50));
    await source.prefill(tokens.slice(0, 50));
    await filler.dispose();
    await source.prefill(tokens.slice(50));
    const kv = await source.exportDeviceKv();
    const target = other.sequence();
    await target.importKv(kv);
    assert.ok(apart(await floats(target.logits()), await floats(source.logits())) < 2e-2);
    kv.dispose();
    await target.dispose();
    await small.dispose();
  });

  it("of q8_0 is the same", async () => {
    const [a, b] = [
      await model.createPool({ contextLength: 256, kvType: "q8_0", inPlace: true }),
      await model.createPool({ contextLength: 256, kvType: "q8_0", inPlace: true }),
    ];
    const source = await filled(a, text);
    const target = b.sequence();
    assert.equal((await target.importKv(source)).way, "device");
    const want = await source.exportKv();
    const got = await target.exportKv();
    assert.ok((await bytesOf(got)).equals(await bytesOf(want)));
    for (const one of [want, got, a, b]) await one.dispose();
  });

  it("is decoded beside imports and exports, and memory goes back", async () => {
    const before = (await deviceMemory()).processBytes;
    const source = await filled(inPlace, text);
    const want = await floats(source.logits());
    const forks = [];
    for (let i = 0; i < 3; i++) forks.push(await source.fork());
    await Promise.all(
      forks.map(async (own, i) => {
        for (let round = 0; round < 8; round++) {
          const target = (i % 2 === 0 ? other : inPlace).sequence();
          const kv = await own.exportDeviceKv();
          await target.importKv(kv);
          kv.dispose();
          assert.ok(apart(await floats(target.logits()), want) < 2e-2);
          await greedy(target, 8);
          await target.dispose();
        }
        await own.dispose();
      }),
    );
    await source.dispose();
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal((await deviceMemory()).processBytes, before);
  });
});

describe("another process", () => {
  const folder = mkdtempSync(path.join(tmpdir(), "latentwire-gpu-"));
  after(() => {
    rmSync(folder, { recursive: true, force: true });
  });
  const program = `
    import net from "node:net";
    import { loadModel } from ${JSON.stringify(built)};
    const model = await loadModel(process.argv[1], { gpuLayers: 1000 });
    const pool = await model.createPool({ contextLength: 1024, inPlace: true });
    process.on("message", async (reference) => {
      const sequence = pool.sequence();
      const report = typeof reference === "string"
        ? await sequence.receiveKv(await new Promise((resolve) => { const socket = net.connect(reference, () => resolve(socket)); }))
        : await sequence.importKv(reference);
      process.send({ way: report.way, positions: report.positions, tokens: (await sequence.generate({ maxTokens: 16 }).result).tokens });
    });
    process.send("ready");`;

  it("takes content from the GPU by a reference and over a socket, and goes on with it", async () => {
    const child = spawn(process.execPath, ["--input-type=module", "-e", program, file], { stdio: ["ignore", "inherit", "inherit", "ipc"] });
    try {
      assert.equal((await once(child, "message"))[0], "ready");
      const source = await filled(inPlace, text);
      const kv = await source.exportDeviceKv();
      const shared = await kv.share();
      child.send(shared.reference);
      const [first] = await once(child, "message");
      assert.deepEqual([first.way, first.positions], ["device", kv.length]);

      const address = path.join(folder, "link");
      const server = net.createServer().listen(address);
      await once(server, "listening");
      child.send(address);
      const [socket] = await once(server, "connection");
      const answered = once(child, "message");
      assert.equal((await sendKv(socket, kv)).way, "device");
      const [second] = await answered;
      assert.deepEqual([second.way, second.positions], ["device", kv.length]);
      const tokens = await greedy(source, 16);
      assert.deepEqual(first.tokens, tokens);
      assert.deepEqual(second.tokens, tokens);
      socket.destroy();
      server.close();
      for (const one of [shared, kv, source]) await one.dispose();
    } finally {
      child.kill();
    }
  });
});
