// What the tests of numbers share: seeded numbers, elements that are there, the code of an error.
import { LatentError } from "../lib/errors.js";

/** From -1 to 1, the same for the same seed. */
export function numbers(count: number, seed: number): Float32Array {
  let state = seed >>> 0;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32) * 2 - 1;
  });
}

/** NaN behind the end, which no comparison survives. */
export const at = (array: ArrayLike<number>, index: number): number => array[index] ?? Number.NaN;

/** The code of the LatentError that `call` ends with, or the text of another error. */
export async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call();
    return "no error";
  } catch (error) {
    return LatentError.isInstance(error) ? error.code : String(error);
  }
}

/** Whether two arrays hold the same bits: for large ones, which `toEqual` walks through number by number. */
export function sameBits(a: ArrayBufferView, b: ArrayBufferView): boolean {
  return Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));
}

/** Runs of a property: fewer where sanitizers make each of them many times as long. */
export const runs = (count: number): { numRuns: number } => ({
  numRuns: process.env["LATENTWIRE_TEST_ROUNDS"] === undefined ? count : Math.ceil(count / 5),
});

/**
 * Whether a call that is aborted while it runs, `afterMs` after its begin or at once, ends with the reason. On a busy machine it may be done before
 * that, so it is tried again.
 */
export async function isAborted(
  call: (options: { readonly signal: AbortSignal }) => Promise<unknown>,
  reason: Error,
  afterMs?: number,
): Promise<boolean> {
  for (let i = 0; i < 50; i++) {
    const controller = new AbortController();
    const outcome = call({ signal: controller.signal }).then(
      () => undefined,
      (error: unknown) => error,
    );
    if (afterMs !== undefined) await new Promise((resolve) => setTimeout(resolve, afterMs));
    controller.abort(reason);
    const error = await outcome;
    if (error === reason) return true;
    if (error !== undefined) throw error as Error;
  }
  return false;
}
