// Fits a translator on pairs of rows: a part of them is kept apart, methods are tried on another part, and what was found is held against what the same
// method makes of shuffled pairs. Rows may come in messages of several; then whole messages are drawn, kept apart and shuffled.
import { checkBoolean, checkCallback, checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkCount, checkMatrix, checkSeed, type Matrix } from "../fits/input.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import { firstNonFiniteRow } from "../kernels/statistics.js";
import { Tensor } from "../tensor.js";
import { fitMethod, translatorMethods, type Fitted, type MethodInput, type TranslatorMethod } from "./methods.js";
import { range, SeededDraws } from "./random.js";
import { heldOutQuality, refuseUnusable, verdictOf, type HeldOutQuality, type TranslatorReport, type Trial } from "./report.js";
import { selectRows } from "./rows.js";
import type { Space } from "./space.js";
import { disposeStages, reshaped, runStages, scaling, selectSlot, type SimpleStage, type Stage } from "./stages.js";
import type { TranslatorCard } from "./translator.js";

/** How far a fit is. */
export interface FitProgress {
  /** What is being done, e.g. `trying ridge`. */
  readonly stage: string;
  /** From 0 to 1. */
  readonly ratio: number;
  /** Milliseconds that are left, if the rest goes as it went; undefined at the beginning. */
  readonly etaMs: number | undefined;
}

/**
 * How the rows of a message are mapped. `shared`: one map for all of them. `slot`: one for each, which needs a message to have the same number of rows
 * always, and row k to tell the same kind of thing. `flat`: one map of the whole message, in which every row is made from all; it needs most pairs.
 */
export type SlotMaps = "shared" | "slot" | "flat";

/** Options of {@link Translator.fit}. */
export interface FitTranslatorOptions {
  /** Rows that tell the same things, from `[n, dx]` and to `[n, dy]`, of f32, f16 or bf16; n from 8, with `slots` that many messages. */
  readonly pairs: { readonly from: Tensor; readonly to: Tensor };
  /** The spaces of the rows. With them every latent that is translated is checked, and named. Default: not told. */
  readonly from?: Space;
  readonly to?: Space;
  /**
   * Default `auto`: each method that the pairs suffice for is tried on a fifth of the pairs for the fit, and the best kept: by mean reciprocal rank, or,
   * where rows get a `length`, by cosine.
   */
  readonly method?: TranslatorMethod | "auto";
  /** Rows that follow each other and make one message, from 1 to 4096. Default 1. Counts of pairs are then counts of messages. */
  readonly slots?: number;
  /**
   * Of messages. Default `auto`: what is best, found like the method (`flat` is tried up to 4096 numbers a message, and only with ridge and affine); for a
   * given method `shared`.
   */
  readonly maps?: SlotMaps | "auto";
  /** Brings every translated row to this length, e.g. the receiver's {@link ModelInfo.alpha}. Default: as the map makes them. */
  readonly length?: number;
  /** How many pairs to fit on at most, drawn from those that are not kept apart. Default all. */
  readonly anchors?: number;
  /** Share of the pairs that are kept apart for the report, above 0 and below 1, at most 10000 rows of them. Default 0.2. */
  readonly holdout?: number;
  /** Of the split, of the draws and of the shuffled pairs; an integer from 0 to 2⁵³ - 1. Default 0. */
  readonly seed?: number;
  /**
   * What to do where it is no better than chance: throw (default), make a translator that refuses to be applied (`text`: let text go instead), or make
   * it all the same (`warn`: its report says so).
   */
  readonly onWeak?: "throw" | "text" | "warn";
  /** Fits on shuffled pairs: a translator that knows both spaces and nothing else, to compare with. Its `onWeak` is `warn` by default. Default false. */
  readonly placebo?: boolean;
  /** Of `ridge`, `linear-ridge`, `low-rank` and `projector`, in units of the mean diagonal of xᵀx, 0 or more. Default 1e-2. */
  readonly lambda?: number;
  /** Of `affine`, `linear`, `equaliser` and `inverse-relative`: singular values below so much of the largest count as 0, from 0 to below 1. */
  readonly rcond?: number;
  /** Of `low-rank`, from 1 to dy. Default a quarter of the smaller dimension, at least 1. */
  readonly rank?: number;
  /** Of the Procrustes methods: no reflections; only for dx = dy. Default false. */
  readonly rotationOnly?: boolean;
  /** How matrices are kept. Default `f32`. */
  readonly storage?: Storage;
  /** Called before each step of the fit. */
  readonly onProgress?: (progress: FitProgress) => void;
  readonly signal?: AbortSignal;
}

