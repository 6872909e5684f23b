// The peers that keep bytes for somebody else: Redis (values of 1 MiB) and the object store of NATS JetStream, each a server of its own on this
// machine, in memory, with one client that puts the bytes and gets them again. Where a server or its client is not installed, it is left out.
import path from "node:path";
import process from "node:process";
import { temporaryFolder } from "./models.mjs";
import { freePort, importPeer, startServer } from "./servers.mjs";

const pieceBytes = 1 << 20;

async function startRedis() {
  const redis = await importPeer("@redis/client");
  if (redis === undefined) return undefined;
  const port = await freePort();
  const stop = await startServer("redis-server", ["--port", String(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"], port);
  if (stop === undefined) return undefined;
  const client = redis.createClient({ socket: { host: "127.0.0.1", port } });
  await client.connect();
  const raw = client.withTypeMapping({ [redis.RESP_TYPES.BLOB_STRING]: Buffer });
  return {
    name: "redis, values of 1 MiB",
    async putAndGet(bytes) {
      const count = Math.ceil(bytes.length / pieceBytes);
      const keys = Array.from({ length: count }, (_, i) => `kv:${i}`);
      await Promise.all(keys.map((key, i) => client.set(key, bytes.subarray(i * pieceBytes, (i + 1) * pieceBytes))));
      const back = await Promise.all(keys.map((key) => raw.get(key)));
      if (back.reduce((sum, one) => sum + one.length, 0) !== bytes.length) throw new Error("redis lost bytes");
    },
    async stop() {
      client.destroy();
      await stop();
    },
  };
}

async function startNats() {
  const [transport, jetstream, obj] = [
    await importPeer("@nats-io/transport-node"),
    await importPeer("@nats-io/jetstream"),
    await importPeer("@nats-io/obj"),
  ];
  if (transport === undefined || jetstream === undefined || obj === undefined) return undefined;
  const port = await freePort();
  const folder = path.join(temporaryFolder(), "nats");
  const stop = await startServer("nats-server", ["-js", "-a", "127.0.0.1", "-p", String(port), "-sd", folder], port);
  if (stop === undefined) return undefined;
  const connection = await transport.connect({ servers: `127.0.0.1:${port}`, timeout: 60_000 });
  const store = await new obj.Objm(jetstream.jetstream(connection)).create("kv", { storage: "memory" });
  return {
    name: "NATS object store",
    async putAndGet(bytes) {
      await store.putBlob({ name: "content" }, bytes);
      const back = await store.getBlob("content");
      if (back?.length !== bytes.length) throw new Error("NATS lost bytes");
      await store.delete("content");
    },
    async stop() {
      await connection.close();
      await stop();
    },
  };
}

/** What is installed of them. */
export async function startBrokers() {
  const started = await Promise.all([startRedis(), startNats()]);
  const missing = ["redis", "NATS"].filter((_, i) => started[i] === undefined);
  if (missing.length > 0) process.stderr.write(`not installed, left out: ${missing.join(", ")}\n`);
  return started.filter((one) => one !== undefined);
}
