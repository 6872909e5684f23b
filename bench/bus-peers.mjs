// Starts the other ends of the benchmarks of the bus, and waits for what they say.
import { fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { freePort, startServer } from "./servers.mjs";

/** A NATS server of its own, in this folder; undefined where it is not installed. */
export async function startNatsServer(folder) {
  const port = await freePort();
  const stop = await startServer("nats-server", ["-js", "-a", "127.0.0.1", "-p", String(port), "-sd", folder], port);
  return stop === undefined ? undefined : { url: `nats://127.0.0.1:${port}`, address: `127.0.0.1:${port}`, stop };
}

const program = fileURLToPath(new URL("bus-peer.mjs", import.meta.url));

export class Peer {
  #waiting = new Map();
  #messages = new Map();

  constructor(end) {
    this.end = end;
    end.on("message", (message) => {
      const key = `${message.what === "failed" ? "ready" : message.what} ${message.id}`;
      const take = this.#waiting.get(key);
      if (take === undefined) this.#messages.set(key, [...(this.#messages.get(key) ?? []), message]);
      else {
        this.#waiting.delete(key);
        take(message);
      }
    });
  }

  static inProcess() {
    return new Peer(fork(program));
  }

  static inWorker() {
    return new Peer(new Worker(program));
  }

  /** Resolves with what it answers when it has begun. */
  async ask(what, id, given = {}, transfer = []) {
    const answer = this.next("ready", id);
    if (this.end instanceof Worker) this.end.postMessage({ what, id, ...given }, transfer);
    else this.end.send({ what, id, ...given });
    const { result, error } = await answer;
    if (error !== undefined) throw new Error(error);
    return result;
  }

  /** The next message of this kind; one that came already counts. */
  next(what, id) {
    const key = `${what} ${id}`;
    const [first, ...rest] = this.#messages.get(key) ?? [];
    this.#messages.set(key, rest);
    if (first !== undefined) return Promise.resolve(first);
    return new Promise((resolve) => this.#waiting.set(key, resolve));
  }

  async stop() {
    const gone = once(this.end, "exit");
    if (this.end instanceof Worker) this.end.postMessage({ what: "end" });
    else this.end.send({ what: "end" });
    await gone;
  }
}
