// The typed view of the addon's fits. All of them are jobs on a thread of their own.
import type { NativeJob, NativeTensor } from "./native.js";
import type { NativeTokenTable } from "./native-kernels.js";

export type NativeRowSource = NativeTensor | NativeTokenTable;

export interface NativeMomentsInput {
  readonly x: NativeRowSource;
  readonly y?: NativeRowSource | undefined;
  readonly weights?: Float32Array | undefined;
  readonly centred: boolean;
}

export interface NativeLinearFit {
  readonly weights: NativeTensor;
  readonly bias: Float32Array;
  readonly lambda: number;
  readonly condition: number;
  readonly unexplained: number;
}

export interface NativePca {
  readonly components: NativeTensor;
  readonly bias: Float32Array;
  readonly mean: Float32Array;
  readonly variances: Float64Array;
  readonly totalVariance: number;
}

export interface NativeWhitening {
  readonly whiten: NativeTensor;
  readonly bias: Float32Array;
  readonly colour: NativeTensor;
  readonly mean: Float32Array;
}

export interface NativeProcrustes {
  readonly rotation: NativeTensor;
  readonly bias: Float32Array;
  readonly scale: number;
  readonly residual: number;
  /** scale times rotation, of a fit that has a scale. */
  readonly weights?: NativeTensor;
}

export interface NativeHubSpace {
  readonly into: NativeTensor;
  readonly bias: Float32Array;
  readonly outOf: NativeTensor;
  readonly mean: Float32Array;
}

export interface NativeGcca {
  readonly spaces: readonly NativeHubSpace[];
  readonly agreement: Float64Array;
}

export interface NativeGeneralisedProcrustes {
  readonly spaces: readonly NativeHubSpace[];
  readonly agreement: number;
  readonly iterations: number;
  readonly converged: boolean;
}

export interface NativeMoments {
  info(): { weight: number; xColumns: number; yColumns: number; centred: boolean; bytes: number };
  readonly disposed: boolean;
  ridge(options: { lambda: number; relative: boolean }): NativeJob<NativeLinearFit>;
  pca(k: number): NativeJob<NativePca>;
  whitening(shrinkage: number): NativeJob<NativeWhitening>;
  procrustes(options: { rotationOnly: boolean; scaled: boolean }): NativeJob<NativeProcrustes>;
  gcca(options: { widths: Int32Array; dimension: number; ridge: number }): NativeJob<NativeGcca>;
  generalisedProcrustes(options: { widths: Int32Array; maxIterations: number; tolerance: number }): NativeJob<NativeGeneralisedProcrustes>;
  dispose(): void;
}

export interface NativeSvd {
  readonly u: NativeTensor;
  readonly values: Float64Array;
  readonly v: NativeTensor;
}

export interface NativeEigen {
  readonly values: Float64Array;
  readonly vectors: NativeTensor;
}

export interface NativeParsevalFrame {
  readonly frame: NativeTensor;
  readonly rank: number;
}

export interface NativeKmeans {
  readonly centres: NativeTensor;
  readonly labels: Int32Array;
  readonly medoids: Int32Array;
  readonly inertia: Float64Array;
  readonly converged: boolean;
}

export interface NativeLogistic {
  readonly weights: NativeTensor;
  readonly bias: Float32Array;
  readonly reports: readonly { loss: number; gradient: number; iterations: number; converged: boolean }[];
}

export interface NativeDistribution {
  info(): { count: number; bytes: number };
  readonly disposed: boolean;
  cdf(x: number): number;
  quantile(p: number): number;
  dispose(): void;
}

export interface NativeFitsModule {
  accumulateMoments(input: NativeMomentsInput): NativeJob<NativeMoments>;
  leastSquares(x: NativeRowSource, y: NativeRowSource, options: { rcond: number; centred: boolean }): NativeJob<NativeLinearFit>;
  svd(a: NativeRowSource, options: { rank: number | undefined; seed: number }): NativeJob<NativeSvd>;
  symmetricEigen(a: NativeRowSource): NativeJob<NativeEigen>;
  parsevalFrame(anchors: NativeRowSource, options: { rcond: number }): NativeJob<NativeParsevalFrame>;
  kmeans(
    x: NativeRowSource,
    options: { clusters: number; distance: string; seed: number; maxIterations: number; tolerance: number },
  ): NativeJob<NativeKmeans>;
  farthestPoints(x: NativeRowSource, count: number, options: { distance: string; seed: number }): NativeJob<Int32Array>;
  logisticRegression(
    x: NativeRowSource,
    labels: Int32Array,
    options: { classes: number; l2: number; maxIterations: number; tolerance: number },
  ): NativeJob<NativeLogistic>;
  empiricalDistribution(sample: Float32Array | NativeTensor): NativeJob<NativeDistribution>;
}
