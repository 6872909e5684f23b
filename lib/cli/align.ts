// `latentwire align`: fits a translator from pairs of rows, or from two models and texts, and says what it is worth against chance. Exit code 3 where
// nothing is of use.
import { invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { fitTranslator } from "../models/fit-translator.js";
import { gatherPairs, type Gathering } from "../models/gather.js";
import { relativeAgreement } from "../spaces/agreement.js";
import type { FitProgress, SlotMaps } from "../spaces/fit.js";
import { translatorMethods, type TranslatorMethod } from "../spaces/methods.js";
import type { HeldOutQuality, Verdict } from "../spaces/report.js";
import { Translator } from "../spaces/translator.js";
import { openModel, type ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";
import { readPair } from "./rows.js";
import { readTexts } from "./texts.js";

export interface AlignCommand extends ModelAccess {
  readonly pairs?: readonly string[];
  readonly from?: string;
  readonly to?: string;
  readonly texts?: string;
  readonly gather?: Gathering;
  readonly steps?: number;
  readonly maps?: SlotMaps | "auto";
  readonly method: TranslatorMethod | "auto" | "all";
  readonly anchors?: number;
  readonly seed: number;
  readonly out?: string;
}

/** One line of the result. */
interface Line {
  readonly method: string;
  /** Of messages of several rows. */
  readonly maps?: SlotMaps;
  readonly anchors: number | null;
  readonly heldOut: Readonly<Record<string, number>> | null;
  readonly null: Readonly<Record<string, number>> | null;
  readonly verdict: Verdict;
  /** Why it could not be fitted. */
  readonly error?: string;
}

/** The options of a fit that the command gives, whatever it is fitted on. */
interface Fit {
  readonly method: TranslatorMethod | "auto";
  readonly seed: number;
  readonly anchors?: number;
  readonly onWeak: "warn";
  readonly onProgress: (progress: FitProgress) => void;
  readonly signal: AbortSignal;
}

/** What is aligned: facts for the result, how a method is fitted, and comparisons that need no map. */
interface Subject {
  readonly facts: Readonly<Record<string, unknown>>;
  readonly fit: (options: Fit) => Promise<Translator>;
  readonly comparisons: Readonly<Record<string, () => Promise<Line>>>;
}

export async function align(output: Output, options: AlignCommand, signal: AbortSignal): Promise<void> {
  if (options.method === "all" && options.out !== undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "--out is for one method or auto, not for all");
  if (options.pairs === undefined) await alignModels(output, options, signal);
  else await alignRows(output, options, options.pairs, signal);
}

const ofModels = ["from", "to", "texts", "gather", "steps", "maps"] as const;

async function alignRows(output: Output, options: AlignCommand, files: readonly string[], signal: AbortSignal): Promise<void> {
  for (const name of ofModels) if (options[name] !== undefined) throw invalid(`--${name}`, "left out with --pairs", options[name]);
  const [from, to] = await readPair(files);
  using a = from;
  using b = to;
  const pairs = { from: a, to: b };
  const { seed, anchors } = options;
  const compare = (method: string, similarity: "cosine" | "whitened") => async (): Promise<Line> => {
    const found = await relativeAgreement({ pairs, similarity, seed, ...(anchors !== undefined && { anchors }), signal });
    return { method, anchors: found.anchors, heldOut: shortOf(found.heldOut), null: shortOf(found.null), verdict: found.verdict };
  };
  await report(output, options, signal, {
    facts: { n: a.shape[0], d: [a.shape[1], b.shape[1]] },
    fit: (fit) => Translator.fit({ ...fit, pairs }),
    comparisons: {
      "relative-cosine": compare("relative-cosine", "cosine"),
      "relative-whitened": compare("relative-whitened", "whitened"),
    },
  });
}

async function alignModels(output: Output, options: AlignCommand, signal: AbortSignal): Promise<void> {
  const { from, to, texts, gather, steps, maps } = options;
  if (from === undefined || to === undefined || texts === undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "align takes --pairs A B, or --from A.gguf --to B.gguf --texts FILE");
  const read = await readTexts(texts);
  await using a = await openModel(from, options, signal);
  await using b = await openModel(to, options, signal);
  using pairs = await gatherPairs({
    from: a,
    to: b,
    texts: read,
    ...(gather && { gather }),
    ...(steps !== undefined && { think: { policy: "hidden", steps } }),
    onProgress: progressOn(output),
    signal,
  });
  await report(output, options, signal, {
    facts: { from, to, n: pairs.texts, slots: pairs.slots, d: [pairs.from.shape[1], pairs.to.shape[1]] },
    fit: (fit) => fitTranslator({ ...fit, pairs, ...(maps && { maps }) }),
    comparisons: {},
  });
}

async function report(output: Output, options: AlignCommand, signal: AbortSignal, subject: Subject): Promise<void> {
  const { method } = options;
  const lines =
    method === "all" ? await fitAll(output, subject, options, signal) : [await fitOne(output, subject, method, options, signal)];
  output.result({ ...subject.facts, methods: lines }, () =>
    output.table(
      ["method", "anchors", "retrieval@1", "MRR", "cosine", "shuffled MRR", "verdict"],
      lines.map(({ method: name, maps, anchors, heldOut, null: chance, verdict, error }) => [
        maps === undefined ? name : `${name} (${maps})`,
        anchors ?? "",
        percent(heldOut?.["retrieval1"]),
        heldOut?.["mrr"]?.toFixed(3) ?? "",
        heldOut?.["cosine"]?.toFixed(3) ?? "",
        chance?.["mrr"]?.toFixed(3) ?? "",
        error ?? verdict,
      ]),
    ),
  );
  if (lines.every((line) => line.verdict === "unusable")) process.exitCode = 3;
}

function percent(share: number | undefined): string {
  return share === undefined ? "" : `${(100 * share).toFixed(1)} %`;
}

/** Writes each percent once. */
function progressOn(output: Output, name?: string): (progress: FitProgress) => void {
  let last = "";
  return ({ stage, ratio, etaMs }) => {
    const line = `${(100 * ratio).toFixed(0).padStart(3)} % ${name === undefined ? "" : `${name}: `}${stage}`;
    if (line === last) return;
    last = line;
    output.progress(etaMs === undefined || etaMs < 1000 ? line : `${line}, about ${Math.ceil(etaMs / 1000)} s left`);
  };
}

async function fitAll(output: Output, subject: Subject, options: AlignCommand, signal: AbortSignal): Promise<Line[]> {
  const lines: Line[] = [];
  for (const method of translatorMethods) lines.push(await attempt(method, () => fitOne(output, subject, method, options, signal)));
  for (const [method, compare] of Object.entries(subject.comparisons)) {
    output.progress(`comparing by ${method}`);
    lines.push(await attempt(method, compare));
  }
  return lines;
}

/** What a method alone cannot do is a line of the table. */
async function attempt(method: string, run: () => Promise<Line>): Promise<Line> {
  try {
    return await run();
  } catch (error) {
    if (
      !LatentError.isInstance(error) ||
      !["ERR_LATENT_ILL_CONDITIONED", "ERR_LATENT_NON_FINITE", "ERR_LATENT_OUT_OF_MEMORY"].includes(error.code)
    )
      throw error;
    return { method, anchors: null, heldOut: null, null: null, verdict: "unusable", error: error.code };
  }
}

async function fitOne(
  output: Output,
  subject: Subject,
  method: TranslatorMethod | "auto",
  { seed, anchors, out }: AlignCommand,
  signal: AbortSignal,
): Promise<Line> {
  const onProgress = progressOn(output, method);
  using translator = await subject.fit({ method, seed, ...(anchors !== undefined && { anchors }), onWeak: "warn", onProgress, signal });
  const { card, report: found } = translator;
  if (found === undefined) throw new Error("a fit without a report");
  for (const warning of found.warnings) output.progress(`warning: ${warning}`);
  // what is of no use is not written, so that no script picks it up
  if (out !== undefined && found.verdict !== "unusable") {
    await translator.save(out);
    output.progress(`written to ${out}`);
  }
  return {
    method: card.method,
    ...(card.maps && { maps: card.maps }),
    anchors: found.anchors,
    heldOut: shortOf(found.heldOut),
    null: shortOf(found.null),
    verdict: found.verdict,
  };
}

function shortOf({
  count,
  retrieval1,
  retrievalK,
  mrr,
  meanRank,
  foscttm,
  cosine,
  r2,
  cka,
}: HeldOutQuality): Readonly<Record<string, number>> {
  return { count, retrieval1, retrieval10: retrievalK, mrr, meanRank, foscttm, cosine, r2, cka };
}
