// Keys and values out of the cache and back: in the process, to another process through shared memory or a socket, through a file, and converted, each
// against a copy of the same bytes on the same way, and against reading the tokens again. Weights are random; the cache has the shape of Qwen3-4B's.
import { fork } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs/promises";
import net from "node:net";
import path from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import process from "node:process";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { loadModel, sendKv } from "../dist/index.js";
import { startBrokers } from "./brokers.mjs";
import { interleave, promptTokens, row, time } from "./harness.mjs";
import { qwenCacheModel, temporaryFolder } from "./models.mjs";

const lengths = [448, 2048, 4096];
const codecs = ["q8_0", "fp8", "q4_0", "kivi4", "kivi2", "kvtc"];
const contextLength = 4352; // of the receiver; the sender holds a content twice
const rounds = 7;

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};

/** The other end of the sockets: takes in plain bytes, or content into a cache, and says when all has come and what that took. */
async function receive(file) {
  const model = await loadModel(file);
  const pool = await model.createPool({ contextLength, maxSequences: 2 });
  const server = net.createServer();
  let sequence = pool.sequence();
  process.on("message", async ({ what, address }) => {
    if (what === "end") {
      await pool.dispose();
      await model.dispose();
      server.close();
      process.disconnect();
      return;
    }
    server.listen(address);
    const [socket] = await once(server, "connection");
    const delay = monitorEventLoopDelay({ resolution: 1 });
    delay.enable();
    const before = cpuMs();
    let ms;
    if (what === "bytes") for await (const piece of socket) void piece;
    else if (what === "link") ({ ms } = await sequence.receiveKv(socket));
    else if (what === "share") {
      const [line] = await once(socket, "data");
      ({ ms } = await sequence.importKv(JSON.parse(line.toString())));
    } else await sequence.importKv(socket);
    delay.disable();
    process.send({ what: "done", ms, cpu: cpuMs() - before, delay: delay.percentile(99) / 1e6 });
    socket.destroy();
    server.close();
    await sequence.dispose();
    sequence = pool.sequence();
    process.send({ what: "ready" });
  });
  process.send({ what: "ready" });
}

const next = async (child, what) => {
  for (;;) {
    const [message] = await once(child, "message");
    if (message.what === what) return message;
  }
};

/**
 * Milliseconds from the first byte that leaves `write(socket)` to the word that everything has been taken in, the receiver's part of them, what both ends
 * spent on their processors, and the 99th percentile of the delay of the receiver's event loop.
 */
