// The translator of an evaluation between two models, and its placebo, fitted on the same texts. In the folder of an evaluation they are kept, so that it
// goes on with the same ones.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import path from "node:path";
import type { EvalTranslators } from "../eval/evaluate.js";
import { fitTranslator } from "../models/fit-translator.js";
import { gatherPairs } from "../models/gather.js";
import type { Model } from "../models/model.js";
import type { SlotMaps } from "../spaces/fit.js";
import { translatorMethods, type TranslatorMethod } from "../spaces/methods.js";
import { Translator } from "../spaces/translator.js";
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
  command: FitCommand,
  folder: string | undefined,
  signal: AbortSignal,
): Promise<EvalTranslators> {
  if (folder === undefined) return await fit(output, command, signal);
  const name = `translator-${digestOf(command).slice(0, 16)}`;
  const files = [path.join(folder, `${name}.safetensors`), path.join(folder, `${name}-shuffled.safetensors`)] as const;
  if (files.every((file) => existsSync(file)))
    return { fitted: await Translator.load(files[0], { signal }), shuffled: await Translator.load(files[1], { signal }) };
  const both = await fit(output, command, signal);
  await mkdir(folder, { recursive: true });
  await both.fitted.save(files[0]);
  await both.shuffled.save(files[1]);
  return both;
}

function digestOf({ from, to, ...rest }: FitCommand): string {
  const all = [from.info.fingerprint, to.info.fingerprint, rest.texts, rest.steps, rest.maps, rest.method, rest.seed];
  return createHash("sha256").update(JSON.stringify(all)).digest("hex");
}

async function fit(
  output: Output,
  { from, to, texts, steps, maps, method, seed }: FitCommand,
  signal: AbortSignal,
): Promise<EvalTranslators> {
  output.progress(`fitting a translator on ${texts.length} texts`);
  using pairs = await gatherPairs({ from, to, texts, think: { policy: "hidden", steps }, signal });
  // weak ones too: what they are worth is what is to be found out
  const options = { pairs, method, maps, seed, onWeak: "warn", signal } as const;
  const fitted = await fitTranslator(options);
  try {
    return { fitted, shuffled: await fitTranslator({ ...options, ...madeBy(fitted, method), placebo: true }) };
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
