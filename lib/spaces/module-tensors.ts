// The tensors of a trained module, as PyTorch names and lays them out, from a safetensors file: each is checked against the shape that it must have, and
// what nothing has asked for in the end is an error, because then the module is another one.
import { LatentError } from "../errors.js";
import { damaged } from "../files/bytes.js";
import {
  packProjection,
  type PackProjectionOptions,
  type Projection,
  type ProjectionLayer,
  type ProjectionNorm,
} from "../kernels/projection.js";
import { transpose } from "../kernels/transpose.js";
import { withSignal } from "../jobs.js";
import { Tensor } from "../tensor.js";

/** Epsilon of PyTorch's LayerNorm. */
export const layerNormEpsilon = 1e-5;

/** Tensors below a prefix. */
export class ModuleTensors {
  readonly #asked = new Set<string>();
  #parameters = 0;

  constructor(
    readonly path: string,
    readonly tensors: ReadonlyMap<string, Tensor>,
    readonly prefix: string,
    readonly signal: AbortSignal | undefined,
  ) {}

  /** Numbers that were asked for. */
  get parameters(): number {
    return this.#parameters;
  }

  /** The numbers of a tensor of this shape. */
  floats(name: string, shape: readonly number[]): Float32Array {
    const whole = this.prefix + name;
    const tensor = this.tensors.get(whole);
    if (tensor === undefined) throw damaged(this.path, `it has no tensor ${whole}`);
    if (tensor.shape.length !== shape.length || tensor.shape.some((extent, i) => extent !== shape[i]))
      throw damaged(this.path, `${whole} has the shape [${tensor.shape.join(", ")}], not [${shape.join(", ")}]`);
    const values = tensor.toFloat32();
    if (!values.every((value) => Number.isFinite(value)))
      throw new LatentError("ERR_LATENT_NON_FINITE", `${this.path}: ${whole} holds NaN or an infinity`);
    if (!this.#asked.has(whole)) this.#parameters += values.length;
    this.#asked.add(whole);
    return values;
  }

  /** `NAME.weight` `[outputs, inputs]` and `NAME.bias` `[outputs]`; the caller disposes the weights. */
  async layer(name: string, inputs: number, outputs: number, options: { readonly bias?: boolean } = {}): Promise<ProjectionLayer> {
    const weights = await this.across(this.floats(`${name}.weight`, [outputs, inputs]), inputs, outputs);
    return options.bias === false ? { weights } : { weights, bias: this.floats(`${name}.bias`, [outputs]) };
  }

  /** `[outputs, inputs]` as `[inputs, outputs]`. */
  async across(values: Float32Array, inputs: number, outputs: number): Promise<Tensor> {
    using rows = Tensor.fromTyped("f32", [outputs, inputs], values);
    return await transpose(rows, withSignal(this.signal));
  }

  /** `NAME.weight` and `NAME.bias` `[d]` of a LayerNorm. */
  layerNorm(name: string, d: number): ProjectionNorm & { readonly weight: Float32Array; readonly bias: Float32Array } {
    return { kind: "layer", epsilon: layerNormEpsilon, weight: this.floats(`${name}.weight`, [d]), bias: this.floats(`${name}.bias`, [d]) };
  }

  /** Refuses a file with tensors below the prefix that nothing has asked for. */
  requireAllUsed(): void {
    const left = [...this.tensors.keys()].find((name) => name.startsWith(this.prefix) && !this.#asked.has(name));
    if (left !== undefined) throw damaged(this.path, `nothing uses its tensor ${left}`);
  }
}

/** Packs a projection and frees the weights that it was made of. */
export async function packed(options: PackProjectionOptions): Promise<Projection> {
  try {
    return await packProjection(options);
  } finally {
    for (const { weights } of options.layers) weights.dispose();
  }
}
