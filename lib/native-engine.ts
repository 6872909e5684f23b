// The typed view of what native/addon exports for the engine: runtime, model, pool and sequence. Only lib/models uses it.
import type { NativeJob, NativeTensor } from "./native.js";
import type { NativeDeviceKv, NativeFields, NativeKv, NativeKvCodec, NativeKvReader, NativeKvtc, NativeSegmentName } from "./native-kv.js";

export interface NativeRuntimeInfo {
  readonly directory: string;
  readonly llamaVersion: string;
  readonly ggmlVersion: string;
  readonly devices: readonly { readonly name: string; readonly description: string }[];
}

export interface NativeModelInfo {
  readonly description: string;
  readonly architecture: string;
  readonly parameters: number;
  readonly bytes: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly embeddingLength: number;
  readonly vocabularySize: number;
  readonly contextLength: number;
  readonly tiedOutput: boolean;
  readonly inputScale: number;
  readonly alpha: number;
  readonly rope: "none" | "norm" | "neox" | "mrope" | "imrope" | "vision";
  readonly ropeScaling: string;
  readonly chatTemplate: string | undefined;
  readonly bos: number;
  readonly eos: number;
  readonly eot: number;
  readonly addBos: boolean;
}

export interface NativePoolInfo {
  readonly contextLength: number;
  readonly maxSequences: number;
  readonly batch: number;
  readonly threads: number;
  readonly flashAttention: boolean;
  /** Whether keys and values are read and written where llama.cpp keeps them. */
  readonly inPlace: boolean;
  /** Where they lie, as far as they are used in place. */
  readonly device: "cpu" | "cuda";
  readonly canShift: boolean;
  readonly keyPositions: string;
  readonly kvBytesPerPosition: number;
}

/** Counters since the pool was made; every one is exact. */
export interface NativePoolCounters {
  readonly decodeCalls: number;
  readonly decodedRows: number;
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  readonly refreshedPositions: number;
  readonly usedCells: number;
  readonly openSequences: number;
  readonly poisoned: string | undefined;
}

export interface NativePrefillOptions {
  readonly tokens?: Int32Array;
  readonly rows?: NativeTensor;
  readonly hidden: "none" | "last" | "all";
  readonly priority: number;
}

export interface NativeGenerateOptions {
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topK: number;
  readonly topP: number;
  readonly minP: number;
  readonly repeatPenalty: number;
  readonly frequencyPenalty: number;
  readonly presencePenalty: number;
  readonly penaltyWindow: number;
  readonly seed: number;
  readonly stop: readonly string[];
  readonly window: number;
  readonly priority: number;
}

/** `bytes`: UTF-8 that is certain not to belong to a stop string; `token` is -1 for the flush at the end. */
export interface NativeTokenEvent {
  readonly token: number;
  readonly bytes: Uint8Array;
}

export interface NativeGenerateResult {
  readonly reason: "end" | "length" | "stop";
  readonly tokens: number;
}

export interface NativeThinkOptions {
  readonly steps: number;
  readonly alignment: NativeTensor | null;
  readonly alpha: number;
  readonly priority: number;
}

export interface NativeStepEvent {
  readonly step: number;
  readonly norm: number;
  readonly cosine: number;
}

