// A loaded model: what it is, its tokenizer and chat template, its matrices, and the pools and agents made from it.
import { availableParallelism } from "node:os";
import { checkBoolean, checkCallback, checkInteger, checkKeys, checkNumber, checkOneOf, checkString, invalid, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { run } from "../jobs.js";
import { native } from "../native.js";
import type { NativeModel, NativeModelInfo } from "../native-engine.js";
import { makeSpace, type Space } from "../spaces/space.js";
import { Tensor } from "../tensor.js";
import { Agent, type AgentOptions } from "../agents/agent.js";
import { bundledDigest } from "./bundled.js";
import { readCache, writeCache } from "./cache.js";
import { chatRenderer, checkMessages, type ChatMessage, type ChatRenderer } from "./chat.js";
import { fingerprintFile } from "./fingerprint.js";
import { Pool, type KvType } from "./pool.js";
import { loadRuntime } from "./runtime.js";

/** Facts read from the file and measured at load. `alpha`: mean norm of the input rows, scale applied; `inputScale`: what multiplies a row. */
export interface ModelInfo extends NativeModelInfo {
  /** SHA-256 of the file, hex. */
  readonly fingerprint: string;
  /** Which chat template is in use: `model`, the one in the file, or `plain`, `role: content` lines. */
  readonly template: "model" | "plain";
}

/** How far loading has come. */
export interface LoadProgress {
  readonly stage: "fingerprint" | "load";
  /** 0..1 within the stage */
  readonly ratio: number;
  /** Estimate of the rest of the stage; undefined until there is one. */
  readonly etaMs: number | undefined;
}

/** Options of {@link loadModel}. */
export interface LoadModelOptions {
  /** Layers to put on a GPU, if a GPU build of llama.cpp is installed. Default 0. */
  readonly gpuLayers?: number;
  /** Map the file instead of reading it. Default true. */
  readonly mmap?: boolean;
  /** `model`: the chat template in the file. `plain`: one line `role: content` a message. Default: the file's, and plain if it has none. */
  readonly template?: "model" | "plain";
  readonly signal?: AbortSignal;
  /** Called about every percent; the stages follow each other. */
  readonly onProgress?: (progress: LoadProgress) => void;
}

/** Options of {@link Model.createPool}. */
export interface PoolOptions {
  /** Positions that all sequences of the pool share. Default: the model's context length, at most 8192. llama.cpp rounds up to a multiple of 256. */
  readonly contextLength?: number;
  /** Default 16, at most 255; 127 for a model with sliding windows. */
  readonly maxSequences?: number;
  /** Rows per decode call, the micro-batch: an abort takes effect within one. More than `maxSequences`; default 512. */
  readonly batch?: number;
  /** Default: cores - 1, at most 8; 1 for models below 50 M parameters, where more threads only wait for each other. */
  readonly threads?: number;
  /** Number format of cached keys and values. Default `f16`. */
  readonly kvType?: KvType;
  /**
   * Attention in one pass over the cache, without a matrix of all scores. Default true. Without it values are cached channel by channel, which
   * costs a transposition whenever content leaves or enters the cache, and `kvType` can be `f32`, `f16` or `bf16` only.
   */
  readonly flashAttention?: boolean;
  /**
   * Experimental. Read and write keys and values where llama.cpp keeps them, which it does not promise to leave as they are; this is proved when the
   * pool is made. Content then leaves and enters by one copy, and on the GPU it stays there: {@link Sequence.exportDeviceKv}, and pool to pool. Takes
   * flash attention, one cache for all layers, and a model that is computed in one place. Default false: through llama.cpp's states, on the host.
   */
  readonly inPlace?: boolean;
  readonly signal?: AbortSignal;
}

const kvTypes = ["f32", "f16", "bf16", "q8_0", "q4_0"] as const;
const smallModel = 50e6;

const leaks = new FinalizationRegistry<string>((path) => {
  process.emitWarning(`a model was collected without dispose(): ${path}`, { code: "LATENTWIRE_LEAK" });
});

/**
 * Loads a GGUF model. The file is checked whole before llama.cpp sees it, and a self-test proves that input rows enter it exactly where tokens do.
 * @param path of one GGUF file (split files are refused)
 * @throws {@link LatentError} `ERR_LATENT_ENGINE_*`, `ERR_LATENT_MODEL_NOT_FOUND`, `ERR_LATENT_MODEL_FORMAT`, `ERR_LATENT_MODEL_UNSUPPORTED`,
 * `ERR_LATENT_MODEL_DIGEST` (a bundled file was altered), `ERR_LATENT_TEMPLATE` (broken, or asked for and absent), `ERR_LATENT_INVALID_ARGUMENT`; `signal.reason` when aborted
 */
export async function loadModel(path: string, options: LoadModelOptions = {}): Promise<Model> {
  checkString("path", path);
  checkKeys("options", options, ["gpuLayers", "mmap", "template", "signal", "onProgress"]);
  const gpuLayers = checkInteger("gpuLayers", fallback(options.gpuLayers, 0), 0, 1_000_000);
  const mmap = checkBoolean("mmap", fallback(options.mmap, true));
  const template = options.template === undefined ? undefined : checkOneOf("template", options.template, ["model", "plain"]);
  checkCallback("onProgress", options.onProgress);
  options.signal?.throwIfAborted();
  await loadRuntime();
  const report = (stage: LoadProgress["stage"]) => {
    const start = performance.now();
    return (ratio: number): void => {
      const elapsed = performance.now() - start;
      options.onProgress?.({ stage, ratio, etaMs: ratio > 0.01 ? (elapsed / ratio) * (1 - ratio) : undefined });
    };
  };
  const fingerprint = await fingerprintFile(path, options.signal, report("fingerprint"));
  const expected = bundledDigest(path);
  if (expected !== undefined && expected !== fingerprint) {
    throw new LatentError("ERR_LATENT_MODEL_DIGEST", `${path} is not the bundled model: SHA-256 ${fingerprint}, manifest ${expected}`);
  }
  const handle = await run(native().loadModel(path, { gpuLayers, mmap }, report("load")), options.signal);
  try {
    return new Model(handle, path, fingerprint, template);
  } catch (error) {
    await run(handle.dispose());
    throw error;
  }
}

/** A loaded model. Holds memory until {@link Model.dispose}; open pools keep the weights alive. Made by {@link loadModel}. */
export class Model {
  readonly info: ModelInfo;
  /** The space of this model's input rows: what latent thoughts are made of. */
  readonly space: Space;
  /** The space of its hidden states, after the final norm. */
  readonly hiddenSpace: Space;
  readonly #handle: NativeModel;
  readonly #render: ChatRenderer;

  /** @internal */
  constructor(
    handle: NativeModel,
    readonly path: string,
    fingerprint: string,
    template?: "model" | "plain",
  ) {
    this.#handle = handle;
    const facts = handle.info();
    if (template === "model" && facts.chatTemplate === undefined)
      throw new LatentError("ERR_LATENT_TEMPLATE", "the file has no chat template", { hint: "Load the model with `template: 'plain'`." });
    const source = template === "plain" ? undefined : facts.chatTemplate;
    this.info = Object.freeze({ ...facts, fingerprint, template: source === undefined ? "plain" : "model" });
    const common = { weights: fingerprint, dimension: facts.embeddingLength, positions: `${facts.rope}/${facts.ropeScaling}` };
    this.space = makeSpace({ ...common, layer: "embeds", normalisation: `norm ${facts.alpha}` });
    this.hiddenSpace = makeSpace({ ...common, layer: "hidden", normalisation: "final norm" });
    const spell = (token: number): string => (token >= 0 ? handle.piece(token) : "");
    this.#render = chatRenderer(source, { bos: spell(facts.bos), eos: spell(facts.eos) });
    leaks.register(this, path, this);
  }

  get disposed(): boolean {
    return this.#handle.disposed;
  }

  /**
   * @param options.special add the tokens that the model wants at the beginning (default false); `parseSpecial`: read `<|end|>` and the like as the
   * tokens they name (default true)
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, also when a vocabulary without byte tokens cannot spell the text
   */
  tokenize(text: string, options: { readonly special?: boolean; readonly parseSpecial?: boolean } = {}): Int32Array {
    checkKeys("options", options, ["special", "parseSpecial"]);
    checkString("text", text);
    return this.#call(() => this.#handle.tokenize(text, checkBoolean("special", fallback(options.special, false)), checkBoolean("parseSpecial", fallback(options.parseSpecial, true))));
  }

  /** Text of tokens; special tokens are left out unless `special` is true. */
  detokenize(tokens: Int32Array | readonly number[], options: { readonly special?: boolean } = {}): string {
    checkKeys("options", options, ["special"]);
    return this.#call(() => this.#handle.detokenize(this.checkTokens(tokens), checkBoolean("special", fallback(options.special, false))));
  }

  /** One token as the vocabulary spells it, special tokens included. @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` */
  piece(token: number): string {
    return this.#call(() => this.#handle.piece(checkInteger("token", token, 0, this.info.vocabularySize - 1)));
  }

  /** True for tokens that end a turn. @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` if it is not in the vocabulary */
  isEndOfGeneration(token: number): boolean {
    return this.#call(() => this.#handle.isEndOfGeneration(checkInteger("token", token, 0, this.info.vocabularySize - 1)));
  }

  /** A string of the file's metadata, e.g. `general.name`; undefined if there is none. */
  metadata(key: string): string | undefined {
    return this.#call(() => this.#handle.metadata(checkString("key", key)));
  }

  /**
   * The text of chat messages as the model's own template writes it.
   * @throws {@link LatentError} `ERR_LATENT_TEMPLATE`, `ERR_LATENT_INVALID_ARGUMENT`
   */
  renderChat(messages: readonly ChatMessage[], options: { readonly addGenerationPrompt?: boolean } = {}): string {
    checkKeys("options", options, ["addGenerationPrompt"]);
    return this.#render(checkMessages(messages), checkBoolean("addGenerationPrompt", fallback(options.addGenerationPrompt, true)));
  }

  /** Input rows of tokens, f32 `[n, d]`, as the first layer reads them (scale applied). */
  inputRows(tokens: Int32Array | readonly number[]): Tensor {
    return Tensor.fromNative(this.#call(() => this.#handle.inputRows(this.checkTokens(tokens))));
  }

  /** The input or output matrix, f32 `[vocabulary, d]`, without the input scale; null for the output of a model with tied matrices. */
  async matrix(which: "input" | "output"): Promise<Tensor | null> {
    const tensor = await run(this.#call(() => this.#handle.matrix(checkOneOf("which", which, ["input", "output"]))));
    return tensor === null ? null : Tensor.fromNative(tensor);
  }

  /**
   * The ridge map from output to input embeddings, f32 `[d, d]`, for rows `u = h W` (LatentMAS, eq. 3): W = (Wo'Wo + lambda I)^-1 Wo'Wi in f64.
   * Kept on disk by fingerprint. null when the matrices are tied: there W is the identity up to lambda.
   * @param options.lambda absolute, default 1e-5
   */
  async alignment(options: { readonly lambda?: number; readonly signal?: AbortSignal } = {}): Promise<Tensor | null> {
    checkKeys("options", options, ["lambda", "signal"]);
    const lambda = checkNumber("lambda", fallback(options.lambda, 1e-5), Number.MIN_VALUE, Number.MAX_VALUE);
    if (this.info.tiedOutput) return null;
    const d = this.info.embeddingLength;
    const name = `alignment/${this.info.fingerprint}-${lambda}`;
    const cached = await readCache(name);
    if (cached?.length === d * d * Float32Array.BYTES_PER_ELEMENT) {
      const values = new Float32Array(d * d);
      new Uint8Array(values.buffer).set(cached);
      return Tensor.fromTyped("f32", [d, d], values);
    }
    const solved = Tensor.fromNative(await run(this.#call(() => this.#handle.solveAlignment(lambda)), options.signal));
    await writeCache(name, new Uint8Array(solved.toFloat32().buffer));
    return solved;
  }

  /**
   * A pool: one context whose sequences share its positions and are decoded together.
   * @throws {@link LatentError} `ERR_LATENT_OUT_OF_MEMORY`, `ERR_LATENT_INVALID_ARGUMENT` (also: more than 127 sequences of a model with sliding
   * windows), `ERR_LATENT_DTYPE` (a quantised `kvType` without flash attention), `ERR_LATENT_ENGINE_FAILED`; with `inPlace`
   * `ERR_LATENT_KV_LAYOUT` (this cache cannot be used so, and why), `ERR_LATENT_DEVICE_UNAVAILABLE`
   */
  async createPool(options: PoolOptions = {}): Promise<Pool> {
    checkKeys("options", options, ["contextLength", "maxSequences", "batch", "threads", "kvType", "flashAttention", "inPlace", "signal"]);
    const cores = Math.max(1, Math.min(availableParallelism() - 1, 8));
    const maxSequences = checkInteger("maxSequences", fallback(options.maxSequences, 16), 1, 255);
    const settings = {
      contextLength: checkInteger("contextLength", fallback(options.contextLength, Math.min(this.info.contextLength, 8192)), 1, 1 << 24),
      maxSequences,
      // llama.cpp asserts, which would end the process, if a batch cannot hold a row of every sequence and of the pool's own
      batch: checkInteger("batch", fallback(options.batch, 512), maxSequences + 1, 1 << 16),
      threads: checkInteger("threads", fallback(options.threads, this.info.parameters < smallModel ? 1 : cores), 1, 512),
      kvType: checkOneOf("kvType", fallback(options.kvType, "f16"), kvTypes),
      flashAttention: checkBoolean("flashAttention", fallback(options.flashAttention, true)),
      inPlace: checkBoolean("inPlace", fallback(options.inPlace, false)),
    };
    options.signal?.throwIfAborted();
    return new Pool(this, await run(this.#call(() => this.#handle.createPool(settings)), options.signal), settings.kvType);
  }

  /** An agent that runs on this model; see {@link AgentOptions}. */
  agent(options: AgentOptions): Agent {
    return new Agent(this, options);
  }

  /** Frees the weights once no pool uses them; idempotent. */
  async dispose(): Promise<void> {
    leaks.unregister(this);
    if (!this.#handle.disposed) await run(this.#handle.dispose());
  }

  /** Same as {@link dispose}, for `await using`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose();
  }

  /** @internal */
  checkTokens(tokens: Int32Array | readonly number[]): Int32Array {
    if (!(tokens instanceof Int32Array) && !Array.isArray(tokens)) throw invalid("tokens", "an Int32Array or an array of integers", tokens);
    for (const token of tokens) checkInteger("tokens", token, 0, this.info.vocabularySize - 1);
    return Int32Array.from(tokens);
  }

  #call<T>(work: () => T): T {
    if (this.#handle.disposed) throw new LatentError("ERR_LATENT_DISPOSED", "the model is disposed");
    return LatentError.translate(work);
  }
}
