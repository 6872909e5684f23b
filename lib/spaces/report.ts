// What is said about a translator: how it does on pairs that were kept apart, what the same method makes of shuffled pairs, and the verdict of the two.
import { LatentError } from "../errors.js";
import type { Tensor } from "../tensor.js";
import { withSignal } from "../jobs.js";
import { linearCka, pairedRanks, predictionError, retrievalOf, type PredictionError, type Retrieval } from "./metrics.js";

/** Quality of translated rows against the true ones. */
export interface HeldOutQuality extends PredictionError, Retrieval {
  /** Pairs. */
  readonly count: number;
  /** {@link linearCka} of translated and true rows; 0 where the translated ones are all equal, or there is one pair. */
  readonly cka: number;
}

/**
 * `good`: more than half of the places are right (a mean reciprocal rank of at least 0.5). `fair`: better than shuffled pairs. `unusable`: not better than
 * those by three standard errors of the mean reciprocal rank.
 */
export type Verdict = "good" | "fair" | "unusable";

/** A method that `auto` has tried on a part of the pairs for the fit. */
export interface Trial {
  readonly method: string;
  /** For messages of several rows. */
  readonly maps?: "shared" | "slot" | "flat";
  /** On the validation pairs. */
  readonly mrr: number;
  readonly cosine: number;
  /** Why it could not be fitted. */
  readonly error?: string;
}

/** The report that every fitted translator carries. */
export interface TranslatorReport {
  /** Pairs that the method was fitted on. */
  readonly count: number;
  /** Pairs whose rows the map is made from: those that are anchors. */
  readonly anchors: number;
  readonly heldOut: HeldOutQuality;
  /** The same of the method fitted on shuffled pairs. */
  readonly null: HeldOutQuality;
  /** Of what was inverted: above about 1e7, f32 rows do not determine the map. 1 for orthogonal maps. */
  readonly condition: number;
  readonly verdict: Verdict;
  readonly warnings: readonly string[];
  /** What `auto` tried, the best first; empty for a given method. */
  readonly tried: readonly Trial[];
}

/** How translated rows stand to the true ones, and the error of the mean reciprocal rank. */
export async function heldOutQuality(
  translated: Tensor,
  target: Tensor,
  signal: AbortSignal | undefined,
): Promise<{ quality: HeldOutQuality; variance: number }> {
  const ranks = await pairedRanks(translated, target, signal);
  const count = ranks.length;
  const found = retrievalOf(ranks, Math.min(10, count));
  const errors = await predictionError(translated, target, withSignal(signal));
  let squares = 0;
  for (const rank of ranks) squares += (1 / rank - found.mrr) ** 2;
  const quality = { count, ...errors, ...found, cka: await ckaOrNone(translated, target, signal) };
  return { quality, variance: squares / count ** 2 };
}

async function ckaOrNone(translated: Tensor, target: Tensor, signal: AbortSignal | undefined): Promise<number> {
  try {
    return await linearCka(translated, target, withSignal(signal));
  } catch (error) {
    if (LatentError.isInstance(error) && error.code === "ERR_LATENT_INVALID_ARGUMENT") return 0;
    throw error;
  }
}

export function verdictOf(mrr: number, nullMrr: number, variance: number): Verdict {
  if (mrr - nullMrr <= 3 * Math.sqrt(variance)) return "unusable";
  return mrr >= 0.5 ? "good" : "fair";
}

/** @internal Throws what {@link Translator.fit} throws for a translator that is no better than chance. */
export function refuseUnusable(method: string, report: TranslatorReport): void {
  if (report.verdict === "unusable") throw weak(method, report);
}

/** @internal */
export function weak(method: string, report: TranslatorReport): LatentError {
  const { heldOut, null: chance } = report;
  const numbers = `mean reciprocal rank ${heldOut.mrr.toFixed(3)} on ${heldOut.count} pairs that were kept apart, ${chance.mrr.toFixed(3)} of shuffled pairs`;
  return new LatentError("ERR_LATENT_TRANSLATOR_WEAK", `${method} is no better than chance: ${numbers}`, { details: { method, report } });
}
