// Two experts read different facts at the same time and do not see each other; a third agent joins what they hold and answers.
import { bundledModel, loadModel, team } from "latentwire";

await using model = await loadModel(bundledModel());
const expert = (name: string, facts: string) => model.agent({ name, user: facts, think: { policy: "hidden", steps: 8 } });
const experts = [
  expert("people", "mia has the red key. ann has the blue coin."),
  expert("places", "tom lives in oslo. ben lives in lima."),
];
const join = model.agent({ name: "join", generate: { maxTokens: 16 } });

for (const mode of ["concat", "recompute"] as const) {
  const { text, hops, totals } = await team({ experts, join }).run("where does tom live?", { mode });
  console.log(`${mode}: ${text.trim()}`);
  console.table(hops);
  console.log(totals);
}
