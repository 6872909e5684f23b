// Keys and values of caches that are read and written where llama.cpp keeps them, against the way through llama.cpp's states, on the host; with a GPU
// and a CUDA build of llama.cpp also on the device, where content goes from pool to pool without the host. Weights are random; the cache has the shape
// of Qwen3-4B's.
import process from "node:process";
import { DeviceKv, deviceStatus, loadModel, loadRuntime, Tensor } from "../dist/index.js";
import { interleave, promptTokens, row, time } from "./harness.mjs";
import { qwenCacheModel } from "./models.mjs";

const lengths = [448, 2048, 4096];
const contextLength = 4352;
const rounds = 7;

async function bytesOnDevice(bytes) {
  const source = await Tensor.zeros([bytes >> 2]).to("cuda");
  return {
    // read and written once
    onDevice: () => time(async () => (await source.to("cuda")).dispose()),
    toHost: () => time(async () => (await source.to("cpu")).dispose()),
    dispose: () => source.dispose(),
  };
}

const streams = { "stream of records": {}, "stream of records in fp8": { codec: "fp8" } };

async function drain(records) {
  let bytes = 0;
  for await (const piece of records) bytes += piece.length;
  return bytes;
}

async function measure(model, pools, length, device) {
  const sources = {};
  for (const [name, [pool]] of Object.entries(pools)) {
    sources[name] = pool.sequence();
    await sources[name].prefill(promptTokens(model, length));
  }
  const handles = {};
  for (const [name, source] of Object.entries(sources)) handles[name] = await source.exportKv();
  const { bytes } = handles.states.info;
  const into = async (pool, content, name) => {
    const sequence = pool.sequence();
    const ms = await time(() => sequence.importKv(content));
    await sequence.dispose();
    return { [name]: ms };
  };
  const page = Buffer.alloc(bytes, 1);
  const copy = Buffer.alloc(bytes, 2);
  const cases = [async () => ({ memcpy: await time(() => page.copy(copy)) })];
  for (const [name, [, other]] of Object.entries(pools)) {
    cases.push(
      async () => {
        let kv;
        const ms = await time(async () => (kv = await sources[name].exportKv()));
        kv.dispose();
        return { [`${name} export`]: ms };
      },
      () => into(other, handles[name], `${name} import`),
      () => into(other, sources[name], `${name} pool to pool`),
    );
  }
  let copies;
  let there;
  if (device) {
    there = await DeviceKv.of(handles.states);
    copies = await bytesOnDevice(bytes);
    cases.push(
      async () => ({ "device copy": await copies.onDevice(), "to the host": await copies.toHost() }),
      async () => {
        let kv;
        const ms = await time(async () => (kv = await sources["in place"].exportDeviceKv()));
        kv.dispose();
        return { "device export": ms };
      },
      () => into(pools["in place"][1], there, "device import"),
      async () => {
        let opened;
        let shared;
        const ms = await time(async () => {
          shared = await there.share();
          opened = await pools["in place"][1].openDeviceKv(shared.reference);
        });
        opened.dispose();
        shared.dispose();
        return { "device share and open": ms };
      },
    );
    for (const [name, options] of Object.entries(streams)) {
      cases.push(
        async () => ({ [name]: await time(() => drain(there.records(options))) }),
        async () => ({
          [`${name} by a handle`]: await time(async () => {
            const host = await there.toHandle();
            await drain(host.records(options));
            host.dispose();
          }),
        }),
      );
    }
  }
  const times = await interleave(cases, { rounds });
  for (const one of [...Object.values(handles), there, copies]) one?.dispose();
  for (const source of Object.values(sources)) await source.dispose();
  return { times, bytes };
}

/** The GPU, if it was measured. */
export async function where() {
  const status = await deviceStatus();
  return (await hasGpu()) && status.available ? { kind: "cuda", name: status.devices[0].name } : undefined;
}

const hasGpu = async () => (await loadRuntime()).devices.some(({ name }) => name.startsWith("CUDA"));

export async function run(want) {
  if (!want("kv in place")) return [];
  const model = await loadModel(process.env["LATENTWIRE_BENCH_MODEL"] ?? (await qwenCacheModel()), {
    gpuLayers: (await hasGpu()) ? 1000 : 0,
  });
  const make = (inPlace) => model.createPool({ contextLength, maxSequences: 4, inPlace });
  const pools = { states: [await make(false), await make(false)], "in place": [await make(true), await make(true)] };
  const device = pools["in place"][0].info.device === "cuda";
  const rows = [];
  for (const length of lengths) {
    const { times, bytes } = await measure(model, pools, length, device);
    const shape = `${length} positions, ${(bytes / 1e6).toFixed(0)} MB f16, cache of Qwen3-4B's shape, random weights`;
    const add = (name, ms, peers, share) => rows.push(row({ name: `kv in place: ${name}`, shape, ms, peers, ratio: share }));
    for (const what of ["export", "import", "pool to pool"]) {
      const [ms, states] = [times[`in place ${what}`], times[`states ${what}`]];
      const peers = {
        "through states": states,
        ...(device ? {} : { memcpy: times.memcpy }),
      };
      add(what, ms, peers, states / ms);
    }
    if (!device) continue;
    for (const what of ["export", "import", "share and open"]) {
      const copies = what === "share and open" ? 2 : 1;
      add(
        `${what}, on the device`,
        times[`device ${what}`],
        { "copy on the device": copies * times["device copy"] },
        (copies * times["device copy"]) / times[`device ${what}`],
      );
    }
    for (const name of Object.keys(streams)) {
      const byHandle = times[`${name} by a handle`];
      add(`${name}, from the device`, times[name], { "by a handle": byHandle }, byHandle / times[name]);
    }
    add(
      "export to the host",
      times["in place export"],
      { "tensor to the host": times["to the host"] },
      times["to the host"] / times["in place export"],
    );
  }
  for (const pool of Object.values(pools).flat()) await pool.dispose();
  await model.dispose();
  return rows;
}
