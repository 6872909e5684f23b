// What a translator is made of: a few stages, each an operation on rows or a matrix. They are data, so that translators can be inverted, composed and
// written to a file; packed, they are what runs.
import { LatentError } from "../errors.js";
import { leastSquares } from "../fits/linear.js";
import { withSignal } from "../jobs.js";
import type { Storage } from "../kernels/input.js";
import { packProjection, type Projection } from "../kernels/projection.js";
import { transpose } from "../kernels/transpose.js";
import type { NativeRowMap } from "../native-spaces.js";
import { Tensor } from "../tensor.js";
import { combineRows, identity, mapRows, selectRows } from "./rows.js";

export type Activation = "identity" | "gelu" | "silu" | "tanh";

/** unit((x - subtract) · multiply) + add, each `[d]`. */
export interface RowStage extends NativeRowMap {
  readonly kind: "rows";
}

/** activation(x weights + bias). */
export interface LinearStage {
  readonly kind: "linear";
  /** f32 `[inputs, outputs]` */
  readonly weights: Tensor;
  /** `[outputs]` */
  readonly bias?: Float32Array;
  readonly activation: Activation;
  /** Whether weightsᵀ weights or weights weightsᵀ is the identity, whichever is smaller. */
  readonly orthogonal: boolean;
}

/**
 * Rows come in messages of `count`: row k of each goes through the k-th of `count` maps, or, where there is one map, a message goes through it as one
 * long row.
 */
export interface SlotStage {
  readonly kind: "slots";
  readonly count: number;
  readonly maps: readonly (readonly SimpleStage[])[];
}

/** A stage that looks at one row at a time. */
export type SimpleStage = RowStage | LinearStage;

export type Stage = SimpleStage | SlotStage;

type Signal = AbortSignal | undefined;

export function linear(weights: Tensor, more: Partial<Pick<LinearStage, "bias" | "activation" | "orthogonal">> = {}): LinearStage {
  return { kind: "linear", weights, activation: "identity", orthogonal: false, ...more };
}

export function rowStages(maps: readonly NativeRowMap[]): RowStage[] {
  return maps.map((map) => ({ kind: "rows", ...map }));
}

/** Rows times one number, `[d]`. */
export function scaling(factor: number, dimension: number): RowStage {
  return { kind: "rows", multiply: new Float32Array(dimension).fill(factor), unit: false };
}

/** The dimension that stages read and the one that they write. */
export function dimensionsOf(stages: readonly Stage[], otherwise: number): [number, number] {
  const matrices = stages.filter((stage) => stage.kind === "linear");
  return [matrices[0]?.weights.shape[0] ?? otherwise, matrices.at(-1)?.weights.shape[1] ?? otherwise];
}

export function disposeStages(stages: readonly Stage[]): void {
  for (const stage of stages) {
    if (stage.kind === "linear") stage.weights.dispose();
    if (stage.kind === "slots") for (const map of stage.maps) disposeStages(map);
  }
}

/** Stages with matrices of their own. */
export async function copyStages(stages: readonly Stage[], signal: Signal): Promise<Stage[]> {
  const copies: Stage[] = [];
  for (const stage of stages) {
    if (stage.kind !== "slots") copies.push(...(await copySimple([stage], signal)));
    else copies.push({ ...stage, maps: await Promise.all(stage.maps.map((map) => copySimple(map, signal))) });
  }
  return copies;
}

async function copySimple(stages: readonly SimpleStage[], signal: Signal): Promise<SimpleStage[]> {
  const copies: SimpleStage[] = [];
  for (const stage of stages)
    copies.push(stage.kind === "rows" ? stage : { ...stage, weights: await stage.weights.convert("f32", withSignal(signal)) });
  return copies;
}

type PackedSimple = RowStage | Projection;

interface PackedSlots {
  readonly kind: "slots";
  readonly count: number;
  readonly maps: readonly (readonly PackedSimple[])[];
}

export type PackedStage = PackedSimple | PackedSlots;

/**
 * Operations on rows that follow each other become one pass, and two matrices one product of two layers, so that what is between them is never written.
 */
export async function packStages(stages: readonly Stage[], storage: Storage, signal: Signal): Promise<PackedStage[]> {
  const packed: PackedStage[] = [];
  try {
    for (let next = 0; next < stages.length;) {
      const stage = stages[next];
      if (stage?.kind === "slots") {
        packed.push(await packSlots(stage, storage, signal));
        next++;
        continue;
      }
      const end = stages.findIndex((one, i) => i > next && one.kind === "slots");
      const simple = stages.slice(next, end < 0 ? undefined : end).filter((one) => one.kind !== "slots");
      packed.push(...(await packSimple(simple, storage, signal)));
      next += simple.length;
    }
    return packed;
  } catch (error) {
    disposePacked(packed);
    throw error;
  }
}

