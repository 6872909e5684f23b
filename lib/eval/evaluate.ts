// The whole of an evaluation: models, suite and arms in, a result that can be shown and kept out.
import os from "node:os";
import process from "node:process";
import { checkArray, checkInteger, checkKeys, checkString, fallback, invalid } from "../check.js";
import { checkSeed } from "../fits/input.js";
import { withSignal } from "../jobs.js";
import { Model } from "../models/model.js";
import { Translator } from "../spaces/translator.js";
import { armNames, parseArm, type Arm } from "./arms.js";
import { openJournal, type EvalSettings } from "./journal.js";
import { ModelSubject } from "./models.js";
import { numbersOf, type EvalNumbers } from "./result.js";
import { runSuite, type EvalBudget, type EvalProgress, type EvalRun } from "./run.js";
import { withPrompts, type Suite, type SuitePrompts } from "./suite.js";
import { claimsOf, verdictOf, type Claim } from "./verdict.js";

/** Options of {@link evaluate}. */
export interface EvaluateOptions {
  /** See {@link readSuite} and {@link relaySuite}. */
  readonly suite: Suite;
  /** The model of the agent that sees the facts. */
  readonly reader: Model;
  /** The model of the agent that is asked. Default: the reader's. */
  readonly solver?: Model;
  /**
   * Besides `single`, `text`, `none`, `shuffled` and `noise`, which are always there: a medium, or a medium and a policy, such as `kv/hidden8`.
   * Default `kv` and `latent`, between two models `latent` and `shuffled-translator`.
   */
  readonly arms?: readonly string[];
  /** Latent steps of `latent`, 1 to 10000. Default 8. */
  readonly steps?: number;
  /** Carry latents between two models. Without them there are no latents between the two. */
  readonly translators?: EvalTranslators;
  /** What the agents are told and how much they may say, in place of what the suite says. */
  readonly prompts?: Partial<SuitePrompts>;
  /** How many items. Default: all. */
  readonly n?: number;
  /** Of the order of the documents and of the noise. Default 0. */
  readonly seed?: number;
  /**
   * Items that are answered side by side, 1 to 32. Default 1: times are those of one item alone, and answers repeat to the bit. More is faster on large
   * models; times are then what an item costs among others.
   */
  readonly parallel?: number;
  /** Stop before the last item when the intervals of the arms have separated, or the time is over. Default: all items. */
  readonly budget?: EvalBudget;
  /** A file that keeps what is done; an evaluation that was stopped goes on from there. */
  readonly journal?: string;
  readonly signal?: AbortSignal;
  /** Called for every answer. */
  readonly onProgress?: (progress: EvalProgress) => void;
}

/** A translator and its placebo; see {@link fitTranslator}. */
export interface EvalTranslators {
  readonly fitted: Translator;
  /** The same method, fitted on pairs that do not belong together (`placebo: true`). */
  readonly shuffled: Translator;
}

/** Facts of a model in a result. */
export interface EvalModel {
  readonly name: string;
  readonly architecture: string;
  readonly parameters: number;
  /** SHA-256 of its file, hex. */
  readonly fingerprint: string;
}

/** What an evaluation found. Plain data. */
export interface EvalResult extends EvalNumbers {
  /** In words, what to use and why. */
  readonly verdict: string;
  readonly claims: readonly Claim[];
  readonly reader: EvalModel;
  readonly solver: EvalModel;
  readonly translator: string | null;
  readonly seed: number;
  readonly parallel: number;
  readonly hardware: string;
  /** Some items, whole. */
  readonly examples: readonly EvalExample[];
}

/** One item and what every arm answered. */
export interface EvalExample {
  readonly id: string;
  readonly facts: string;
  readonly question: string;
  readonly answers: readonly { readonly arm: string; readonly answer: string; readonly right: boolean }[];
}

const optionNames = [
  "suite",
  "reader",
  "solver",
  "arms",
  "steps",
  "translators",
  "prompts",
  "n",
  "seed",
  "parallel",
  "budget",
  "journal",
  "signal",
  "onProgress",
];

/**
 * Asks agents of one or two models all items of a suite, once for every arm, greedily, and says what the media are worth against text and placebos.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_SUITE_FORMAT` (no other document to shuffle with),
 * `ERR_LATENT_EVAL_RESUME`, `ERR_LATENT_SPACE_MISMATCH` (kv between two models, latents without a translator), `ERR_LATENT_CONTEXT_OVERFLOW`; the
 * signal's reason on abort
 */
