// What the numbers of an evaluation mean, in words: which claims the data supports, which it contradicts and which it leaves open, and what to use.
import type { ArmResult, Comparison, EvalNumbers } from "./result.js";
import { equalWithin } from "./run.js";

/** One claim and what the data says of it. */
export interface Claim {
  readonly claim: string;
  readonly verdict: "supported" | "contradicted" | "open";
  readonly evidence: string;
}

/** How one arm does beside another one. `equal`: the difference is known to be less than 5 points; `open`: neither that nor which is better is known. */
export type Relation = "better" | "worse" | "equal" | "open";

const significant = 0.05;

function turned({ a, b, onlyA, onlyB, difference, interval: [low, high], ...rest }: Comparison): Comparison {
  return { a: b, b: a, onlyA: onlyB, onlyB: onlyA, difference: -difference, interval: [-high, -low], ...rest };
}

function comparison(numbers: EvalNumbers, a: string, b: string): Comparison {
  for (const one of numbers.comparisons) {
    if (one.a === a && one.b === b) return one;
    if (one.a === b && one.b === a) return turned(one);
  }
  throw new Error(`arms ${a} and ${b} were not compared`);
}

/** What is known of arm a beside arm b. */
export function relation(numbers: EvalNumbers, a: string, b: string): Relation {
  const { difference, interval, pAdjusted } = comparison(numbers, a, b);
  if (pAdjusted < significant) return difference > 0 ? "better" : "worse";
  return interval[0] > -equalWithin && interval[1] < equalWithin ? "equal" : "open";
}

