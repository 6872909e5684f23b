// Fits the translator of an evaluation between two models, and its placebo, on the same texts.
import type { EvalTranslators } from "../eval/evaluate.js";
import { fitTranslator } from "../models/fit-translator.js";
import { gatherPairs } from "../models/gather.js";
import type { Model } from "../models/model.js";
import type { SlotMaps } from "../spaces/fit.js";
import { translatorMethods, type TranslatorMethod } from "../spaces/methods.js";
import type { Translator } from "../spaces/translator.js";
import type { Output } from "./output.js";

export interface FitCommand {
  readonly from: Model;
  readonly to: Model;
  readonly texts: readonly string[];
  readonly steps: number;
  readonly maps: SlotMaps | "auto";
  readonly method: TranslatorMethod | "auto";
  readonly seed: number;
}

export async function fitBoth(
  output: Output,
  { from, to, texts, steps, maps, method, seed }: FitCommand,
  signal: AbortSignal,
): Promise<EvalTranslators> {
  output.progress(`fitting a translator on ${texts.length} texts`);
  using pairs = await gatherPairs({ from, to, texts, think: { policy: "hidden", steps }, signal });
  // weak ones too: what they are worth is what is to be found out
  const fit = { pairs, method, maps, seed, onWeak: "warn", signal } as const;
  const fitted = await fitTranslator(fit);
  try {
    return { fitted, shuffled: await fitTranslator({ ...fit, ...madeBy(fitted, method), placebo: true }) };
  } catch (error) {
    fitted.dispose();
    throw error;
  }
}

/** What the fit was made by, where it was found out. */
function madeBy({ card }: Translator, asked: TranslatorMethod | "auto"): { method: TranslatorMethod | "auto"; maps: SlotMaps } {
  const method = translatorMethods.find((known) => known === card.method) ?? asked;
  return { method, maps: card.maps ?? "shared" };
}
