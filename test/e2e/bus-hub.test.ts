// A hub over every kind of connection, by the suite that all brokers must pass.
import { execFileSync } from "node:child_process";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MessageChannel } from "node:worker_threads";
import { connectHub, connectPort } from "../../lib/bus/brokers/hub/connect-hub.js";
import type { ConnectHubOptions } from "../../lib/bus/brokers/hub/connect-hub.js";
import { listen } from "../../lib/bus/brokers/hub/hub.js";
import type { HubOptions } from "../../lib/bus/brokers/hub/hub.js";
import { brokerSuite, suiteLogBytes } from "./bus-broker-suite.js";
import type { Started } from "./bus-broker-suite.js";

const limits = { logBytes: suiteLogBytes };

async function over(url: string, options: HubOptions = {}, client: ConnectHubOptions = {}): Promise<Started> {
  const hub = await listen(url, { ...options, limits });
  return { connect: () => connectHub(hub.url, client), stop: () => hub.close({ drainMs: 0 }) };
}

async function withFolder(start: (folder: string) => Promise<Started>): Promise<Started> {
  const folder = await mkdtemp(join(tmpdir(), "lw-hub-"));
  const started = await start(folder);
  return {
    connect: () => started.connect(),
    stop: async () => {
      await started.stop();
      await rm(folder, { recursive: true });
    },
  };
}

brokerSuite("hub over a unix socket", () => withFolder((folder) => over(`unix:${join(folder, "hub.sock")}`)));

brokerSuite("hub over http", () => over("http://127.0.0.1:0", { token: "a-secret-token" }, { token: "a-secret-token" }));

brokerSuite("hub over https, with certificates on both sides", () =>
  withFolder(async (folder) => {
    const [key, cert] = [join(folder, "key.pem"), join(folder, "cert.pem")];
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
    execFileSync(
      "openssl",
      [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        cert,
        ...subject,
      ],
      { stdio: "pipe" },
    );
    const tls = { key: await readFile(key), cert: await readFile(cert), ca: await readFile(cert) };
    return over("https://127.0.0.1:0", { tls }, { tls });
  }),
);

brokerSuite("hub over a port between threads", async () => {
  const hub = await listen("http://127.0.0.1:0", { limits });
  return {
    connect: async () => {
      const { port1, port2 } = new MessageChannel();
      hub.attach(port1);
      return connectPort(port2);
    },
    stop: () => hub.close({ drainMs: 0 }),
  };
});

brokerSuite("hub from its own process", async () => {
  const hub = await listen("http://127.0.0.1:0", { limits });
  return { connect: async () => hub.broker(), stop: () => hub.close({ drainMs: 0 }) };
});
