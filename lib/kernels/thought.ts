// One latent step over the vocabulary: from the logits of a position the next input embedding, and what the distribution looked like.
import { checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import type { Device } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeThoughtInputs, NativeThoughtStep } from "../native-kernels.js";
import { Tensor } from "../tensor.js";
import { nativeRows, output, rowCount, settled, type Rows } from "./input.js";
import { Projection } from "./projection.js";
import { TokenTable } from "./token-table.js";

/**
 * What a {@link ThoughtStep} computes: e = token · E[y] + mix · Σ pᵥ Eᵥ + hidden · A(h), where p is the softmax of the logits at `temperature`, cut to
 * `topK` and `topP` and made to sum to 1. Everything has a default: a plain record `{}` mixes the whole vocabulary.
 *
 * Soft Thinking is `{ topK, topP }`; Coconut and LatentMAS are `{ mix: 0, hidden: 1, align }`; HRPO and LT-Tuning weigh two or three of the terms. With
 * the output matrix for E, `{ token: 1, mix: -1 }` is the gradient of log p(y) by the hidden state, times the temperature (LatentSeek).
 */
export interface ThoughtRecipe {
  /** Of the embedding of a given token y; default 0. */
  readonly token?: number;
  /** Of the mix of embeddings; default 1. */
  readonly mix?: number;
  /** Of the hidden state h, through `align` if there is one; default 0. */
  readonly hidden?: number;
  /** A: maps hidden states to rows of the table's width, where the table is; default the identity. */
  readonly align?: Projection;
  /** From 1e-6 to 1e6; default 1. */
  readonly temperature?: number;
  /** The most likely tokens that are mixed, 0 for all; default 0. The lower id goes first among equals. */
  readonly topK?: number;
  /** The fewest of these whose probabilities sum to it, at least one; above 0, at most 1; default 1. */
  readonly topP?: number;
  /** Tokens that count as impossible, for the statistics as well; default none. */
  readonly masked?: Int32Array;
  /**
   * Of the weights within the selection. `gumbel`: softmax((ln p + g) / amount), g standard Gumbel noise. `dirichlet`: a draw whose mean is p and
   * whose variance is p (1 - p) / (amount + 1). Default none.
   */
  readonly noise?: { readonly kind: "gumbel" | "dirichlet"; readonly amount: number };
  /** Divides the mix by the length of its weights, |p|₂; default false. */
  readonly unitMix?: boolean;
  /** Brings e to this length; a zero e stays zero. Default: as it comes. */
  readonly norm?: number;
}

/** What a {@link ThoughtStep} is given besides logits. */
export interface ThoughtInputs {
  /** `[n]`: y of each row; needed if and only if the recipe's `token` is not 0. */
  readonly tokens?: Int32Array;
  /** `[n, hiddenWidth]`: h of each row; needed if and only if the recipe's `hidden` is not 0. f32 unless the recipe aligns it. */
  readonly hidden?: Rows;
  /** Of the noise, an integer from 0 on; default 0. */
  readonly seed?: number;
  /** Of the noise: row i takes that of `step + i`, a function of seed, step and token and nothing else. Default 0. */
  readonly step?: number;
}

/**
 * Of the whole distribution at the recipe's temperature, `[n]` each: entropy in bits, the largest probability, 2^entropy as the effective number of
 * tokens, the likeliest token, and how many tokens were mixed.
 */
export interface ThoughtStatistics {
  readonly entropyBits: Float64Array;
  readonly maxP: Float64Array;
  readonly effectiveTokens: Float64Array;
  readonly argmax: Int32Array;
  readonly selected: Int32Array;
}

/** Results of {@link ThoughtStep.run}. */
export interface Thoughts extends ThoughtStatistics {
  /** e, f32 `[n, width]`. */
  readonly embeddings: Tensor;
  /** With `mixture`: the mixed tokens of each row, ids ascending, i32 and f32 `[n, mostTokens]`; behind the last one -1 and 0. */
  readonly mixture?: { readonly ids: Tensor; readonly weights: Tensor };
}

/** Numbers of a row in the statistics of {@link ThoughtStep.runSync}. */
const statisticsWidth = 5;

/**
 * Prepares thought steps with one recipe over one table, which compute where the table is.
 *
 * ```ts
 * using table = await openTokenTable("model.gguf");
 * using soft = createThoughtStep(table, { temperature: 0.7, topK: 64, topP: 0.95 });
 * const { embeddings, entropyBits } = await soft.run(logits);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DISPOSED`
 */
export function createThoughtStep(table: TokenTable, recipe: ThoughtRecipe = {}): ThoughtStep {
  const given: unknown = table;
  if (!(given instanceof TokenTable)) throw invalid("table", "a TokenTable", given);
  const { align, noise, masked } = checkRecipe(recipe);
  return new ThoughtStep(
    LatentError.translate(() =>
      native().createThoughtStep(given.toNative(), {
        ...recipe,
        align: align?.toNative(),
        masked,
        noise: noise?.kind,
        noiseAmount: noise?.amount,
      }),
    ),
    given.device,
  );
}

