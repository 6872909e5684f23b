// Embedding and output matrices as the kernels read them: a row for each token, of a tensor or straight from a model file.
import { checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { checkChoice, placeAuto, runOn, type Device, type DeviceChoice, type Placement } from "../devices.js";
import { LatentError } from "../errors.js";
import { native } from "../native.js";
import type { NativeTokenTable } from "../native-kernels.js";
import { Tensor } from "../tensor.js";
import { settled } from "./input.js";

/** How the rows of a {@link TokenTable} are stored: plain numbers, or the blocks of ggml. */
export type RowFormat = "f32" | "f16" | "bf16" | "q8_0" | "q4_0" | "q4_K" | "q6_K";

/** Options of {@link openTokenTable}. */
export interface OpenTokenTableOptions {
  /** Which matrix of a model file: that of the `input` embeddings (default), or the `output` matrix, which tied models do not have apart. */
  readonly matrix?: "input" | "output";
  /**
   * Where thought steps over it compute; default `cpu`. `cuda` copies the rows there, as they are stored. `auto` takes the CPU where there is no GPU,
   * and `deviceReason` says why.
   */
  readonly device?: DeviceChoice;
  readonly signal?: AbortSignal;
}

/**
 * Opens a table of tokens without copying it: a tensor is shared, a model file is checked and mapped, and its rows stay quantised as they are there.
 *
 * ```ts
 * using table = await openTokenTable("model.gguf");
 * using rows = await table.rows(Int32Array.of(1, 2, 3)); // f32 [3, width]
 * ```
 * Rows are those of the file. Models that scale their embeddings (Gemma) do so behind the table.
 * @param source `[tokens, width]` of f32, f16 or bf16, or the path of a GGUF file, which must not be truncated while the table is open.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_DTYPE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_MODEL_NOT_FOUND`,
 * `ERR_LATENT_MODEL_FORMAT`, `ERR_LATENT_MODEL_UNSUPPORTED` (rows of another quantisation), and with `cuda` `ERR_LATENT_OUT_OF_MEMORY`,
 * `ERR_LATENT_DEVICE_UNAVAILABLE`, `ERR_LATENT_DEVICE_FAILED` and `ERR_LATENT_DEVICE_LOST`; the signal's reason on abort
 */
export async function openTokenTable(source: Tensor | string, options: OpenTokenTableOptions = {}): Promise<TokenTable> {
  checkKeys("options", options, ["matrix", "device", "signal"]);
  const matrix = checkOneOf("matrix", fallback(options.matrix, "input"), ["input", "output"]);
  const given: unknown = source;
  if (typeof given !== "string" && !(given instanceof Tensor)) throw invalid("source", "a Tensor [tokens, width] or a path", given);
  const choice = checkChoice(options.device);
  options.signal?.throwIfAborted();
  const placement = choice === "auto" ? await placeAuto() : { device: choice };
  const rows = typeof given === "string" ? given : given.toNative();
  const job = LatentError.translate(() => native().openTokenTable(rows, matrix, placement.device === "cuda"));
  return new TokenTable(await runOn(placement.device, job, options.signal), placement);
}

/** A table of tokens, made by {@link openTokenTable}. */
export class TokenTable {
  readonly #native: NativeTokenTable;
  /** Tokens: the size of the vocabulary. */
  readonly count: number;
  /** Numbers of a row. */
  readonly width: number;
  readonly format: RowFormat;
  /** Where thought steps over it compute. */
  readonly device: Device;
  /** Why it lies on the CPU, though `device: "auto"` would have taken a GPU. */
  readonly deviceReason: string | undefined;

  /** @internal */
  constructor(handle: NativeTokenTable, placement: Placement) {
    this.#native = handle;
    this.device = placement.device;
    this.deviceReason = placement.deviceReason;
    const { count, width, format } = handle.info();
    this.count = count;
    this.width = width;
    this.format = format as RowFormat;
  }

  /** @internal The handle, for native calls. */
  toNative(): NativeTokenTable {
    return this.#native;
  }

  /** Whether {@link TokenTable.dispose} was called. */
  get disposed(): boolean {
    return this.#native.disposed;
  }

  /**
   * The rows of some tokens, f32 `[n, width]`, read on the CPU and left there.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (a token that is not in the vocabulary), `ERR_LATENT_DISPOSED`,
   * `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  async rows(tokens: Int32Array, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    const given: unknown = tokens;
    if (!(given instanceof Int32Array)) throw invalid("tokens", "an Int32Array", given);
    return Tensor.fromNative(await settled(() => this.#native.rows(given), options.signal));
  }

  /** Frees the memory, or unmaps the file, as soon as no thought step and no running call uses it; idempotent. */
  dispose(): void {
    this.#native.dispose();
  }

  /** Same as {@link TokenTable.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}
