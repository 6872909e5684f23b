// The codec of the Vision Wormhole (arXiv 2602.15382): it squeezes the latents of a sender into a fixed set of universal tokens, and makes of such tokens
// what is added to the embeddings of a picture that a receiver reads. Inference only; it is trained elsewhere.
import { checkInteger, checkKeys, checkNumber, fallback, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { damaged } from "../files/bytes.js";
import { readSafetensors } from "../files/safetensors.js";
import { withSignal } from "../jobs.js";
import { checkStorage, type Storage } from "../kernels/input.js";
import type { Projection } from "../kernels/projection.js";
import { firstNonFiniteRow } from "../kernels/statistics.js";
import { Tensor } from "../tensor.js";
import { CrossAttention } from "./cross-attention.js";
import { layerNormEpsilon, ModuleTensors, packed } from "./module-tensors.js";
import { stackRows } from "./rows.js";

/** What two codecs must agree on to exchange messages; `config` in the metadata of a file has them by the names in brackets. */
export interface WormholeConfig {
  /** D, of a universal token (`codec_dim`). */
  readonly dimension: number;
  /** K, semantic tokens of a message, which has two more: a global one and one of style (`codec_tokens`). */
  readonly tokens: number;
  /** Rows that a decoder makes (`codec_img_tokens`). */
  readonly imageTokens: number;
  /** A divisor of D (`codec_heads`). */
  readonly heads: number;
  /** (`codec_layers`) */
  readonly layers: number;
  /** Of its training (`codec_dropout`). */
  readonly dropout: number;
  /** At the beginning of its training (`codec_gate_init_bias`). */
  readonly gateBias: number;
}

/** What a decoder makes of a message. */
export interface WormholeDelta {
  /** Δ, f32 `[imageTokens, H]`; of several chunks their g Δ one below the other. The caller disposes it. */
  readonly delta: Tensor;
  /** g, from 0 to 1; of several chunks 1. */
  readonly gate: number;
}

const fields = {
  dimension: "codec_dim",
  tokens: "codec_tokens",
  imageTokens: "codec_img_tokens",
  heads: "codec_heads",
  layers: "codec_layers",
  dropout: "codec_dropout",
  gateBias: "codec_gate_init_bias",
} as const;

interface LayerNorm {
  readonly weight: Float32Array;
  readonly bias: Float32Array;
}

interface Encoder {
  readonly input: Projection;
  readonly queries: Tensor;
  readonly blocks: CrossAttention;
  readonly style: Projection;
  readonly norm: LayerNorm;
}

interface Decoder {
  readonly norm: LayerNorm;
  readonly queries: Tensor;
  readonly blocks: CrossAttention;
  readonly output: Projection;
  readonly gate: Projection;
}

/** Encoder and decoder of one model. Made by {@link WormholeCodec.load}; holds native memory. */
export class WormholeCodec {
  readonly #encoder: Encoder;
  readonly #decoder: Decoder;
  #disposed = false;

  private constructor(
    readonly config: WormholeConfig,
    /** H, the width of the model's rows. */
    readonly width: number,
    /** Numbers that were trained. */
    readonly parameters: { readonly encoder: number; readonly decoder: number },
    encoder: Encoder,
    decoder: Decoder,
  ) {
    this.#encoder = encoder;
    this.#decoder = decoder;
  }

  /**
   * Reads a codec from a safetensors file: tensors of f32, f16 or bf16 below `encoder.` and `decoder.`, with weights `[outputs, inputs]` as `torch.nn` has
   * them, and the seven fields of {@link WormholeConfig} as JSON in the metadata `config`. `docs/wormhole.md` lists the names.
   * @throws {@link LatentError} `ERR_LATENT_FILE_FORMAT` (damaged, or tensors that are missing, too many or do not fit), `ERR_LATENT_NON_FINITE`,
   * `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason on abort
   */
  static async load(path: string, options: { readonly storage?: Storage; readonly signal?: AbortSignal } = {}): Promise<WormholeCodec> {
    checkKeys("options", options, ["storage", "signal"]);
    const storage = checkStorage(options.storage);
    const { tensors, metadata } = await readSafetensors(path);
    const held: { dispose(): void }[] = [];
    try {
      const config = readConfig(path, metadata.get("config"));
      const width = tensors.get("encoder.in_proj.weight")?.shape[1];
      if (width === undefined) throw damaged(path, "it has no tensor encoder.in_proj.weight");
      const above = new ModuleTensors(path, tensors, "encoder.", options.signal);
      const below = new ModuleTensors(path, tensors, "decoder.", options.signal);
      const encoder = await loadEncoder(above, config, width, storage, held);
      const decoder = await loadDecoder(below, config, width, storage, held);
      new ModuleTensors(path, new Map([...tensors].filter(([name]) => !/^(en|de)coder\./.test(name))), "", undefined).requireAllUsed();
      return new WormholeCodec(config, width, { encoder: above.parameters, decoder: below.parameters }, encoder, decoder);
    } catch (error) {
      for (const one of held) one.dispose();
      throw error;
    } finally {
      for (const tensor of tensors.values()) tensor.dispose();
    }
  }

  /** Whether {@link WormholeCodec.dispose} was called. */
  get disposed(): boolean {
    return this.#disposed;
  }

  /**
   * The message of a sender: U, f32 `[tokens + 2, dimension]`. It is a set: the order of the latents does not enter.
   * @param latents `[T, width]` of f32, f16 or bf16; T may be 0.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_NON_FINITE`, `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's
   * reason on abort
   */
  async encode(latents: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
    checkKeys("options", options, ["signal"]);
    this.#live();
    const count = checkRows("latents", latents, this.width);
    const { dimension } = this.config;
    const { input, queries, blocks, style, norm } = this.#encoder;
    // nothing said is one row of zeros
    using rows = count === 0 ? Tensor.zeros([1, dimension]) : await input.apply(latents, options);
    using attended = await blocks.run(queries, rows, options.signal);
    using features = Tensor.fromTyped("f32", [1, 3], statisticsOf(latents.toFloat32(), this.width));
    using manner = await style.apply(features, options);
    const values = attended.toFloat32();
    const last = values.length - dimension;
    for (const [j, value] of manner.toFloat32().entries()) values[last + j] = (values[last + j] ?? 0) + value;
    return Tensor.fromTyped("f32", [this.config.tokens + 2, dimension], layerNormed(values, dimension, norm));
  }

  /**
   * What is added to the embeddings of the picture, and how much of it. A message without rows gives zeros and a gate of 0.
   * @param message U `[n, dimension]`: one message, or those of several senders one below the other.
   * @param options `chunks`: decodes so many parts of n / chunks rows on their own, and gives their g Δ one below the other. Default 1.
   * @throws {@link LatentError} as {@link WormholeCodec.encode}
   */
  async decode(message: Tensor, options: { readonly chunks?: number; readonly signal?: AbortSignal } = {}): Promise<WormholeDelta> {
    checkKeys("options", options, ["chunks", "signal"]);
    this.#live();
    const { dimension, imageTokens } = this.config;
    const count = checkRows("message", message, dimension);
    const chunks = checkInteger("chunks", fallback(options.chunks, 1), 1, Math.max(1, count));
    if (count % chunks !== 0) throw invalid("chunks", `a divisor of the ${count} rows of the message`, chunks);
    if (count === 0) return { delta: Tensor.zeros([imageTokens, this.width]), gate: 0 };
    const all = message.toFloat32();
    if (chunks === 1) return await this.#decodeOne(all, options.signal);
    const size = all.length / chunks;
    const parts: Tensor[] = [];
    try {
      for (let i = 0; i < chunks; i++) {
        const { delta, gate } = await this.#decodeOne(all.subarray(i * size, (i + 1) * size), options.signal);
        using whole = delta;
        parts.push(
          Tensor.fromTyped(
            "f32",
            delta.shape,
            whole.toFloat32().map((value) => gate * value),
          ),
        );
      }
      return { delta: stackRows(parts), gate: 1 };
    } finally {
      for (const part of parts) part.dispose();
    }
  }

  async #decodeOne(values: Float32Array, signal: AbortSignal | undefined): Promise<WormholeDelta> {
    const { dimension } = this.config;
    const { norm, queries, blocks, output, gate } = this.#decoder;
    using rows = Tensor.fromTyped("f32", [values.length / dimension, dimension], layerNormed(values, dimension, norm));
    using attended = await blocks.run(queries, rows, signal);
    using mean = Tensor.fromTyped("f32", [1, dimension], meanOf(values, dimension));
    using logit = await gate.apply(mean, withSignal(signal));
    const delta = await output.apply(attended, withSignal(signal));
    const bad = firstNonFiniteRow(delta);
    const [open = Number.NaN] = logit.toFloat32();
    if (bad === undefined && Number.isFinite(open)) return { delta, gate: 1 / (1 + Math.exp(-open)) };
    delta.dispose();
    throw new LatentError("ERR_LATENT_NON_FINITE", `the decoder makes no finite numbers of this message: row ${bad ?? "of the gate"}`);
  }

  /** Frees the memory; idempotent. */
  dispose(): void {
    this.#disposed = true;
    const { input, style, queries, blocks } = this.#encoder;
    const { output, gate, queries: others, blocks: more } = this.#decoder;
    for (const one of [input, style, queries, blocks, output, gate, others, more]) one.dispose();
  }

  /** Same as {@link WormholeCodec.dispose}, for `using`. */
  [Symbol.dispose](): void {
    this.dispose();
  }

  #live(): void {
    if (this.#disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the codec was disposed");
  }
}