async function send(child, address, what, write) {
  child.send({ what, address });
  let socket;
  for (;;) {
    socket = net.connect(address);
    try {
      await once(socket, "connect");
      break;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  const done = next(child, "done");
  const ready = next(child, "ready");
  let there;
  const before = cpuMs();
  const ms = await time(async () => {
    await write(socket);
    there = await done;
  });
  const cpu = cpuMs() - before + there.cpu;
  socket.end();
  await ready;
  return { ms, received: there.ms, cpu, delay: there.delay };
}

const port = 43117;

/** Fitted to random weights, whose keys and values have no small dimension: the rates tell something, the ratio little. */
async function fitted(model, pool) {
  const sample = pool.sequence();
  await sample.prefill(promptTokens(model, lengths[0]));
  const kv = await sample.exportKv();
  const codec = await pool.fitKvtc([kv], { bits: 2 });
  kv.dispose();
  await sample.dispose();
  return codec;
}

async function measure(model, pool, child, kvtc, length) {
  const tokens = promptTokens(model, length);
  const sender = pool.sequence();
  const prefill = await time(() => sender.prefill(tokens));
  const kv = await sender.exportKv();
  const { bytes } = kv.info;
  const sizes = {};
  const plain = Buffer.alloc(bytes, 1);
  const target = Buffer.alloc(bytes, 2);
  const pieces = function* () {
    for (let at = 0; at < bytes; at += 1 << 20) yield plain.subarray(at, at + (1 << 20));
  };
  const file = path.join(temporaryFolder(), "content.kv");
  const unix = path.join(temporaryFolder(), "bench.sock");
  const coded = (name) => async () => {
    const codec = name === "kvtc" ? kvtc : name;
    const encoded = [];
    const encode = await time(async () => {
      for await (const piece of kv.records({ codec })) encoded.push(piece);
    });
    sizes[name] = encoded.reduce((sum, piece) => sum + piece.length, 0);
    const decode = await time(async () => (await pool.readKv(encoded, { codecs: [kvtc] })).dispose());
    return { [`${name} encode`]: encode, [`${name} decode`]: decode };
  };
  // from the first token that is read to the content in the other process
  const sendings = [
    async () => {
      const reader = pool.sequence();
      const prefilled = await time(() => reader.prefill(tokens));
      const { ms } = await send(child, unix, "kv", async (socket) => {
        const whole = await reader.exportKv();
        await pipeline(Readable.from(whole.records()), socket);
        whole.dispose();
      });
      await reader.dispose();
      return { "read, then sent": prefilled + ms };
    },
    async () => {
      const reader = pool.sequence();
      const { ms } = await send(child, unix, "kv", (socket) => pipeline(Readable.from(reader.prefillRecords(tokens)), socket));
      await reader.dispose();
      return { "sent while read": ms };
    },
  ];
  const cases = [
    async () => ({ memcpy: await time(() => target.set(plain)) }),
    async () => {
      let out;
      const exported = await time(async () => {
        out = await sender.exportKv();
      });
      const receiver = pool.sequence();
      const imported = await time(() => receiver.importKv(out));
      out.dispose();
      await receiver.dispose();
      return { exported, imported, both: exported + imported };
    },
    async () => {
      const receiver = pool.sequence();
      const stream = await time(() => receiver.importKv(kv.records()));
      await receiver.dispose();
      return { stream };
    },
    ...["unix", "tcp"].flatMap((way) => {
      const address = way === "unix" ? unix : port;
      return [
        async () => {
          const { ms, cpu, delay } = await send(child, address, "bytes", (socket) => pipeline(Readable.from(pieces()), socket));
          return { [`${way} plain`]: ms, [`${way} plain cpu`]: cpu, [`${way} plain delay`]: delay };
        },
        async () => {
          const { ms, cpu, delay } = await send(child, address, "link", (socket) => sendKv(socket, kv, { sharedMemory: false }));
          return { [`${way} kv`]: ms, [`${way} cpu`]: cpu, [`${way} delay`]: delay };
        },
        async () => {
          const { ms } = await send(child, address, "kv", (socket) => pipeline(Readable.from(kv.records()), socket));
          return { [`${way} records`]: ms };
        },
      ];
    }),
    async () => {
      let shared;
      let sent;
      const { ms, received } = await send(child, unix, "share", async (socket) => {
        sent = await time(async () => {
          shared = await kv.share();
        });
        socket.write(JSON.stringify(shared.reference));
      });
      shared.dispose();
      return { "shared memory": ms, "share sent": sent, "share received": received };
    },
    async () => ({
      "file plain": await time(async () => {
        await fs.writeFile(file, plain);
        await fs.readFile(file);
      }),
    }),
    async () => {
      let ms = await time(async () => fs.writeFile(file, kv.records()));
      const receiver = pool.sequence();
      ms += await time(async () => receiver.importKv((await fs.open(file)).createReadStream({ highWaterMark: 1 << 20 })));
      await receiver.dispose();
      return { "file kv": ms };
    },
    ...(length === lengths[0] ? [...codecs.map((name) => coded(name)), ...sendings] : []),
    ...["q8_0", "q4_0"].map((format) => async () => {
      let made;
      const ms = await time(async () => {
        made = await kv.convert(format);
      });
      made.dispose();
      return { [format]: ms };
    }),
  ];
  const times = await interleave(cases, { rounds: length === lengths.at(-1) ? 3 : rounds });
  kv.dispose();
  await sender.dispose();
  return { times, bytes, prefill, sizes };
}

/** What it takes to put the same bytes into a broker and get them out again. */
async function brokerTimes(bytes) {
  const content = Buffer.alloc(bytes, 1);
  const times = {};
  for (const broker of await startBrokers()) {
    const { ms } = await interleave([async () => ({ ms: await time(() => broker.putAndGet(content)) })], { rounds: 3 });
    times[broker.name] = ms;
    await broker.stop();
  }
  return times;
}

export async function run(want) {
  if (!want("kv transfer")) return [];
  const file = await qwenCacheModel();
  const model = await loadModel(file);
  const pool = await model.createPool({ contextLength: 2 * contextLength, maxSequences: 4 });
  const child = fork(fileURLToPath(import.meta.url), [file]);
  await next(child, "ready");
  const kvtc = await fitted(model, pool);
  const rows = [];
  for (const length of lengths) {
    const { times, bytes, prefill, sizes } = await measure(model, pool, child, kvtc, length);
    const shape = `${length} positions, ${(bytes / 1e6).toFixed(0)} MB f16, cache of Qwen3-4B's shape, random weights`;
    const add = (name, ms, peers, share, limit) =>
      rows.push(
        row({
          name: `kv transfer: ${name}`,
          shape,
          ms,
          peers,
          ratio: share,
          target: limit === undefined ? null : { what: "share", compare: ">=", limit, unit: "", value: share },
        }),
      );
    add("export and import in one process", times.both, { "two memcpy": 2 * times.memcpy }, (2 * times.memcpy) / times.both, 0.7);
    add("export", times.exported, { memcpy: times.memcpy }, times.memcpy / times.exported);
    add("import", times.imported, { memcpy: times.memcpy }, times.memcpy / times.imported);
    add("as a stream in one process", times.stream, { memcpy: times.memcpy }, times.memcpy / times.stream);
    for (const [way, name] of [
      ["unix", "unix socket"],
      ["tcp", "TCP"],
    ]) {
      const plain = times[`${way} plain`];
      add(`${name} to another process`, times[`${way} kv`], { "the bytes alone": plain }, plain / times[`${way} kv`], 0.8);
      add(`${name}, records by a pipeline`, times[`${way} records`], { "the bytes alone": plain }, plain / times[`${way} records`]);
    }
    add("shared memory to another process", times["shared memory"], { memcpy: times.memcpy }, times.memcpy / times["shared memory"], 0.7);
    add("shared memory, the sender's part", times["share sent"], { memcpy: times.memcpy }, times.memcpy / times["share sent"]);
    add("shared memory, the receiver's part", times["share received"], { memcpy: times.memcpy }, times.memcpy / times["share received"]);
    add("file, written and read", times["file kv"], { "the bytes alone": times["file plain"] }, times["file plain"] / times["file kv"]);
    for (const format of ["q8_0", "q4_0"]) {
      const rate = bytes / 1e6 / times[format];
      rows.push(
        row({
          name: `kv transfer: convert to ${format}`,
          shape,
          ms: times[format],
          peers: { memcpy: times.memcpy },
          ratio: rate,
          target: { what: "GB/s", compare: ">=", limit: 1, unit: "", value: rate },
        }),
      );
    }
    for (const way of ["unix", "tcp"]) {
      const perGiB = (ms) => (ms * 2 ** 30) / bytes;
      const plainCpu = perGiB(times[`${way} plain cpu`]);
      add(`CPU time per GiB, both ends, ${way}`, perGiB(times[`${way} cpu`]), { "the bytes alone": plainCpu }, null);
      rows.push(
        row({
          name: `kv transfer: event loop delay p99 of the receiver, ${way}`,
          shape,
          ms: times[`${way} delay`],
          peers: { "the bytes alone": times[`${way} plain delay`] },
          target: { what: "p99", compare: "<=", limit: 5, unit: " ms", value: times[`${way} delay`] },
        }),
      );
    }
    if (length === lengths[0]) {
      const sent = times["sent while read"];
      add(
        "prefill and a Unix socket, sent while it is read",
        sent,
        { "read, then sent": times["read, then sent"] },
        times["read, then sent"] / sent,
      );
      const peers = await brokerTimes(bytes);
      for (const [peer, ms] of Object.entries(peers)) add(`TCP, against ${peer}`, times["tcp kv"], { [peer]: ms }, ms / times["tcp kv"]);
    }
    for (const codec of Object.keys(sizes)) {
      for (const step of ["encode", "decode"]) {
        const ms = times[`${codec} ${step}`];
        const rate = bytes / 1e6 / ms;
        const target = codec === "q8_0" || codec === "fp8" ? { what: "GB/s", compare: ">=", limit: 1, unit: "", value: rate } : null;
        const name = `kv transfer: codec ${codec}, ${step}, ${(bytes / sizes[codec]).toFixed(2)} times smaller`;
        rows.push(row({ name, shape, ms, peers: { memcpy: times.memcpy }, ratio: rate, target }));
      }
    }
    add("unix socket, against reading again", times["unix kv"], { "prefill again": prefill }, prefill / times["unix kv"]);
  }
  child.send({ what: "end" });
  await once(child, "exit");
  kvtc.dispose();
  await pool.dispose();
  await model.dispose();
  return rows;
}

const [file] = process.argv.slice(2);
if (process.argv[1] === fileURLToPath(import.meta.url) && file !== undefined) await receive(file);
