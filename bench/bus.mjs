// Messages over a bus, by everything that it can stand on: what a small message and a latent of 128 KiB take from `send` to a reader that holds them, what keys
// and values of 66 MB take beside the same bytes on the bare channel, and what more readers cost. The reader is another process, or a worker, or, of `memory:`,
// this thread. Each hub is in the sender's process, as `latentwire serve` has it; a row is of a hub that has a process of its own.
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import net from "node:net";
import path from "node:path";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { MessageChannel } from "node:worker_threads";
import { connect, Latent, listen, loadModel, Tensor } from "../dist/index.js";
import { clock } from "./bus-peer.mjs";
import { Peer, startNatsServer } from "./bus-peers.mjs";
import { interleave, median, promptTokens, random, row, time } from "./harness.mjs";
import { qwenCacheModel, temporaryFolder } from "./models.mjs";
import { importPeer } from "./servers.mjs";

const rounds = 7;
const messagesOfRound = 60;
const latentRows = 512; // of 64 numbers
const positions = 448;
const pieceBytes = 512 << 10;
const readers = [1, 2, 4, 8];
const socketAt = (name) => `unix:${path.join(temporaryFolder(), `${name}.sock`)}`;

/** Connections of a sender, and of a reader at the other end, over each adapter: `close` ends both. */
async function adapters({ remote, worker, ownHub, nats, file }, inbox) {
  const made = [];
  const add = async (name, sender, peer, reading, transfer, closeHub) => {
    const id = `${inbox} ${name}`;
    if (peer !== undefined) await peer.ask("read", id, { inbox, file, ...reading }, transfer);
    const close = async () => {
      await peer?.ask("leave", id);
      await sender.close();
      await closeHub?.();
    };
    made.push({ name, sender, peer, id, close });
  };
  await add("memory", await connect("memory:bench"));
  const threads = await listen(socketAt("threads"));
  const { port1, port2 } = new MessageChannel();
  threads.attach(port1);
  await add("worker", await connect(threads), worker, { port: port2 }, [port2], () => threads.close());
  for (const [name, url] of [
    ["unix", socketAt("unix")],
    ["http", "http://127.0.0.1:0"],
  ]) {
    const hub = await listen(url);
    await add(name, await connect(hub), remote, { where: hub.url }, [], () => hub.close());
  }
  const where = await ownHub.ask("hub", inbox, { address: socketAt("own-hub") });
  await add("unix, a hub of its own", await connect(where), remote, { where }, [], () => ownHub.ask("leave", inbox));
  if (nats !== undefined) await add("NATS", await connect(nats.url), remote, { where: nats.url });
  return made;
}

const percentile = (values, share) => [...values].sort((a, b) => a - b)[Math.min(values.length - 1, Math.floor(share * values.length))];

/** Milliseconds from `send` until the reader holds the content, of many messages one after the other. */
async function latencies(bench, kinds) {
  const inbox = "hops";
  const all = await adapters(bench, inbox);
  const memory = await connect("memory:bench");
  const held = [];
  void (async () => {
    for await (const message of await memory.inbox(inbox, { accepts: bench.model })) {
      const latent = message.content.form === "latent" ? await message.content.latent() : undefined;
      held.shift()?.(clock());
      latent?.dispose();
      await message.ack();
    }
  })();
  const samples = new Map();
  for (let round = -1; round < rounds; round++) {
    for (const { name, sender, peer, id } of all) {
      for (const [kind, content] of kinds) {
        const times = [];
        // what memory takes is little, and needs more of it
        for (let i = 0; i < (peer === undefined ? 10 : 1) * messagesOfRound; i++) {
          const arrival = peer === undefined ? new Promise((resolve) => held.push(resolve)) : peer.next("held", id);
          const start = clock();
          await sender.send(inbox, content);
          const there = await arrival;
          times.push((peer === undefined ? there : there.at) - start);
        }
        const key = `${name}/${kind}`;
        if (round >= 0) samples.set(key, [...(samples.get(key) ?? []), ...times]);
      }
    }
  }
  await memory.close();
  for (const { close } of all) await close();
  const targets = { "memory/latent of 128 KiB": 0.02, "memory/text of 2 bytes": 0.02, "unix/text of 2 bytes": 0.3 };
  return [...samples].map(([key, times]) => {
    const [name, kind] = key.split("/");
    const p50 = percentile(times, 0.5);
    const limit = targets[key];
    const target = limit === undefined ? null : { what: "p50", compare: "<=", limit: 1000 * limit, unit: " us", value: 1000 * p50 };
    return { ...row({ name: `bus hop: ${name}`, shape: kind, ms: p50, target }), p99: percentile(times, 0.99) };
  });
}

