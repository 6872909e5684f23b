// `latentwire align`: fits a translator from pairs of rows and says what it is worth against chance. Exit code 3 where nothing is of use.
import { LatentError } from "../errors.js";
import { relativeAgreement } from "../spaces/agreement.js";
import { translatorMethods, type TranslatorMethod } from "../spaces/methods.js";
import type { HeldOutQuality, Verdict } from "../spaces/report.js";
import { Translator } from "../spaces/translator.js";
import type { Tensor } from "../tensor.js";
import type { Output } from "./output.js";
import { readPair } from "./rows.js";

export interface AlignCommand {
  readonly pairs: readonly string[];
  readonly method: TranslatorMethod | "auto" | "all";
  readonly anchors?: number;
  readonly seed: number;
  readonly out?: string;
}

/** One line of the result. */
interface Line {
  readonly method: string;
  readonly anchors: number | null;
  readonly heldOut: Readonly<Record<string, number>> | null;
  readonly null: Readonly<Record<string, number>> | null;
  readonly verdict: Verdict;
  /** Why it could not be fitted. */
  readonly error?: string;
}

const comparisons = { "relative-cosine": "cosine", "relative-whitened": "whitened" } as const;

export async function align(output: Output, options: AlignCommand, signal: AbortSignal): Promise<void> {
  const [from, to] = await readPair(options.pairs);
  using a = from;
  using b = to;
  if (options.method === "all" && options.out !== undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "--out is for one method or auto, not for all");
  const lines =
    options.method === "all"
      ? await alignAll(output, a, b, options, signal)
      : [await alignOne(output, a, b, options.method, options, signal)];
  const result = { n: a.shape[0], d: [a.shape[1], b.shape[1]], methods: lines };
  output.result(result, () =>
    output.table(
      ["method", "anchors", "retrieval@1", "MRR", "cosine", "shuffled MRR", "verdict"],
      lines.map(({ method, anchors, heldOut, null: chance, verdict, error }) => [
        method,
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

async function alignAll(output: Output, a: Tensor, b: Tensor, options: AlignCommand, signal: AbortSignal): Promise<Line[]> {
  const lines: Line[] = [];
  for (const method of translatorMethods) lines.push(await attempt(method, () => alignOne(output, a, b, method, options, signal)));
  for (const [method, similarity] of Object.entries(comparisons)) {
    output.progress(`comparing by ${method}`);
    lines.push(
      await attempt(method, async () => {
        const { seed, anchors } = options;
        const found = await relativeAgreement({
          pairs: { from: a, to: b },
          similarity,
          seed,
          ...(anchors !== undefined && { anchors }),
          signal,
        });
        return { method, anchors: found.anchors, heldOut: shortOf(found.heldOut), null: shortOf(found.null), verdict: found.verdict };
      }),
    );
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

async function alignOne(
  output: Output,
  a: Tensor,
  b: Tensor,
  method: TranslatorMethod | "auto",
  { seed, anchors, out }: AlignCommand,
  signal: AbortSignal,
): Promise<Line> {
  using translator = await Translator.fit({
    pairs: { from: a, to: b },
    method,
    seed,
    ...(anchors !== undefined && { anchors }),
    onWeak: "warn",
    onProgress: ({ stage, ratio }) => {
      output.progress(`${(100 * ratio).toFixed(0).padStart(3)} % ${method}: ${stage}`);
    },
    signal,
  });
  const { card, report } = translator;
  if (report === undefined) throw new Error("a fit without a report");
  for (const warning of report.warnings) output.progress(`warning: ${warning}`);
  // what is of no use is not written, so that no script picks it up
  if (out !== undefined && report.verdict !== "unusable") {
    await translator.save(out);
    output.progress(`written to ${out}`);
  }
  return {
    method: card.method,
    anchors: report.anchors,
    heldOut: shortOf(report.heldOut),
    null: shortOf(report.null),
    verdict: report.verdict,
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
