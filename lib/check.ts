// Checks of what users pass in. Each names the option, what it may be and what came, so that the message alone is enough.
import { LatentError } from "./errors.js";

function show(value: unknown): string {
  if (typeof value === "string") return JSON.stringify(value.length > 40 ? `${value.slice(0, 40)}…` : value);
  if (typeof value === "number" || typeof value === "boolean" || value === null || value === undefined) return String(value);
  return Array.isArray(value) ? "an array" : `a value of type ${typeof value}`;
}

export function invalid(name: string, want: string, value: unknown): LatentError {
  return new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} must be ${want}, got ${show(value)}`);
}

export function checkInteger(name: string, value: unknown, low: number, high: number): number {
  if (typeof value !== "number" || !Number.isInteger(value) || value < low || value > high) {
    throw invalid(name, `an integer from ${low} to ${high}`, value);
  }
  return value;
}

export function checkNumber(name: string, value: unknown, low: number, high: number): number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < low || value > high)
    throw invalid(name, `a number from ${low} to ${high}`, value);
  return value;
}

export function checkString(name: string, value: unknown): string {
  if (typeof value !== "string") throw invalid(name, "a string", value);
  return value;
}

export function checkBoolean(name: string, value: unknown): boolean {
  if (typeof value !== "boolean") throw invalid(name, "true or false", value);
  return value;
}

export function checkOneOf<const T extends string>(name: string, value: unknown, allowed: readonly T[]): T {
  const found = allowed.find((one) => one === value);
  if (found === undefined) throw invalid(name, `one of ${allowed.map((one) => `'${one}'`).join(", ")}`, value);
  return found;
}

/** A callback that may be left out. */
export function checkArray<T>(name: string, value: readonly T[]): readonly T[] {
  const given: unknown = value;
  if (!Array.isArray(given)) throw invalid(name, "an array", given);
  return value;
}

export function checkCallback(name: string, value: unknown): void {
  if (value !== undefined && typeof value !== "function") throw invalid(name, "a function", value);
}

/**
 * Refuses keys that no option has: a misspelt option must not be ignored. A `signal` is checked here, before anything native starts: a job that
 * nobody can await any more would end the process when it fails.
 */
export function checkKeys(name: string, value: unknown, known: readonly string[]): void {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw invalid(name, "an object", value);
  for (const key of Object.keys(value)) {
    if (!known.includes(key))
      throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} has no option '${key}'; it has ${known.join(", ")}`);
  }
  const signal: unknown = Reflect.get(value, "signal");
  if (signal !== undefined && !(signal instanceof AbortSignal)) throw invalid("signal", "an AbortSignal", signal);
}

/** The default of an option that was left out. Not `??`: null was passed, so it is checked like any other value. */
export function fallback<T>(value: T | undefined, standard: T): T {
  return value === undefined ? standard : value;
}
