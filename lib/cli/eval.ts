// `latentwire eval`: what media and policies are worth on the user's model and task, against text and against placebos.
import path from "node:path";
import { invalid } from "../check.js";
import { evaluate, type EvalResult, type EvalTranslators } from "../eval/evaluate.js";
import { relaySuite, relayTexts } from "../eval/relay.js";
import type { EvalProgress } from "../eval/run.js";
import { readSuite, type Suite, type SuitePrompts } from "../eval/suite.js";
import { bundledModel } from "../models/bundled.js";
import { wholeTable } from "../eval/table.js";
import type { Model } from "../models/model.js";
import type { SlotMaps } from "../spaces/fit.js";
import type { TranslatorMethod } from "../spaces/methods.js";
import type { Translator } from "../spaces/translator.js";
import { openModel, type ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";
import { writeReports } from "./report.js";
import { readTexts } from "./texts.js";
import { fitBoth } from "./translators.js";

export interface EvalCommand extends ModelAccess {
  readonly model?: string;
  readonly models?: readonly string[];
  readonly suite: string;
  readonly arms?: readonly string[];
  readonly steps?: number;
  readonly n?: number;
  readonly seed: number;
  readonly parallel: number;
  readonly budget?: true | number;
  readonly out?: string;
  readonly readerPrompt?: string;
  readonly solverPrompt?: string;
  readonly noteTokens?: number;
  readonly answerTokens?: number;
  readonly texts?: string;
  readonly fitTexts: number;
  readonly maps: SlotMaps | "auto";
  readonly method: TranslatorMethod | "auto";
}

type FitOption = "suite" | "texts" | "fitTexts" | "steps" | "maps" | "method" | "seed" | "out";

export async function evalCommand(output: Output, options: EvalCommand, signal: AbortSignal): Promise<void> {
  const [first, second] = modelFiles(options);
  const suite = await suiteOf(options);
  await using models = new Models(options);
  const reader = await models.load(first, signal);
  const solver = second === undefined || second === first ? reader : await models.load(second, signal);
  const { arms, steps, n, seed, parallel, budget, out } = options;
  const items = Math.min(n ?? suite.items.length, suite.items.length);
  const translators = reader === solver ? undefined : await models.translators(output, options, reader, solver, signal);
  const result = await evaluate({
    ...{ suite, reader, solver, seed, parallel, prompts: promptsOf(options), signal },
    ...(translators !== undefined && { translators }),
    ...(arms !== undefined && { arms }),
    ...(steps !== undefined && { steps }),
    n: items,
    ...(budget !== undefined && { budget: budget === true ? {} : { seconds: budget } }),
    ...(out !== undefined && { journal: path.join(out, "items.jsonl") }),
    onProgress: progressLines(output, items),
  });
  if (out !== undefined) output.progress(`written: ${(await writeReports(out, result)).join(", ")}`);
  output.result(result, () => plain(output, result));
}

/** The numbers and the words, for a terminal. */
export function plain(output: Output, result: EvalResult): string {
  const { head, rows } = wholeTable(result);
  return [output.table(head, rows), "", result.verdict].join("\n");
}

function modelFiles({ model, models }: EvalCommand): readonly [string, string | undefined] {
  if (model !== undefined && models !== undefined) throw invalid("--model and --models", "one of the two", "both");
  const two = models?.length === 1 ? models.flatMap((files) => files.split(",")) : models;
  if (two !== undefined && two.length !== 2) throw invalid("--models", "two files: the reader's and the solver's", two.join(" "));
  return [model ?? two?.[0] ?? bundledModel(), two?.[1]];
}

async function suiteOf({ suite, n = 1000, seed }: EvalCommand): Promise<Suite> {
  return suite === "relay" ? relaySuiteFor(n, seed) : await readSuite(suite);
}

/** Items of several documents however few are asked, so that there is another one to shuffle with. */
export function relaySuiteFor(n: number, seed: number): Suite {
  return relaySuite({ items: Math.max(n, 32), seed });
}

function promptsOf({ readerPrompt, solverPrompt, noteTokens, answerTokens }: EvalCommand): Partial<SuitePrompts> {
  return {
    ...(readerPrompt !== undefined && { reader: readerPrompt }),
    ...(solverPrompt !== undefined && { solver: solverPrompt }),
    ...(noteTokens !== undefined && { noteTokens }),
    ...(answerTokens !== undefined && { answerTokens }),
  };
}

/** A line now and then, with what is left. */
export function progressLines(output: Output, items: number): (progress: EvalProgress) => void {
  let last = 0;
  return ({ ratio, etaMs, items: done }) => {
    const now = performance.now();
    if (now - last < 2000 && ratio < 1) return;
    last = now;
    const left = etaMs === undefined ? "" : `, ${(etaMs / 1000).toFixed(0)} s left`;
    output.progress(`${(100 * ratio).toFixed(0).padStart(3)} %, ${done} of ${items} items${left}`);
  };
}

/** The models of a command and the translators between them, disposed of in the end. */
export class Models {
  readonly #access: ModelAccess;
  readonly #loaded: Model[] = [];
  readonly #fitted: Translator[] = [];

  constructor(access: ModelAccess) {
    this.#access = access;
  }

  async load(file: string, signal: AbortSignal): Promise<Model> {
    const model = await openModel(file, this.#access, signal);
    this.#loaded.push(model);
    return model;
  }

  /**
   * Fitted on the file of texts, or on documents of relay's world that are not held out, and kept in the folder of an evaluation; undefined where there are no
   * texts.
   */
  async translators(
    output: Output,
    { suite, texts, fitTexts, steps = 8, maps, method, seed, out }: Pick<EvalCommand, FitOption>,
    from: Model,
    to: Model,
    signal: AbortSignal,
  ): Promise<EvalTranslators | undefined> {
    if (texts === undefined && suite !== "relay") return undefined;
    const given = texts === undefined ? relayTexts(fitTexts, seed) : await readTexts(texts);
    const both = await fitBoth(output, { from, to, texts: given, steps, maps, method, seed }, out, signal);
    this.#fitted.push(both.fitted, both.shuffled);
    return both;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const translator of this.#fitted) translator.dispose();
    for (const model of this.#loaded) await model.dispose();
  }
}
