// Runs a suite: documents in blocks, every arm on every item, a journal so that it can be resumed, and an early end where asked for. Who answers is
// behind an interface, so that the harness itself can be tested with agents whose accuracy is known.
import { checkInteger, checkKeys, checkNumber } from "../check.js";
import { checkSeed } from "../fits/input.js";
import { SeededDraws } from "../spaces/random.js";
import { LatentError } from "../errors.js";
import { isHandOver, isPlacebo, type Arm } from "./arms.js";
import { isRight } from "./answers.js";
import type { Journal } from "./journal.js";
import { pairedDifference, wilson } from "./statistics.js";
import type { Suite, SuiteItem } from "./suite.js";

/** Milliseconds of one item by stage. `handOver`: sharing or copying what crosses, and translating it. */
export interface StageTimes {
  readonly reader: number;
  readonly handOver: number;
  readonly solver: number;
}

/** What one arm answered to one item, and what that cost: as if its reader had read for this item alone. */
export interface Outcome {
  readonly answer: string;
  /** Positions that were prefilled, by both agents, rows that were received included. */
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  /** What was moved: 0 for cells of one pool, rows, UTF-8. */
  readonly bytes: number;
  /** The cells that the solver holds because of a `kv` hand-over: what a copy of them would move. */
  readonly heldBytes: number;
  /** The most that the item's agents held of keys and values at one time. */
  readonly kvBytes: number;
  readonly ms: StageTimes;
}

/** The outcomes of one item, by the name of the arm. */
export interface ItemRecord {
  readonly id: string;
  readonly group?: string;
  readonly chance?: number;
  readonly arms: Readonly<Record<string, Outcome & { readonly right: boolean }>>;
}

/** Items that are answered together. */
export interface Block {
  readonly items: readonly SuiteItem[];
  /** For the facts of an item: other facts of the suite, whose message a shuffled arm gets. */
  readonly others: ReadonlyMap<string, string>;
}

/** Who answers. */
export interface EvalSubject {
  readonly arms: readonly Arm[];
  /** How many documents it takes at once. */
  readonly documents: number;
  /** The outcomes of the block's items, in their order, by the name of the arm. `onItem` is called when an arm has answered one. */
  answer(block: Block, onItem: () => void, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Outcome[]>>;
}

/** How far an evaluation has come. */
export interface EvalProgress {
  readonly stage: "evaluate";
  readonly ratio: number;
  /** Estimate of the rest; undefined until there is one. */
  readonly etaMs: number | undefined;
  /** Items that all arms have answered. */
  readonly items: number;
}

/** Ends an evaluation before its last item. */
export interface EvalBudget {
  /** The longest that it may take; what runs then is finished. Default: no limit. */
  readonly seconds?: number;
}

/** Options of {@link runSuite}. */
export interface RunSuiteOptions {
  /** The order of the documents, and the random choices. Default 0. */
  readonly seed?: number;
  /** How many items. Default: all. */
  readonly n?: number;
  /** Stop as soon as the intervals of the arms have separated, and at the latest when the time is over. */
  readonly budget?: EvalBudget;
  readonly journal?: Journal;
  readonly signal?: AbortSignal;
  /** Called for every answer. */
  readonly onProgress?: (progress: EvalProgress) => void;
}

/** What was answered, and why it ended. */
export interface EvalRun {
  readonly suite: Suite;
  readonly arms: readonly Arm[];
  readonly records: readonly ItemRecord[];
  readonly stopped: "all" | "separated" | "time";
}

interface Document {
  readonly facts: string;
  readonly items: readonly SuiteItem[];
}

/** Asks every arm every item. Documents come in an order drawn by the seed, so that the first n are a fair sample. */
export async function runSuite(suite: Suite, subject: EvalSubject, options: RunSuiteOptions = {}): Promise<EvalRun> {
  checkKeys("options", options, ["seed", "n", "budget", "journal", "signal", "onProgress"]);
  const seed = checkSeed(options.seed ?? 0);
  const n = options.n === undefined ? suite.items.length : checkInteger("n", options.n, 1, suite.items.length);
  const seconds = options.budget?.seconds === undefined ? Infinity : checkNumber("budget.seconds", options.budget.seconds, 0, 1e9);
  const signal = options.signal ?? new AbortController().signal;
  signal.throwIfAborted();
  const all = documentsOf(suite);
  const order = new SeededDraws(seed).sample(all, all.length);
  const others = othersOf(suite, subject.arms, order);
  const { journal } = options;
  const records = new Map<string, ItemRecord>();
  const queue = firstItems(order, n);
  const wanted = new Set(queue.flatMap((one) => one.items.map(({ id }) => id)));
  for (const record of journal?.records ?? []) if (wanted.has(record.id)) records.set(record.id, record);
  const report = reporter(options.onProgress, n, subject.arms.length, records.size);
  const looks = new Looks(n);
  let stopped: EvalRun["stopped"] = "all";

  while (queue.length > 0) {
    if (options.budget !== undefined && looks.due(records.size) && isSettled([...records.values()], subject.arms, looks.confidence)) {
      stopped = "separated";
      break;
    }
    if (report.elapsedMs() > 1000 * seconds) {
      stopped = "time";
      break;
    }
    const items = queue.splice(0, subject.documents).flatMap((one) => one.items.filter(({ id }) => !records.has(id)));
    if (items.length === 0) continue;
    const outcomes = await subject.answer({ items, others }, report.step, signal);
    const made = items.map((item, i) => recordOf(item, subject.arms, (arm) => outcomes.get(arm)?.[i]));
    await journal?.append(made);
    for (const record of made) records.set(record.id, record);
    report.items(records.size);
  }
  const ordered = order.flatMap((one) => one.items.map(({ id }) => records.get(id))).filter((record) => record !== undefined);
  return { suite, arms: subject.arms, records: ordered, stopped };
}

function documentsOf({ items }: Suite): Document[] {
  const byFacts = new Map<string, SuiteItem[]>();
  for (const item of items) {
    const found = byFacts.get(item.facts);
    if (found === undefined) byFacts.set(item.facts, [item]);
    else found.push(item);
  }
  return [...byFacts].map(([facts, own]) => ({ facts, items: own }));
}

/** Each document's neighbour in the drawn order: no document is its own. */
function othersOf(suite: Suite, arms: readonly Arm[], order: readonly Document[]): Map<string, string> {
  if (order.length < 2 && arms.some(({ message }) => message === "other"))
    throw new LatentError(
      "ERR_LATENT_SUITE_FORMAT",
      `${suite.name} has one document alone, so there is no other one whose message could arrive`,
    );
  return new Map(order.map(({ facts }, i) => [facts, order[(i + 1) % order.length]?.facts ?? ""]));
}

function firstItems(order: readonly Document[], n: number): Document[] {
  const chosen: Document[] = [];
  let left = n;
  for (const { facts, items } of order) {
    if (left <= 0) break;
    chosen.push({ facts, items: items.slice(0, left) });
    left -= items.length;
  }
  return chosen;
}

function recordOf(item: SuiteItem, arms: readonly Arm[], outcomeOf: (arm: string) => Outcome | undefined): ItemRecord {
  const { id, group, chance, check } = item;
  const answered = arms.map(({ name }): [string, Outcome & { right: boolean }] => {
    const outcome = outcomeOf(name);
    if (outcome === undefined) throw new Error(`arm ${name} gave no answer to item ${id}`);
    return [name, { ...outcome, right: isRight(check, outcome.answer) }];
  });
  return { id, ...(group !== undefined && { group }), ...(chance !== undefined && { chance }), arms: Object.fromEntries(answered) };
}

function reporter(onProgress: RunSuiteOptions["onProgress"], n: number, arms: number, before: number) {
  const start = performance.now();
  let answers = 0;
  let items = before;
  const total = Math.max(1, (n - before) * arms);
  const tell = (): void => {
    const ratio = Math.min(1, answers / total);
    const elapsed = performance.now() - start;
    onProgress?.({ stage: "evaluate", ratio, etaMs: answers === 0 ? undefined : (elapsed / ratio) * (1 - ratio), items });
  };
  return {
    elapsedMs: () => performance.now() - start,
    step: () => {
      answers++;
      tell();
    },
    items: (count: number) => {
      items = count;
      tell();
    },
  };
}

/** When to look whether intervals have separated: at 100 items, at 200, 400, … Each look is a chance to err, so that all of them share 5 %. */
class Looks {
  readonly confidence: number;
  #next = 100;

