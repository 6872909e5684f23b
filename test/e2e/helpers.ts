// What the end-to-end tests share: the bundled models, tiny random models of odd families, and arithmetic on vectors.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { loadModel, Model, type Pool, type PoolOptions, type Sequence } from "../../lib/index.js";
import { writeTinyModel, type TinyModelOptions } from "../fixtures/gguf.js";
import { expect, vi } from "vitest";

export { codeOf } from "../helpers.js";

export const folder = mkdtempSync(path.join(tmpdir(), "latentwire-e2e-"));
process.on("exit", () => {
  rmSync(folder, { recursive: true, force: true });
});

/** For compilers that a test calls: without a sanitizer's run time, which is loaded first for Node alone. */
export const compilerEnvironment = { ...process.env, LD_PRELOAD: "" };

let made = 0;

export async function tinyModel(options: TinyModelOptions = {}): Promise<Model> {
  const file = path.join(folder, `tiny-${process.pid}-${made++}.gguf`);
  writeTinyModel(file, options);
  return loadModel(file);
}

export async function floats(
  tensor: { toFloat32(): Float32Array; dispose(): void } | Promise<{ toFloat32(): Float32Array; dispose(): void }>,
): Promise<Float32Array> {
  const made = await tensor;
  const values = made.toFloat32();
  made.dispose();
  return values;
}

export function maxAbsDifference(a: Float32Array, b: Float32Array): number {
  expect(a.length).toBe(b.length);
  return a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - (b[i] ?? Number.NaN))), 0);
}

export function norm(x: Float32Array): number {
  return Math.sqrt(x.reduce((sum, v) => sum + v * v, 0));
}

export function cosine(a: Float32Array, b: Float32Array): number {
  return a.reduce((sum, x, i) => sum + x * (b[i] ?? Number.NaN), 0) / (norm(a) * norm(b));
}

export function argmax(x: Float32Array): number {
  return x.reduce((best, v, i) => (v > (x[best] ?? Number.NEGATIVE_INFINITY) ? i : best), 0);
}

/** Row `i` of a `[n, d]` array. */
export function row(x: Float32Array, i: number, d: number): Float32Array {
  return x.subarray(i * d, (i + 1) * d);
}

export function klDivergence(p: Float32Array, q: Float32Array): number {
  const logSoftmax = (x: Float32Array): Float64Array => {
    const top = x.reduce((best, v) => Math.max(best, v), Number.NEGATIVE_INFINITY);
    const total = Math.log(x.reduce((sum, v) => sum + Math.exp(v - top), 0)) + top;
    return Float64Array.from(x, (v) => v - total);
  };
  const a = logSoftmax(p);
  const b = logSoftmax(q);
  return a.reduce((sum, v, i) => sum + Math.exp(v) * (v - (b[i] ?? Number.NaN)), 0);
}

export async function greedy(sequence: Sequence, maxTokens: number): Promise<readonly number[]> {
  return (await sequence.generate({ maxTokens }).result).tokens;
}

export async function filled(pool: Pool, text: string): Promise<Sequence> {
  const sequence = pool.sequence();
  await sequence.prefill(text, { hidden: "last" });
  return sequence;
}

/** From here on, pools of this file are made with `inPlace`, unless they say otherwise. */
export function makePoolsInPlace(): void {
  const createPool: Model["createPool"] = Reflect.get(Model.prototype, "createPool");
  vi.spyOn(Model.prototype, "createPool").mockImplementation(function (this: Model, options?: PoolOptions) {
    return createPool.call(this, { inPlace: true, ...options });
  });
}
