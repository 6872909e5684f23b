// The worker of terminate.test.ts: keeps jobs in flight until it is stopped. Plain JavaScript, because a worker has no transpiler.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";

const { addon, mode } = workerData;
const { Tensor, accumulateMoments, diagnostics, symmetricEigen } = createRequire(import.meta.url)(addon);

const source = new Float32Array(1 << 18);
const tensor = new Tensor("f32", [source.length], source);
const rows = new Tensor("f32", [1 << 12, 64], source);
const square = new Tensor("f32", [64, 64]);

/** Starts another job whenever one ends, so that some are queued, some run and some are being delivered at any moment. */
function chain(start) {
  const next = () => start().promise.then(next, () => undefined);
  void next();
}

if (mode === "exit") {
  await Promise.all([diagnostics.sleepJob(1).promise, tensor.convert("f16").promise]);
  tensor.dispose();
} else {
  chain(() => diagnostics.sleepJob(0));
  chain(() => diagnostics.sleepJob(Math.random() * 3));
  chain(() => tensor.convert("f16"));
  chain(() => tensor.convert("bf16"));
  // on threads of their own
  chain(() => accumulateMoments({ x: rows, centred: true }));
  chain(() => symmetricEigen(square));
  void diagnostics.sleepJob(3_600_000).promise.catch(() => undefined);
  parentPort.postMessage("running");
  if (mode === "process-exit") setTimeout(() => process.exit(7), 2);
  if (mode === "throw") {
    setTimeout(() => {
      throw new Error("on purpose");
    }, 2);
  }
}