export async function evaluate(options: EvaluateOptions): Promise<EvalResult> {
  checkKeys("options", options, optionNames);
  const { reader, translators, signal, journal, onProgress, budget } = options;
  const solver = fallback(options.solver, reader);
  for (const [name, model] of Object.entries({ reader, solver } as Record<string, unknown>))
    if (!(model instanceof Model)) throw invalid(name, "a Model", model);
  const seed = checkSeed(fallback(options.seed, 0));
  const steps = checkInteger("steps", fallback(options.steps, 8), 1, 10_000);
  const parallel = checkInteger("parallel", fallback(options.parallel, 1), 1, 32);
  const suite = withPrompts(options.suite, fallback(options.prompts, {}));
  const names = armNames(options.arms === undefined ? undefined : checkArray("arms", options.arms), translators !== undefined);
  const arms = usable(
    names.map((name) => parseArm(name, steps, translators !== undefined)),
    reader === solver || translators !== undefined,
    options.arms,
  );
  const subject = await ModelSubject.create({
    ...{ reader, solver, suite, arms, parallel, seed },
    translators: checkTranslators(translators),
    signal: signal ?? new AbortController().signal,
  });
  await using _ = subject;
  const translator = translators === undefined ? null : describe(translators.fitted);
  const settings = settingsOf(suite, arms, { reader: modelOf(reader), solver: modelOf(solver), seed, translator });
  const opened = journal === undefined ? undefined : await openJournal(checkString("journal", journal), settings);
  try {
    const run = await runSuite(suite, subject, {
      seed,
      ...(options.n !== undefined && { n: options.n }),
      ...(budget !== undefined && { budget }),
      ...(opened !== undefined && { journal: opened }),
      ...(onProgress !== undefined && { onProgress }),
      ...withSignal(signal),
    });
    return resultOf(run, { reader: modelOf(reader), solver: modelOf(solver), translator, seed, parallel });
  } finally {
    await opened?.close();
  }
}

function checkTranslators(given: EvalTranslators | undefined): Partial<EvalTranslators> {
  if (given === undefined) return {};
  checkKeys("translators", given, ["fitted", "shuffled"]);
  for (const [name, one] of Object.entries({ fitted: given.fitted, shuffled: given.shuffled } as Record<string, unknown>))
    if (!(one instanceof Translator)) throw invalid(`translators.${name}`, "a Translator", one);
  return given;
}

/** In a few words; the count tells two fits apart. */
function describe({ card: { method, maps, report } }: Translator): string {
  const fitted = report === undefined ? "" : `, fitted on ${report.count} rows, ${report.verdict}`;
  return `${method}${maps === undefined ? "" : ` by ${maps}`}${fitted}`;
}

/** Between two models without a translator text is all that there is, unless more was asked for, which is then refused with the reason. */
function usable(arms: readonly Arm[], latents: boolean, asked: readonly string[] | undefined): Arm[] {
  if (latents) return [...arms];
  return arms
    .filter(
      ({ name, medium, message }) =>
        (asked?.includes(name) ?? false) || medium === null || medium === "text" || message === "noise" || name === "shuffled",
    )
    .map((arm) => (arm.name === "shuffled" ? { ...arm, medium: "text", policy: { kind: "tokens" } } : arm));
}

function settingsOf(suite: Suite, arms: readonly Arm[], more: EvalSettings): EvalSettings {
  return { suite: suite.name, items: suite.digest, prompts: suite.prompts, arms, ...more };
}

function modelOf(model: Model): EvalModel {
  const { architecture, parameters, fingerprint, description } = model.info;
  return { name: model.metadata("general.name") ?? description, architecture, parameters, fingerprint };
}

function resultOf(run: EvalRun, about: Pick<EvalResult, "reader" | "solver" | "translator" | "seed" | "parallel">): EvalResult {
  const numbers = numbersOf(run);
  const { reader, solver } = about;
  const subject = reader.fingerprint === solver.fingerprint ? reader.name : `${reader.name} to ${solver.name}`;
  const examples = examplesOf(run);
  return { ...numbers, verdict: verdictOf(numbers, subject), claims: claimsOf(numbers), ...about, hardware: hardware(), examples };
}

const mostExamples = 6;

/** The first item of each of the first documents. */
function examplesOf({ suite, records }: EvalRun): EvalExample[] {
  const items = new Map(suite.items.map((item) => [item.id, item]));
  const seen = new Set<string>();
  const examples: EvalExample[] = [];
  for (const { id, arms } of records) {
    const item = items.get(id);
    if (item === undefined || seen.has(item.facts) || examples.length === mostExamples) continue;
    seen.add(item.facts);
    const answers = Object.entries(arms).map(([arm, { answer, right }]) => ({ arm, answer, right }));
    examples.push({ id, facts: item.facts, question: item.question, answers });
  }
  return examples;
}

function hardware(): string {
  const processor = os.cpus()[0]?.model.trim() ?? "unknown processor";
  return `${processor}, ${os.cpus().length} cores, ${process.platform} ${process.arch}, Node ${process.version}`;
}
