// A user's project: the package in the main thread and in a worker thread at once. Copied and run by scripts/test-consumer.mjs.
import { createRequire } from "node:module";
import { Worker, isMainThread, parentPort } from "node:worker_threads";
import { Tensor } from "latentwire";

const tensor = await Tensor.fromTyped("f32", [4], Float32Array.of(0.5, 1, 2, 4)).convert("bf16");
const numbers = String(tensor.toFloat32());
if (isMainThread) {
  const worker = new Worker(new URL(import.meta.url));
  const theirs = await new Promise((resolve, reject) => {
    worker.once("message", resolve);
    worker.once("error", reject);
  });
  await worker.terminate();
  if (numbers !== "0.5,1,2,4" || theirs !== numbers) throw new Error(`got ${numbers} and ${theirs}`);
  console.log(`ok ${createRequire(import.meta.url)("latentwire/package.json").version}`);
} else {
  parentPort?.postMessage(numbers);
}
