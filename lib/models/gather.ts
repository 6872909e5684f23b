// Latents of texts: what a loaded model makes of each, in rows that it could take as input itself, or an encoder, in rows of its own. Two of them that read
// the same texts give the pairs that a translator is fitted on.
import { basename } from "node:path";
import { checkCallback, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { withSignal } from "../jobs.js";
import { checkThought, type HiddenThought } from "../policies/thought.js";
import { isEncoder, type Encoder } from "../spaces/encoder.js";
import type { FitProgress } from "../spaces/fit.js";
import { Latent } from "../spaces/latent.js";
import { mapRows } from "../spaces/rows.js";
import { requireSameSpace } from "../spaces/space.js";
import { Tensor } from "../tensor.js";
import type { ChatMessage } from "./chat.js";
import { Model } from "./model.js";
import { meanState } from "./model-encoder.js";
import { readEach } from "./readers.js";
import type { Sequence } from "./sequence.js";

/**
 * What stands for a text. `slots`: the latent steps of a thought about it, one row each. `last`: the first of these alone, which is the state behind the
 * last token. `mean`: the mean of the states of all its tokens. All rows are brought to the length of the model's input rows.
 */
export type Gathering = "slots" | "last" | "mean";

/** Options of {@link gatherPairs}. */
export interface GatherPairsOptions {
  readonly from: Model | Encoder;
  readonly to: Model | Encoder;
  /** What both read, at least 8 different texts; blank ones and repetitions are left out. */
  readonly texts: Iterable<string> | AsyncIterable<string>;
  /** What stands for a text with a model; default `slots`. An encoder makes one row of it, so beside one it is `mean` (default) or `last`. */
  readonly gather?: Gathering;
  /** Of `slots`: how both models think, as the agents will. Default `{ policy: 'hidden', steps: 8 }`. */
  readonly think?: HiddenThought;
  /** What a model reads of a text. Default: the text as a user message; of `mean`, the text alone. */
  readonly prompt?: (text: string) => string | readonly ChatMessage[];
  /** Called as texts have been read. */
  readonly onProgress?: (progress: FitProgress) => void;
  readonly signal?: AbortSignal;
}

/** Latents of two models or encoders that tell the same texts; made by {@link gatherPairs}. Holds native memory. */
export class LatentPairs {
  /** @internal */
  constructor(
    /** `[texts · slots, dx]` in the one's space. */
    readonly from: Latent,
    /** `[texts · slots, dy]` in the other's. */
    readonly to: Latent,
    /** Rows that each text has. */
    readonly slots: number,
    /** How many texts were read. */
    readonly texts: number,
    /** Of the rows of `to`: the mean length of that model's input rows. An encoder has none. */
    readonly length: number | undefined,
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
 * Lets two models or encoders read the same texts and keeps what each makes of them: pairs for {@link fitTranslator}, gathered once for several fits.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: fewer than 8 texts), `ERR_LATENT_CONTEXT_OVERFLOW` (a text that does not fit a model; `details.text`
 * is its number), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_NON_FINITE`; the signal's reason on abort
 */
export async function gatherPairs(options: GatherPairsOptions): Promise<LatentPairs> {
  checkKeys("options", options, [...gatherOptionNames, "onProgress", "signal"]);
  const { from, to, signal, onProgress } = options;
  for (const [name, side] of Object.entries({ from, to }) as [string, unknown][])
    if (!(side instanceof Model) && !isEncoder(side)) throw invalid(name, "a Model or an Encoder", side);
  checkCallback("onProgress", onProgress);
  const reading = checkReading(options, from instanceof Model && to instanceof Model);
  const texts = await collectTexts(options.texts, signal);
  const began = performance.now();
  const readBy = async (name: "from" | "to", half: number): Promise<Latent> => {
    const side = options[name];
    const stage = side instanceof Model ? `reading by ${basename(side.path, ".gguf")}` : `encoding ${name}`;
    const onText = (done: number): void => {
      const ratio = (half + done / texts.length) / 2;
      onProgress?.({ stage, ratio, etaMs: ((performance.now() - began) * (1 - ratio)) / ratio });
    };
    return side instanceof Model ? readTexts(side, texts, reading, onText, signal) : encodeTexts(name, side, texts, onText, signal);
  };
  const x = await readBy("from", 0);
  try {
    const y = await readBy("to", 1);
    return new LatentPairs(x, y, reading.slots, texts.length, to instanceof Model ? to.info.alpha : undefined);
  } catch (error) {
    x.dispose();
    throw error;
  }
}

/** How models read texts. */
interface Reading {
  readonly gather: Gathering;
  /** Rows of each text. */
  readonly slots: number;
  readonly align: boolean;
  readonly prompt: (text: string) => string | readonly ChatMessage[];
}

function checkReading(options: GatherPairsOptions, both: boolean): Reading {
  const gather = checkOneOf("gather", fallback(options.gather, both ? "slots" : "mean"), ["slots", "last", "mean"]);
  if (!both && gather === "slots") throw invalid("gather", "'mean' or 'last' beside an encoder, which makes one row of a text", gather);
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
  for await (const text of given as AsyncIterable<unknown>) {
    signal?.throwIfAborted();
    if (typeof text !== "string") throw invalid("texts", "an iterable of strings", text);
    if (text.trim() !== "") texts.add(text);
  }
  if (texts.size < fewestTexts) throw invalid("texts", `at least ${fewestTexts} different texts`, texts.size);
  return [...texts];
}

// texts that an encoder gets at a time
const encoderBatch = 64;

/** Rows of texts by an encoder, one each, as it makes them. */
async function encodeTexts(
  name: string,
  encoder: Encoder,
  texts: readonly string[],
  onText: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<Latent> {
  const d = encoder.space.dimension;
  const rows = new Float32Array(texts.length * d);
  for (let from = 0; from < texts.length; from += encoderBatch) {
    const some = texts.slice(from, from + encoderBatch);
    using latent = await encoder.encode(some, withSignal(signal));
    requireSameSpace(latent.space, encoder.space, `what ${name} encoded`);
    const [n, width] = latent.shape;
    if (n !== some.length || width !== d) throw invalid(`what ${name} encoded`, `${some.length} rows of ${d} numbers`, latent.shape.join(" x "));
    rows.set(latent.tensor().toFloat32(), from * d);
    onText(from + n);
  }
  return new Latent(encoder.space, encoder.space.layer, Tensor.fromTyped("f32", [texts.length, d], rows));
}

/** The latents of texts by one model, `[texts · slots, d]` of kind `embeds`, in the order of the texts. */
async function readTexts(
  model: Model,
  texts: readonly string[],
  { gather, slots, align, prompt }: Reading,
  onText: (done: number) => void,
  signal: AbortSignal | undefined,
): Promise<Latent> {
  const prompts = texts.map((text) => prompt(text));
  const lengths = prompts.map((one) => model.tokenize(typeof one === "string" ? one : model.renderChat(one)).length);
  const read = async (sequence: Sequence, text: number, both: AbortSignal): Promise<Float32Array> => {
    const one = prompts[text] ?? "";
    if (gather === "mean") return meanState(sequence, one, both);
    await sequence.prefill(one, { hidden: "last", signal: both });
    using thought = await sequence.think({ steps: slots, align, signal: both });
    return thought.tensor().toFloat32();
  };
  // a token that begins every text may come in addition
  const rows = await readEach(model, lengths, { slots, room: 1 + slots, read, onText, signal });
  const d = model.info.embeddingLength;
  using gathered = Tensor.fromTyped("f32", [texts.length * slots, d], rows);
  const multiply = new Float32Array(d).fill(model.info.alpha);
  using unit = await mapRows(gathered, { unit: true }, signal);
  return new Latent(model.space, "embeds", await mapRows(unit, { multiply, unit: false }, signal));
}