export interface NativeSequence {
  readonly length: number;
  readonly nextPosition: number;
  readonly contiguous: boolean;
  readonly busy: boolean;
  readonly disposed: boolean;
  /** Token ids in order of position; -1 where a row (a latent) stands. */
  log(): Int32Array;
  prefill(options: NativePrefillOptions): NativeJob<NativeTensor | null>;
  generate(
    options: NativeGenerateOptions,
    onToken: (event: NativeTokenEvent) => void,
  ): NativeJob<NativeGenerateResult> & { credit(tokens: number): void };
  think(options: NativeThinkOptions, onStep: (event: NativeStepEvent) => void): NativeJob<NativeTensor>;
  hidden(): NativeJob<NativeTensor>;
  logits(): NativeJob<NativeTensor>;
  fork(): NativeJob<NativeSequence>;
  adopt(other: NativeSequence): NativeJob<void>;
  append(other: NativeSequence, mode: "recompute" | "shift"): NativeJob<number>;
  truncate(length: number): NativeJob<void>;
  drop(from: number, to: number, reanchor: boolean): NativeJob<void>;
  /** The entries [from, to). */
  exportKv(from: number, to: number): NativeJob<NativeKv>;
  /** Adds the content to the end, entry i at positions[i]. */
  importKv(kv: NativeKv, positions: Int32Array): NativeJob<void>;
  /** The entries [from, to), of a pool whose cache is used in place on the device. */
  exportDeviceKv(from: number, to: number): NativeJob<NativeDeviceKv>;
  /** As importKv; whether the content stayed on the device. */
  importDeviceKv(kv: NativeDeviceKv, positions: Int32Array): NativeJob<boolean>;
  /** Adds the cells of `other` to the end, at their positions. With a base >= 0 only if they lie there, one after the other; else false. */
  shareCells(other: NativeSequence, base: number): NativeJob<boolean>;
  /** Input rows of the logged latents, [count, d] f32, in order of position. */
  rows(): NativeTensor | null;
  dispose(): NativeJob<void>;
}

export interface NativePool {
  info(): NativePoolInfo;
  counters(): NativePoolCounters;
  createSequence(): NativeSequence;
  /** `codecs`: those that content may travel in besides the built-in ones. */
  kvReader(identity: NativeFields, sealed: boolean, codecs: readonly NativeKvCodec[]): NativeKvReader;
  /** `bits`: [2 * layers] */
  fitKvtc(samples: readonly NativeKv[], identity: NativeFields, bits: Float64Array): NativeJob<NativeKvtc>;
  /** The content of a segment; its rows stay where they are. */
  openKv(
    identity: NativeFields,
    name: NativeSegmentName,
    nonce: Uint8Array,
  ): NativeJob<{ readonly kv: NativeKv; readonly notes: NativeFields }>;
  /** The content of a segment on the device; a copy. */
  openDeviceKv(
    identity: NativeFields,
    handle: Uint8Array,
    nonce: Uint8Array,
  ): NativeJob<{ readonly kv: NativeDeviceKv; readonly notes: NativeFields }>;
  readonly disposed: boolean;
  dispose(): NativeJob<void>;
}

export interface NativePoolOptions {
  readonly contextLength: number;
  readonly maxSequences: number;
  readonly batch: number;
  readonly threads: number;
  readonly kvType: "f32" | "f16" | "bf16" | "q8_0" | "q4_0";
  readonly flashAttention: boolean;
  readonly inPlace: boolean;
}

export interface NativeModel {
  info(): NativeModelInfo;
  readonly disposed: boolean;
  metadata(key: string): string | undefined;
  tokenize(text: string, addSpecial: boolean, parseSpecial: boolean): Int32Array;
  detokenize(tokens: Int32Array, renderSpecial: boolean): string;
  piece(token: number): string;
  isEndOfGeneration(token: number): boolean;
  isControl(token: number): boolean;
  /** [n, d] f32, input scale applied. */
  inputRows(tokens: Int32Array): NativeTensor;
  /** [vocabulary, d] f32; null when the output is tied to the input. */
  matrix(which: "input" | "output"): NativeJob<NativeTensor | null>;
  solveAlignment(lambda: number): NativeJob<NativeTensor>;
  createPool(options: NativePoolOptions): NativeJob<NativePool>;
  dispose(): NativeJob<void>;
}

export interface NativeEngineModule {
  /** Ends the jobs of all environments and the threads of all pools, for good. */
  endAll(): void;
  loadRuntime(directory: string): NativeJob<NativeRuntimeInfo>;
  loadModel(
    path: string,
    options: { readonly gpuLayers: number; readonly mmap: boolean },
    onProgress: (ratio: number) => void,
  ): NativeJob<NativeModel>;
}
