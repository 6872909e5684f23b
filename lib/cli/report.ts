// Writes the reports of evaluations into a folder.
import { mkdir, writeFile } from "node:fs/promises";
import path from "node:path";
import type { EvalResult } from "../eval/evaluate.js";
import { toHtml } from "../eval/html.js";
import { toMarkdown } from "../eval/markdown.js";

/** One page, in a folder that is made. */
export async function writePage(file: string, results: readonly EvalResult[]): Promise<void> {
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, toHtml(results));
}

/** result.json, report.md and report.html; returns their paths. */
export async function writeReports(folder: string, result: EvalResult): Promise<string[]> {
  await mkdir(folder, { recursive: true });
  const files = {
    "result.json": `${JSON.stringify(result, null, 2)}\n`,
    "report.md": toMarkdown([result]),
    "report.html": toHtml([result]),
  };
  const paths = Object.keys(files).map((file) => path.join(folder, file));
  for (const [file, text] of Object.entries(files)) await writeFile(path.join(folder, file), text);
  return paths;
}
