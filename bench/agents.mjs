// Four agents end to end by text and by kv. The first reads facts, the others the question and what came before: notes of the others as text, or their cells.
// By kv they think the same tokens, or latent steps, or nothing beyond what they read. What they answer is no matter here: `evaluation.mjs` asks that.
import { interleave, row } from "./harness.mjs";
import { smallModels } from "./models.mjs";
import { pipe } from "../dist/index.js";

const names = ["planner", "critic", "refiner", "writer"];
const facts =
  "mia has the red key. tom lives in oslo. ana has the blue coin. ben lives in lima. zoe has the green ring. max lives in bern.";
const question = "where does tom live?";
const answerTokens = 8;
const arms = [
  { name: "text", medium: "text", thoughts: "thoughts of up to 32 tokens", think: { policy: "tokens", maxTokens: 32 } },
  { name: "kv", medium: "kv", thoughts: "thoughts of up to 32 tokens", think: { policy: "tokens", maxTokens: 32 } },
  { name: "kv of latent steps", medium: "kv", thoughts: "thoughts of up to 8 steps", think: { policy: "hidden", steps: 8 } },
  { name: "kv of what was read", medium: "kv", thoughts: "no thoughts", think: { policy: "hidden", steps: 0 } },
];
const titleOf = ({ name }) => `4 agents by ${name}`;

async function measure({ model, label }) {
  const pool = await model.createPool({ contextLength: 2048, maxSequences: 4 });
  const counts = {};
  const cases = arms.map(({ name, medium, think }) => {
    const generate = { maxTokens: answerTokens };
    const agents = names.map((agent, i) => model.agent({ name: agent, ...(i === 0 && { user: facts }), think, generate }));
    const team = pipe(...agents);
    return async () => {
      const { totals } = await team.run(question, { medium, notes: "message", pool });
      const { ms, prefillTokens, latentSteps, decodedTokens, bytes } = totals;
      counts[name] = { prefillTokens, latentSteps, decodedTokens, bytes };
      return { [name]: ms };
    };
  });
  const times = await interleave(cases);
  await pool.dispose();
  return arms.map((arm) => ({
    ...row({
      name: titleOf(arm),
      shape: `${arm.thoughts}; ${label}`,
      ms: times[arm.name],
      peers: arm.name === "text" ? {} : { text: times.text },
      ratio: arm.name === "text" ? null : times.text / times[arm.name],
    }),
    ...counts[arm.name],
  }));
}

export async function run(want) {
  if (!arms.some((arm) => want(titleOf(arm)))) return [];
  const rows = [];
  for (const model of await smallModels()) rows.push(...(await measure(model)));
  return rows.filter((one) => want(one.name));
}