/** @internal The names of the seven fields. */
export const wormholeFields = Object.keys(fields) as readonly (keyof WormholeConfig)[];

function readConfig(path: string, text: string | undefined): WormholeConfig {
  let given: object;
  try {
    given = JSON.parse(text ?? "") as object;
    checkKeys("config", given, Object.values(fields));
    const count = (name: keyof WormholeConfig, least: number): number =>
      checkInteger(fields[name], Reflect.get(given, fields[name]), least, 1 << 20);
    const number = (name: keyof WormholeConfig, low: number, high: number): number =>
      checkNumber(fields[name], Reflect.get(given, fields[name]), low, high);
    const config: WormholeConfig = {
      dimension: count("dimension", 1),
      tokens: count("tokens", 0),
      imageTokens: count("imageTokens", 1),
      heads: count("heads", 1),
      layers: count("layers", 0),
      dropout: number("dropout", 0, 1),
      gateBias: number("gateBias", -1e6, 1e6),
    };
    if (config.dimension % config.heads !== 0) throw new Error(`${config.dimension} dimensions are not divided by ${config.heads} heads`);
    return Object.freeze(config);
  } catch (error) {
    throw damaged(path, `its metadata has no sound config: ${error instanceof Error ? error.message : String(error)}`);
  }
}

