// `latentwire demo`: a reader sees facts, a solver sees a question. First one question by each medium, and the kv hand-over against one single pass over
// the same tokens, because "lossless" is a claim that must be shown. Then, on the bundled pair, many questions beside placebos, by one model and by two
// with a translator between them, with a report to look at.
import path from "node:path";
import type { Agent } from "../agents/agent.js";
import type { Medium, RunResult } from "../agents/events.js";
import { pipe } from "../agents/pipe.js";
import { evaluate, type EvalResult } from "../eval/evaluate.js";
import { argmax } from "../kv/quality.js";
import { bundledModel } from "../models/bundled.js";
import type { Model } from "../models/model.js";
import type { Sequence } from "../models/sequence.js";
import { Models, plain, progressLines, relaySuiteFor } from "./eval.js";
import type { ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";
import { writePage } from "./report.js";

const facts = "mia has the red key. tom lives in oslo. ana has the blue coin. ben lives in lima. zoe has the green ring.";
const question = "where does tom live?";
const latentSteps = 8;
const losslessTokens = 64;
const answerTokens = 16;
/** For each question, what a translator is fitted on. */
const textsPerQuestion = 2.5;

export interface DemoCommand extends ModelAccess {
  readonly model?: string;
  readonly n: number;
  readonly out: string;
}

interface Arm {
  readonly medium: Medium;
  readonly answer: string;
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  readonly bytes: number;
  readonly ms: number;
}

export async function demo(output: Output, options: DemoCommand, signal: AbortSignal): Promise<void> {
  const bundled = options.model === undefined;
  await using models = new Models(options);
  const model = await models.load(options.model ?? bundledModel(), signal);
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
  const evaluations = bundled ? await evaluatePair(output, models, model, options.n, signal) : [];
  const report = bundled ? path.resolve(options.out, "report.html") : null;
  if (report !== null) await writePage(report, evaluations);
  const about = {
    path: model.path,
    description: model.info.description,
    architecture: model.info.architecture,
    parameters: model.info.parameters,
    fingerprint: model.info.fingerprint,
    bundled,
  };
  output.result({ model: about, arms, lossless, evaluations, report }, () =>
    [
      `facts:    ${facts}`,
      `question: ${question}`,
      "",
      mediaTable(output, arms),
      "",
      `kv hand-over against one pass over the same tokens, ${losslessTokens} greedy tokens: ` +
        `${lossless.sameTokens ? "the same tokens" : "DIFFERENT TOKENS"}, largest difference of a logit ${lossless.maxAbsLogitDiff}`,
      ...evaluations.flatMap((one) => ["", output.strong(titleOf(one)), "", plain(output, one)]),
      "",
      report === null
        ? "Is it right, and more often than a placebo? latentwire eval --model FILE --suite FILE tells."
        : `report: ${report}`,
    ].join("\n"),
  );
}

function mediaTable(output: Output, arms: readonly Arm[]): string {
  const rows = arms.map((arm) => [
    arm.medium,
    arm.answer.trim(),
    arm.prefillTokens,
    arm.latentSteps,
    arm.decodedTokens,
    arm.bytes,
    Number(arm.ms.toFixed(1)),
  ]);
  return output.table(["medium", "answer", "prefill tokens", "latent steps", "decoded tokens", "bytes moved", "ms"], rows);
}

function titleOf({ reader, solver, n, translator }: EvalResult): string {
  const agents = translator === null ? `reader and solver are ${reader.name}` : `the reader is ${reader.name}, the solver ${solver.name}`;
  return `${n} questions on unseen documents, ${agents}${translator === null ? "" : `; translator: ${translator}`}`;
}

/** Of one model, and of two with a translator between them. */
async function evaluatePair(output: Output, models: Models, finch: Model, items: number, signal: AbortSignal): Promise<EvalResult[]> {
  const common = { suite: relaySuiteFor(items, 0), n: items, signal, onProgress: progressLines(output, items) };
  output.progress(`asking ${items} questions on unseen documents, by every medium and placebo`);
  const alone = await evaluate({ ...common, reader: finch });
  const wren = await models.load(bundledModel("wren"), signal);
  const fitTexts = Math.max(80, Math.round(textsPerQuestion * items));
  const fit = { suite: "relay", fitTexts, steps: latentSteps, maps: "slot", method: "ridge", seed: 0 } as const;
  const translators = await models.translators(output, fit, wren, finch, signal);
  output.progress("asking finch the same questions about what wren has read");
  return [alone, await evaluate({ ...common, reader: wren, solver: finch, ...(translators !== undefined && { translators }) })];
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
