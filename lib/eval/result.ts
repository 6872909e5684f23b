// What an evaluation found, in numbers: one line an arm, one for every two arms. Nothing here knows where the answers came from.
import type { Medium } from "../agents/events.js";
import { isPlacebo, policyName, type Arm, type ArmMessage } from "./arms.js";
import type { EvalRun, ItemRecord, Outcome, StageTimes } from "./run.js";
import { holm, mcnemar, pairedDifference, wilson, type Interval } from "./statistics.js";

/** Right answers among some items. */
export interface Accuracy {
  readonly n: number;
  readonly right: number;
  readonly accuracy: number;
  /** Wilson, 95 %. */
  readonly interval: Interval;
}

/** One arm. Tokens, steps, bytes and milliseconds are means over the items, as if each item's reader had read for it alone. */
export interface ArmResult {
  readonly arm: string;
  readonly accuracy: number;
  /** Wilson, 95 %. */
  readonly interval: Interval;
  readonly right: number;
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  readonly bytes: number;
  /** The cells that the solver got: 0 bytes move in one pool, and so many between processes. */
  readonly heldBytes: number;
  /** Keys and values that an item's agents held at one time, over all items. */
  readonly kvPeakBytes: number;
  readonly ms: number;
  readonly stages: StageTimes;
  readonly message: ArmMessage;
  readonly medium: Medium | null;
  readonly policy: string | null;
  readonly translator: Arm["translator"];
  readonly placebo: boolean;
  /**
   * By how much the variance of the accuracy is larger than that of independent items, because items of one document share a message. 1: not at all.
   * The interval is for independent items; multiply its width by the root of this.
   */
  readonly designEffect: number;
  readonly groups: Readonly<Record<string, Accuracy>>;
}

/** Two arms on the same items. */
export interface Comparison {
  readonly a: string;
  readonly b: string;
  /** Items that one of them alone got right. */
  readonly onlyA: number;
  readonly onlyB: number;
  /** accuracy(a) - accuracy(b), and its 95 % interval. */
  readonly difference: number;
  readonly interval: Interval;
  /** McNemar, two-sided. */
  readonly p: number;
  /** The same by Holm's correction over all pairs of the evaluation. */
  readonly pAdjusted: number;
}

/** The numbers of an evaluation. */
export interface EvalNumbers {
  readonly suite: string;
  readonly n: number;
  /** Mean over the items of what guessing gives; null if some item does not tell. */
  readonly chance: number | null;
  readonly arms: readonly ArmResult[];
  readonly comparisons: readonly Comparison[];
  readonly stopped: EvalRun["stopped"];
}

/** Accuracies, means and comparisons of what {@link runSuite} has made. */
export function numbersOf({ suite, arms, records, stopped }: EvalRun): EvalNumbers {
  const documents = new Map(suite.items.map(({ id, facts }) => [id, facts]));
  return {
    suite: suite.name,
    n: records.length,
    chance: chanceOf(records),
    arms: arms.map((arm) => armResult(arm, records, documents)),
    comparisons: compareAll(arms, records),
    stopped,
  };
}

function chanceOf(records: readonly ItemRecord[]): number | null {
  const known = records.map(({ chance }) => chance).filter((chance) => chance !== undefined);
  return known.length === records.length && known.length > 0 ? mean(known) : null;
}

function mean(values: readonly number[]): number {
  return values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length;
}

function accuracyOf(rights: readonly boolean[]): Accuracy {
  const n = rights.length;
  const right = rights.filter(Boolean).length;
  return { n, right, accuracy: n === 0 ? 0 : right / n, interval: wilson(right, n) };
}

type Judged = Outcome & { readonly right: boolean };

function outcomesOf(name: string, records: readonly ItemRecord[]): Judged[] {
  return records.map(({ id, arms }) => {
    const outcome = arms[name];
    if (outcome === undefined) throw new Error(`no outcome of arm ${name} for item ${id}`);
    return outcome;
  });
}

function armResult(arm: Arm, records: readonly ItemRecord[], documents: ReadonlyMap<string, string>): ArmResult {
  const outcomes = outcomesOf(arm.name, records);
  const { accuracy, interval, right } = accuracyOf(outcomes.map((one) => one.right));
  const per = (value: (outcome: Outcome) => number): number => mean(outcomes.map(value));
  const stages = { reader: per(({ ms }) => ms.reader), handOver: per(({ ms }) => ms.handOver), solver: per(({ ms }) => ms.solver) };
  const groups = [...new Set(records.map(({ group }) => group).filter((group) => group !== undefined))].sort();
  return {
    arm: arm.name,
    accuracy,
    interval,
    right,
    prefillTokens: per((one) => one.prefillTokens),
    latentSteps: per((one) => one.latentSteps),
    decodedTokens: per((one) => one.decodedTokens),
    bytes: per((one) => one.bytes),
    heldBytes: per((one) => one.heldBytes),
    kvPeakBytes: outcomes.reduce((most, one) => Math.max(most, one.kvBytes), 0),
    ms: stages.reader + stages.handOver + stages.solver,
    stages,
    message: arm.message,
    medium: arm.medium,
    policy: arm.policy === null ? null : policyName(arm.policy),
    translator: arm.translator,
    placebo: isPlacebo(arm),
    designEffect: designEffect(
      records.map(({ id }) => documents.get(id) ?? id),
      outcomes.map((one) => one.right),
    ),
    groups: Object.fromEntries(
      groups.map((group) => [group, accuracyOf(outcomes.filter((_, i) => records[i]?.group === group).map((one) => one.right))]),
    ),
  };
}

/** The variance of the share with documents as the units (ratio estimator) over that with items as the units; 1 at least. */
function designEffect(documents: readonly string[], right: readonly boolean[]): number {
  const n = right.length;
  const p = right.filter(Boolean).length / n;
  const residuals = new Map<string, number>();
  documents.forEach((document, i) => residuals.set(document, (residuals.get(document) ?? 0) + (right[i] === true ? 1 : 0) - p));
  const k = residuals.size;
  if (k < 2 || k === n || p === 0 || p === 1) return 1;
  const squares = [...residuals.values()].reduce((sum, value) => sum + value * value, 0);
  return Math.max(1, ((k / (k - 1)) * squares) / (n * p * (1 - p)));
}

function compareAll(arms: readonly Arm[], records: readonly ItemRecord[]): Comparison[] {
  const right = new Map(arms.map(({ name }) => [name, outcomesOf(name, records).map((one) => one.right)]));
  const pairs = arms.flatMap(({ name: a }, i) => arms.slice(i + 1).map(({ name: b }) => ({ a, b })));
  const raw = pairs.map(({ a, b }) => {
    const [x, y] = [right.get(a) ?? [], right.get(b) ?? []];
    const onlyA = x.filter((one, i) => one && y[i] !== true).length;
    const onlyB = y.filter((one, i) => one && x[i] !== true).length;
    const n = records.length;
    const difference = n === 0 ? 0 : (onlyA - onlyB) / n;
    return { a, b, onlyA, onlyB, difference, interval: pairedDifference(onlyA, onlyB, n), p: mcnemar(onlyA, onlyB) };
  });
  const adjusted = holm(raw.map(({ p }) => p));
  return raw.map((one, i) => ({ ...one, pAdjusted: adjusted[i] ?? 1 }));
}
