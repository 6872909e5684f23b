// Latents of texts: what a loaded model makes of each, in rows that it could take as input itself. Two models that read the same texts give the pairs that a
// translator is fitted on.
import { basename } from "node:path";
import { checkCallback, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { withSignal } from "../jobs.js";
import { checkThought, type HiddenThought } from "../policies/thought.js";
import type { FitProgress } from "../spaces/fit.js";
import { Latent } from "../spaces/latent.js";
import { range } from "../spaces/random.js";
import { averageRows, mapRows } from "../spaces/rows.js";
import { Tensor } from "../tensor.js";
import type { ChatMessage } from "./chat.js";
import { Model } from "./model.js";
import type { Pool } from "./pool.js";
import type { Sequence } from "./sequence.js";

/**
 * What stands for a text. `slots`: the latent steps of a thought about it, one row each. `last`: the first of these alone, which is the state behind the
 * last token. `mean`: the mean of the states of all its tokens. All rows are brought to the length of the model's input rows.
 */
export type Gathering = "slots" | "last" | "mean";

/** Options of {@link gatherPairs}. */
export interface GatherPairsOptions {
  readonly from: Model;
  readonly to: Model;
  /** What both models read, at least 8 different texts; blank ones and repetitions are left out. */
  readonly texts: Iterable<string> | AsyncIterable<string>;
  /** Default `slots`. */
  readonly gather?: Gathering;
  /** Of `slots`: how both models think, as the agents will. Default `{ policy: 'hidden', steps: 8 }`. */
  readonly think?: HiddenThought;
  /** What a model reads of a text. Default: the text as a user message; of `mean`, the text alone. */
  readonly prompt?: (text: string) => string | readonly ChatMessage[];
  /** Called as texts have been read. */
  readonly onProgress?: (progress: FitProgress) => void;
  readonly signal?: AbortSignal;
}

/** Latents of two models that tell the same texts; made by {@link gatherPairs}. Holds native memory. */
export class LatentPairs {
  /** @internal */
  constructor(
    /** `[texts · slots, dx]` in the one model's space. */
    readonly from: Latent,
    /** `[texts · slots, dy]` in the other's. */
    readonly to: Latent,
    /** Rows that each text has. */
    readonly slots: number,
    /** How many texts were read. */
    readonly texts: number,
    /** Of the rows of `to`: the mean length of that model's input rows. */
    readonly length: number,
  ) {}

  /** Frees both latents; idempotent. */
  dispose(): void {
    this.from.dispose();
    this.to.dispose();
  }

  /** Same as {@link LatentPairs.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

export const gatherOptionNames = ["from", "to", "texts", "gather", "think", "prompt"] as const;

/**
 * Lets two models read the same texts and keeps what each makes of them: pairs for {@link fitTranslator}, gathered once for several fits.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: fewer than 8 texts), `ERR_LATENT_CONTEXT_OVERFLOW` (a text that does not fit a model; `details.text`
 * is its number), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_NON_FINITE`; the signal's reason on abort
 */
export async function gatherPairs(options: GatherPairsOptions): Promise<LatentPairs> {
  checkKeys("options", options, [...gatherOptionNames, "onProgress", "signal"]);
  const { from, to, signal, onProgress } = options;
  for (const [name, model] of Object.entries({ from, to }) as [string, unknown][])
    if (!(model instanceof Model)) throw invalid(name, "a Model", model);
  checkCallback("onProgress", onProgress);
  const reading = checkReading(options);
  const texts = await collectTexts(options.texts, signal);
  const began = performance.now();
  const progressOf = (model: Model, half: number) => (done: number) => {
    const ratio = (half + done / texts.length) / 2;
    const etaMs = ratio === 0 ? undefined : ((performance.now() - began) * (1 - ratio)) / ratio;
    onProgress?.({ stage: `reading by ${basename(model.path, ".gguf")}`, ratio, etaMs });
  };
  const x = await readTexts(from, texts, reading, progressOf(from, 0), signal);
  try {
    const y = await readTexts(to, texts, reading, progressOf(to, 1), signal);
    return new LatentPairs(x, y, reading.slots, texts.length, to.info.alpha);
  } catch (error) {
    x.dispose();
    throw error;
  }
}

/** How texts are read. */
export interface Reading {
  readonly gather: Gathering;
  /** Rows of each text. */
  readonly slots: number;
  readonly align: boolean;
  readonly prompt: (text: string) => string | readonly ChatMessage[];
}

export function checkReading(options: Pick<GatherPairsOptions, "gather" | "think" | "prompt">): Reading {
  const gather = checkOneOf("gather", fallback(options.gather, "slots"), ["slots", "last", "mean"]);
  checkCallback("prompt", options.prompt);
  if (options.think !== undefined && gather !== "slots") throw invalid("think", `left out with gather '${gather}'`, options.think);
  const think = checkThought(fallback(options.think, { policy: "hidden", steps: 8 }));
  if (think.policy !== "hidden" || think.steps === 0) throw invalid("think", "latent steps, at least one", think.policy);
  const plain = (text: string): string | ChatMessage[] => (gather === "mean" ? text : [{ role: "user", content: text }]);
  return {
    gather,
    slots: gather === "slots" ? think.steps : 1,
    align: gather === "slots" && (think.align ?? false),
    prompt: options.prompt ?? plain,
  };
}

const fewestTexts = 8;

async function collectTexts(given: Iterable<string> | AsyncIterable<string>, signal: AbortSignal | undefined): Promise<string[]> {
  const source: unknown = given;
  const iterable = typeof source === "object" && source !== null && (Symbol.iterator in source || Symbol.asyncIterator in source);
  if (!iterable) throw invalid("texts", "an iterable of strings", source);
  const texts = new Set<string>();
  for await (const text of given) {
    signal?.throwIfAborted();
    if (typeof (text as unknown) !== "string") throw invalid("texts", "an iterable of strings", text);
    if (text.trim() !== "") texts.add(text);
  }
  if (texts.size < fewestTexts) throw invalid("texts", `at least ${fewestTexts} different texts`, texts.size);
  return [...texts];
}

// positions that the sequences of one reading share at most, unless one text needs more
const mostPositions = 16_384;
const mostReaders = 8;

/** The latents of texts by one model, `[texts · slots, d]` of kind `embeds`, in the order of the texts. */
export async function readTexts(
  model: Model,
  texts: readonly string[],
  reading: Reading,
  onText: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<Latent> {
  const prompts = texts.map((text) => reading.prompt(text));
  const most = longestOf(model, prompts, reading.slots);
  const readers = Math.max(1, Math.min(mostReaders, texts.length, Math.floor(mostPositions / most)));
  await using pool = await model.createPool({ contextLength: readers * most, maxSequences: readers, ...withSignal(signal) });
  const d = model.info.embeddingLength;
  const rows = new Float32Array(texts.length * reading.slots * d);
  const stop = new AbortController();
  const both = signal === undefined ? stop.signal : AbortSignal.any([signal, stop.signal]);
  let next = 0;
  let done = 0;
  const read = async (): Promise<void> => {
    for (let i = next++; i < prompts.length; i = next++) {
      rows.set(await readOne(pool, prompts[i] ?? "", reading, both), i * reading.slots * d);
      onText(++done);
    }
  };
  // all of them have stopped before their pool goes
  const ends = await Promise.allSettled(
    range(readers).map(() =>
      read().catch((error: unknown) => {
        stop.abort(error);
        throw error;
      }),
    ),
  );
  signal?.throwIfAborted();
  if (stop.signal.aborted && ends.some((end) => end.status === "rejected")) throw stop.signal.reason;
  using gathered = Tensor.fromTyped("f32", [texts.length * reading.slots, d], rows);
  const multiply = new Float32Array(d).fill(model.info.alpha);
  using unit = await mapRows(gathered, { unit: true }, signal);
  return new Latent(model.space, "embeds", await mapRows(unit, { multiply, unit: false }, signal));
}

/** Positions that the longest of them needs, with its thought. */
function longestOf(model: Model, prompts: readonly (string | readonly ChatMessage[])[], slots: number): number {
  const have = model.info.contextLength;
  let most = 0;
  for (const [text, prompt] of prompts.entries()) {
    const need = model.tokenize(typeof prompt === "string" ? prompt : model.renderChat(prompt)).length + 1 + slots;
    if (need > have)
      throw new LatentError("ERR_LATENT_CONTEXT_OVERFLOW", `text ${text} needs ${need} positions, the model has ${have}`, {
        details: { text, need, have },
      });
    most = Math.max(most, need);
  }
  return most;
}

async function readOne(
  pool: Pool,
  prompt: string | readonly ChatMessage[],
  { gather, slots, align }: Reading,
  signal: AbortSignal,
): Promise<Float32Array> {
  await using sequence: Sequence = pool.sequence();
  if (gather === "mean") {
    using states = await sequence.prefill(prompt, { hidden: "all", signal });
    if (states === null || states.shape[0] === 0) throw invalid("a prompt", "text of at least one token", "");
    const [n] = states.shape;
    using mean = await averageRows(states.tensor(), Int32Array.from(range(n)), n, signal);
    return mean.toFloat32();
  }
  await sequence.prefill(prompt, { hidden: "last", signal });
  using thought = await sequence.think({ steps: slots, align, signal });
  return thought.tensor().toFloat32();
}
