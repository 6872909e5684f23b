// A sequence is saved, restored in another pool, and both continue alike.
import { bundledModel, loadModel } from "latentwire";

await using model = await loadModel(bundledModel());
await using first = await model.createPool({ contextLength: 512, maxSequences: 1 });
const reader = first.sequence();
await reader.prefill([{ role: "user", content: "mia has the red key. tom lives in oslo. ann has the blue coin. ben lives in lima." }]);
await reader.think({ steps: 8 });
const saved = await reader.save();
console.log(`${reader.length} positions saved in ${saved.length} bytes`);

await using second = await model.createPool({ contextLength: 512, maxSequences: 1 });
const solver = await second.restore(saved);
const answers: string[] = [];
for (const sequence of [reader, solver]) {
  await sequence.prefill([{ role: "user", content: "where does tom live?" }]);
  answers.push((await sequence.generate({ maxTokens: 16 }).result).text.trim());
}
console.log(answers);