function checkRecipe(recipe: ThoughtRecipe): ThoughtRecipe {
  checkKeys("recipe", recipe, ["token", "mix", "hidden", "align", "temperature", "topK", "topP", "masked", "noise", "unitMix", "norm"]);
  for (const name of ["token", "mix", "hidden"] as const) {
    const coefficient = checkNumber(name, fallback(recipe[name], 0), -1e30, 1e30);
    // it would be 0 in f32, and its term would be left out
    if (coefficient !== 0 && Math.abs(coefficient) < 1e-30) throw invalid(name, "0 or of a size from 1e-30 to 1e30", coefficient);
  }
  const { align, masked, noise }: { align?: unknown; masked?: unknown; noise?: ThoughtRecipe["noise"] } = recipe;
  if (align !== undefined && !(align instanceof Projection)) throw invalid("align", "a Projection", align);
  checkNumber("temperature", fallback(recipe.temperature, 1), 1e-6, 1e6);
  checkInteger("topK", fallback(recipe.topK, 0), 0, 2 ** 31 - 1);
  checkNumber("topP", fallback(recipe.topP, 1), Number.EPSILON, 1);
  if (masked !== undefined && !(masked instanceof Int32Array)) throw invalid("masked", "an Int32Array", masked);
  if (noise !== undefined) {
    checkKeys("noise", noise, ["kind", "amount"]);
    checkOneOf("noise.kind", noise.kind, ["gumbel", "dirichlet"]);
    checkNumber("noise.amount", noise.amount, 1e-6, 1e30);
  }
  checkBoolean("unitMix", fallback(recipe.unitMix, false));
  checkNumber("norm", fallback(recipe.norm, 1), 0, 1e30);
  return recipe;
}

/** A recipe over a table, made by {@link createThoughtStep}. It keeps the table and the projection alive. */
export class ThoughtStep {
  readonly #native: NativeThoughtStep;
  /** Numbers of a row of logits. */
  readonly vocabularySize: number;
  /** Numbers of e. */
  readonly width: number;
  /** Numbers of h. */
  readonly hiddenWidth: number;
  /** The most tokens of a mix. */
  readonly mostTokens: number;

  /** @internal */
  constructor(
    handle: NativeThoughtStep,
    /** Where it computes. */
    readonly device: Device,
  ) {
    this.#native = handle;
    const info = handle.info();
    this.vocabularySize = info.vocabularySize;
    this.width = info.width;
    this.hiddenWidth = info.hiddenWidth;
    this.mostTokens = info.mostTokens;
  }

  /** Whether {@link ThoughtStep.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * One step for each row of logits, computed before it returns, into arrays of the caller: for a loop that allocates nothing.
   * @param logits f32 `[n, vocabularySize]`; -∞ is legal.
   * @param embeddings e, `[n, width]`, filled; default a new array. It must not overlap the inputs.
   * @param statistics `[n, 5]`, filled: entropy in bits, largest p, effective tokens, argmax, mixed tokens; default a new array. It must overlap nothing.
   * @returns e
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (sizes; a row without a possible token), `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`,
   * `ERR_LATENT_NON_FINITE` (a logit that is NaN or +∞, or an e that is not finite; the arrays hold anything then), `ERR_LATENT_OUT_OF_MEMORY`
   */
  runSync(logits: Rows, inputs: ThoughtInputs = {}, embeddings?: Float32Array, statistics?: Float64Array): Float32Array {
    const rows = nativeRows("logits", logits);
    const given = nativeInputs(inputs);
    const n = rowCount(logits, this.vocabularySize);
    const result = output("embeddings", embeddings, Float32Array, n * this.width);
    const numbers = output("statistics", statistics, Float64Array, n * statisticsWidth);
    LatentError.translate(() => {
      this.#native.runSync(rows, given, result, numbers);
    });
    return result;
  }

  /**
   * One step for each row of logits, off the JavaScript thread unless it is short. Tensors of the result lie where the logits do.
   * @param logits f32 `[n, vocabularySize]`, of a table on a GPU also f16 or bf16; -∞ is legal.
   * @param options `mixture`: also which tokens were mixed, and their weights; default false.
   * @throws {@link LatentError} as {@link ThoughtStep.runSync}; the signal's reason on abort
   */
  async run(
    logits: Rows,
    inputs: ThoughtInputs = {},
    options: { readonly mixture?: boolean; readonly signal?: AbortSignal } = {},
  ): Promise<Thoughts> {
    checkKeys("options", options, ["mixture", "signal"]);
    const mixture = checkBoolean("mixture", fallback(options.mixture, false));
    const rows = nativeRows("logits", logits);
    const given = nativeInputs(inputs);
    const { embeddings, stats, ids, weights } = await settled(() => this.#native.run(rows, given, mixture), options.signal);
    const thoughts: Thoughts = { embeddings: Tensor.fromNative(embeddings), ...statisticsOf(stats) };
    if (ids === undefined || weights === undefined) return thoughts;
    return { ...thoughts, mixture: { ids: Tensor.fromNative(ids), weights: Tensor.fromNative(weights) } };
  }

  /** Lets go of the table as soon as no running call uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link ThoughtStep.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

function nativeInputs(inputs: ThoughtInputs): NativeThoughtInputs {
  checkKeys("inputs", inputs, ["tokens", "hidden", "seed", "step"]);
  const { tokens, hidden, seed, step }: { tokens?: unknown; hidden?: Rows; seed?: number; step?: number } = inputs;
  if (tokens !== undefined && !(tokens instanceof Int32Array)) throw invalid("tokens", "an Int32Array", tokens);
  checkInteger("seed", fallback(seed, 0), 0, Number.MAX_SAFE_INTEGER);
  checkInteger("step", fallback(step, 0), 0, Number.MAX_SAFE_INTEGER);
  return { tokens, hidden: hidden === undefined ? undefined : nativeRows("hidden", hidden), seed, step };
}

function statisticsOf(numbers: Float64Array): ThoughtStatistics {
  const column = (at: number): number[] =>
    Array.from({ length: numbers.length / statisticsWidth }, (_, i) => numbers[i * statisticsWidth + at] ?? 0);
  return {
    entropyBits: Float64Array.from(column(0)),
    maxP: Float64Array.from(column(1)),
    effectiveTokens: Float64Array.from(column(2)),
    argmax: Int32Array.from(column(3)),
    selected: Int32Array.from(column(4)),
  };
}
