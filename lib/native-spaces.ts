// The typed view of the addon's functions for spaces. All of them are jobs on a thread of their own.
import type { NativeJob, NativeTensor } from "./native.js";
import type { NativeRowSource } from "./native-fits.js";

export interface NativeColumnStatistics {
  readonly mean: Float64Array;
  readonly deviation: Float64Array;
  readonly meanNorm: number;
  readonly centredNorm: number;
}

/** unit((x - subtract) · multiply) + add, each `[d]` or left out. */
export interface NativeRowMap {
  readonly subtract?: Float32Array | undefined;
  readonly multiply?: Float32Array | undefined;
  readonly unit: boolean;
  readonly add?: Float32Array | undefined;
}

export interface NativePairedErrors {
  readonly squaredError: number;
  readonly targetSpread: number;
  readonly targetSquares: number;
  readonly cosine: number;
}

type Likeness = (x: NativeRowSource, y: NativeRowSource) => NativeJob<number>;

export interface NativeSpacesModule {
  columnStatistics(x: NativeRowSource): NativeJob<NativeColumnStatistics>;
  mapRows(x: NativeRowSource, map: NativeRowMap): NativeJob<NativeTensor>;
  averageRows(x: NativeRowSource, indices: Int32Array, k: number): NativeJob<NativeTensor>;
  combineRows(parts: readonly NativeRowSource[], options: { how: string }): NativeJob<NativeTensor>;
  addNoise(x: NativeRowSource, options: { snr: number; seed: number }): NativeJob<{ rows: NativeTensor; deviation: number }>;
  quantiseRows(x: NativeRowSource, bits: number): NativeJob<NativeTensor>;
  lpDistances(x: NativeRowSource, anchors: NativeRowSource, p: number): NativeJob<NativeTensor>;
  attend(queries: NativeRowSource, keys: NativeRowSource, values: NativeRowSource, heads: number): NativeJob<NativeTensor>;
  decodeCodes(codes: NativeTensor, columns: number, bits: number): NativeJob<NativeTensor>;
  pairedErrors(predicted: NativeRowSource, target: NativeRowSource): NativeJob<NativePairedErrors>;
  pairedRanks(queries: NativeRowSource, candidates: NativeRowSource): NativeJob<Int32Array>;
  linearCka: Likeness;
  unbiasedCka: Likeness;
  rbfCka: Likeness;
  procrustesDistance: Likeness;
  cknna(x: NativeRowSource, y: NativeRowSource, k: number): NativeJob<number>;
  canonicalCorrelations(x: NativeRowSource, y: NativeRowSource, epsilon: number): NativeJob<{ values: Float64Array }>;
  centredSingularValues(x: NativeRowSource): NativeJob<{ values: Float64Array }>;
}
