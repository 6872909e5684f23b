import { bundledModel, loadModel, pipe } from "latentwire";

await using model = await loadModel(bundledModel());
const facts = "mia has the red key. tom lives in oslo. ann has the blue coin. ben lives in lima. zoe has the green ring.";
const reader = model.agent({ name: "reader", user: facts, think: { policy: "hidden", steps: 8 } });
const solver = model.agent({ name: "solver", generate: { maxTokens: 16 } });

const run = pipe(reader, solver).stream("where does tom live?", { medium: "kv" });
for await (const event of run) {
  if (event.type === "hop-end") console.error(`${event.hop.positions} positions crossed, ${event.hop.bytes} bytes moved`);
  if (event.type === "text-delta" && event.final) process.stdout.write(event.delta);
}
const { hops, totals, asText } = await run.answer;
console.table(hops);
console.log({ totals, asText });
