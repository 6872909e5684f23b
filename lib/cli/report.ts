// Writes the reports of evaluations into a folder.
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import type { EvalResult } from "../eval/evaluate.js";
import { toHtml } from "../eval/html.js";
import { toMarkdown } from "../eval/markdown.js";

/** result.json, report.md and report.html; returns their paths. */
export async function writeReports(folder: string, name: string, results: readonly EvalResult[]): Promise<string[]> {
  await mkdir(folder, { recursive: true });
  const files = {
    [`${name}.json`]: `${JSON.stringify(results.length === 1 ? results[0] : results, null, 2)}\n`,
    "report.md": toMarkdown(results),
    "report.html": toHtml(results),
  };
  const paths = Object.keys(files).map((file) => path.join(folder, file));
  for (const [file, text] of Object.entries(files)) await writeFile(path.join(folder, file), text);
  return paths;
}
