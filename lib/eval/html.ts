import type { EvalResult } from "./evaluate.js";
export function toHtml(results: readonly EvalResult[]): string {
  return JSON.stringify(results);
}
