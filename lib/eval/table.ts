// The tables of a result, for terminals, Markdown and pages alike: titles and cells, no layout.
import type { ArmResult, EvalNumbers } from "./result.js";

export interface Table {
  readonly head: readonly string[];
  readonly rows: readonly (readonly (string | number)[])[];
}

export const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** 1.2 kB, 34 MB. */
export function size(bytes: number): string {
  const unit = [1e9, 1e6, 1e3].findIndex((one) => bytes >= one);
  if (unit < 0) return `${bytes.toFixed(0)} B`;
  const scale = [1e9, 1e6, 1e3][unit] ?? 1;
  return `${(bytes / scale).toFixed(bytes >= 10 * scale ? 0 : 1)} ${["GB", "MB", "kB"][unit] ?? ""}`;
}

/** How one arm stands beside another one: McNemar's p by Holm's correction. */
function beside(numbers: EvalNumbers, arm: string, other: string): string {
  const found = numbers.comparisons.find(({ a, b }) => (a === arm && b === other) || (a === other && b === arm));
  if (found === undefined) return "";
  return found.pAdjusted < 0.001 ? "< 0.001" : found.pAdjusted.toFixed(3);
}

/** What was right, by arm. */
export function resultTable(numbers: EvalNumbers): Table {
  const groups = [...new Set(numbers.arms.flatMap((arm) => Object.keys(arm.groups)))];
  const rows = numbers.arms.map((arm) => [
    nameOf(arm),
    percent(arm.accuracy),
    `${(100 * arm.interval[0]).toFixed(1)} to ${(100 * arm.interval[1]).toFixed(1)}`,
    ...groups.map((group) => percent(arm.groups[group]?.accuracy ?? 0)),
    arm.arm === "text" ? "" : beside(numbers, arm.arm, "text"),
    arm.arm === "none" ? "" : beside(numbers, arm.arm, "none"),
  ]);
  return { head: ["arm", "right", "95 %", ...groups, "p against text", "p against none"], rows };
}

/** What it cost, by arm and item. */
export function costRows(numbers: EvalNumbers): Table {
  const rows = numbers.arms.map((arm) => [
    nameOf(arm),
    arm.prefillTokens.toFixed(1),
    arm.latentSteps.toFixed(1),
    arm.decodedTokens.toFixed(1),
    size(arm.bytes),
    size(arm.heldBytes),
    size(arm.kvPeakBytes),
    arm.stages.reader.toFixed(2),
    arm.stages.handOver.toFixed(2),
    arm.stages.solver.toFixed(2),
    arm.ms.toFixed(2),
  ]);
  const head = ["arm", "prefilled", "latent steps", "decoded", "moved", "held", "peak KV", "reader ms", "hand-over ms", "solver ms", "ms"];
  return { head, rows };
}

function nameOf({ arm, placebo }: ArmResult): string {
  return placebo ? `${arm} (placebo)` : arm;
}
