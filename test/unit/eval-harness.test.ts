// The harness of an evaluation, with planted agents whose true accuracy is known: what it reports must be true as often as it says.
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import {
  claimsOf,
  numbersOf,
  openJournal,
  parseSuite,
  relaySuite,
  runSuite,
  verdictOf,
  type Arm,
  type Block,
  type EvalNumbers,
  type EvalSubject,
  type Outcome,
  type Suite,
} from "../../lib/index.js";
import { armNames, parseArm } from "../../lib/eval/arms.js";
import { relation } from "../../lib/eval/verdict.js";
import { SeededDraws } from "../../lib/spaces/random.js";
import { codeOf } from "../helpers.js";

const folder = mkdtempSync(path.join(tmpdir(), "latentwire-eval-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** A suite of items without documents in common, so that answers are independent. */
function plain(n: number): Suite {
  const known = suites.get(n);
  if (known !== undefined) return known;
  const line = (_: unknown, i: number): string => JSON.stringify({ facts: `fact ${i}`, question: "?", answer: "yes", chance: 0.1 });
  const made = parseSuite(Array.from({ length: n }, line).join("\n"), "plain");
  suites.set(n, made);
  return made;
}
const suites = new Map<number, Suite>();

interface Planted {
  readonly accuracy: number;
  readonly ms?: number;
  readonly decodedTokens?: number;
}

/** Agents that are right with a given probability, each item and arm drawn anew. */
class PlantedSubject implements EvalSubject {
  readonly arms: readonly Arm[];
  readonly documents = 16;
  readonly seen: string[] = [];
  readonly others = new Map<string, string>();
  readonly #draws: SeededDraws;

  constructor(
    readonly planted: Readonly<Record<string, Planted>>,
    seed: number,
  ) {
    this.arms = Object.keys(planted).map((name) => parseArm(name, 8, false));
    this.#draws = new SeededDraws(seed);
  }

  answer({ items, others }: Block, onItem: () => void, signal: AbortSignal): Promise<ReadonlyMap<string, readonly Outcome[]>> {
    signal.throwIfAborted();
    this.seen.push(...items.map(({ id }) => id));
    for (const [facts, other] of others) this.others.set(facts, other);
    const outcomes = Object.entries(this.planted).map(([name, { accuracy, ms = 1, decodedTokens = 0 }]): [string, Outcome[]] => [
      name,
      items.map((item) => {
        onItem();
        const isRight = this.#draws.below(1_000_000) < 1_000_000 * accuracy;
        const wanted = "equals" in item.check ? [item.check.equals].flat()[0] : undefined;
        return {
          answer: isRight ? (wanted ?? "") : "no",
          ...{ prefillTokens: 10, latentSteps: 0, decodedTokens, bytes: 0, heldBytes: 0, kvBytes: 100 },
          ms: { reader: ms / 2, handOver: 0, solver: ms / 2 },
        };
      }),
    ]);
    return Promise.resolve(new Map(outcomes));
  }
}

async function evaluated(planted: Readonly<Record<string, Planted>>, n: number, seed: number): Promise<EvalNumbers> {
  return numbersOf(await runSuite(plain(n), new PlantedSubject(planted, seed)));
}

describe("planted agents", () => {
  it("intervals hold the true accuracy about 95 times in 100", async () => {
    for (const accuracy of [0.05, 0.5, 0.97]) {
      let held = 0;
      const rounds = 400;
      for (let seed = 0; seed < rounds; seed++) {
        const [arm] = (await evaluated({ text: { accuracy } }, 150, seed)).arms;
        if (arm !== undefined && arm.interval[0] <= accuracy && accuracy <= arm.interval[1]) held++;
      }
      // Wilson's coverage at n = 150 is 93 to 97 %; 400 rounds are off by another 2 at most, twice out of a thousand times
      expect(held / rounds).toBeGreaterThan(0.91);
      expect(held / rounds).toBeLessThan(0.99);
    }
  });

  it("finds a planted difference, and none where there is none more often than 5 times in 100", async () => {
    let found = 0;
    let imagined = 0;
    const rounds = 300;
    for (let seed = 0; seed < rounds; seed++) {
      const { comparisons } = await evaluated({ single: { accuracy: 0.9 }, text: { accuracy: 0.9 }, kv: { accuracy: 0.75 } }, 200, seed);
      const of = (a: string, b: string): number => comparisons.find((one) => one.a === a && one.b === b)?.p ?? Number.NaN;
      if (of("text", "kv") < 0.05) found++;
      if (of("single", "text") < 0.05) imagined++;
    }
    expect(found / rounds).toBeGreaterThan(0.9);
    expect(imagined / rounds).toBeLessThan(0.08);
  });

  it("the interval of a difference holds the true one about 95 times in 100", async () => {
    let held = 0;
    const rounds = 300;
    for (let seed = 0; seed < rounds; seed++) {
      const [one] = (await evaluated({ text: { accuracy: 0.8 }, kv: { accuracy: 0.7 } }, 150, seed)).comparisons;
      if (one !== undefined && one.interval[0] <= 0.1 && 0.1 <= one.interval[1]) held++;
    }
    expect(held / rounds).toBeGreaterThan(0.91);
  });

  it("means are means, and the most is the most", async () => {
    const numbers = await evaluated({ text: { accuracy: 1, ms: 4, decodedTokens: 3 }, none: { accuracy: 0 } }, 50, 1);
    expect(numbers).toMatchObject({ suite: "plain", n: 50, stopped: "all" });
    expect(numbers.chance).toBeCloseTo(0.1, 12);
    expect(numbers.arms[0]).toMatchObject({
      arm: "text",
      accuracy: 1,
      right: 50,
      ms: 4,
      decodedTokens: 3,
      prefillTokens: 10,
      kvPeakBytes: 100,
      placebo: false,
    });
    expect(numbers.arms[0]?.stages).toEqual({ reader: 2, handOver: 0, solver: 2 });
    expect(numbers.arms[1]).toMatchObject({ accuracy: 0, placebo: true, medium: null, message: "nothing" });
    expect(numbers.comparisons).toMatchObject([{ a: "text", b: "none", onlyA: 50, onlyB: 0, difference: 1 }]);
  });

  it("tells when items of a document are right or wrong together", async () => {
    const suite = relaySuite({ items: 800, seed: 3 });
    const subject = new PlantedSubject({ text: { accuracy: 0.5 }, kv: { accuracy: 0.5 } }, 1);
    const byDocument = new Map<string, boolean>();
    const draws = new SeededDraws(9);
    const answer = subject.answer.bind(subject);
    subject.answer = async (block, onItem, signal) => {
      const outcomes = new Map(await answer(block, onItem, signal));
      const together = block.items.map((item, i) => {
        const isRight = byDocument.get(item.facts) ?? draws.below(2) === 0;
        byDocument.set(item.facts, isRight);
        const wanted = "equals" in item.check ? String(item.check.equals) : "";
        return { ...(outcomes.get("kv")?.[i] as Outcome), answer: isRight ? wanted : "no" };
      });
      return outcomes.set("kv", together);
    };
    const { arms } = numbersOf(await runSuite(suite, subject));
    expect(arms[0]?.designEffect).toBeLessThan(1.5);
    expect(arms[1]?.designEffect).toBeGreaterThan(4);
  });
});

describe("relations, claims and verdicts", () => {
  const costs = { text: 30, kv: 10, latent: 15 };
  const numbers = (accuracies: Readonly<Record<string, number>>, n = 1000): Promise<EvalNumbers> => {
    const planted = Object.entries(accuracies).map(([name, accuracy]) => [
      name,
      { accuracy, ms: new Map(Object.entries(costs)).get(name) ?? 5, decodedTokens: name === "text" ? 30 : 3 },
    ]);
    return evaluated(Object.fromEntries(planted) as Record<string, Planted>, n, 4);
  };
  const placebos = { none: 0.1, shuffled: 0.1, noise: 0.1 };

  it("recommends what is as accurate and takes less time, and warns of what loses", async () => {
    const found = await numbers({ single: 0.97, text: 0.97, kv: 0.97, latent: 0.85, ...placebos });
    const verdict = verdictOf(found, "finch");
    expect(verdict).toMatch(/^On finch, kv beats text by 3\.0x in time at equal accuracy \(.* and .*\): use it\./);
    expect(verdict).toMatch(/latent loses 1\d\.\d points to text at 2\.0x the speed: do not use it/);
    expect(verdict).toContain("One agent that sees everything is no worse");
    expect(relation(found, "kv", "text")).toBe("equal");
    expect(relation(found, "latent", "text")).toBe("worse");
    expect(relation(found, "text", "latent")).toBe("better");
    const claims = new Map(claimsOf(found).map(({ claim, verdict: said }) => [claim, said]));
    expect(claims.get("kv carries what the reader read")).toBe("supported");
    expect(claims.get("kv is at least as accurate as text")).toBe("supported");
    expect(claims.get("kv takes less time than text")).toBe("supported");
    expect(claims.get("kv decodes fewer tokens than text")).toBe("supported");
    expect(claims.get("latent is at least as accurate as text")).toBe("contradicted");
    expect(claims.get("two agents by latent lose nothing against one that sees everything")).toBe("contradicted");
    expect(claims.get("none is within 5 points of chance")).toBe("supported");
  });

  it("says that a medium is no better than a placebo", async () => {
    const found = await numbers({ single: 0.9, text: 0.9, latent: 0.1, ...placebos });
    expect(verdictOf(found, "m")).toMatch(/latent \(.*\) is no better than a placebo: do not use it/);
    expect(new Map(claimsOf(found).map(({ claim, verdict }) => [claim, verdict])).get("latent carries what the reader read")).toBe(
      "contradicted",
    );
  });

  it("says that nothing helps", async () => {
    const found = await numbers({ single: 0.9, text: 0.1, kv: 0.1, ...placebos });
    expect(verdictOf(found, "m")).toMatch(
      /^On m, no medium helps\. text .* and kv .* are no better than a placebo: do not use them\. One agent/,
    );
  });

  it("says that a placebo is no placebo", async () => {
    const found = await numbers({ text: 0.9, ...placebos, none: 0.5 });
    expect(claimsOf(found)[0]).toMatchObject({ claim: "none is within 5 points of chance", verdict: "contradicted" });
  });

  it("asks for more items where few do not show anything", async () => {
    const found = await numbers({ single: 0.9, text: 0.4, kv: 0.4, ...placebos }, 12);
    expect(verdictOf(found, "m")).toMatch(
      /^On m, 12 items do not show that any medium helps\. .* cannot be told from placebos by 12 items: ask more\./,
    );
  });

  it("leaves open what few items do not tell", async () => {
    const found = await numbers({ single: 0.9, text: 0.9, kv: 0.88, ...placebos }, 40);
    expect(relation(found, "kv", "text")).toBe("open");
    expect(verdictOf(found, "m")).toContain("at an accuracy that 40 items do not tell apart");
    expect(claimsOf(found).find(({ claim }) => claim === "kv is at least as accurate as text")?.verdict).toBe("open");
  });
});

describe("runSuite", () => {
  const planted = { single: { accuracy: 0.9 }, text: { accuracy: 0.9 }, none: { accuracy: 0.1 }, shuffled: { accuracy: 0.1 } };

  it("asks every item once, in an order that the seed draws, and shuffles no document with itself", async () => {
    const suite = relaySuite({ items: 300 });
    const order = async (seed: number): Promise<string[]> => {
      const subject = new PlantedSubject(planted, 1);
      const { records } = await runSuite(suite, subject, { seed });
      expect([...subject.seen].sort()).toEqual(suite.items.map(({ id }) => id).sort());
      for (const [facts, other] of subject.others) expect(facts).not.toBe(other);
      return records.map(({ id }) => id);
    };
    expect(await order(1)).toEqual(await order(1));
    expect(await order(1)).not.toEqual(await order(2));
    const some = await runSuite(suite, new PlantedSubject(planted, 1), { seed: 1, n: 37 });
    expect(some.records.map(({ id }) => id)).toEqual((await order(1)).slice(0, 37));
  });

  it("reports progress up to 1 with an estimate of the rest, and ends with the signal's reason", async () => {
    const seen: { ratio: number; items: number }[] = [];
    await runSuite(plain(64), new PlantedSubject(planted, 1), { onProgress: (one) => seen.push(one) });
    expect(seen.at(-1)).toMatchObject({ ratio: 1, items: 64 });
    seen.forEach(({ ratio }, i) => {
      expect(ratio).toBeGreaterThanOrEqual(seen[i - 1]?.ratio ?? 0);
    });
    const stop = new AbortController();
    const reason = new Error("enough");
    const onProgress = (): void => {
      stop.abort(reason);
    };
    await expect(runSuite(plain(64), new PlantedSubject(planted, 1), { signal: stop.signal, onProgress })).rejects.toBe(reason);
  });

  it("stops early with a budget when nothing that matters is open, and not without one", async () => {
    const subject = (): PlantedSubject => new PlantedSubject({ ...planted, text: { accuracy: 0.4 } }, 1);
    expect(await runSuite(plain(3000), subject())).toMatchObject({ stopped: "all" });
    const early = await runSuite(plain(3000), subject(), { budget: {} });
    expect(early.stopped).toBe("separated");
    expect(early.records.length).toBeLessThan(500);
    expect(early.records.length).toBeGreaterThanOrEqual(100);
    // equal arms are settled when the difference is known to be small
    expect((await runSuite(plain(3000), new PlantedSubject(planted, 1), { budget: {} })).stopped).toBe("separated");
    // a hand-over that is no better than its placebo never is
    const never = new PlantedSubject({ ...planted, text: { accuracy: 0.1 } }, 1);
    expect((await runSuite(plain(1000), never, { budget: {} })).stopped).toBe("all");
    const none = await runSuite(plain(1000), subject(), { budget: { seconds: 0 } });
    expect(none.stopped).toBe("time");
    expect(none.records.length).toBeLessThan(1000);
  });

  it("an early end finds no difference that is not there more often than 5 times in 100", async () => {
    let wrong = 0;
    for (let seed = 0; seed < 120; seed++) {
      const equal = { text: { accuracy: 0.6 }, kv: { accuracy: 0.6 }, none: { accuracy: 0.1 } };
      const run = await runSuite(plain(500), new PlantedSubject(equal, seed), { budget: {} });
      const numbers = numbersOf(run);
      const [text, kv] = numbers.arms;
      if (run.stopped === "separated" && text && kv && (text.interval[0] > kv.interval[1] || kv.interval[0] > text.interval[1])) wrong++;
    }
    expect(wrong / 120).toBeLessThan(0.05);
  });

  it("refuses wrong options, and a shuffle of one document", async () => {
    const subject = new PlantedSubject(planted, 1);
    for (const options of [{ n: 0 }, { n: 65 }, { seed: -1 }, { budget: { seconds: -1 } }, { wrong: 1 }])
      expect(await codeOf(() => runSuite(plain(64), subject, options as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(await codeOf(() => runSuite(plain(1), subject))).toBe("ERR_LATENT_SUITE_FORMAT");
  });
});

describe("the journal", () => {
  const planted = { text: { accuracy: 0.7 }, none: { accuracy: 0.1 } };
  const suite = plain(80);
  let files = 0;
  const newFile = (): string => path.join(folder, `sub-${++files}`, "items.jsonl");

  /** Stops after `blocks` blocks as a killed process would. */
  async function interrupted(file: string, blocks: number): Promise<void> {
    const journal = await openJournal(file, { suite: suite.digest });
    const subject = new PlantedSubject(planted, 1);
    const answer = subject.answer.bind(subject);
    let left = blocks;
    subject.answer = (...args) => (left-- > 0 ? answer(...args) : Promise.reject(new Error("killed")));
    await expect(runSuite(suite, subject, { journal })).rejects.toThrow("killed");
    await journal.close();
  }

  /** The accuracy of a subject that knows what it is asked, so that it does not matter in which run it is. */
  async function resumed(file: string): Promise<{ ids: string[]; asked: number }> {
    const journal = await openJournal(file, { suite: suite.digest });
    const subject = new PlantedSubject(planted, 2);
    const { records } = await runSuite(suite, subject, { journal });
    await journal.close();
    return { ids: records.map(({ id }) => id), asked: subject.seen.length };
  }

  it("goes on where it was", async () => {
    const whole = (await runSuite(suite, new PlantedSubject(planted, 1))).records.map(({ id }) => id);
    const file = newFile();
    await interrupted(file, 2);
    const first = readFileSync(file, "utf8");
    expect(first.trimEnd().split("\n")).toHaveLength(1 + 32);
    expect(await resumed(file)).toEqual({ ids: whole, asked: 48 });
    expect(readFileSync(file, "utf8").startsWith(first)).toBe(true);
    // all is there
    expect(await resumed(file)).toEqual({ ids: whole, asked: 0 });
  });

  it("takes back a line that was cut off, wherever that was", async () => {
    const file = newFile();
    await interrupted(file, 2);
    const whole = readFileSync(file);
    const lastLine = whole.lastIndexOf(10, whole.length - 2) + 1;
    for (const size of [lastLine + 1, whole.length - 1, lastLine + 20]) {
      writeFileSync(file, whole);
      truncateSync(file, size);
      expect((await resumed(file)).asked).toBe(49);
    }
    // even in the first line
    truncateSync(file, 5);
    expect((await resumed(file)).asked).toBe(80);
  });

  it("refuses damage, other settings and other files", async () => {
    const file = newFile();
    await interrupted(file, 2);
    const whole = readFileSync(file, "utf8");
    expect(await codeOf(() => openJournal(file, { suite: "another" }))).toBe("ERR_LATENT_EVAL_RESUME");
    await expect(openJournal(file, { suite: suite.digest, more: 1 })).rejects.toThrow("setting of more");
    const [head = "", first = "", ...rest] = whole.split("\n");
    const damages = [
      [head, first.slice(0, 20), ...rest],
      [head, "5", ...rest],
      [head, first.replace('"right"', '"wrong"'), ...rest],
      [head, first.replace('"prefillTokens":10', '"prefillTokens":null'), ...rest],
      [head, first.replace('"reader":0.5', '"reader":"x"'), ...rest],
      ["{}", first, ...rest],
      ["not json", first],
      [head.replace('"version":1', '"version":2'), first, ...rest],
    ];
    for (const damage of damages) {
      writeFileSync(file, damage.join("\n"));
      expect(await codeOf(() => openJournal(file, { suite: suite.digest }))).toBe("ERR_LATENT_EVAL_RESUME");
    }
    for (const text of ["a text\nof somebody", "a text of somebody"]) {
      const other = path.join(folder, "other.txt");
      writeFileSync(other, text);
      expect(await codeOf(() => openJournal(other, {}))).toBe("ERR_LATENT_EVAL_RESUME");
      expect(readFileSync(other, "utf8")).toBe(text);
    }
  });
});

describe("arms", () => {
  it("are read from their names", () => {
    expect(parseArm("kv", 8, false)).toMatchObject({ medium: "kv", policy: { kind: "read" }, message: "own", translator: "none" });
    expect(parseArm("kv/hidden16-align", 8, false)).toMatchObject({ policy: { kind: "hidden", steps: 16, align: true } });
    expect(parseArm("kv/tokens", 8, false)).toMatchObject({ medium: "kv", policy: { kind: "tokens" } });
    expect(parseArm("latent", 5, true)).toMatchObject({ policy: { kind: "hidden", steps: 5, align: false }, translator: "fitted" });
    expect(parseArm("shuffled:kv/hidden4", 8, false)).toMatchObject({
      medium: "kv",
      message: "other",
      policy: { kind: "hidden", steps: 4 },
    });
    expect(parseArm("shuffled-translator", 8, true)).toMatchObject({ message: "own", translator: "shuffled" });
    expect(parseArm("noise", 8, false)).toMatchObject({ message: "noise", medium: "latent" });
  });

  it.each([
    "",
    "kv/",
    "KV",
    "text/read",
    "latent/read",
    "latent/hidden0",
    "kv/hidden",
    "noise:latent",
    "shuffled:single",
    "shuffled-translator",
    "kv/hidden9999999",
  ])("refuses %j", async (name) => {
    expect(await codeOf(() => parseArm(name, 8, false))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("always have the placebos among them, last", () => {
    expect(armNames(undefined, false)).toEqual(["single", "text", "kv", "latent", "none", "shuffled", "noise"]);
    expect(armNames(undefined, true)).toEqual(["single", "text", "latent", "none", "shuffled", "noise", "shuffled-translator"]);
    expect(armNames(["kv/hidden8", "text", "shuffled:kv"], false)).toEqual([
      "single",
      "text",
      "kv/hidden8",
      "none",
      "shuffled",
      "noise",
      "shuffled:kv",
    ]);
  });
});
