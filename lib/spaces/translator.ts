// A map between two spaces, by which one model's latents become another's: fitted on pairs of rows, held against pairs that were kept apart and against
// chance, and never applied in silence where it is no better than that.
import { checkBoolean, checkCallback, checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkCount, checkMatrix, checkSeed, type Matrix } from "../fits/input.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import { firstNonFiniteRow } from "../kernels/statistics.js";
import { Tensor } from "../tensor.js";
import { Latent } from "./latent.js";
import { fitMethod, translatorMethods, type Fitted, type MethodInput, type TranslatorMethod } from "./methods.js";
import { range, SeededDraws } from "./random.js";
import { heldOutQuality, verdictOf, type HeldOutQuality, type TranslatorReport, type Trial } from "./report.js";
import { selectRows } from "./rows.js";
import { requireSameSpace, type Space } from "./space.js";
import {
  copyStages,
  dimensionsOf,
  disposePacked,
  disposeStages,
  invertStages,
  packStages,
  runPacked,
  runStages,
  type PackedStage,
  type Stage,
} from "./stages.js";
import { readTranslator, writeTranslator } from "./translator-file.js";

/** What a translator is, in JSON. */
export interface TranslatorCard {
  /** A {@link TranslatorMethod}, or how it was made of others, e.g. `inverse of procrustes`. */
  readonly method: string;
  /** Rows that it reads, and rows that it makes. */
  readonly dimensions: readonly [number, number];
  readonly from?: Space;
  readonly to?: Space;
  /** Of a fit; what is made of other translators has none. */
  readonly report?: TranslatorReport;
  /** What it does where it is weak: nothing special, or refuse, so that text goes instead. */
  readonly onWeak: "apply" | "text";
  readonly storage: Storage;
}

/** How far a fit is. */
export interface FitProgress {
  /** What is being done, e.g. `trying ridge`. */
  readonly stage: string;
  /** From 0 to 1. */
  readonly ratio: number;
  /** Milliseconds that are left, if the rest goes as it went; undefined at the beginning. */
  readonly etaMs: number | undefined;
}

/** Options of {@link Translator.fit}. */
export interface FitTranslatorOptions {
  /** Rows that tell the same things, from `[n, dx]` and to `[n, dy]`, of f32, f16 or bf16; n from 8. */
  readonly pairs: { readonly from: Tensor; readonly to: Tensor };
  /** The spaces of the rows. With them every latent that is translated is checked, and named. Default: not told. */
  readonly from?: Space;
  readonly to?: Space;
  /** Default `auto`: each method that the pairs suffice for is tried on a fifth of the pairs for the fit, and the best (by mean reciprocal rank) kept. */
  readonly method?: TranslatorMethod | "auto";
  /** How many pairs to fit on at most, drawn from those that are not kept apart. Default all. */
  readonly anchors?: number;
  /** Share of the pairs that are kept apart for the report, above 0 and below 1, at most 10000 of them. Default 0.2. */
  readonly holdout?: number;
  /** Of the split, of the draws and of the shuffled pairs; an integer from 0 to 2⁵³ - 1. Default 0. */
  readonly seed?: number;
  /**
   * What to do where it is no better than chance: throw (default), make a translator that refuses to be applied (`text`: let text go instead), or make
   * it all the same (`warn`: its report says so).
   */
  readonly onWeak?: "throw" | "text" | "warn";
  /** Of `ridge`, `low-rank` and `projector`, in units of the mean diagonal of xᵀx, 0 or more. Default 1e-2. */
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

/** Made by {@link Translator.fit} or of other translators. Holds native memory. */
export class Translator {
  readonly #stages: readonly Stage[];
  readonly #packed: readonly PackedStage[];
  readonly #symbols: number | undefined;
  #disposed = false;

  private constructor(
    readonly card: TranslatorCard,
    stages: readonly Stage[],
    packed: readonly PackedStage[],
    symbols: number | undefined,
  ) {
    this.#stages = stages;
    this.#packed = packed;
    this.#symbols = symbols;
  }

  /** @internal Takes the stages over; frees them if it fails. */
  static async make(
    card: TranslatorCard,
    stages: readonly Stage[],
    signal: AbortSignal | undefined,
    symbols?: number,
  ): Promise<Translator> {
    try {
      return new Translator(card, stages, await packStages(stages, card.storage, signal), symbols);
    } catch (error) {
      disposeStages(stages);
      throw error;
    }
  }

