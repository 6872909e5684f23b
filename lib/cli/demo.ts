// `latentwire demo`: a reader sees facts, a solver sees a question. The same two agents run three times, and only the medium differs; then the kv
// hand-over is compared with one single pass over the same tokens, because "lossless" is a claim that must be shown.
import type { Agent } from "../agents/agent.js";
import type { Medium, RunResult } from "../agents/events.js";
import { pipe } from "../agents/pipe.js";
import { bundledModel } from "../models/bundled.js";
import { argmax } from "../kv/quality.js";
import { loadModel, type Model } from "../models/model.js";
import type { Sequence } from "../models/sequence.js";
import type { Output } from "./output.js";

const facts = "mia has the red key. tom lives in oslo. ann has the blue coin. ben lives in lima. zoe has the green ring.";
const question = "where does tom live?";
const latentSteps = 8;
const losslessTokens = 64;
const answerTokens = 16;

interface Arm {
  readonly medium: Medium;
  readonly answer: string;
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  readonly bytes: number;
  readonly ms: number;
}

export async function demo(output: Output, options: { readonly model?: string }, signal: AbortSignal): Promise<void> {
  const bundled = options.model === undefined;
  await using model = await loadModel(options.model ?? bundledModel(), { signal });
  const reader = model.agent({
    name: "reader",
    user: facts,
    think: { policy: "hidden", steps: latentSteps },
    generate: { maxTokens: 64 },
  });
  const solver = model.agent({ name: "solver", generate: { maxTokens: answerTokens } });
  const arms: Arm[] = [];
  for (const medium of ["kv", "latent", "text"] as const) {
    output.progress(`running the ${medium} arm`);
    const result = await pipe(reader, solver).run(question, { medium, notes: bundled ? "message" : "inline", signal });
    arms.push(armOf(medium, result));
  }
  output.progress("comparing the kv hand-over with one single pass");
  const lossless = await compareWithSinglePass(model, reader, solver, signal);
  const about = {
    path: model.path,
    description: model.info.description,
    architecture: model.info.architecture,
    parameters: model.info.parameters,
    fingerprint: model.info.fingerprint,
    bundled,
  };
  output.result({ model: about, arms, lossless }, () => {
    const rows = arms.map((arm) => [
      arm.medium,
      arm.answer.trim(),
      arm.prefillTokens,
      arm.latentSteps,
      arm.decodedTokens,
      arm.bytes,
      Number(arm.ms.toFixed(1)),
    ]);
    return [
      `facts:    ${facts}`,
      `question: ${question}`,
      "",
      output.table(["medium", "answer", "prefill tokens", "latent steps", "decoded tokens", "bytes moved", "ms"], rows),
      "",
      `kv hand-over against one pass over the same tokens, ${losslessTokens} greedy tokens: ` +
        `${lossless.sameTokens ? "the same tokens" : "DIFFERENT TOKENS"}, largest difference of a logit ${lossless.maxAbsLogitDiff}`,
      bundled ? "The bundled model has 1.2 M parameters and is often wrong: the costs are the point here, not the answers." : "",
    ].join("\n");
  });
}

function armOf(medium: Medium, result: RunResult): Arm {
  const { prefillTokens, latentSteps: steps, decodedTokens, bytes, ms } = result.totals;
  return { medium, answer: result.text, prefillTokens, latentSteps: steps, decodedTokens, bytes, ms };
}

// One sequence reads both prompts in one prefill. The other is handed the reader's cells and reads the solver's prompt behind them.
async function compareWithSinglePass(
  model: Model,
  reader: Agent,
  solver: Agent,
  signal: AbortSignal,
): Promise<{ maxAbsLogitDiff: number; sameTokens: boolean }> {
  await using pool = await model.createPool({ contextLength: Math.min(model.info.contextLength, 1024), maxSequences: 3, signal });
  const sender = pool.sequence();
  const first = sender.tokensOf(reader.messages(question, [], "inline"));
  await sender.prefill(first, { signal });
  const receiver = await sender.fork({ signal });
  const second = receiver.tokensOf(solver.messages(question, [], "inline"));
  await receiver.prefill(second, { signal });
  await sender.dispose();
  const single = pool.sequence();
  await single.prefill(Int32Array.of(...first, ...second), { signal });

  let maxAbsLogitDiff = 0;
  let sameTokens = true;
  for (let i = 0; i < losslessTokens; i++) {
    const [a, b] = await Promise.all([logitsOf(receiver, signal), logitsOf(single, signal)]);
    a.forEach((value, v) => {
      maxAbsLogitDiff = Math.max(maxAbsLogitDiff, Math.abs(value - (b[v] ?? Number.NaN)));
    });
    const next = argmax(a);
    sameTokens &&= next === argmax(b);
    // both read the receiver's token, so that one difference does not hide what follows
    await Promise.all([receiver.prefill([next], { signal }), single.prefill([next], { signal })]);
  }
  return { maxAbsLogitDiff, sameTokens };
}

async function logitsOf(sequence: Sequence, signal: AbortSignal): Promise<Float32Array> {
  using logits = await sequence.logits({ signal });
  return logits.toFloat32();
}
