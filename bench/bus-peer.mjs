// The other end of the benchmarks of the bus: a process or a worker that reads inboxes, takes in plain bytes, serves agents or is a hub, as it is told, and says
// when it holds what came. Times are of the machine's one monotonic clock.
import { once } from "node:events";
import http from "node:http";
import net from "node:net";
import process from "node:process";
import { parentPort } from "node:worker_threads";
import { connect, listen, loadModel } from "../dist/index.js";
import { importPeer } from "./servers.mjs";

const parent = parentPort ?? process;
const tell = (message) => (parentPort === null ? process.send(message) : parentPort.postMessage(message));
const closers = new Map();
const models = new Map();
let pool;

/** Milliseconds, the same in all processes of this machine. */
export const clock = () => Number(process.hrtime.bigint()) / 1e6;

async function model(file) {
  if (!models.has(file)) models.set(file, await loadModel(file));
  return models.get(file);
}

/** Says when it holds the content of a message, ready for use. */
async function read(id, { where, port, options, inbox, topic, file }) {
  const bus = await connect(port ?? where, options);
  pool ??= await (await model(file)).createPool({ contextLength: 512, maxSequences: 2 });
  const messages = topic === undefined ? await bus.inbox(inbox, { accepts: pool }) : await bus.subscribe(topic, { durable: id });
  let acknowledged = Promise.resolve();
  closers.set(id, async () => {
    await acknowledged;
    await bus.close();
  });
  void (async () => {
    for await (const message of messages) {
      const { content } = message;
      const held = content.form === "text" ? undefined : content.form === "kv" ? await content.kv(pool) : await content.latent();
      tell({ what: "held", id, at: clock(), way: content.way });
      held?.dispose();
      acknowledged = message.ack();
    }
  })();
}

/** Counts what comes over each connection, and says when so many bytes have come. */
async function take(id, { way, address, bytes, subject }) {
  let count = 0;
  const add = (piece) => {
    count += piece.length;
    if (count < bytes) return;
    tell({ what: "held", id, at: clock() });
    count = 0;
  };
  if (way === "nats") {
    const { connect: connectNats } = await importPeer("@nats-io/transport-node");
    const connection = await connectNats({ servers: address });
    connection.subscribe(subject, { callback: (_, { data }) => add(data) });
    await connection.flush();
    closers.set(id, () => connection.close());
    return address;
  }
  const server =
    way === "http"
      ? http.createServer((request, response) => {
          request.on("data", add).on("end", () => response.end());
        })
      : net.createServer((socket) => socket.on("data", add));
  server.listen(address);
  await once(server, "listening");
  closers.set(id, () => new Promise((resolve) => server.close(resolve)));
  return server.address();
}

async function hub(id, { address }) {
  const opened = await listen(address);
  closers.set(id, () => opened.close());
  return opened.url;
}

async function agents(id, { where, file, agents: list }) {
  const bus = await connect(where);
  const own = await model(file);
  await bus.serve(
    list.map((one) => own.agent(one)),
    { notes: "message" },
  );
  closers.set(id, () => bus.close());
}

async function end() {
  for (const close of closers.values()) await close();
  await pool?.dispose();
  for (const one of models.values()) await one.dispose();
}

const tasks = { read, take, hub, agents };

parent.on("message", ({ what, id, ...given }) => {
  const work = async () => {
    if (what === "end") {
      await end();
      if (parentPort === null) process.disconnect();
      else parentPort.close();
    } else if (what === "leave") {
      await closers.get(id)();
      closers.delete(id);
    } else return await tasks[what](id, given);
  };
  work().then(
    (result) => what !== "end" && tell({ what: "ready", id, result }),
    (error) => tell({ what: "failed", id, error: String(error.stack) }),
  );
});