type Held = { dispose(): void }[];

/** Notes what was made, so that it can be freed when something behind it fails. */
async function hold<T extends { dispose(): void }>(held: Held, making: Promise<T> | T): Promise<T> {
  const made = await making;
  held.push(made);
  return made;
}

async function loadEncoder(file: ModuleTensors, config: WormholeConfig, width: number, storage: Storage, held: Held): Promise<Encoder> {
  const { dimension: d, tokens, heads, layers } = config;
  const common = { storage, ...withSignal(file.signal) };
  const encoder: Encoder = {
    input: await hold(held, packed({ layers: [await file.layer("in_proj", width, d)], ...common })),
    queries: await hold(held, Tensor.fromTyped("f32", [tokens + 2, d], file.floats("queries", [tokens + 2, d]))),
    blocks: await hold(held, CrossAttention.load(file, d, heads, layers, storage)),
    style: await hold(
      held,
      packed({ layers: [await file.layer("style.0", 3, d), await file.layer("style.2", d, d)], activation: "gelu", ...common }),
    ),
    norm: file.layerNorm("out_norm", d),
  };
  file.requireAllUsed();
  return encoder;
}

async function loadDecoder(file: ModuleTensors, config: WormholeConfig, width: number, storage: Storage, held: Held): Promise<Decoder> {
  const { dimension: d, imageTokens, heads, layers } = config;
  const common = { storage, ...withSignal(file.signal) };
  const decoder: Decoder = {
    norm: file.layerNorm("in_norm", d),
    queries: await hold(held, Tensor.fromTyped("f32", [imageTokens, d], file.floats("queries", [imageTokens, d]))),
    blocks: await hold(held, CrossAttention.load(file, d, heads, layers, storage)),
    output: await hold(held, packed({ layers: [await file.layer("out", d, width)], norm: file.layerNorm("out_norm", d), ...common })),
    gate: await hold(
      held,
      packed({ layers: [await file.layer("gate.0", d, d), await file.layer("gate.2", d, 1)], activation: "gelu", ...common }),
    ),
  };
  file.requireAllUsed();
  return decoder;
}

