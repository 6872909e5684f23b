// The peers that keep bytes for somebody else: Redis (values of 1 MiB) and the object store of NATS JetStream, each a server of its own on this
// machine, in memory, with one client that puts the bytes and gets them again. Where a server or its client is not installed, it is left out.
import { spawn } from "node:child_process";
import { once } from "node:events";
import net from "node:net";
import path from "node:path";
import { createRequire } from "node:module";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { temporaryFolder } from "./models.mjs";

const require = createRequire(import.meta.url);
const pieceBytes = 1 << 20;

export async function importPeer(name) {
  try {
    return await import(pathToFileURL(require.resolve(name)).href);
  } catch {
    return undefined;
  }
}

export async function freePort() {
  const server = net.createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return port;
}

/** Starts a server and waits until it takes connections; `undefined` where it is not installed. */
export async function startServer(command, args, port) {
  const child = spawn(command, args, { stdio: "ignore" });
  let ended = false;
  child.once("error", () => (ended = true));
  child.once("exit", () => (ended = true));
  for (let i = 0; i < 200 && !ended; i++) {
    const socket = net.connect(port, "127.0.0.1");
    try {
      await once(socket, "connect");
      socket.destroy();
      return async () => {
        child.kill("SIGKILL");
        if (!ended) await once(child, "exit");
      };
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
  child.kill("SIGKILL");
  return undefined;
}

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