/** What the bytes alone take, to the same process, over a connection that is there. */
function bareChannels({ remote, nats }, plain) {
  const pieces = function* (size) {
    for (let at = 0; at < plain.length; at += size) yield plain.subarray(at, at + size);
  };
  const timed = async (id, way, given, open) => {
    const address = await remote.ask("take", id, { way, bytes: plain.length, ...given });
    const { write, close } = await open(address);
    const start = clock();
    const held = remote.next("held", id);
    await write();
    const { at } = await held;
    await close();
    await remote.ask("leave", id);
    return at - start;
  };
  const bare = {
    unix: () =>
      timed("bare unix", "unix", { address: path.join(temporaryFolder(), "bare.sock") }, async (address) => {
        const socket = net.connect(address);
        await once(socket, "connect");
        return { write: () => pipeline(Readable.from(pieces(1 << 20)), socket), close: () => socket.destroy() };
      }),
    http: () =>
      timed("bare http", "http", { address: 0 }, async ({ port }) => ({
        write: async () => {
          const request = http.request({ port, method: "POST", headers: { "content-length": plain.length } });
          const answered = once(request, "response");
          await pipeline(Readable.from(pieces(1 << 20)), request);
          (await answered)[0].resume();
        },
        close: () => undefined,
      })),
  };
  if (nats !== undefined) {
    bare.NATS = () =>
      timed("bare nats", "nats", { address: nats.address, subject: "bare" }, async () => {
        const { connect: connectNats } = await importPeer("@nats-io/transport-node");
        const connection = await connectNats({ servers: nats.address });
        return {
          write: async () => {
            for (const piece of pieces(pieceBytes)) connection.publish("bare", piece);
            await connection.flush();
          },
          close: () => connection.close(),
        };
      });
  }
  return bare;
}

/** Drops what a round has left in the server. */
async function dropStreams({ address }, prefix) {
  const { connect: connectNats } = await importPeer("@nats-io/transport-node");
  const { jetstreamManager } = await importPeer("@nats-io/jetstream");
  const connection = await connectNats({ servers: address });
  const manager = await jetstreamManager(connection);
  for await (const { config } of manager.streams.list())
    if (config.name.startsWith(`${prefix}_`)) await manager.streams.delete(config.name);
  await connection.close();
}

/** From `send` to a reader that holds verified keys and values, on hubs that have not seen them yet. */
async function bulk(bench) {
  const { model, pool, remote, worker, ownHub, nats, file } = bench;
  const sequence = pool.sequence();
  await sequence.prefill(promptTokens(model, positions));
  const kv = await sequence.exportKv();
  const { bytes } = kv.info;
  const plain = Buffer.alloc(bytes, 1);
  const target = Buffer.alloc(bytes, 2);
  const ways = {};
  let run = 0;
  const send =
    (name, peer, open, settings = {}) =>
    async () => {
      const id = `bulk ${run++}`;
      const { where, reading = {}, transfer = [], close } = await open(id);
      const sender = await connect(where, settings);
      await peer.ask("read", id, { inbox: "bulk", file, options: settings, ...reading }, transfer);
      const held = peer.next("held", id);
      const start = clock();
      await sender.send("bulk", kv);
      const { at, way } = await held;
      ways[name] = way;
      await peer.ask("leave", id);
      await sender.close();
      await close();
      return { [name]: at - start };
    };
  const hubAt = (url) => async () => {
    const hub = await listen(url);
    return { where: hub, reading: { where: hub.url }, close: () => hub.close() };
  };
  const hubOfItsOwn = async (id) => {
    const where = await ownHub.ask("hub", id, { address: socketAt("own-bulk") });
    return { where, reading: { where }, close: () => ownHub.ask("leave", id) };
  };
  const thread = async () => {
    const hub = await listen(socketAt("bulk-threads"));
    const { port1, port2 } = new MessageChannel();
    hub.attach(port1);
    return { where: hub, reading: { port: port2 }, transfer: [port2], close: () => hub.close() };
  };
  const sent = { sharedMemory: false };
  const cases = [
    async () => ({ memcpy: await time(() => target.set(plain)) }),
    ...Object.entries(bareChannels(bench, plain)).map(([name, work]) => async () => ({ [`bare ${name}`]: await work() })),
    send("worker", worker, thread),
    send("unix, shared memory", remote, hubAt(socketAt("bulk"))),
    send("unix", remote, hubAt(socketAt("bulk")), sent),
    send("unix, a hub of its own", remote, hubOfItsOwn, sent),
    send("http", remote, hubAt("http://127.0.0.1:0"), sent),
  ];
  if (nats !== undefined) {
    const natsRun = async (id) => {
      const options = { ...sent, nats: { prefix: id.replace(" ", "-") } };
      return { where: nats.url, reading: { where: nats.url, options }, close: () => dropStreams(nats, options.nats.prefix) };
    };
    cases.push(async () => send("NATS", remote, natsRun, { ...sent, nats: { prefix: `bulk-${run}` } })());
  }
  const times = await interleave(cases, { rounds });
  kv.dispose();
  await sequence.dispose();
  // a process on this machine is reached by a socket or by shared memory, which is held against both
  const bare = {
    "unix, shared memory": ["bare unix", "memcpy"],
    unix: ["bare unix"],
    "unix, a hub of its own": ["bare unix"],
    http: ["bare http"],
    NATS: ["bare NATS"],
  };
  return Object.entries(ways).map(([name, way]) => {
    const peers = Object.fromEntries((bare[name] ?? []).map((peer) => [peer, times[peer]]));
    const [channel] = Object.values(peers);
    const ratio = channel === undefined ? null : times[name] / channel;
    const shape = `${(bytes / 1e6).toFixed(0)} MB of keys and values, Qwen3-4B's shape; way ${way}`;
    const target = ratio === null ? null : { what: "ratio", compare: "<=", limit: 1.3, unit: "x", value: ratio };
    return row({ name: `bus bulk: ${name}`, shape, ms: times[name], peers, ratio, target });
  });
}

