// A message in the place of a picture: rows that a receiver reads between its own, the embeddings of a plain picture and on top what a decoder made.
import { checkInteger, checkKeys, checkNumber, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkMatrix } from "../fits/input.js";
import { firstNonFiniteRow } from "../kernels/statistics.js";
import { Tensor } from "../tensor.js";

/** Options of {@link injectSpan}. */
export interface InjectSpanOptions {
  /** Input rows of the whole prompt, f32 `[n, H]`, e.g. of `model.inputRows(tokens)`; they stay as they are. */
  readonly rows: Tensor;
  /** Where the picture stands among them, `to` excluded; at least one row. */
  readonly span: { readonly from: number; readonly to: number };
  /** X̄ `[m, H]`: what the model reads in the place of a plain picture. It is resampled to the length of the span. */
  readonly base: Tensor;
  /** Δ `[k, H]`, resampled as well. Default: none, the plain picture. */
  readonly delta?: Tensor;
  /** g: what Δ is multiplied by, from 0 to 1. Required with a delta. */
  readonly gate?: number;
}

/**
 * The rows of a prompt with X̄ + g Δ in a span, as the receiver of a Vision Wormhole reads them: f32 `[n, H]` for {@link Sequence.prefill}, which gives
 * the span ordinary positions. Rows outside the span keep their bits.
 *
 * ```ts
 * const { delta, gate } = await codec.decode(message);
 * using prompt = injectSpan({ rows: model.inputRows(tokens), span, base, delta, gate });
 * await sequence.prefill(prompt);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (no such span, sizes that do not meet, a delta without a gate), `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export function injectSpan(options: InjectSpanOptions): Tensor {
  checkKeys("options", options, ["rows", "span", "base", "delta", "gate"]);
  const { rows, delta, gate } = options;
  const { rows: n, columns: width } = checkMatrix("rows", rows);
  checkKeys("span", options.span, ["from", "to"]);
  const to = checkInteger("span.to", options.span.to, 1, n);
  const from = checkInteger("span.from", options.span.from, 0, to - 1);
  if ((delta === undefined) !== (gate === undefined)) throw invalid("gate", "given with a delta, and only with one", gate);
  const values = rows.toFloat32();
  values.set(resampled("base", options.base, to - from, width), from * width);
  if (delta !== undefined && gate !== undefined) {
    const factor = checkNumber("gate", gate, 0, 1);
    const added = resampled("delta", delta, to - from, width);
    for (const [i, value] of added.entries()) values[from * width + i] = (values[from * width + i] ?? 0) + factor * value;
  }
  return Tensor.fromTyped("f32", [n, width], values);
}

/**
 * Rows brought to another number by linear interpolation along their order, with half-pixel centres and without a filter: row i is taken at
 * max(0, (i + ½) n / count - ½). As many rows as there were are the same, bit for bit.
 * @param rows `[n, d]` of f32, f16 or bf16.
 * @param count From 1.
 * @returns f32 `[count, d]`
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`
 */
export function resampleRows(rows: Tensor, count: number): Tensor {
  const { columns } = checkMatrix("rows", rows);
  checkInteger("count", count, 1, 1 << 24);
  return Tensor.fromTyped("f32", [count, columns], resampled("rows", rows, count, columns));
}

function resampled(name: string, rows: Tensor, count: number, width: number): Float32Array {
  const { rows: n, columns: d } = checkMatrix(name, rows);
  if (d !== width) throw invalid(`the width of ${name}`, String(width), d);
  const bad = firstNonFiniteRow(rows);
  if (bad !== undefined) throw new LatentError("ERR_LATENT_NON_FINITE", `row ${bad} of ${name} holds NaN or an infinity`);
  const values = rows.toFloat32();
  if (n === count) return values;
  const out = new Float32Array(count * d);
  for (let i = 0; i < count; i++) {
    const place = Math.min(n - 1, Math.max(0, ((i + 0.5) * n) / count - 0.5));
    const first = Math.floor(place);
    const second = Math.min(n - 1, first + 1);
    const share = place - first;
    for (let k = 0; k < d; k++) out[i * d + k] = (1 - share) * (values[first * d + k] ?? 0) + share * (values[second * d + k] ?? 0);
  }
  return out;
}
