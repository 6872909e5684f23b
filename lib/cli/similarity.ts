// `latentwire similarity`: every measure of how alike two sets of rows are that tell of the same things.
import { LatentError } from "../errors.js";
import {
  canonicalCorrelations,
  cknna,
  linearCka,
  mutualKnn,
  predictionError,
  procrustesDistance,
  rbfCka,
  retrieval,
  spectrum,
  svcca,
  unbiasedCka,
} from "../spaces/metrics.js";
import type { Output } from "./output.js";
import { readPair } from "./rows.js";

export async function similarity(output: Output, options: { readonly operands: readonly string[] }, signal: AbortSignal): Promise<void> {
  const [a, b] = await readPair(options.operands);
  using x = a;
  using y = b;
  const [n = 0, dx = 0] = x.shape;
  const dy = y.shape[1] ?? 0;
  const k = Math.max(1, Math.min(10, n - 1));
  const one = { signal };
  const measures: Record<string, () => Promise<number>> = {
    linearCka: () => linearCka(x, y, one),
    unbiasedCka: () => unbiasedCka(x, y, one),
    rbfCka: () => rbfCka(x, y, one),
    [`cknna@${k}`]: () => cknna(x, y, k, one),
    [`mutualKnn@${k}`]: () => mutualKnn(x, y, k, one),
    svcca: () => svcca(x, y, one),
    cca: async () => {
      const values = await canonicalCorrelations(x, y, one);
      return values.reduce((sum, value) => sum + value, 0) / values.length;
    },
    procrustesDistance: () => procrustesDistance(x, y, one),
    effectiveRankA: async () => (await spectrum(x, one)).effectiveRank,
    effectiveRankB: async () => (await spectrum(y, one)).effectiveRank,
    conditionA: async () => (await spectrum(x, one)).condition,
    conditionB: async () => (await spectrum(y, one)).condition,
  };
  if (dx === dy) {
    measures["cosine"] = async () => (await predictionError(x, y, one)).cosine;
    measures["nmse"] = async () => (await predictionError(x, y, one)).nmse;
    measures["retrieval1"] = async () => (await retrieval(x, y, one)).retrieval1;
    measures["mrr"] = async () => (await retrieval(x, y, one)).mrr;
    measures["meanRank"] = async () => (await retrieval(x, y, one)).meanRank;
    measures["foscttm"] = async () => (await retrieval(x, y, one)).foscttm;
  }
  const values: Record<string, number | null> = {};
  const undefinedHere: Record<string, string> = {};
  for (const [name, measure] of Object.entries(measures)) {
    output.progress(`measuring ${name}`);
    try {
      const value = await measure();
      values[name] = Number.isFinite(value) ? value : null;
    } catch (error) {
      // a measure that these rows do not have is no failure of the others
      if (!LatentError.isInstance(error) || !["ERR_LATENT_INVALID_ARGUMENT", "ERR_LATENT_OUT_OF_MEMORY"].includes(error.code)) throw error;
      if (x.shape[0] !== y.shape[0]) throw error;
      values[name] = null;
      undefinedHere[name] = error.message;
    }
  }
  const result = { n, d: [dx, dy], metrics: values, undefined: undefinedHere };
  output.result(result, () =>
    output.table(
      ["measure", "value"],
      Object.entries(values).map(([name, value]) => [name, value === null ? (undefinedHere[name] ?? "infinite") : value.toPrecision(6)]),
    ),
  );
}