/** From `publish` until the last of several readers holds the latent. */
async function fanOut({ remote, nats, file }, latent) {
  const hub = await listen(socketAt("fan-out"));
  const buses = [["unix", await connect(hub), hub.url], ...(nats === undefined ? [] : [["NATS", await connect(nats.url), nats.url]])];
  const cases = [];
  for (const [name, sender, where] of buses) {
    for (const count of readers) {
      const topic = `fan-out-${count}`;
      const ids = Array.from({ length: count }, (_, i) => `${name}-${count}-${i}`);
      for (const id of ids) await remote.ask("read", id, { where, topic, file });
      cases.push(async () => {
        const times = [];
        for (let i = 0; i < messagesOfRound / 4; i++) {
          const all = Promise.all(ids.map((id) => remote.next("held", id)));
          const start = clock();
          await sender.publish(topic, latent);
          times.push(Math.max(...(await all).map(({ at }) => at)) - start);
        }
        return { [`${name} ${count}`]: median(times) };
      });
    }
  }
  const times = await interleave(cases, { rounds });
  for (const [name] of buses)
    for (const count of readers) for (let i = 0; i < count; i++) await remote.ask("leave", `${name}-${count}-${i}`);
  for (const [, sender] of buses) await sender.close();
  await hub.close();
  return buses.flatMap(([name]) =>
    readers.map((count) => {
      const one = times[`${name} 1`];
      const ms = times[`${name} ${count}`];
      const shape = `latent of 128 KiB to ${count} reader${count === 1 ? "" : "s"}`;
      return row({
        name: `bus fan-out: ${name}`,
        shape,
        ms,
        peers: count === 1 ? {} : { "1 reader": one },
        ratio: count === 1 ? null : ms / one,
      });
    }),
  );
}

export async function run(want) {
  const parts = ["bus hop", "bus bulk", "bus fan-out"].filter((name) => want(name));
  if (parts.length === 0) return [];
  const file = await qwenCacheModel();
  const model = await loadModel(file);
  const pool = await model.createPool({ contextLength: 512, maxSequences: 2 });
  const folder = path.join(temporaryFolder(), "nats");
  fs.mkdirSync(folder, { recursive: true });
  const nats = await startNatsServer(folder);
  const [remote, ownHub, worker] = [Peer.inProcess(), Peer.inProcess(), Peer.inWorker()];
  const bench = { file, model, pool, nats, remote, ownHub, worker };
  const latent = new Latent(model.space, "hidden", Tensor.fromTyped("f32", [latentRows, 64], random(latentRows * 64, 1)));
  const rows = [];
  const kinds = [
    ["text of 2 bytes", "hi"],
    ["latent of 128 KiB", latent],
  ];
  if (parts.includes("bus hop")) rows.push(...(await latencies(bench, kinds)));
  if (parts.includes("bus bulk")) rows.push(...(await bulk(bench)));
  if (parts.includes("bus fan-out")) rows.push(...(await fanOut(bench, latent)));
  await Promise.all([remote.stop(), ownHub.stop(), worker.stop()]);
  await nats?.stop();
  latent.dispose();
  await pool.dispose();
  await model.dispose();
  return rows;
}