interface Pairs {
  readonly from: Tensor;
  readonly to: Tensor;
}

/** What is fitted: a method, and how it is laid over a message. */
interface Candidate {
  readonly maps: SlotMaps;
  readonly method: TranslatorMethod;
}

/** @internal What {@link Translator.fit} makes its translator of. */
export async function fitPairs(
  options: FitTranslatorOptions,
): Promise<{ readonly card: TranslatorCard; readonly stages: Stage[]; readonly symbols: number | undefined }> {
  const given = checkFit(options);
  const { slots, signal } = given;
  const split = splitPairs(given.x.rows / slots, given.holdout, given.anchors, given.seed, Math.max(2, Math.floor(mostHeldOut / slots)));
  const open = candidatesFor(given, split.fit.length);
  if (open.length > 1 && split.fit.length < fewestToTry)
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `auto needs ${fewestToTry} pairs to fit on, there are ${split.fit.length}; name a method`,
    );
  using from = await selectRows(options.pairs.from, rowsOf(split.fit, slots), signal);
  using to = await selectRows(options.pairs.to, rowsOf(given.placebo ? shuffled(split.fit, given.seed) : split.fit, slots), signal);
  const progress = progressOf(options.onProgress);
  const fitting: Fitting = { ...given, input: { from, to, allAnchors: options.anchors !== undefined, signal, ...given.method } };
  const tried = open.length > 1 ? await tryCandidates(open, fitting, progress) : [];
  const [only] = open;
  const chosen = open.length === 1 && only !== undefined ? only : bestOf(tried);
  progress(`fitting ${nameOf(chosen, slots)}`, 0.6);
  const fitted = await fitCandidate(chosen, fitting);
  try {
    progress("measuring", 0.8);
    using heldFrom = await selectRows(options.pairs.from, rowsOf(split.heldOut, slots), signal);
    using heldTo = await selectRows(options.pairs.to, rowsOf(split.heldOut, slots), signal);
    const report = await reportOf(chosen, fitted, fitting, { from: heldFrom, to: heldTo }, tried);
    if (given.onWeak === "throw") refuseUnusable(nameOf(chosen, slots), report);
    const whole = chosen.maps !== "shared" && slots > 1 ? { slots, maps: chosen.maps } : {};
    const card: TranslatorCard = {
      method: chosen.method,
      dimensions: [given.x.columns, given.y.columns],
      ...whole,
      ...(given.placebo && { placebo: true }),
      ...(options.from && { from: options.from }),
      ...(options.to && { to: options.to }),
      report,
      onWeak: report.verdict === "unusable" && given.onWeak === "text" ? "text" : "apply",
      storage: given.storage,
    };
    progress("done", 1);
    return { card, stages: fitted.stages, symbols: fitted.symbols };
  } catch (error) {
    disposeStages(fitted.stages);
    throw error;
  }
}

interface Checked {
  readonly x: Matrix;
  readonly y: Matrix;
  readonly name: TranslatorMethod | "auto";
  readonly slots: number;
  readonly maps: SlotMaps | "auto";
  readonly length: number | undefined;
  readonly anchors: number | undefined;
  readonly holdout: number;
  readonly seed: number;
  readonly onWeak: "throw" | "text" | "warn";
  readonly placebo: boolean;
  readonly storage: Storage;
  readonly signal: AbortSignal | undefined;
  readonly method: Pick<MethodInput, "seed" | "lambda" | "rcond" | "rank" | "rotationOnly">;
}

interface Fitting extends Pick<Checked, "slots" | "length" | "seed"> {
  readonly input: MethodInput;
}

/** Without the pairs and their spaces; {@link fitTranslator} has them too. */
export const fitOptionNames = [
  "method",
  "maps",
  "anchors",
  "holdout",
  "seed",
  "onWeak",
  "placebo",
  "lambda",
  "rcond",
  "rank",
  "rotationOnly",
  "storage",
  "onProgress",
  "signal",
] as const;

const fewestPairs = 8;
// a fifth of these is two
const fewestToTry = 10;
const mostSlots = 4096;

