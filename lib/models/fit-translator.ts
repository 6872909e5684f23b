// A translator between two loaded models or encoders, fitted on what both make of the same texts.
import { checkKeys, invalid } from "../check.js";
import { withSignal } from "../jobs.js";
import { fitOptionNames, type FitProgress, type FitTranslatorOptions } from "../spaces/fit.js";
import { Translator } from "../spaces/translator.js";
import { gatherOptionNames, gatherPairs, LatentPairs, type GatherPairsOptions } from "./gather.js";

/** Options of {@link fitTranslator}: of the fit, see {@link Translator.fit}; `lambda` is 1e-4 by default. */
export type FitOptions = Omit<FitTranslatorOptions, "pairs" | "from" | "to" | "slots" | "length">;

/** Options of {@link fitTranslator}: models or encoders, and texts, or pairs that were gathered before; and how to fit. */
export type FitModelsOptions = FitOptions & (GatherPairsOptions | { readonly pairs: LatentPairs });

// of the time, about
const gathering = 0.8;

/**
 * Fits a translator from the latents of one model to input rows of another, or between the rows of encoders. Both read the same texts and think about
 * them; what they make of a text is a pair. Some texts are kept apart: the report says how well their rows are found, and what the same method makes of shuffled pairs. Translated rows have
 * the length of the receiving model's input rows, so they can be fed to it.
 *
 * ```ts
 * using translator = await fitTranslator({ from: wren, to: finch, texts });
 * console.log(translator.report?.verdict);
 * const { text } = await pipe(reader, translator, solver).run(question);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_TRANSLATOR_WEAK` (see `onWeak`), and what {@link gatherPairs} and {@link Translator.fit} throw
 */
export async function fitTranslator(options: FitModelsOptions): Promise<Translator> {
  const given: object = options;
  if ("pairs" in given) {
    checkKeys("options", given, ["pairs", ...fitOptionNames]);
    const pairs: unknown = given.pairs;
    if (!(pairs instanceof LatentPairs)) throw invalid("pairs", "what gatherPairs made", pairs);
    return fitOn(pairs, options, options.onProgress);
  }
  checkKeys("options", given, [...gatherOptionNames, ...fitOptionNames]);
  const { onProgress } = options;
  const began = performance.now();
  const part =
    (from: number, share: number) =>
    (progress: FitProgress): void => {
      const ratio = from + share * progress.ratio;
      const etaMs = ratio === 0 ? undefined : ((performance.now() - began) * (1 - ratio)) / ratio;
      onProgress?.({ stage: progress.stage, ratio, etaMs });
    };
  const all = options as GatherPairsOptions;
  const asked = Object.fromEntries(gatherOptionNames.filter((name) => name in given).map((name) => [name, all[name]]));
  using pairs = await gatherPairs({ ...(asked as unknown as GatherPairsOptions), onProgress: part(0, gathering), ...withSignal(options.signal) });
  return await fitOn(pairs, options, part(gathering, 1 - gathering));
}

/**
 * Hidden states have few strong directions and many weak ones, in which words differ. The 1e-2 of {@link Translator.fit} shrinks those: on the bundled
 * pair, 65 % of the answers come through a map by slot with it and 85 % with this (models/README.md).
 */
const lambdaOfStates = 1e-4;

function fitOn(pairs: LatentPairs, options: FitOptions, onProgress: FitOptions["onProgress"]): Promise<Translator> {
  const fitting = Object.fromEntries(fitOptionNames.filter((name) => name in options).map((name) => [name, options[name]]));
  return Translator.fit({
    lambda: lambdaOfStates,
    ...fitting,
    pairs: { from: pairs.from.tensor(), to: pairs.to.tensor() },
    from: pairs.from.space,
    to: pairs.to.space,
    slots: pairs.slots,
    ...(pairs.length !== undefined && { length: pairs.length }),
    ...(onProgress && { onProgress }),
  });
}