const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;
const points = (difference: number): string => `${(100 * Math.abs(difference)).toFixed(1)} points`;
const times = (ratio: number): string => `${ratio.toPrecision(2)}x`;
const chances = (p: number): string => (p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`);

interface Parts {
  readonly numbers: EvalNumbers;
  readonly placebos: readonly ArmResult[];
  readonly handOvers: readonly ArmResult[];
  readonly single: ArmResult | undefined;
  readonly text: ArmResult | undefined;
}

function partsOf(numbers: EvalNumbers): Parts {
  const placebos = numbers.arms.filter(({ placebo }) => placebo);
  const handOvers = numbers.arms.filter(({ placebo, message }) => !placebo && message === "own");
  const named = (name: string): ArmResult | undefined => numbers.arms.find(({ arm }) => arm === name);
  return { numbers, placebos, handOvers, single: named("single"), text: named("text") };
}

/** Whether an arm does better than every placebo. */
function standing({ numbers, placebos }: Parts, arm: ArmResult): Claim["verdict"] {
  const found = placebos.map((placebo) => relation(numbers, arm.arm, placebo.arm));
  if (found.every((one) => one === "better")) return "supported";
  return found.some((one) => one === "worse" || one === "equal") ? "contradicted" : "open";
}

/** The claims that such an evaluation is made to judge. */
export function claimsOf(numbers: EvalNumbers): Claim[] {
  const parts = partsOf(numbers);
  const { text, single, handOvers } = parts;
  return [
    ...placeboClaims(parts),
    ...handOvers.map((arm) => carriesClaim(parts, arm)),
    ...(text === undefined ? [] : handOvers.filter((arm) => arm !== text).flatMap((arm) => againstText(numbers, arm, text))),
    ...(single === undefined ? [] : handOvers.map((arm) => againstSingle(numbers, arm, single))),
  ];
}

function placeboClaims({ numbers: { chance, n }, placebos }: Parts): Claim[] {
  if (chance === null) return [];
  return placebos.map(({ arm, accuracy, interval }) => {
    const near = interval[0] > chance - equalWithin && interval[1] < chance + equalWithin;
    const away = interval[0] > chance + equalWithin || interval[1] < chance - equalWithin;
    return {
      claim: `${arm} is within 5 points of chance`,
      verdict: near ? "supported" : away ? "contradicted" : "open",
      evidence: `${percent(accuracy)} of ${n} items, chance ${percent(chance)}`,
    };
  });
}

function carriesClaim(parts: Parts, arm: ArmResult): Claim {
  const { numbers, placebos } = parts;
  const best = placebos.reduce<ArmResult | undefined>(
    (most, one) => (most === undefined || one.accuracy > most.accuracy ? one : most),
    undefined,
  );
  const against = best === undefined ? "" : `, the best placebo (${best.arm}) ${percent(best.accuracy)}`;
  const p = best === undefined ? 1 : comparison(numbers, arm.arm, best.arm).pAdjusted;
  return {
    claim: `${arm.arm} carries what the reader read`,
    verdict: standing(parts, arm),
    evidence: `${percent(arm.accuracy)}${against}, ${chances(p)}`,
  };
}

function againstText(numbers: EvalNumbers, arm: ArmResult, text: ArmResult): Claim[] {
  const { difference, interval, pAdjusted } = comparison(numbers, arm.arm, text.arm);
  const found = relation(numbers, arm.arm, text.arm);
  const ratio = text.ms / arm.ms;
  return [
    {
      claim: `${arm.arm} is at least as accurate as ${text.arm}`,
      verdict: found === "open" ? "open" : found === "worse" ? "contradicted" : "supported",
      evidence:
        `${percent(arm.accuracy)} and ${percent(text.accuracy)}: ${difference < 0 ? "-" : "+"}${points(difference)}, 95 % from ` +
        `${(100 * interval[0]).toFixed(1)} to ${(100 * interval[1]).toFixed(1)}, ${chances(pAdjusted)}`,
    },
    {
      claim: `${arm.arm} takes less time than ${text.arm}`,
      verdict: ratio > sameTime ? "supported" : ratio < 1 / sameTime ? "contradicted" : "open",
      evidence: `${arm.ms.toPrecision(3)} and ${text.ms.toPrecision(3)} ms an item: ${times(ratio)}`,
    },
    {
      claim: `${arm.arm} decodes fewer tokens than ${text.arm}`,
      verdict: arm.decodedTokens < text.decodedTokens ? "supported" : "contradicted",
      evidence:
        `${arm.decodedTokens.toFixed(1)} and ${text.decodedTokens.toFixed(1)} an item, beside ${arm.latentSteps.toFixed(1)} and ` +
        `${text.latentSteps.toFixed(1)} latent steps`,
    },
  ];
}

function againstSingle(numbers: EvalNumbers, arm: ArmResult, single: ArmResult): Claim {
  const { pAdjusted } = comparison(numbers, arm.arm, single.arm);
  const found = relation(numbers, arm.arm, single.arm);
  return {
    claim: `two agents by ${arm.arm} lose nothing against one that sees everything`,
    verdict: found === "open" ? "open" : found === "worse" ? "contradicted" : "supported",
    evidence: `${percent(arm.accuracy)} and ${percent(single.accuracy)}, ${chances(pAdjusted)}; ${times(single.ms / arm.ms)} the speed`,
  };
}

/**
 * One paragraph: what to use and why.
 * @param subject what it holds for, such as the name of a model
 */
export function verdictOf(numbers: EvalNumbers, subject: string): string {
  const parts = partsOf(numbers);
  const { single, text, handOvers } = parts;
  if (numbers.n === 0) return `Nothing was asked of ${subject}, so nothing is known.`;
  const standings = new Map(handOvers.map((arm) => [arm, standing(parts, arm)]));
  const are = (wanted: Claim["verdict"]): ArmResult[] => handOvers.filter((arm) => standings.get(arm) === wanted);
  const working = are("supported");
  const alone = single === undefined ? "" : aloneOf(numbers, single, working);
  const lost = placeboSentences(numbers, are("contradicted"), are("open"));
  const [first] = [...working].sort((x, y) => y.accuracy - x.accuracy);
  if (first === undefined) {
    const found = are("open").length > 0 ? `${numbers.n} items do not show that any medium helps` : "no medium helps";
    return `On ${subject}, ${found}.${lost}${alone}`;
  }
  const good = working.filter((arm) => arm === first || relation(numbers, arm.arm, first.arm) !== "worse");
  const use = good.reduce((best, arm) => (arm.ms < best.ms ? arm : best));
  const rest = working.filter((arm) => arm !== use);
  const base = text !== undefined && working.includes(text) ? text : undefined;
  const main =
    use === base || base === undefined
      ? `On ${subject}, use ${use.arm} (${percent(use.accuracy)}, ${use.ms.toPrecision(3)} ms an item).`
      : `On ${subject}, ${use.arm} ${inTime(use, base)} ${atAccuracy(numbers, use, base)}: use it.`;
  const others = rest
    .filter((arm) => arm !== base || use === base)
    .map((arm) => otherOf(numbers, arm, base !== undefined && base !== arm ? base : use));
  return `${main}${others.map((one) => ` ${one}`).join("")}${lost}${alone}`;
}

function placeboSentences({ n }: EvalNumbers, useless: readonly ArmResult[], unknown: readonly ArmResult[]): string {
  const no =
    useless.length === 0
      ? ""
      : ` ${listOf(useless)} ${useless.length > 1 ? "are" : "is"} no better than a placebo: do not use ${useless.length > 1 ? "them" : "it"}.`;
  return unknown.length === 0
    ? no
    : `${no} ${listOf(unknown)} cannot be told from ${unknown.length > 1 ? "placebos" : "a placebo"} by ${n} items: ask more.`;
}

/** What differs by less than a tenth is not told apart by one run. */
const sameTime = 1.1;

function inTime(use: ArmResult, base: ArmResult): string {
  const ratio = base.ms / use.ms;
  return ratio < sameTime ? `is as fast as ${base.arm}` : `beats ${base.arm} by ${times(ratio)} in time`;
}

const listOf = (arms: readonly ArmResult[]): string =>
  arms.map((arm) => `${arm.arm} (${percent(arm.accuracy)})`).join(arms.length === 2 ? " and " : ", ");

function atAccuracy(numbers: EvalNumbers, a: ArmResult, b: ArmResult): string {
  const both = `(${percent(a.accuracy)} and ${percent(b.accuracy)})`;
  const found = relation(numbers, a.arm, b.arm);
  if (found === "equal") return `at equal accuracy ${both}`;
  if (found === "open") return `at an accuracy that ${numbers.n} items do not tell apart ${both}`;
  return `and is ${points(a.accuracy - b.accuracy)} ${found === "better" ? "more" : "less"} accurate ${both}`;
}

function otherOf(numbers: EvalNumbers, arm: ArmResult, base: ArmResult): string {
  const found = relation(numbers, arm.arm, base.arm);
  const speed = `${times(base.ms / arm.ms)} the speed`;
  if (found === "worse")
    return `${arm.arm} loses ${points(arm.accuracy - base.accuracy)} to ${base.arm} at ${speed}: do not use it where answers matter.`;
  if (found === "better") return `${arm.arm} gains ${points(arm.accuracy - base.accuracy)} over ${base.arm} at ${speed}.`;
  if (found === "equal") return `${arm.arm} is as accurate as ${base.arm}, at ${speed}.`;
  return `${arm.arm} and ${base.arm} are not told apart in accuracy by ${numbers.n} items; ${arm.arm} has ${speed}.`;
}

function aloneOf(numbers: EvalNumbers, single: ArmResult, working: readonly ArmResult[]): string {
  const [best] = [...working].sort((a, b) => b.accuracy - a.accuracy);
  const cost = `${percent(single.accuracy)}, ${single.ms.toPrecision(3)} ms an item`;
  if (best === undefined) return ` One agent that sees everything gets ${cost}.`;
  const found = relation(numbers, single.arm, best.arm);
  if (found === "worse") return ` One agent alone is worse (${cost}).`;
  return ` One agent that sees everything is ${found === "better" ? "more accurate" : "no worse"} (${cost}): split the work only where it has to be split.`;
}