function checkFit(options: FitTranslatorOptions): Checked {
  checkKeys("options", options, ["pairs", "from", "to", "slots", "length", ...fitOptionNames]);
  checkKeys("pairs", options.pairs, ["from", "to"]);
  const x = checkMatrix("pairs.from", options.pairs.from);
  const y = checkMatrix("pairs.to", options.pairs.to);
  for (const side of ["from", "to"] as const)
    if (!((options.pairs[side] as unknown) instanceof Tensor)) throw invalid(`pairs.${side}`, "a Tensor [n, d]", options.pairs[side]);
  checkCount("pairs.to", "rows", y.rows, x.rows);
  const slots = checkInteger("slots", fallback(options.slots, 1), 1, mostSlots);
  if (x.rows % slots !== 0) throw invalid("the number of rows", `a multiple of the ${slots} rows of a message`, x.rows);
  if (x.rows < fewestPairs * slots) throw invalid("the number of pairs", `at least ${fewestPairs}`, Math.floor(x.rows / slots));
  for (const side of ["from", "to"] as const) {
    const row = firstNonFiniteRow(options.pairs[side]);
    if (row !== undefined) throw new LatentError("ERR_LATENT_NON_FINITE", `row ${row} of pairs.${side} holds NaN or an infinity`);
  }
  checkSpace("from", options.from, x.columns);
  checkSpace("to", options.to, y.columns);
  checkCallback("onProgress", options.onProgress);
  const { anchors, rcond, length } = options;
  const smaller = Math.min(x.columns, y.columns);
  const rotationOnly = checkBoolean("rotationOnly", fallback(options.rotationOnly, false));
  if (rotationOnly && x.columns !== y.columns) throw invalid("rotationOnly", "false for spaces of different dimensions", true);
  const seed = checkSeed(fallback(options.seed, 0));
  const placebo = checkBoolean("placebo", fallback(options.placebo, false));
  const name = checkOneOf("method", fallback(options.method, "auto"), ["auto", ...translatorMethods]);
  const maps = checkOneOf("maps", fallback(options.maps, name === "auto" ? "auto" : "shared"), ["auto", "shared", "slot", "flat"]);
  return {
    x,
    y,
    name,
    slots,
    maps: slots === 1 ? "shared" : maps,
    length: length === undefined ? undefined : checkNumber("length", length, Number.MIN_VALUE, 1e30),
    anchors: anchors === undefined ? undefined : checkInteger("anchors", anchors, 2, x.rows),
    holdout: checkNumber("holdout", fallback(options.holdout, 0.2), Number.EPSILON, 1 - Number.EPSILON),
    seed,
    onWeak: checkOneOf("onWeak", fallback(options.onWeak, placebo ? "warn" : "throw"), ["throw", "text", "warn"]),
    placebo,
    storage: checkStorage(options.storage),
    signal: options.signal,
    method: {
      seed,
      lambda: checkNumber("lambda", fallback(options.lambda, 1e-2), 0, Number.MAX_VALUE),
      rcond: rcond === undefined ? undefined : checkNumber("rcond", rcond, 0, 1 - Number.EPSILON),
      rank: checkInteger("rank", fallback(options.rank, Math.max(1, Math.floor(smaller / 4))), 1, y.columns),
      rotationOnly,
    },
  };
}

function checkSpace(name: string, space: Space | undefined, dimension: number): void {
  if (space === undefined) return;
  if (typeof (space as unknown) !== "object" || space.dimension !== dimension)
    throw invalid(name, `a Space of ${dimension} dimensions, as its rows have`, space.dimension);
}

interface Split {
  readonly fit: Int32Array;
  readonly heldOut: Int32Array;
}

// every one is compared with every other
const mostHeldOut = 10_000;

/** A seeded split; `anchors` are drawn from the part for the fit only. */
export function splitPairs(n: number, holdout: number, anchors: number | undefined, seed: number, most = mostHeldOut): Split {
  const order = new SeededDraws(seed).sample(range(n), n);
  const held = Math.min(Math.max(Math.round(n * holdout), 2), n - 4, most);
  const rest = order.slice(held);
  if (anchors !== undefined && anchors > rest.length)
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `anchors must be at most ${rest.length}, the pairs that are not kept apart, got ${anchors}`,
    );
  const sorted = (ids: readonly number[]): Int32Array => Int32Array.from(ids).sort();
  return { fit: sorted(rest.slice(0, anchors)), heldOut: sorted(order.slice(0, held)) };
}

