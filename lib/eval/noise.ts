// The placebo of latent messages: random directions of the norm that latent steps have.
import { createHash } from "node:crypto";
import type { Model } from "../models/model.js";
import { addNoise } from "../spaces/channel.js";
import { Latent } from "../spaces/latent.js";
import { mapRows } from "../spaces/rows.js";
import { Tensor } from "../tensor.js";

/** Rows `[count, d]` in the model's input space, each of its mean norm; the same for the same seed and text. */
export async function noiseRows(model: Model, count: number, seed: number, text: string, signal: AbortSignal): Promise<Latent> {
  const d = model.info.embeddingLength;
  const drawn = createHash("sha256").update(`${seed}\n${text}`).digest().readUIntBE(0, 6);
  using base = Tensor.fromTyped("f32", [count, d], new Float32Array(count * d).fill(1));
  // at -200 dB nothing of the base is left in 24 bits
  using noise = (await addNoise(base, { snr: -200, seed: drawn, signal })).rows;
  using unit = await mapRows(noise, { unit: true }, signal);
  const rows = await mapRows(unit, { multiply: new Float32Array(d).fill(model.info.alpha), unit: false }, signal);
  return new Latent(model.space, "embeds", rows);
}
