// Runs in a worker: loads the bundled model from the built package, keeps several sequences busy and two that exchange what they hold, and says when they are. `finish` in the worker's
// data makes it end by itself instead.
import { parentPort, workerData } from "node:worker_threads";

const { bundledModel, loadModel } = await import(workerData.package);
const loading = loadModel(bundledModel());
if (workerData.stage === "load") parentPort.postMessage("busy");
const model = await loading;
const pool = await model.createPool({ contextLength: 2048, maxSequences: 6 });
const busy = Array.from({ length: 4 }, async (_, i) => {
  const sequence = pool.sequence();
  await sequence.prefill("mia has the red key. tom lives in oslo.", { hidden: "last" });
  if (i === 0) parentPort.postMessage("busy");
  const steps = workerData.finish ? 8 : 100_000;
  await (i % 2 === 0
    ? sequence.think({ steps: Math.min(steps, 400) })
    : sequence.generate({ maxTokens: steps, temperature: 2, seed: i }).result);
});
busy.push(
  (async () => {
    const [source, target] = [pool.sequence(), pool.sequence()];
    await source.prefill("ann has the blue coin. ben lives in lima.");
    for (let round = 0; round < (workerData.finish ? 3 : 100_000); round++) {
      const kv = await source.exportKv({ format: round % 2 === 0 ? "q8_0" : "f32" });
      await target.importKv(round % 3 === 0 ? kv : kv.records({ bufferBytes: 4096 }));
      await target.truncate(0);
      kv.dispose();
    }
  })(),
);
await Promise.allSettled(busy);
if (workerData.finish) {
  await pool.dispose();
  await model.dispose();
  parentPort.postMessage("done");
}