/** The rows of messages. */
function rowsOf(messages: Int32Array, slots: number): Int32Array {
  return Int32Array.from({ length: messages.length * slots }, (_, i) => (messages[Math.floor(i / slots)] ?? 0) * slots + (i % slots));
}

function shuffled(ids: Int32Array, seed: number): Int32Array {
  return Int32Array.from(new SeededDraws(seed).sample([...ids], ids.length));
}

/** A look at the time that is left. */
function progressOf(listener: ((progress: FitProgress) => void) | undefined): (stage: string, ratio: number) => void {
  const began = performance.now();
  return (stage, ratio) => {
    const spent = performance.now() - began;
    listener?.({ stage, ratio, etaMs: ratio === 0 ? undefined : (spent * (1 - ratio)) / ratio });
  };
}

const nameOf = ({ maps, method }: Candidate, slots: number): string => (slots === 1 ? method : `${method} (${maps})`);

// a matrix of this size is solved in some ten seconds
const widestFlat = 4096;

/** What is tried: everything that so many pairs can determine, or that is regularised. */
function candidatesFor({ name, maps, slots, x, y }: Checked, pairs: number): Candidate[] {
  const narrow = slots * Math.max(x.columns, y.columns) <= widestFlat;
  const open: readonly SlotMaps[] = maps === "auto" ? ["shared", "slot", ...(narrow ? (["flat"] as const) : [])] : [maps];
  return open.flatMap((one) => {
    const long = one === "flat" ? slots : 1;
    const rows = Math.floor(0.8 * pairs) * (one === "shared" ? slots : 1);
    const methods = name === "auto" ? methodsFor(one, long * x.columns, long * y.columns, rows) : [name];
    return methods.map((method) => ({ maps: one, method }));
  });
}

function methodsFor(maps: SlotMaps, dx: number, dy: number, rows: number): TranslatorMethod[] {
  // whole messages are wide: what is left is one solution for each, and no decomposition
  const methods: TranslatorMethod[] =
    maps === "flat" ? ["ridge"] : ["procrustes", "procrustes-standardised", "ridge", "parseval", "inverse-relative"];
  if (rows - 1 >= 2 * dx) methods.push("affine");
  if (maps !== "flat" && Math.min(dx, dy) >= 8) methods.push("low-rank");
  return methods;
}

async function tryCandidates(
  candidates: readonly Candidate[],
  fitting: Fitting,
  progress: (stage: string, ratio: number) => void,
): Promise<Trial[]> {
  const { slots, seed, input, length } = fitting;
  const messages = (input.from.shape[0] ?? 0) / slots;
  const split = splitPairs(
    messages,
    0.2,
    undefined,
    seed + (seed < Number.MAX_SAFE_INTEGER ? 1 : -1),
    Math.max(2, Math.floor(mostHeldOut / slots)),
  );
  const part = async (x: Tensor, ids: Int32Array): Promise<Tensor> => selectRows(x, rowsOf(ids, slots), input.signal);
  using from = await part(input.from, split.fit);
  using to = await part(input.to, split.fit);
  using validFrom = await part(input.from, split.heldOut);
  using validTo = await part(input.to, split.heldOut);
  const trials: Trial[] = [];
  for (const [i, candidate] of candidates.entries()) {
    progress(`trying ${nameOf(candidate, slots)}`, (0.6 * i) / candidates.length);
    trials.push(await tryCandidate(candidate, { ...fitting, input: { ...input, from, to } }, { from: validFrom, to: validTo }));
  }
  // rows that are brought to one length are worth their direction
  const worth = ({ mrr, cosine }: Trial): readonly [number, number] => (length === undefined ? [mrr, cosine] : [cosine, mrr]);
  return trials.sort((a, b) => worth(b)[0] - worth(a)[0] || worth(b)[1] - worth(a)[1]);
}

