// Servers that tests need, each on a free port of its own, with a folder of its own, killed at the end whatever happens.
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer, connect as connectSocket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";

const children = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
});

export interface NatsServer {
  readonly url: string;
  /** As when the machine fails: nothing is closed. */
  kill(): Promise<void>;
  /** On the same port and folder. */
  start(): Promise<void>;
  /** For good; the folder is removed. */
  stop(): Promise<void>;
}

export interface NatsServerOptions {
  /** Lines of a configuration file, after port and store. */
  readonly config?: string;
}

/** A server of NATS with JetStream. The program `nats-server` must be installed. */
export async function natsServer({ config = "" }: NatsServerOptions = {}): Promise<NatsServer> {
  const folder = mkdtempSync(path.join(tmpdir(), "latentwire-nats-"));
  const { writeFileSync } = await import("node:fs");
  const port = await freePort();
  const file = path.join(folder, "server.conf");
  writeFileSync(file, `listen: "127.0.0.1:${port}"\njetstream { store_dir: "${path.join(folder, "store")}" }\n${config}\n`);
  let child: ChildProcess | undefined;
  const kill = async (): Promise<void> => {
    if (child === undefined) return;
    const gone = once(child, "exit");
    child.kill("SIGKILL");
    await gone;
    children.delete(child);
    child = undefined;
  };
  const start = async (): Promise<void> => {
    child = spawn("nats-server", ["-c", file], { stdio: ["ignore", "ignore", "pipe"] });
    children.add(child);
    await ready(child, port);
  };
  await start();
  return {
    url: `nats://127.0.0.1:${port}`,
    kill,
    start,
    stop: async () => {
      await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/** Resolves when the program takes connections; rejects with what it said if it ends before. */
async function ready(child: ChildProcess, port: number): Promise<void> {
  const said: Buffer[] = [];
  child.stderr?.on("data", (data: Buffer) => {
    said.push(data);
  });
  const ended = new Promise<never>((_resolve, reject) => {
    child.once("error", (cause) => {
      reject(new Error(`${child.spawnfile} could not be started; it must be installed for this test`, { cause }));
    });
    child.once("exit", (code) => {
      reject(new Error(`${child.spawnfile} ended with ${String(code)}: ${Buffer.concat(said).toString()}`));
    });
  });
  ended.catch(() => undefined);
  while (!(await Promise.race([answers(port), ended]))) await new Promise((resolve) => setTimeout(resolve, 20));
  // nothing reads it any more
  child.stderr?.removeAllListeners("data").resume();
}

async function answers(port: number): Promise<boolean> {
  const socket = connectSocket(port, "127.0.0.1");
  return new Promise((resolve) => {
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => {
      resolve(false);
    });
  });
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
