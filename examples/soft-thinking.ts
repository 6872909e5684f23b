// Four latent steps that mix embeddings instead of choosing tokens, then an answer in words.
import { bundledModel, createThoughtStep, loadModel, openTokenTable } from "latentwire";

const path = bundledModel("finch");
await using model = await loadModel(path);
await using pool = await model.createPool({ contextLength: 256 });
const sequence = pool.sequence();
await sequence.prefill("mia has the red key. who has the red key?");

using table = await openTokenTable(path);
using soft = createThoughtStep(table, { temperature: 0.7, topK: 16, topP: 0.95 });
for (let step = 0; step < 4; step++) {
  using logits = await sequence.logits();
  const { embeddings, entropyBits, effectiveTokens } = await soft.run(logits);
  console.log(`entropy ${entropyBits[0]?.toFixed(2)} bits, ${effectiveTokens[0]?.toFixed(1)} tokens`);
  await sequence.prefill(embeddings);
  embeddings.dispose();
}
for await (const { text } of sequence.generate({ maxTokens: 8 })) process.stdout.write(text);
