// Four agents end to end, each reading the question and what the ones before it thought, by text and by kv: the same thoughts in tokens handed over by
// both, and latent thoughts instead. What they say is no matter here; `evaluation.mjs` asks that.
import { interleave, row } from "./harness.mjs";
import { smallModels } from "./models.mjs";
import { pipe } from "../dist/index.js";

const names = ["planner", "critic", "refiner", "writer"];
const facts =
  "mia has the red key. tom lives in oslo. ana has the blue coin. ben lives in lima. zoe has the green ring. max lives in bern.";
const question = "where does tom live?";
const thoughtTokens = 32;
const latentSteps = 8;
const answerTokens = 8;

function pipeOf(model, think) {
  const generate = { maxTokens: answerTokens };
  return pipe(...names.map((name, i) => model.agent({ name, ...(i === 0 && { user: facts }), think, generate })));
}

async function measure({ model, label }) {
  const pool = await model.createPool({ contextLength: 2048, maxSequences: 4 });
  const tokens = pipeOf(model, { policy: "tokens", maxTokens: thoughtTokens });
  const latent = pipeOf(model, { policy: "hidden", steps: latentSteps });
  const counts = {};
  const timed = (name, agents, medium) => async () => {
    const { totals } = await agents.run(question, { medium, notes: "message", pool });
    const { ms, prefillTokens, latentSteps: steps, decodedTokens, bytes } = totals;
    counts[name] = { prefillTokens, latentSteps: steps, decodedTokens, bytes };
    return { [name]: ms };
  };
  const times = await interleave([timed("text", tokens, "text"), timed("kv", tokens, "kv"), timed("kv of latent steps", latent, "kv")]);
  await pool.dispose();
  return ["text", "kv", "kv of latent steps"].map((name) => ({
    ...row({
      name: `4 agents by ${name}`,
      shape: `${name.endsWith("steps") ? `thoughts of ${latentSteps} steps` : `thoughts of up to ${thoughtTokens} tokens`}; ${label}`,
      ms: times[name],
      peers: name === "text" ? {} : { text: times.text },
      ratio: name === "text" ? null : times.text / times[name],
    }),
    ...counts[name],
  }));
}

export async function run(want) {
  if (!want("4 agents by text") && !want("4 agents by kv of latent steps")) return [];
  const rows = [];
  for (const model of await smallModels()) rows.push(...(await measure(model)));
  return rows.filter((one) => want(one.name));
}
