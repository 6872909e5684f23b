// What a channel does to symbols on their way: noise, and few bits. For trying out how much of either a translator stands.
import { checkInteger, checkKeys, fallback, invalid } from "../check.js";
import { checkMatrix, checkSeed, fit } from "../fits/input.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";

/** Rows behind a channel. */
export interface NoisyRows {
  /** f32 `[n, d]` */
  readonly rows: Tensor;
  /** Standard deviation of the noise. */
  readonly deviation: number;
}

/**
 * Additive white Gaussian noise of variance mean(x²) / 10^(snr / 10). The noise of a number is a function of seed and place; Infinity gives x bit for
 * bit.
 * @param x `[n, d]` of f32, f16 or bf16.
 * @param options `snr`: decibels, a number above -Infinity. `seed`: an integer from 0 to 2⁵³ - 1; default 0.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function addNoise(
  x: Tensor,
  options: { readonly snr: number; readonly seed?: number; readonly signal?: AbortSignal },
): Promise<NoisyRows> {
  checkKeys("options", options, ["snr", "seed", "signal"]);
  const { source } = checkMatrix("x", x);
  const snr: unknown = options.snr;
  if (typeof snr !== "number" || Number.isNaN(snr) || snr === -Infinity) throw invalid("snr", "a number above -Infinity", snr);
  const seed = checkSeed(fallback(options.seed, 0));
  const { rows, deviation } = await fit(() => native().addNoise(source, { snr, seed }), options.signal);
  return { rows: Tensor.fromNative(rows), deviation };
}

/**
 * Rows as a receiver has them behind a uniform quantiser of 2^bits levels over [-m, m], m the largest magnitude of the row: d · bits and one number a row
 * have to be sent, and no number is off by more than half a step, m / 2^bits.
 * @param x `[n, d]` of f32, f16 or bf16.
 * @param options `bits`: from 1 to 16.
 * @returns f32 `[n, d]`
 * @throws {@link LatentError} as {@link addNoise}
 */
export async function quantiseRows(x: Tensor, options: { readonly bits: number; readonly signal?: AbortSignal }): Promise<Tensor> {
  checkKeys("options", options, ["bits", "signal"]);
  const { source } = checkMatrix("x", x);
  const bits = checkInteger("bits", options.bits, 1, 16);
  return Tensor.fromNative(await fit(() => native().quantiseRows(source, bits), options.signal));
}