  constructor(n: number) {
    const count = Math.max(1, Math.ceil(Math.log2(n / this.#next)));
    this.confidence = 1 - 0.05 / count;
  }

  due(items: number): boolean {
    if (items < this.#next) return false;
    while (this.#next <= items) this.#next *= 2;
    return true;
  }
}

/** Arms whose accuracies differ by less than this are as good as equal in use. */
export const equalWithin = 0.05;

/**
 * Whether nothing that matters is open: every hand-over's interval is separate from that of every placebo, and for every two hand-overs either
 * their intervals are separate or the difference is known to be less than 5 points.
 */
export function isSettled(records: readonly ItemRecord[], arms: readonly Arm[], confidence: number): boolean {
  const n = records.length;
  const right = (name: string): boolean[] => records.map((record) => record.arms[name]?.right === true);
  const judged = arms.map((arm) => ({ arm, right: right(arm.name) }));
  const separate = (a: readonly boolean[], b: readonly boolean[]): boolean => {
    const [x, y] = [a, b].map((one) => wilson(one.filter(Boolean).length, n, confidence));
    return x !== undefined && y !== undefined && (x[0] > y[1] || y[0] > x[1]);
  };
  const alike = (a: readonly boolean[], b: readonly boolean[]): boolean => {
    const only = (x: readonly boolean[], y: readonly boolean[]): number => x.filter((one, i) => one && y[i] !== true).length;
    const [low, high] = pairedDifference(only(a, b), only(b, a), n, confidence);
    return low > -equalWithin && high < equalWithin;
  };
  const real = judged.filter(({ arm }) => isHandOver(arm) || arm.message === "everything");
  const placebos = judged.filter(({ arm }) => isPlacebo(arm));
  return (
    real.every((one) => placebos.every((placebo) => separate(one.right, placebo.right))) &&
    real.every((one, i) => real.slice(i + 1).every((other) => separate(one.right, other.right) || alike(one.right, other.right)))
  );
}
