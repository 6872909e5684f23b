// Workers that are ended while the engine runs inside them, by terminate() or by their own end, with the main thread's engine at work beside them.
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { bundledModel, loadModel } from "../../lib/index.js";

const rounds = Math.min(Number(process.env["LATENTWIRE_TEST_ROUNDS"] ?? "40"), 40);
const script = new URL("engine-worker.mjs", import.meta.url);
const built = pathToFileURL(path.resolve("dist/index.js")).href;

function start(data: Readonly<Record<string, unknown>>): {
  worker: Worker;
  message: (wanted: string) => Promise<void>;
  exit: Promise<number>;
} {
  const worker = new Worker(script, { workerData: { package: built, ...data } });
  const exit = new Promise<number>((resolve) => {
    worker.once("exit", resolve);
  });
  const message = (wanted: string): Promise<void> =>
    new Promise((resolve, reject) => {
      worker.on("message", (text) => {
        if (text === wanted) resolve();
      });
      worker.once("error", reject);
    });
  return { worker, message, exit };
}

it(`terminating a worker whose engine is loading, thinking, generating and transferring, ${rounds} times, harms nobody`, async () => {
  await using model = await loadModel(bundledModel());
  await using pool = await model.createPool({ contextLength: 1024 });
  const sequence = pool.sequence();
  await sequence.prefill("mia has the red key.");
  const reference = (await (await sequence.fork()).generate({ maxTokens: 16 }).result).tokens;
  for (let round = 0; round < rounds; round++) {
    const { worker, message, exit } = start({ stage: round % 4 === 0 ? "load" : "run", finish: false });
    await message("busy");
    await new Promise((resolve) => setTimeout(resolve, round % 7));
    await worker.terminate();
    await exit;
    const fork = await sequence.fork();
    expect((await fork.generate({ maxTokens: 16 }).result).tokens).toEqual(reference);
    await fork.dispose();
  }
}, 120_000);

it("a worker may use the engine and end by itself", async () => {
  const { message, exit } = start({ stage: "run", finish: true });
  await message("done");
  expect(await exit).toBe(0);
}, 60_000);