async function tryCandidate(candidate: Candidate, fitting: Fitting, valid: Pairs): Promise<Trial> {
  const { method, maps } = candidate;
  const name = { method, ...(fitting.slots > 1 && { maps }) };
  try {
    const { mrr, cosine } = (await measure(await fitCandidate(candidate, fitting), valid, fitting.input.signal)).quality;
    return { ...name, mrr, cosine };
  } catch (error) {
    // what cannot be fitted on these pairs is not chosen; anything else is the user's business
    if (!LatentError.isInstance(error) || !["ERR_LATENT_ILL_CONDITIONED", "ERR_LATENT_NON_FINITE"].includes(error.code)) throw error;
    return { ...name, mrr: 0, cosine: 0, error: error.message };
  }
}

function bestOf(trials: readonly Trial[]): Candidate {
  const best = trials.find((trial) => trial.error === undefined);
  const method = translatorMethods.find((one) => one === best?.method);
  if (method !== undefined) return { method, maps: best?.maps ?? "shared" };
  throw new LatentError("ERR_LATENT_ILL_CONDITIONED", `no method can be fitted on these pairs: ${trials[0]?.error ?? ""}`, {
    details: { trials },
  });
}

interface FittedMessage extends Omit<Fitted, "stages"> {
  readonly stages: Stage[];
}

async function fitCandidate({ maps, method }: Candidate, { slots, length, input }: Fitting): Promise<FittedMessage> {
  const fitted = await fitMaps(maps, method, slots, input);
  if (length === undefined) return fitted;
  const ends: Stage[] = [{ kind: "rows", unit: true }, scaling(length, input.to.shape[1] ?? 0)];
  return { ...fitted, stages: [...fitted.stages, ...ends] };
}

async function fitMaps(maps: SlotMaps, method: TranslatorMethod, slots: number, input: MethodInput): Promise<FittedMessage> {
  if (maps === "shared") return fitMethod(method, input);
  if (maps === "flat") {
    const messages = (x: Tensor): Tensor => reshaped(x, (x.shape[0] ?? 0) / slots, (x.shape[1] ?? 0) * slots);
    using from = messages(input.from);
    using to = messages(input.to);
    const { stages, condition, anchors, warnings } = await fitMethod(method, { ...input, from, to });
    return { stages: [{ kind: "slots", count: slots, maps: [stages] }], condition, anchors, warnings };
  }
  const all: Fitted[] = [];
  try {
    for (let k = 0; k < slots; k++) {
      using from = await selectSlot(input.from, k, slots, input.signal);
      using to = await selectSlot(input.to, k, slots, input.signal);
      all.push(await fitMethod(method, { ...input, from, to }));
    }
  } catch (error) {
    for (const { stages } of all) disposeStages(stages);
    throw error;
  }
  return {
    stages: [{ kind: "slots", count: slots, maps: all.map(({ stages }): readonly SimpleStage[] => stages) }],
    condition: Math.max(...all.map(({ condition }) => condition)),
    anchors: Math.max(...all.map(({ anchors }) => anchors)),
    warnings: [...new Set(all.flatMap(({ warnings }) => warnings))],
  };
}

/** Frees the stages of what was fitted to be measured. */
async function measure(
  { stages }: FittedMessage,
  { from, to }: Pairs,
  signal: AbortSignal | undefined,
): Promise<{ quality: HeldOutQuality; variance: number }> {
  try {
    using translated = await runStages(stages, from, signal);
    return await heldOutQuality(translated, to, signal);
  } finally {
    disposeStages(stages);
  }
}

async function reportOf(
  candidate: Candidate,
  fitted: FittedMessage,
  fitting: Fitting,
  held: Pairs,
  tried: readonly Trial[],
): Promise<TranslatorReport> {
  const { slots, seed, input } = fitting;
  using translated = await runStages(fitted.stages, held.from, input.signal);
  const own = await heldOutQuality(translated, held.to, input.signal);
  const count = (input.from.shape[0] ?? 0) / slots;
  const order = shuffled(Int32Array.from(range(count)), seed);
  using wrong = await selectRows(input.to, rowsOf(order, slots), input.signal);
  const chance = await measure(await fitCandidate(candidate, { ...fitting, input: { ...input, to: wrong } }), held, input.signal);
  return {
    count,
    anchors: fitted.anchors,
    heldOut: own.quality,
    null: chance.quality,
    condition: fitted.condition,
    verdict: verdictOf(own.quality.mrr, chance.quality.mrr, own.variance + chance.variance),
    warnings: fitted.warnings,
    tried,
  };
}
