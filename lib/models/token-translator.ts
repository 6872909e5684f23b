// W_cross: a map between two models whose vocabularies overlap, from their matrices alone. The rows of the tokens that both spell alike are the pairs; no
// text is read.
import { checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { selectRows } from "../spaces/rows.js";
import { Translator } from "../spaces/translator.js";
import type { Tensor } from "../tensor.js";
import type { FitOptions } from "./fit-translator.js";
import { Model } from "./model.js";

/** Options of {@link tokenTranslator}; those of the fit are of {@link Translator.fit}. */
export interface TokenTranslatorOptions
  extends Pick<FitOptions, "anchors" | "holdout" | "seed" | "onWeak" | "placebo" | "lambda" | "storage" | "onProgress" | "signal"> {
  readonly from: Model;
  readonly to: Model;
  /**
   * Which rows of `from` stand for its tokens. `output` (default): those that its states are compared with, for thoughts that are states brought to length. `input`:
   * those that it reads, for thoughts with `align: true` and thoughts in tokens. Models that tie the two have one matrix.
   */
  readonly rows?: "output" | "input";
}

const fitNames = ["anchors", "holdout", "seed", "onWeak", "placebo", "lambda", "storage", "onProgress", "signal"] as const;
const fewestShared = 8;

/**
 * A translator from the latents of one model to input rows of another, W = (XᵀX + λI)⁻¹ XᵀY over the tokens that both vocabularies spell alike: X are the
 * sender's rows of these tokens, Y the receiver's input rows (W_cross of LatentMAS-Hybrid, which pairs by number; here it is by string, so that
 * the vocabularies may differ). Strings that a vocabulary has more than once, and all that are no whole characters, are left out. A part of the tokens is
 * kept apart, and the report is about them: it says how well tokens are found, not thoughts. Hold it against {@link fitTranslator} on your task.
 *
 * ```ts
 * using translator = await tokenTranslator({ from: small, to: large, onWeak: "text" });
 * const { text } = await pipe(reader, translator, solver).run(question);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (also: fewer than 8 shared tokens), and what {@link Translator.fit} throws
 */
export async function tokenTranslator(options: TokenTranslatorOptions): Promise<Translator> {
  checkKeys("options", options, ["from", "to", "rows", ...fitNames]);
  const { from, to, signal } = options;
  for (const [name, model] of Object.entries({ from, to }) as [string, unknown][])
    if (!(model instanceof Model)) throw invalid(name, "a Model", model);
  const rows = checkOneOf("rows", fallback(options.rows, "output"), ["output", "input"]);
  const shared = sharedTokens(from, to);
  if (shared.from.length < fewestShared)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `the vocabularies share ${shared.from.length} tokens, at least ${fewestShared} are needed`, {
      details: { shared: shared.from.length },
    });
  using x = await rowsOf(from, shared.from, rows, signal);
  using y = to.inputRows(shared.to);
  const fitting = Object.fromEntries(fitNames.filter((name) => name in options).map((name) => [name, options[name]]));
  return await Translator.fit({ ...fitting, method: "linear-ridge", pairs: { from: x, to: y }, from: from.space, to: to.space, length: to.info.alpha });
}

async function rowsOf(model: Model, tokens: Int32Array, which: "output" | "input", signal: AbortSignal | undefined): Promise<Tensor> {
  const output = which === "output" ? await model.matrix("output") : null;
  if (output === null) return model.inputRows(tokens);
  using matrix = output;
  return await selectRows(matrix, tokens, signal);
}

/** Tokens that both spell alike, in the order of the first. */
function sharedTokens(from: Model, to: Model): { readonly from: Int32Array; readonly to: Int32Array } {
  const there = tokensByPiece(to);
  const both = [...tokensByPiece(from)].flatMap(([piece, token]) => {
    const other = there.get(piece);
    return other === undefined ? [] : [[token, other] as const];
  });
  return { from: Int32Array.from(both, ([token]) => token), to: Int32Array.from(both, ([, token]) => token) };
}

// what the bytes of no whole character look like
const replacement = "\u{fffd}";

/** The tokens whose string no other token of the vocabulary has. */
function tokensByPiece(model: Model): Map<string, number> {
  const tokens = new Map<string, number>();
  const repeated = new Set<string>();
  for (let token = 0; token < model.info.vocabularySize; token++) {
    const piece = model.piece(token);
    if (tokens.has(piece)) repeated.add(piece);
    else if (piece !== "" && !piece.includes(replacement)) tokens.set(piece, token);
  }
  for (const piece of repeated) tokens.delete(piece);
  return tokens;
}