  /**
   * Fits a map on pairs and reports what it is worth.
   *
   * ```ts
   * using translator = await Translator.fit({ pairs: { from: rowsOfA, to: rowsOfB } });
   * console.log(translator.card.method, translator.report?.verdict, translator.report?.heldOut.retrieval1);
   * using rows = await translator.apply(latentsOfA);
   * ```
   * @throws {@link LatentError} `ERR_LATENT_TRANSLATOR_WEAK` (see `onWeak`), `ERR_LATENT_ILL_CONDITIONED` (as many pairs as dimensions, and neither ridge
   * nor `rcond`), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the
   * signal's reason on abort
   */
  static async fit(options: FitTranslatorOptions): Promise<Translator> {
    const given = checkFit(options);
    const split = splitPairs(given.x.rows, given.holdout, given.anchors, given.seed);
    const signal = options.signal;
    using from = await selectRows(options.pairs.from, split.fit, signal);
    using to = await selectRows(options.pairs.to, split.fit, signal);
    const progress = progressOf(options.onProgress);
    const input: MethodInput = { from, to, allAnchors: options.anchors !== undefined, signal, ...given.method };
    if (given.name === "auto" && split.fit.length < fewestToTry)
      throw new LatentError(
        "ERR_LATENT_INVALID_ARGUMENT",
        `auto needs ${fewestToTry} pairs to fit on, there are ${split.fit.length}; name a method`,
      );
    const candidates = given.name === "auto" ? candidatesFor(given.x, given.y, split.fit.length) : [];
    const tried = await tryMethods(candidates, input, progress);
    const method = given.name === "auto" ? bestOf(tried) : given.name;
    progress(`fitting ${method}`, 0.6);
    const fitted = await fitMethod(method, input);
    try {
      progress("measuring", 0.8);
      using heldFrom = await selectRows(options.pairs.from, split.heldOut, signal);
      using heldTo = await selectRows(options.pairs.to, split.heldOut, signal);
      const report = await reportOf(method, fitted, input, { from: heldFrom, to: heldTo }, tried);
      if (given.onWeak === "throw") refuseUnusable(method, report);
      const card: TranslatorCard = {
        method,
        dimensions: [given.x.columns, given.y.columns],
        ...(options.from && { from: options.from }),
        ...(options.to && { to: options.to }),
        report,
        onWeak: report.verdict === "unusable" && given.onWeak === "text" ? "text" : "apply",
        storage: given.storage,
      };
      progress("done", 1);
      return await Translator.make(card, fitted.stages, signal, fitted.symbols);
    } catch (error) {
      disposeStages(fitted.stages);
      throw error;
    }
  }

  get report(): TranslatorReport | undefined {
    return this.card.report;
  }

  /** Whether {@link Translator.dispose} was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * Translated rows, f32 `[n, dy]`, a tensor of their own.
   * @param x `[n, dx]` of f32, f16 or bf16.
   * @throws {@link LatentError} `ERR_LATENT_TRANSLATOR_WEAK` (made with `onWeak: "text"`), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`,
   * `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async apply(x: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    this.#live();
    refuseWeak(this.card);
    const { dimensions } = this.card;
    const { columns } = checkMatrix("x", x);
    if (columns !== dimensions[0]) throw invalid("the dimension of x", String(dimensions[0]), columns);
    return runPacked(this.#packed, x, options.signal);
  }

  /**
   * A latent of the one space as one of the other.
   * @throws {@link LatentError} as {@link Translator.apply}; `ERR_LATENT_SPACE_MISMATCH` for a latent of another space than `from`,
   * `ERR_LATENT_INVALID_ARGUMENT` for a translator that was not told its spaces
   */
  async translate(latent: Latent, options: { readonly signal?: AbortSignal } = {}): Promise<Latent> {
    const given: unknown = latent;
    if (!(given instanceof Latent)) throw invalid("latent", "a Latent", given);
    const { from, to } = this.card;
    if (from === undefined || to === undefined)
      throw new LatentError(
        "ERR_LATENT_INVALID_ARGUMENT",
        "this translator was fitted without `from` and `to`: it does not know its spaces",
      );
    requireSameSpace(given.space, from, "the latent");
    return new Latent(to, to.layer, await this.apply(given.tensor(), options));
  }

