// An encoder of a loaded model: what it holds of a text, in one row.
import { checkBoolean, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { checkTexts, type Encoder } from "../spaces/encoder.js";
import { Latent } from "../spaces/latent.js";
import { range } from "../spaces/random.js";
import { averageRows, mapRows } from "../spaces/rows.js";
import { makeSpace } from "../spaces/space.js";
import { Tensor } from "../tensor.js";
import { Model } from "./model.js";
import { readEach } from "./readers.js";
import type { PrefillInput, Sequence } from "./sequence.js";

/** Options of {@link modelEncoder}. */
export interface ModelEncoderOptions {
  /** The mean of the states of all tokens (default), or the state of the last one; both after the final norm. */
  readonly pooling?: "mean" | "last";
  /** Whether rows are brought to length 1. Default true. */
  readonly unit?: boolean;
}

/**
 * An encoder of a loaded model. It reads a text as it is, without a chat template and with no special tokens but those that the model puts before every
 * text. The model must stay open.
 *
 * ```ts
 * const encoder = modelEncoder(model);
 * using rows = await encoder.encode(["mia has the red key.", "tom lives in oslo."]); // [2, d], kind pooled
 * ```
 * `encode` throws `ERR_LATENT_INVALID_ARGUMENT` (also: a text without a token), `ERR_LATENT_CONTEXT_OVERFLOW` (`details.text` is its number),
 * `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`, and the signal's reason on abort.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function modelEncoder(model: Model, options: ModelEncoderOptions = {}): Encoder {
  const given: unknown = model;
  if (!(given instanceof Model)) throw invalid("model", "a Model", given);
  checkKeys("options", options, ["pooling", "unit"]);
  const pooling = checkOneOf("pooling", fallback(options.pooling, "mean"), ["mean", "last"]);
  const unit = checkBoolean("unit", fallback(options.unit, true));
  const { weights, positions, dimension } = model.hiddenSpace;
  const normalisation = `${pooling} of final norm${unit ? ", length 1" : ""}`;
  const space = makeSpace({ weights, layer: "pooled", dimension, positions, normalisation });
  return {
    space,
    async encode(texts, more = {}) {
      checkKeys("options", more, ["signal"]);
      checkTexts(texts);
      const { signal } = more;
      const prompts = texts.map((text) => model.tokenize(text, { special: true, parseSpecial: false }));
      const blank = prompts.findIndex((tokens) => tokens.length === 0);
      if (blank >= 0) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `text ${blank} has no token`);
      const read = (sequence: Sequence, text: number, both: AbortSignal): Promise<Float32Array> =>
        (pooling === "mean" ? meanState : lastState)(sequence, prompts[text] ?? new Int32Array(0), both);
      const lengths = prompts.map((tokens) => tokens.length);
      const rows = texts.length === 0 ? new Float32Array(0) : await readEach(model, lengths, { slots: 1, room: 0, read, onText: () => undefined, signal });
      const states = Tensor.fromTyped("f32", [texts.length, dimension], rows);
      if (!unit || texts.length === 0) return new Latent(space, "pooled", states);
      using long = states;
      return new Latent(space, "pooled", await mapRows(long, { unit: true }, signal));
    },
  };
}

/** The mean of the states of all tokens that an empty sequence reads, f32 `[d]`. */
export async function meanState(sequence: Sequence, input: PrefillInput, signal: AbortSignal): Promise<Float32Array> {
  using states = await sequence.prefill(input, { hidden: "all", signal });
  if (states === null || states.shape[0] === 0) throw invalid("a prompt", "text of at least one token", "");
  const [n] = states.shape;
  using mean = await averageRows(states.tensor(), Int32Array.from(range(n)), n, signal);
  return mean.toFloat32();
}

async function lastState(sequence: Sequence, input: PrefillInput, signal: AbortSignal): Promise<Float32Array> {
  using states = await sequence.prefill(input, { hidden: "last", signal });
  if (states === null) throw invalid("a prompt", "text of at least one token", "");
  return states.tensor().toFloat32();
}
