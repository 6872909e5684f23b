// The fused projection that projectors, adapters and affine translators are: y = rescale(act(norm(x) W + b) [W2 + b2]).
import { checkKeys, checkNumber, checkOneOf, fallback, invalid } from "../check.js";
import { checkChoice, placeAuto, runOn, type Device, type DeviceChoice, type Placement } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeProjection } from "../native-kernels.js";
import { Tensor } from "../tensor.js";
import { checkStorage, nativeRows, onlyOnCpu, output, rowCount, settled, type Rows, type Storage } from "./input.js";

/** One affine layer of a {@link Projection}. */
export interface ProjectionLayer {
  /** `[inputs, outputs]` of f32, f16 or bf16. */
  readonly weights: Tensor;
  /** `[outputs]`; default none. */
  readonly bias?: Float32Array;
}

/** What happens to rows before the first layer. */
export interface ProjectionNorm {
  /** `l2`: x / |x|. `rms`: RMSNorm. `layer`: LayerNorm. */
  readonly kind: "l2" | "rms" | "layer";
  /** Of RMSNorm and LayerNorm; default 1e-6. */
  readonly epsilon?: number;
  /** `[inputs]`, of RMSNorm and LayerNorm; folded into the first layer. Default none. */
  readonly weight?: Float32Array;
  /** `[inputs]`, of RMSNorm and LayerNorm; folded into the first layer. Default none. */
  readonly bias?: Float32Array;
}

/** Options of {@link packProjection}. */
export interface PackProjectionOptions {
  /** One layer or two. */
  readonly layers: readonly [ProjectionLayer] | readonly [ProjectionLayer, ProjectionLayer];
  /** Default none. */
  readonly norm?: ProjectionNorm;
  /** After the first layer: `gelu` is x Φ(x), exact. Default `identity`. */
  readonly activation?: "identity" | "gelu" | "silu" | "tanh";
  /** `residual` adds x; a number brings every row of y to that norm. Default none. */
  readonly rescale?: "residual" | number;
  /** Default `f32`. */
  readonly storage?: Storage;
  /**
   * Where it lies and computes; default `cpu`. On `cuda` there is no `Sync` method, rows may lie on either side, and results lie where the rows do.
   * `auto` takes the CPU where there is no GPU, and `deviceReason` says why.
   */
  readonly device?: DeviceChoice;
  readonly signal?: AbortSignal;
}

/**
 * Prepares a projection: weights are converted and laid out once, norm weights folded in.
 *
 * ```ts
 * using projector = await packProjection({ norm: { kind: "rms" }, layers: [{ weights, bias }], storage: "f16" });
 * const y = projector.applySync(hidden);
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE`,
 * `ERR_LATENT_OUT_OF_MEMORY`, and with `cuda` `ERR_LATENT_DEVICE_UNAVAILABLE`, `ERR_LATENT_DEVICE_FAILED` and `ERR_LATENT_DEVICE_LOST`; the signal's
 * reason on abort
 */
export async function packProjection(options: PackProjectionOptions): Promise<Projection> {
  checkKeys("options", options, ["layers", "norm", "activation", "rescale", "storage", "device", "signal"]);
  const [first, second] = checkLayers(options.layers);
  const norm = options.norm;
  if (norm !== undefined) {
    checkKeys("norm", norm, ["kind", "epsilon", "weight", "bias"]);
    checkOneOf("norm.kind", norm.kind, ["l2", "rms", "layer"]);
    checkNumber("norm.epsilon", fallback(norm.epsilon, 1e-6), 0, 1);
  }
  const { rescale } = options;
  if (rescale !== undefined && rescale !== "residual") checkNumber("rescale, unless 'residual',", rescale, 0, 1e30);
  const storage = checkStorage(options.storage);
  const activation = checkOneOf("activation", fallback(options.activation, "identity"), ["identity", "gelu", "silu", "tanh"]);
  const choice = checkChoice(options.device);
  options.signal?.throwIfAborted();
  const placement = choice === "auto" ? await placeAuto(onlyOnCpu(storage)) : { device: choice };
  const job = LatentError.translate(() =>
    native().packProjection(
      {
        weights: first.weights.toNative(),
        bias: first.bias,
        secondWeights: second?.weights.toNative(),
        secondBias: second?.bias,
        norm: norm?.kind,
        epsilon: norm?.epsilon,
        normWeight: norm?.weight,
        normBias: norm?.bias,
        activation,
        rescale: rescale === undefined ? undefined : rescale === "residual" ? "residual" : "norm",
        targetNorm: typeof rescale === "number" ? rescale : undefined,
        storage,
      },
      placement.device === "cuda",
    ),
  );
  return new Projection(await runOn(placement.device, job, options.signal), storage, placement);
}

function checkLayers(layers: unknown): readonly [ProjectionLayer, ProjectionLayer?] {
  if (!Array.isArray(layers) || layers.length < 1 || layers.length > 2) throw invalid("layers", "an array of one layer or two", layers);
  const checked = layers.map((layer: unknown, index): ProjectionLayer => {
    checkKeys(`layers[${index}]`, layer, ["weights", "bias"]);
    const { weights } = layer as ProjectionLayer;
    const given: unknown = weights;
    if (!(given instanceof Tensor)) throw invalid(`layers[${index}].weights`, "a Tensor [inputs, outputs]", weights);
    return layer as ProjectionLayer;
  });
  return checked as unknown as readonly [ProjectionLayer, ProjectionLayer?];
}

/**
 * A projection in native memory, made by {@link packProjection}. Below about a million multiplications the asynchronous method computes before it
 * returns instead of going to another thread.
 */
export class Projection {
  readonly #native: NativeProjection;
  readonly inputs: number;
  readonly outputs: number;
  /** Native memory in bytes. */
  readonly bytes: number;
  /** Where it lies and computes. */
  readonly device: Device;
  /** Why it lies on the CPU, though `device: "auto"` would have taken a GPU. */
  readonly deviceReason: string | undefined;

  /** @internal */
  constructor(
    handle: NativeProjection,
    readonly storage: Storage,
    placement: Placement,
  ) {
    this.#native = handle;
    this.device = placement.device;
    this.deviceReason = placement.deviceReason;
    ({ inputs: this.inputs, outputs: this.outputs, bytes: this.bytes } = handle.info());
  }

  /** @internal The handle, for native calls. */
  toNative(): NativeProjection {
    return this.#native;
  }

  /** Whether {@link Projection.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * y `[n, outputs]`, row by row, computed before it returns, on all threads where that pays. For a few rows: large inputs hold up the event loop.
   * @param x `[n, inputs]`
   * @param out Filled and returned, exactly n · outputs numbers; it must not overlap `x`. Default: a new array.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_NON_FINITE` (which row; what `out`
   * holds is undefined then)
   */
  applySync(x: Rows, out?: Float32Array): Float32Array {
    const rows = nativeRows("x", x);
    const result = output("out", out, Float32Array, rowCount(x, this.inputs) * this.outputs);
    LatentError.translate(() => {
      this.#native.applySync(rows, result);
    });
    return result;
  }

  /**
   * y, f32 `[n, outputs]`, where x lies.
   * @param x `[n, inputs]`
   * @throws {@link LatentError} as {@link Projection.applySync}; the signal's reason on abort
   */
  async apply(x: Rows, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    const rows = nativeRows("x", x);
    return Tensor.fromNative(await settled(() => this.#native.apply(rows), options.signal));
  }

  /** Frees the memory as soon as no running call uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link Projection.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
