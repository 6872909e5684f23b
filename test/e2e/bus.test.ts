// Buses of every kind, by the suite that all must pass.
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { connectHub, connectPort } from "../../lib/bus/connect-hub.js";
import { listen } from "../../lib/bus/hub.js";
import { MemoryCore } from "../../lib/bus/memory-broker.js";
import { connectNats } from "../../lib/bus/nats-broker.js";
import { busSuite } from "./bus-suite.js";
import { natsServer } from "./servers.js";

busSuite("memory", () => {
  const core = new MemoryCore();
  return Promise.resolve({ broker: () => Promise.resolve(core.connect("memory:suite")), stop: () => Promise.resolve() });
});

busSuite("hub over a unix socket", async () => {
  const folder = await mkdtemp(join(tmpdir(), "lw-bus-"));
  const hub = await listen(`unix:${join(folder, "hub.sock")}`);
  return {
    broker: () => connectHub(hub.url),
    stop: async () => {
      await hub.close({ drainMs: 0 });
      await rm(folder, { recursive: true });
    },
  };
});

busSuite("hub over http, with a token", async () => {
  const token = "a-secret-token";
  const hub = await listen("http://127.0.0.1:0", { token });
  return { broker: () => connectHub(hub.url, { token }), stop: () => hub.close({ drainMs: 0 }) };
});

busSuite("hub over a port between threads", async () => {
  const hub = await listen("http://127.0.0.1:0");
  return {
    broker: async () => {
      const { port1, port2 } = new MessageChannel();
      hub.attach(port1);
      return connectPort(port2);
    },
    stop: () => hub.close({ drainMs: 0 }),
  };
});

busSuite("NATS", async () => {
  const server = await natsServer();
  return { broker: () => connectNats(server.url), stop: () => server.stop() };
});