async function packSlots({ count, maps }: SlotStage, storage: Storage, signal: Signal): Promise<PackedSlots> {
  const packed: PackedSimple[][] = [];
  try {
    for (const map of maps) packed.push(await packSimple(map, storage, signal));
    return { kind: "slots", count, maps: packed };
  } catch (error) {
    for (const map of packed) disposePacked(map);
    throw error;
  }
}

async function packSimple(given: readonly SimpleStage[], storage: Storage, signal: Signal): Promise<PackedSimple[]> {
  const packed: PackedSimple[] = [];
  const stages = mergeRows(given);
  try {
    for (let i = 0; i < stages.length; i++) {
      const stage = stages[i];
      if (stage === undefined || stage.kind === "rows") {
        if (stage !== undefined) packed.push(stage);
        continue;
      }
      const next = stages[i + 1];
      const second = next?.kind === "linear" && next.activation === "identity" ? next : undefined;
      if (second !== undefined) i++;
      const layers = second === undefined ? ([layer(stage)] as const) : ([layer(stage), layer(second)] as const);
      packed.push(await packProjection({ layers, activation: stage.activation, storage, ...withSignal(signal) }));
    }
    return packed;
  } catch (error) {
    disposePacked(packed);
    throw error;
  }
}

function mergeRows(stages: readonly SimpleStage[]): SimpleStage[] {
  const merged: SimpleStage[] = [];
  for (const stage of stages) {
    const last = merged.at(-1);
    const both = last?.kind === "rows" && stage.kind === "rows" ? mergeTwo(last, stage) : undefined;
    if (both !== undefined) merged.pop();
    merged.push(both ?? stage);
  }
  return merged;
}

/** One stage for two, where one can be. */
function mergeTwo(first: RowStage, second: RowStage): RowStage | undefined {
  if (first.unit) return undefined;
  const moves = second.subtract !== undefined || second.multiply !== undefined;
  if (first.add === undefined && !moves) return { ...first, unit: second.unit, add: second.add };
  if (second.unit) return undefined;
  // ((x - s) m + a - s') m' + a' = (x - s) m m' + (a - s') m' + a'
  const size = [first.subtract, first.multiply, first.add, second.subtract, second.multiply, second.add].find(
    (row) => row !== undefined,
  )?.length;
  const part = (row: Float32Array | undefined, i: number, otherwise: number): number => row?.[i] ?? otherwise;
  const row = (value: (i: number) => number): Float32Array => Float32Array.from({ length: size ?? 0 }, (_, i) => value(i));
  return {
    kind: "rows",
    subtract: first.subtract,
    multiply: row((i) => part(first.multiply, i, 1) * part(second.multiply, i, 1)),
    unit: false,
    add: row((i) => (part(first.add, i, 0) - part(second.subtract, i, 0)) * part(second.multiply, i, 1) + part(second.add, i, 0)),
  };
}

function layer({ weights, bias }: LinearStage): { weights: Tensor; bias?: Float32Array } {
  return bias === undefined ? { weights } : { weights, bias };
}

export function disposePacked(packed: readonly PackedStage[]): void {
  for (const one of packed) {
    if ("apply" in one) one.dispose();
    else if (one.kind === "slots") for (const map of one.maps) disposePacked(map);
  }
}

/** f32 `[n, outputs]`, a tensor of its own. */
export async function runPacked(packed: readonly PackedStage[], x: Tensor, signal: Signal): Promise<Tensor> {
  let rows: Tensor | undefined;
  for (const one of packed) {
    const last: Tensor = rows ?? x;
    try {
      rows = await runOne(one, last, signal);
    } finally {
      if (last !== x) last.dispose();
    }
  }
  return rows ?? mapRows(x, { unit: false }, signal);
}

async function runOne(one: PackedStage, rows: Tensor, signal: Signal): Promise<Tensor> {
  if ("apply" in one) return one.apply(rows, withSignal(signal));
  if (one.kind === "rows") return mapRows(rows, one, signal);
  const { count, maps } = one;
  const [n = 0, width = 0] = rows.shape;
  if (maps.length === 1 && count > 1) {
    using messages = reshaped(rows, n / count, width * count);
    using moved = await runPacked(maps[0] ?? [], messages, signal);
    return reshaped(moved, n, (moved.shape[1] ?? 0) / count);
  }
  const parts: Tensor[] = [];
  try {
    for (const [k, map] of maps.entries()) {
      using slot = await selectSlot(rows, k, count, signal);
      parts.push(await runPacked(map, slot, signal));
    }
    using messages = await combineRows(parts, "concat", signal);
    return reshaped(messages, n, (messages.shape[1] ?? 0) / count);
  } finally {
    for (const part of parts) part.dispose();
  }
}