  /**
   * The translator the other way: by the transpose of an orthogonal map, else by the pseudo-inverse.
   * @throws {@link LatentError} `ERR_LATENT_ILL_CONDITIONED` (it drops dimensions or lengths, or its matrix is nearly singular: fit the other way),
   * `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async inverse(options: { readonly signal?: AbortSignal } = {}): Promise<Translator> {
    checkKeys("options", options, ["signal"]);
    this.#live();
    const { method, dimensions, from, to, onWeak, storage } = this.card;
    const stages = await invertStages(this.#stages, options.signal);
    const card: TranslatorCard = {
      method: `inverse of ${method}`,
      dimensions: [dimensions[1], dimensions[0]],
      ...(to && { from: to }),
      ...(from && { to: from }),
      onWeak,
      storage,
    };
    return Translator.make(card, stages, options.signal);
  }

  /**
   * This translator and then `next`, as one.
   * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH`, `ERR_LATENT_INVALID_ARGUMENT` (dimensions that do not meet), `ERR_LATENT_TRANSLATOR_WEAK`
   * (one of them is not to be applied), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async compose(next: Translator, options: { readonly signal?: AbortSignal } = {}): Promise<Translator> {
    checkKeys("options", options, ["signal"]);
    const given: unknown = next;
    if (!(given instanceof Translator)) throw invalid("next", "a Translator", given);
    this.#live();
    given.#live();
    const [mine, theirs] = [this.card, given.card];
    refuseWeak(mine);
    refuseWeak(theirs);
    if (mine.to !== undefined && theirs.from !== undefined) requireSameSpace(mine.to, theirs.from, "what the first translator makes");
    if (mine.dimensions[1] !== theirs.dimensions[0])
      throw invalid("the dimension of next", String(mine.dimensions[1]), theirs.dimensions[0]);
    const card: TranslatorCard = {
      method: `${mine.method}, then ${theirs.method}`,
      dimensions: [mine.dimensions[0], theirs.dimensions[1]],
      ...(mine.from && { from: mine.from }),
      ...(theirs.to && { to: theirs.to }),
      onWeak: "apply",
      storage: mine.storage,
    };
    return Translator.make(card, await copyStages([...this.#stages, ...given.#stages], options.signal), options.signal);
  }

  /**
   * Sender and receiver of a method that goes through symbols (`inverse-relative`, `parseval`, `equaliser`): `encode` makes `[n, k]` of rows, one symbol
   * an anchor, and `decode` rows of symbols. Between them a channel may lie.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` for other methods, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on
   * abort
   */
  async split(options: { readonly signal?: AbortSignal } = {}): Promise<{ readonly encode: Translator; readonly decode: Translator }> {
    checkKeys("options", options, ["signal"]);
    this.#live();
    const { method, dimensions, from, to, onWeak, storage } = this.card;
    if (this.#symbols === undefined)
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${method} has no symbols between a sender and a receiver`);
    const [before, after] = [this.#stages.slice(0, this.#symbols), this.#stages.slice(this.#symbols)];
    const [, symbols] = dimensionsOf(before, dimensions[0]);
    const make = async (name: string, stages: readonly Stage[], ends: readonly [number, number], spaces: object): Promise<Translator> => {
      const card: TranslatorCard = { method: `${name} of ${method}`, dimensions: ends, ...spaces, onWeak, storage };
      return Translator.make(card, await copyStages(stages, options.signal), options.signal);
    };
    const encode = await make("sender", before, [dimensions[0], symbols], from === undefined ? {} : { from });
    try {
      return { encode, decode: await make("receiver", after, [symbols, dimensions[1]], to === undefined ? {} : { to }) };
    } catch (error) {
      encode.dispose();
      throw error;
    }
  }

  /** @internal Copies of what it is made of, for those that make translators of translators. */
  async stages(signal: AbortSignal | undefined): Promise<Stage[]> {
    this.#live();
    return copyStages(this.#stages, signal);
  }

  /**
   * Writes the translator as safetensors, with its card in the metadata.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (the path cannot be written), `ERR_LATENT_DISPOSED`
   */
  async save(path: string): Promise<void> {
    this.#live();
    await writeTranslator(path, this.card, this.#stages, this.#symbols);
  }

  /**
   * Reads what {@link Translator.save} wrote; it translates by the same bits.
   * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT`, `ERR_LATENT_INVALID_ARGUMENT` (no such file), `ERR_LATENT_NON_FINITE`,
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  static async load(path: string, options: { readonly signal?: AbortSignal } = {}): Promise<Translator> {
    checkKeys("options", options, ["signal"]);
    const { card, stages, symbols } = await readTranslator(path);
    return Translator.make(card, stages, options.signal, symbols);
  }

  /** The card, for logs and files. */
  toJSON(): TranslatorCard {
    return this.card;
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    this.#disposed = true;
    disposePacked(this.#packed);
    disposeStages(this.#stages);
  }

  /** Same as {@link Translator.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(): void {
    if (this.#disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the translator was disposed");
  }
}

function refuseWeak({ method, onWeak, report }: TranslatorCard): void {
  if (onWeak === "apply") return;
  if (report !== undefined) throw weak(method, report);
  throw new LatentError("ERR_LATENT_TRANSLATOR_WEAK", `the ${method} is made of a translator that is no better than chance`);
}

/** @internal Throws what {@link Translator.fit} throws for a translator that is no better than chance. */
export function refuseUnusable(method: string, report: TranslatorReport): void {
  if (report.verdict === "unusable") throw weak(method, report);
}

function weak(method: string, report: TranslatorReport): LatentError {
  const { heldOut, null: chance } = report;
  const numbers = `mean reciprocal rank ${heldOut.mrr.toFixed(3)} on ${heldOut.count} pairs that were kept apart, ${chance.mrr.toFixed(3)} of shuffled pairs`;
  return new LatentError("ERR_LATENT_TRANSLATOR_WEAK", `${method} is no better than chance: ${numbers}`, { details: { method, report } });
}

interface Checked {
  readonly x: Matrix;
  readonly y: Matrix;
  readonly name: TranslatorMethod | "auto";
  readonly anchors: number | undefined;
  readonly holdout: number;
  readonly seed: number;
  readonly onWeak: "throw" | "text" | "warn";
  readonly storage: Storage;
  readonly method: Pick<MethodInput, "seed" | "lambda" | "rcond" | "rank" | "rotationOnly">;
}

const optionNames = [
  "pairs",
  "from",
  "to",
  "method",
  "anchors",
  "holdout",
  "seed",
  "onWeak",
  "lambda",
  "rcond",
  "rank",
  "rotationOnly",
  "storage",
  "onProgress",
  "signal",
];

const fewestPairs = 8;
// a fifth of these is two
const fewestToTry = 10;

function checkFit(options: FitTranslatorOptions): Checked {
  checkKeys("options", options, optionNames);
  checkKeys("pairs", options.pairs, ["from", "to"]);
  const x = checkMatrix("pairs.from", options.pairs.from);
  const y = checkMatrix("pairs.to", options.pairs.to);
  for (const side of ["from", "to"] as const)
    if (!((options.pairs[side] as unknown) instanceof Tensor)) throw invalid(`pairs.${side}`, "a Tensor [n, d]", options.pairs[side]);
  checkCount("pairs.to", "rows", y.rows, x.rows);
  if (x.rows < fewestPairs) throw invalid("the number of pairs", `at least ${fewestPairs}`, x.rows);
  for (const side of ["from", "to"] as const) {
    const row = firstNonFiniteRow(options.pairs[side]);
    if (row !== undefined) throw new LatentError("ERR_LATENT_NON_FINITE", `row ${row} of pairs.${side} holds NaN or an infinity`);
  }
  checkSpace("from", options.from, x.columns);
  checkSpace("to", options.to, y.columns);
  checkCallback("onProgress", options.onProgress);
  const { anchors, rcond } = options;
  const smaller = Math.min(x.columns, y.columns);
  const rotationOnly = checkBoolean("rotationOnly", fallback(options.rotationOnly, false));
  if (rotationOnly && x.columns !== y.columns) throw invalid("rotationOnly", "false for spaces of different dimensions", true);
  const seed = checkSeed(fallback(options.seed, 0));
  return {
    x,
    y,
    name: checkOneOf("method", fallback(options.method, "auto"), ["auto", ...translatorMethods]),
    anchors: anchors === undefined ? undefined : checkInteger("anchors", anchors, 2, x.rows),
    holdout: checkNumber("holdout", fallback(options.holdout, 0.2), Number.EPSILON, 1 - Number.EPSILON),
    seed,
    onWeak: checkOneOf("onWeak", fallback(options.onWeak, "throw"), ["throw", "text", "warn"]),
    storage: checkStorage(options.storage),
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
export function splitPairs(n: number, holdout: number, anchors: number | undefined, seed: number): Split {
  const order = new SeededDraws(seed).sample(range(n), n);
  const held = Math.min(Math.max(Math.round(n * holdout), 2), n - 4, mostHeldOut);
  const rest = order.slice(held);
  if (anchors !== undefined && anchors > rest.length)
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `anchors must be at most ${rest.length}, the pairs that are not kept apart, got ${anchors}`,
    );
  const sorted = (ids: readonly number[]): Int32Array => Int32Array.from(ids).sort();
  return { fit: sorted(rest.slice(0, anchors)), heldOut: sorted(order.slice(0, held)) };
}

/** A look at the time that is left. */
function progressOf(listener: ((progress: FitProgress) => void) | undefined): (stage: string, ratio: number) => void {
  const began = performance.now();
  return (stage, ratio) => {
    const spent = performance.now() - began;
    listener?.({ stage, ratio, etaMs: ratio === 0 ? undefined : (spent * (1 - ratio)) / ratio });
  };
}

/** What `auto` tries: everything that so many pairs can determine, or that is regularised. */
function candidatesFor(x: Matrix, y: Matrix, count: number): TranslatorMethod[] {
  const methods: TranslatorMethod[] = ["procrustes", "procrustes-standardised", "ridge", "parseval", "inverse-relative"];
  if (Math.floor(0.8 * count) - 1 >= 2 * x.columns) methods.push("affine");
  if (Math.min(x.columns, y.columns) >= 8) methods.push("low-rank");
  return methods;
}

async function tryMethods(
  methods: readonly TranslatorMethod[],
  input: MethodInput,
  progress: (stage: string, ratio: number) => void,
): Promise<Trial[]> {
  if (methods.length === 0) return [];
  const split = splitPairs(input.from.shape[0] ?? 0, 0.2, undefined, input.seed + (input.seed < Number.MAX_SAFE_INTEGER ? 1 : -1));
  const part = async (x: Tensor, ids: Int32Array): Promise<Tensor> => selectRows(x, ids, input.signal);
  using from = await part(input.from, split.fit);
  using to = await part(input.to, split.fit);
  using validFrom = await part(input.from, split.heldOut);
  using validTo = await part(input.to, split.heldOut);
  const trials: Trial[] = [];
  for (const [i, method] of methods.entries()) {
    progress(`trying ${method}`, (0.6 * i) / methods.length);
    trials.push(await tryMethod(method, { ...input, from, to }, { from: validFrom, to: validTo }));
  }
  return trials.sort((a, b) => b.mrr - a.mrr || b.cosine - a.cosine);
}

async function tryMethod(method: TranslatorMethod, input: MethodInput, valid: Pairs): Promise<Trial> {
  try {
    const { mrr, cosine } = (await measure(await fitMethod(method, input), valid, input.signal)).quality;
    return { method, mrr, cosine };
  } catch (error) {
    // what cannot be fitted on these pairs is not chosen; anything else is the user's business
    if (!LatentError.isInstance(error) || !["ERR_LATENT_ILL_CONDITIONED", "ERR_LATENT_NON_FINITE"].includes(error.code)) throw error;
    return { method, mrr: 0, cosine: 0, error: error.message };
  }
}

function bestOf(trials: readonly Trial[]): TranslatorMethod {
  const best = trials.find((trial) => trial.error === undefined);
  const method = translatorMethods.find((one) => one === best?.method);
  if (method !== undefined) return method;
  throw new LatentError("ERR_LATENT_ILL_CONDITIONED", `no method can be fitted on these pairs: ${trials[0]?.error ?? ""}`, {
    details: { trials },
  });
}

/** Frees the stages of what was fitted to be measured. */
async function measure(
  { stages }: Fitted,
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
  method: TranslatorMethod,
  fitted: Fitted,
  input: MethodInput,
  held: Pairs,
  tried: readonly Trial[],
): Promise<TranslatorReport> {
  using translated = await runStages(fitted.stages, held.from, input.signal);
  const own = await heldOutQuality(translated, held.to, input.signal);
  const count = input.from.shape[0] ?? 0;
  const shuffled = Int32Array.from(new SeededDraws(input.seed).sample(range(count), count));
  using wrong = await selectRows(input.to, shuffled, input.signal);
  const chance = await measure(await fitMethod(method, { ...input, to: wrong }), held, input.signal);
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
