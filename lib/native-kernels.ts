// The typed view of the addon's kernels: operands that are packed once, and products with them. A call on small inputs answers at once, on large
// ones with a job; `settled` in lib/kernels/input.ts makes one thing of both.
import type { NativeJob, NativeTensor } from "./native.js";

export type NativeRows = Float32Array | NativeTensor;

export interface NativeAnchorsOptions {
  readonly similarity?: string | undefined;
  readonly storage?: string | undefined;
  readonly mean?: Float32Array | undefined;
  readonly whiten?: NativeTensor | undefined;
  readonly centre?: Float32Array | undefined;
  readonly scale?: Float32Array | undefined;
}

export interface NativeAnchors {
  info(): { count: number; dimension: number; bytes: number };
  readonly disposed: boolean;
  relativeSync(x: NativeRows, out: Float32Array): void;
  relative(x: NativeRows): NativeTensor | NativeJob<NativeTensor>;
  topK(x: NativeRows, k: number): NativeTopK | NativeJob<NativeTopK>;
  codes(x: NativeRows, bits: number): NativeTensor | NativeJob<NativeTensor>;
  dispose(): void;
}

export interface NativeTopK {
  readonly indices: NativeTensor;
  readonly values: NativeTensor;
}

export interface NativeProjectionOptions {
  readonly weights: NativeTensor;
  readonly bias?: Float32Array | undefined;
  readonly secondWeights?: NativeTensor | undefined;
  readonly secondBias?: Float32Array | undefined;
  readonly norm?: string | undefined;
  readonly epsilon?: number | undefined;
  readonly normWeight?: Float32Array | undefined;
  readonly normBias?: Float32Array | undefined;
  readonly activation?: string | undefined;
  readonly rescale?: string | undefined;
  readonly targetNorm?: number | undefined;
  readonly storage?: string | undefined;
}

export interface NativeProjection {
  info(): { inputs: number; outputs: number; bytes: number };
  readonly disposed: boolean;
  applySync(x: NativeRows, out: Float32Array): void;
  apply(x: NativeRows): NativeTensor | NativeJob<NativeTensor>;
  dispose(): void;
}

export interface NativeTokenTable {
  info(): { count: number; width: number; format: string };
  readonly disposed: boolean;
  rows(tokens: Int32Array): NativeTensor | NativeJob<NativeTensor>;
  dispose(): void;
}

export interface NativeThoughtRecipe {
  readonly token?: number | undefined;
  readonly mix?: number | undefined;
  readonly hidden?: number | undefined;
  readonly align?: NativeProjection | undefined;
  readonly temperature?: number | undefined;
  readonly topK?: number | undefined;
  readonly topP?: number | undefined;
  readonly masked?: Int32Array | undefined;
  readonly noise?: string | undefined;
  readonly noiseAmount?: number | undefined;
  readonly unitMix?: boolean | undefined;
  readonly norm?: number | undefined;
}

export interface NativeThoughtInputs {
  readonly tokens?: Int32Array | undefined;
  readonly hidden?: NativeRows | undefined;
  readonly seed?: number | undefined;
  readonly step?: number | undefined;
}

export interface NativeThoughts {
  readonly embeddings: NativeTensor;
  readonly stats: Float64Array;
  readonly ids?: NativeTensor;
  readonly weights?: NativeTensor;
}

export interface NativeThoughtStep {
  info(): { vocabularySize: number; width: number; hiddenWidth: number; mostTokens: number };
  readonly disposed: boolean;
  runSync(logits: NativeRows, inputs: NativeThoughtInputs, embeddings: Float32Array, stats: Float64Array): void;
  run(logits: NativeRows, inputs: NativeThoughtInputs, mixture: boolean): NativeThoughts | NativeJob<NativeThoughts>;
  dispose(): void;
}

export interface NativeTileCodec {
  byteLength(rows: number, columns: number): number;
  quantiseSync(x: NativeRows, columns: number, payload: Uint8Array): void;
  quantise(x: NativeRows, columns: number): NativeTensor | NativeJob<NativeTensor>;
  dequantiseSync(payload: Uint8Array | NativeTensor, rows: number, columns: number, out: Float32Array): void;
  dequantise(payload: Uint8Array | NativeTensor, rows: number, columns: number, dtype: string): NativeTensor | NativeJob<NativeTensor>;
}

export interface NativeCodebook {
  info(): { count: number; dimension: number; bytes: number };
  readonly disposed: boolean;
  nearestSync(x: NativeRows, indices: Int32Array, distances?: Float32Array): void;
  nearest(x: NativeRows): NativeNearest | NativeJob<NativeNearest>;
  dispose(): void;
}

export interface NativeNearest {
  readonly indices: NativeTensor;
  readonly distances: NativeTensor;
}

export interface NativeResidualCodes {
  readonly indices: NativeTensor;
  readonly residual: NativeTensor;
}

export interface NativeKernelsModule {
  packAnchors(anchors: NativeTensor, options: NativeAnchorsOptions, onDevice: boolean): NativeJob<NativeAnchors>;
  packProjection(options: NativeProjectionOptions, onDevice: boolean): NativeJob<NativeProjection>;
  /** `matrix`, "input" or "output", is for the path of a model file. */
  openTokenTable(source: NativeTensor | string, matrix: string | undefined, onDevice: boolean): NativeJob<NativeTokenTable>;
  createThoughtStep(table: NativeTokenTable, recipe: NativeThoughtRecipe): NativeThoughtStep;
  createTileCodec(options: { code: string; scale?: string | undefined; group?: number | undefined }): NativeTileCodec;
  hadamard(x: Float32Array, columns: number, block: number): void;
  packBits(symbols: Uint16Array, bits: number, out: Uint8Array): void;
  unpackBits(packed: Uint8Array, bits: number, out: Uint16Array): void;
  packCodebook(codewords: NativeTensor, storage: string, onDevice: boolean): NativeJob<NativeCodebook>;
  residualQuantise(codebooks: readonly NativeCodebook[], x: NativeRows): NativeResidualCodes | NativeJob<NativeResidualCodes>;
  residualDequantise(codebooks: readonly NativeCodebook[], indices: Int32Array): NativeTensor | NativeJob<NativeTensor>;
  fsqEncode(x: NativeRows, levels: Int32Array, symbols: Int32Array): void;
  fsqDecode(symbols: Int32Array, levels: Int32Array, out: Float32Array): void;
  splitBits(variances: Float64Array, totalBits: number, bits: Float64Array): { level: number; distortion: number };
  splitWholeBits(variances: Float64Array, totalBits: number, mostBits: number, bits: Int32Array): number;
  rowNorms(x: NativeRows, columns: number, out: Float32Array): void;
  entropyBits(p: NativeRows, columns: number, out: Float32Array): void;
  firstNonFinite(x: NativeRows, columns: number): number;
  drift(
    x: NativeRows,
    columns: number,
    previous: NativeRows | undefined,
    first: NativeRows | undefined,
    squares: Float32Array,
    toPrevious: Float32Array,
    toFirst: Float32Array,
  ): void;
  addToMean(x: NativeRows, mean: Float32Array, count: number): number;
  digest(data: Uint8Array | NativeTensor): string;
  blake3(data: Uint8Array | NativeTensor, key: Uint8Array | undefined): string;
  transpose(x: NativeTensor): NativeTensor | NativeJob<NativeTensor>;
  /** The instruction set that the kernels run on, e.g. `avx512_vnni`; LATENTWIRE_ISA asks for a plainer one. */
  kernelIsa(): string;
}
