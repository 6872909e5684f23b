// A map between two spaces, by which one model's latents become another's: fitted on pairs of rows, held against pairs that were kept apart and against
// chance, and never applied in silence where it is no better than that.
import { checkKeys, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix } from "../fits/input.js";
import type { Storage } from "../kernels/input.js";
import type { Tensor } from "../tensor.js";
import { fitPairs, type FitTranslatorOptions, type SlotMaps } from "./fit.js";
import { Latent } from "./latent.js";
import { weak, type TranslatorReport } from "./report.js";
import { requireSameSpace, type Space } from "./space.js";
import {
  copyStages,
  dimensionsOf,
  disposePacked,
  disposeStages,
  invertStages,
  packStages,
  runPacked,
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
  /** Rows of a message, where each has a map of its own (`slot`) or all of them one (`flat`): it translates whole messages only. */
  readonly slots?: number;
  readonly maps?: Exclude<SlotMaps, "shared">;
  /** Fitted on pairs that do not belong together, to be compared with. */
  readonly placebo?: true;
  readonly from?: Space;
  readonly to?: Space;
  /** Of a fit; what is made of other translators has none. */
  readonly report?: TranslatorReport;
  /** What it does where it is weak: nothing special, or refuse, so that text goes instead. */
  readonly onWeak: "apply" | "text";
  readonly storage: Storage;
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
    const { card, stages, symbols } = await fitPairs(options);
    return Translator.make(card, stages, options.signal, symbols);
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
   * @param x `[n, dx]` of f32, f16 or bf16; with `card.slots`, whole messages of so many rows each.
   * @throws {@link LatentError} `ERR_LATENT_TRANSLATOR_WEAK` (made with `onWeak: "text"`), `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`,
   * `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row), `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async apply(x: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    this.#live();
    refuseWeak(this.card);
    const { dimensions, slots } = this.card;
    const { rows, columns } = checkMatrix("x", x);
    if (columns !== dimensions[0]) throw invalid("the dimension of x", String(dimensions[0]), columns);
    if (slots !== undefined && rows % slots !== 0) throw invalid("the rows of x", `whole messages of ${slots} rows`, rows);
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
      ...messageOf(this.card),
      ...(to && { from: to }),
      ...(from && { to: from }),
      onWeak,
      storage,
    };
    return Translator.make(card, stages, options.signal);
  }

  /**
   * This translator and then `next`, as one.
   * @throws {@link LatentError} `ERR_LATENT_SPACE_MISMATCH`, `ERR_LATENT_INVALID_ARGUMENT` (dimensions or messages that do not meet), `ERR_LATENT_TRANSLATOR_WEAK`
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
    if (mine.slots !== undefined && theirs.slots !== undefined && mine.slots !== theirs.slots)
      throw invalid("the rows of a message of next", String(mine.slots), theirs.slots);
    const card: TranslatorCard = {
      method: `${mine.method}, then ${theirs.method}`,
      dimensions: [mine.dimensions[0], theirs.dimensions[1]],
      ...messageOf(mine.slots === undefined ? theirs : mine),
      ...(mine.placebo === true || theirs.placebo === true ? { placebo: true } : {}),
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

/** What a card says of messages and placebos. */
function messageOf({ slots, maps, placebo }: TranslatorCard): Pick<TranslatorCard, "slots" | "maps" | "placebo"> {
  return { ...(slots !== undefined && { slots }), ...(maps && { maps }), ...(placebo && { placebo }) };
}

function refuseWeak({ method, onWeak, report }: TranslatorCard): void {
  if (onWeak === "apply") return;
  if (report !== undefined) throw weak(method, report);
  throw new LatentError("ERR_LATENT_TRANSLATOR_WEAK", `the ${method} is made of a translator that is no better than chance`);
}
