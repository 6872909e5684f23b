// The tables of a result, for terminals, Markdown and pages alike: titles and cells, no layout.
import type { EvalResult } from "./evaluate.js";
import type { ArmResult, EvalNumbers } from "./result.js";

export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly (string | number)[])[];
}

export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** What was evaluated, in a few words. */
export function titleOf({ reader, solver, suite }: Pick<EvalResult, "reader" | "solver" | "suite">): string {
  const models = reader.fingerprint === solver.fingerprint ? reader.name : `${reader.name} to ${solver.name}`;
  return `${models} on ${suite}`;
}

/** 1.2 kB, 34 MB. */
export function size(bytes: number): string {
  const unit = [1e9, 1e6, 1e3].findIndex((one) => bytes >= one);
  if (unit < 0) return `${bytes.toFixed(0)} B`;
  const scale = [1e9, 1e6, 1e3][unit] ?? 1;
  return `${(bytes / scale).toFixed(bytes >= 10 * scale ? 0 : 1)} ${["GB", "MB", "kB"][unit] ?? ""}`;
}

/** How one arm stands beside another one: McNemar's p by Holm's correction. */
function beside({ comparisons }: EvalNumbers, arm: string, other: string): string {
  const found = comparisons.find(({ a, b }) => (a === arm && b === other) || (a === other && b === arm));
  if (found === undefined) return "";
  return found.pAdjusted < 0.001 ? "< 0.001" : found.pAdjusted.toFixed(3);
}

interface Column {
  readonly title: string;
  readonly cell: (arm: ArmResult, numbers: EvalNumbers) => string;
}

const column = (title: string, cell: Column["cell"]): Column => ({ title, cell });

const arm = column("arm", ({ arm: name, placebo }) => (placebo ? `${name} (placebo)` : name));
const rightOnes = [
  column("right", ({ accuracy }) => percent(accuracy)),
  column("95 %", ({ interval: [low, high] }) => `${(100 * low).toFixed(1)} to ${(100 * high).toFixed(1)}`),
];
const againstText = column("p against text", (one, numbers) => beside(numbers, one.arm, "text"));
const tokens = [
  column("prefilled", ({ prefillTokens }) => prefillTokens.toFixed(1)),
  column("latent", ({ latentSteps }) => latentSteps.toFixed(1)),
  column("decoded", ({ decodedTokens }) => decodedTokens.toFixed(1)),
];
const sizes = [
  column("moved", ({ bytes }) => size(bytes)),
  column("held", ({ heldBytes }) => size(heldBytes)),
  column("peak KV", ({ kvPeakBytes }) => size(kvPeakBytes)),
];
const times = [
  column("reader ms", ({ stages }) => stages.reader.toFixed(2)),
  column("hand-over ms", ({ stages }) => stages.handOver.toFixed(2)),
  column("solver ms", ({ stages }) => stages.solver.toFixed(2)),
  column("ms", ({ ms }) => ms.toFixed(2)),
];

function tableOf(columns: readonly Column[], numbers: EvalNumbers): Table {
  return { head: columns.map(({ title }) => title), rows: numbers.arms.map((one) => columns.map(({ cell }) => cell(one, numbers))) };
}

/** Everything, one line an arm. */
export function wholeTable(numbers: EvalNumbers): Table {
  return tableOf([arm, ...rightOnes, againstText, ...tokens, ...sizes, ...times], numbers);
}

/** What was right, in all and by group. */
export function rightTable(numbers: EvalNumbers): Table {
  const groups = [...new Set(numbers.arms.flatMap((one) => Object.keys(one.groups)))];
  const byGroup = groups.map((group) => column(group, (one) => percent(one.groups[group]?.accuracy ?? 0)));
  const againstNone = column("p against none", (one, all) => beside(all, one.arm, "none"));
  return tableOf([arm, ...rightOnes, ...byGroup, againstText, againstNone], numbers);
}

/** How long an item took. */
export function timeTable(numbers: EvalNumbers): Table {
  return tableOf([arm, ...times], numbers);
}

/** What an item took in tokens and bytes. */
export function tokenTable(numbers: EvalNumbers): Table {
  return tableOf([arm, ...tokens, ...sizes], numbers);
}
