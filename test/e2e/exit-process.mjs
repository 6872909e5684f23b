// Ends with process.exit in the middle of what its argument says, after so many milliseconds.
import process from "node:process";
import { bundledModel, loadModel } from "../../dist/index.js";

const [, , what, ms] = process.argv;
setTimeout(() => process.exit(7), Number(ms));
const model = await loadModel(bundledModel());
const pool = await model.createPool({ contextLength: 512 });
const sequence = pool.sequence();
await sequence.prefill("mia has the red key");
for (;;) {
  if (what === "prefill") await sequence.prefill("tom lives in oslo. ".repeat(20));
  else if (what === "think") await sequence.think({ steps: 400 });
  else await sequence.generate({ maxTokens: 400, temperature: 1 }).result;
  await sequence.truncate(1);
}
