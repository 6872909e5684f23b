// Projectors that were trained elsewhere: one or two layers from a safetensors file, as PyTorch writes them.
import { checkKeys, checkNumber, checkOneOf, checkString, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { readSafetensors } from "../files/safetensors.js";
import { withSignal } from "../jobs.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import { transpose } from "../kernels/transpose.js";
import type { Tensor } from "../tensor.js";
import type { Space } from "./space.js";
import { dimensionsOf, disposeStages, linear, scaling, type Activation, type Stage } from "./stages.js";
import { Translator } from "./translator.js";

/** The names of one layer's tensors: weights `[outputs, inputs]`, as `torch.nn.Linear` has them, and a bias `[outputs]`. */
export interface ProjectorLayer {
  readonly weight: string;
  readonly bias?: string;
}

/** Options of {@link importProjector}. */
export interface ImportProjectorOptions {
  /** One layer or two. */
  readonly layers: readonly [ProjectorLayer] | readonly [ProjectorLayer, ProjectorLayer];
  /** After the first of two layers. Default `gelu` (exact). */
  readonly activation?: "gelu" | "silu" | "tanh" | "identity";
  /** Brings every row to this length, e.g. the mean length of the receiver's embeddings. Default none. */
  readonly rescale?: number;
  readonly from?: Space;
  readonly to?: Space;
  /** Default `f32`. */
  readonly storage?: Storage;
  readonly signal?: AbortSignal;
}

/**
 * A trained projector as a {@link Translator}: y = W₂ act(W₁ x + b₁) + b₂, or one layer without an activation. It has no report: what it is worth on your
 * pairs, {@link retrieval} and {@link predictionError} tell.
 *
 * ```ts
 * using projector = await importProjector("planner.safetensors", {
 *   layers: [{ weight: "0.weight", bias: "0.bias" }, { weight: "2.weight", bias: "2.bias" }],
 * });
 * ```
 * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT` (damaged, or tensors that are missing or do not fit), `ERR_LATENT_INVALID_ARGUMENT`,
 * `ERR_LATENT_NON_FINITE`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
 */
export async function importProjector(path: string, options: ImportProjectorOptions): Promise<Translator> {
  checkKeys("options", options, ["layers", "activation", "rescale", "from", "to", "storage", "signal"]);
  const layers = checkLayers(options.layers);
  const activation = checkOneOf("activation", fallback(options.activation, "gelu"), ["gelu", "silu", "tanh", "identity"]);
  const rescale = options.rescale === undefined ? undefined : checkNumber("rescale", options.rescale, Number.MIN_VALUE, 1e30);
  const storage = checkStorage(options.storage);
  const { tensors } = await readSafetensors(path);
  const stages: Stage[] = [];
  try {
    for (const [i, layer] of layers.entries()) {
      const act: Activation = i === 0 && layers.length === 2 ? activation : "identity";
      stages.push(await readLayer(path, layer, act, tensors, options.signal));
    }
    const [inputs, outputs] = dimensionsOf(stages, 0);
    requireSizes(path, stages, options, inputs, outputs);
    if (rescale !== undefined) stages.push({ kind: "rows", unit: true }, scaling(rescale, outputs));
    const spaces = { ...(options.from && { from: options.from }), ...(options.to && { to: options.to }) };
    const card = { method: "imported projector", dimensions: [inputs, outputs], ...spaces, onWeak: "apply", storage } as const;
    return await Translator.make(card, stages, options.signal);
  } catch (error) {
    disposeStages(stages);
    throw error;
  } finally {
    for (const tensor of tensors.values()) tensor.dispose();
  }
}

function checkLayers(layers: unknown): readonly ProjectorLayer[] {
  if (!Array.isArray(layers) || layers.length < 1 || layers.length > 2) throw invalid("layers", "an array of one layer or two", layers);
  return layers.map((layer: unknown, i) => {
    checkKeys(`layers[${i}]`, layer, ["weight", "bias"]);
    const { weight, bias } = layer as ProjectorLayer;
    checkString(`layers[${i}].weight`, weight);
    return bias === undefined ? { weight } : { weight, bias: checkString(`layers[${i}].bias`, bias) };
  });
}

async function readLayer(
  path: string,
  { weight, bias }: ProjectorLayer,
  activation: Activation,
  tensors: ReadonlyMap<string, Tensor>,
  signal: AbortSignal | undefined,
): Promise<Stage> {
  const take = (name: string, rank: number): Tensor => {
    const tensor = tensors.get(name);
    if (tensor?.shape.length === rank && tensor.shape.every((extent) => extent > 0)) return tensor;
    const found = tensor === undefined ? "it has no such tensor" : `its shape is [${tensor.shape.join(", ")}]`;
    throw new LatentError("ERR_LATENT_FILE_FORMAT", `${path}: ${name}: ${found}`);
  };
  const weights = take(weight, 2);
  const shift = bias === undefined ? undefined : take(bias, 1);
  if (shift !== undefined && shift.shape[0] !== weights.shape[0])
    throw new LatentError(
      "ERR_LATENT_FILE_FORMAT",
      `${path}: ${bias ?? ""} has ${shift.shape[0] ?? 0} numbers, ${weight} ${weights.shape[0] ?? 0} outputs`,
    );
  using floats = await weights.convert("f32", withSignal(signal));
  const across = await transpose(floats, withSignal(signal));
  return linear(across, { activation, ...(shift && { bias: shift.toFloat32() }) });
}

function requireSizes(path: string, stages: readonly Stage[], options: ImportProjectorOptions, inputs: number, outputs: number): void {
  const [first, second] = stages;
  if (first?.kind === "linear" && second?.kind === "linear" && first.weights.shape[1] !== second.weights.shape[0])
    throw new LatentError("ERR_LATENT_FILE_FORMAT", `${path}: the second layer does not take what the first makes`);
  if (options.from !== undefined && options.from.dimension !== inputs)
    throw invalid("from", `a Space of ${inputs} dimensions`, options.from.dimension);
  if (options.to !== undefined && options.to.dimension !== outputs)
    throw invalid("to", `a Space of ${outputs} dimensions`, options.to.dimension);
}