/** Row k of every message of `count` rows: f32 `[n / count, d]`. */
export async function selectSlot(rows: Tensor, k: number, count: number, signal: Signal): Promise<Tensor> {
  const messages = (rows.shape[0] ?? 0) / count;
  return selectRows(
    rows,
    Int32Array.from({ length: messages }, (_, i) => i * count + k),
    signal,
  );
}

/** The same numbers as rows of another length, f32. Copies bytes. */
export function reshaped(rows: Tensor, n: number, d: number): Tensor {
  return Tensor.fromTyped("f32", [n, d], rows.toFloat32());
}

/** The same of stages that are used once. */
export async function runStages(stages: readonly Stage[], x: Tensor, signal: Signal): Promise<Tensor> {
  const packed = await packStages(stages, "f32", signal);
  try {
    return await runPacked(packed, x, signal);
  } finally {
    disposePacked(packed);
  }
}

/** a b, f32. */
export async function product(a: Tensor, b: Tensor, signal: Signal): Promise<Tensor> {
  return runStages([linear(b)], a, signal);
}

/** The pseudo-inverse `[m, n]` of a `[n, m]`, singular values below `rcond` of the largest left out, and the condition of what is left. */
export async function pseudoInverse(a: Tensor, rcond: number, signal: Signal): Promise<{ matrix: Tensor; condition: number }> {
  using unit = identity(a.shape[0] ?? 0);
  const { weights, condition } = await leastSquares(a, unit, { centred: false, rcond, ...withSignal(signal) });
  return { matrix: weights, condition };
}

// beyond this the rounding of f32 rows is as large as what it is divided by
const mostCondition = 1e6;

/** The stages that undo these. Fails with ERR_LATENT_ILL_CONDITIONED where one loses what it gets. */
export async function invertStages(stages: readonly Stage[], signal: Signal): Promise<Stage[]> {
  const inverse: Stage[] = [];
  try {
    for (const stage of [...stages].reverse())
      if (stage.kind === "slots") inverse.push(await invertSlots(stage, signal));
      else inverse.push(...(await invertSimple([stage], signal)));
    return inverse;
  } catch (error) {
    disposeStages(inverse);
    throw error;
  }
}

async function invertSimple(stages: readonly SimpleStage[], signal: Signal): Promise<SimpleStage[]> {
  const inverse: SimpleStage[] = [];
  try {
    for (const stage of [...stages].reverse())
      inverse.push(...(stage.kind === "rows" ? [invertRows(stage)] : await invertLinear(stage, signal)));
    return inverse;
  } catch (error) {
    disposeStages(inverse);
    throw error;
  }
}

async function invertSlots({ count, maps }: SlotStage, signal: Signal): Promise<SlotStage> {
  const inverse: SimpleStage[][] = [];
  try {
    for (const map of maps) inverse.push(await invertSimple(map, signal));
    return { kind: "slots", count, maps: inverse };
  } catch (error) {
    for (const map of inverse) disposeStages(map);
    throw error;
  }
}

function lossy(reason: string): LatentError {
  return new LatentError("ERR_LATENT_ILL_CONDITIONED", `the translator cannot be inverted: ${reason}`);
}

function invertRows({ subtract, multiply, unit, add }: RowStage): RowStage {
  if (unit) throw lossy("it brings rows to one length");
  if (multiply?.includes(0) === true) throw lossy("it multiplies by 0");
  return { kind: "rows", subtract: add, multiply: multiply?.map((value) => 1 / value), unit: false, add: subtract };
}

async function invertLinear({ weights, bias, activation, orthogonal }: LinearStage, signal: Signal): Promise<SimpleStage[]> {
  if (activation !== "identity") throw lossy(`it has ${activation} between its layers`);
  const [inputs = 0, outputs = 0] = weights.shape;
  if (inputs > outputs) throw lossy(`it maps ${inputs} dimensions to ${outputs}`);
  const before: SimpleStage[] = bias === undefined ? [] : [{ kind: "rows", subtract: bias, unit: false }];
  if (orthogonal) return [...before, linear(await transpose(weights, withSignal(signal)), { orthogonal: true })];
  const { matrix, condition } = await pseudoInverse(weights, 0, signal);
  if (condition < mostCondition) return [...before, linear(matrix)];
  matrix.dispose();
  throw lossy(`its matrix has a condition of ${condition.toExponential(1)}`);
}
