// Servers that benchmarks start, and packages of bench/node_modules that they can do without.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createRequire } from "node:module";
import net from "node:net";
import { pathToFileURL } from "node:url";

const require = createRequire(import.meta.url);

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