function checkRows(name: string, rows: Tensor, columns: number): number {
  const given: unknown = rows;
  if (!(given instanceof Tensor)) throw invalid(name, `a Tensor [n, ${columns}]`, given);
  const [n = 0, d] = rows.shape;
  if (rows.shape.length !== 2 || d !== columns) throw invalid(name, `of the shape [n, ${columns}]`, rows.shape.join(" x "));
  const bad = n === 0 ? undefined : firstNonFiniteRow(rows);
  if (bad !== undefined) throw new LatentError("ERR_LATENT_NON_FINITE", `row ${bad} of ${name} holds NaN or an infinity`);
  return n;
}

/** Mean and deviation of all numbers, and the mean length of a row; zeros where there are none. */
function statisticsOf(values: Float32Array, width: number): Float32Array {
  if (values.length === 0) return new Float32Array(3);
  let [sum, lengths] = [0, 0];
  for (let at = 0; at < values.length; at += width) {
    let squares = 0;
    for (let k = at; k < at + width; k++) {
      const value = values[k] ?? 0;
      sum += value;
      squares += value * value;
    }
    lengths += Math.sqrt(squares);
  }
  const mean = sum / values.length;
  let spread = 0;
  for (const value of values) spread += (value - mean) ** 2;
  return Float32Array.of(mean, Math.sqrt(spread / values.length), lengths / (values.length / width));
}

function meanOf(values: Float32Array, d: number): Float32Array {
  const sums = new Float64Array(d);
  for (const [i, value] of values.entries()) sums[i % d] = (sums[i % d] ?? 0) + value;
  return Float32Array.from(sums, (sum) => sum / (values.length / d));
}

function layerNormed(values: Float32Array, d: number, { weight, bias }: LayerNorm): Float32Array {
  const out = new Float32Array(values.length);
  for (let at = 0; at < values.length; at += d) {
    let [mean, variance] = [0, 0];
    for (let k = 0; k < d; k++) mean += (values[at + k] ?? 0) / d;
    for (let k = 0; k < d; k++) variance += ((values[at + k] ?? 0) - mean) ** 2 / d;
    const factor = 1 / Math.sqrt(variance + layerNormEpsilon);
    for (let k = 0; k < d; k++) out[at + k] = ((values[at + k] ?? 0) - mean) * factor * (weight[k] ?? 1) + (bias[k] ?? 0);
  }
  return out;
}
