// A result as Markdown, for issues and notes.
import type { EvalResult } from "./evaluate.js";
import { percent, rightTable, timeTable, titleOf, tokenTable, type Table } from "./table.js";

const cell = (value: string | number): string => String(value).replaceAll("\\", "\\\\").replaceAll("|", "\\|").replaceAll("\n", " ");

function markdownTable({ head, rows }: Table): string {
  const line = (cells: readonly (string | number)[]): string => `| ${cells.map(cell).join(" | ")} |`;
  return [line(head), line(head.map((_, i) => (i === 0 ? "---" : "---:"))), ...rows.map(line)].join("\n");
}

/** One section for each result. */
export function toMarkdown(results: readonly EvalResult[]): string {
  return `${results.map(section).join("\n\n")}\n`;
}

function section(result: EvalResult): string {
  const { n, chance, claims, translator, hardware, seed, parallel, verdict } = result;
  const claimTable = { head: ["claim", "the data", "evidence"], rows: claims.map((one) => [one.claim, one.verdict, one.evidence]) };
  return [
    `# ${cell(titleOf(result))}`,
    verdict,
    `${n} items, seed ${seed}, ${parallel} at a time${chance === null ? "" : `, chance ${percent(chance)}`}${translator === null ? "" : `, translator: ${translator}`}. ${hardware}.`,
    "## Right answers",
    markdownTable(rightTable(result)),
    "## Time of an item",
    markdownTable(timeTable(result)),
    "## Tokens and bytes of an item",
    markdownTable(tokenTable(result)),
    "## What the data says",
    markdownTable(claimTable),
  ].join("\n\n");
}
