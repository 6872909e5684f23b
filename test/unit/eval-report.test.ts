// Reports of an evaluation: every number of the result is there, whatever is in a name or an answer is text and nothing else, and a page needs nothing but
// itself.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  claimsOf,
  numbersOf,
  parseSuite,
  toHtml,
  toMarkdown,
  verdictOf,
  type EvalResult,
  type ItemRecord,
  type Outcome,
} from "../../lib/index.js";
import { parseArm } from "../../lib/eval/arms.js";
import { size } from "../../lib/eval/table.js";
import { SeededDraws } from "../../lib/spaces/random.js";
import { at, runs } from "../helpers.js";

const names = ["single", "text", "kv", "none", "shuffled"];

function outcome(draws: SeededDraws, answer: string): Outcome {
  return {
    answer,
    prefillTokens: draws.below(100),
    latentSteps: draws.below(10),
    decodedTokens: draws.below(50),
    bytes: draws.below(100_000),
    heldBytes: draws.below(100_000),
    kvBytes: draws.below(100_000),
    ms: { reader: draws.below(1000) / 10, handOver: draws.below(10) / 10, solver: draws.below(1000) / 10 },
  };
}

/** A result whose texts are all `text`. */
function resultOf(text: string, seed: number, items = 30): EvalResult {
  const draws = new SeededDraws(seed);
  const lines = Array.from({ length: items }, (_, i) =>
    JSON.stringify({ facts: `x${text}`, question: `y${text}`, answer: "z", id: `${i}${text}`, group: `g${text}` }),
  );
  const suite = { ...parseSuite(lines.join("\n")), name: text };
  const records = suite.items.map(({ id, group = "" }): ItemRecord => ({
    id,
    group,
    chance: 0.1,
    arms: Object.fromEntries(names.map((name) => [name, { ...outcome(draws, text), right: draws.below(2) === 0 }])),
  }));
  const numbers = numbersOf({ suite, arms: names.map((name) => parseArm(name, 8, false)), records, stopped: "all" });
  const model = { name: text, architecture: text, parameters: 1e6, fingerprint: "f".repeat(64) };
  const answers = names.map((arm) => ({ arm, answer: text, right: true }));
  return {
    ...numbers,
    verdict: verdictOf(numbers, text),
    claims: claimsOf(numbers),
    reader: model,
    solver: model,
    translator: text,
    seed: 0,
    parallel: 1,
    hardware: text,
    examples: [{ id: "1", facts: text, question: `${text}?`, answers }],
  };
}

/** The elements of a page that are open at its end, or the first that closes what is not open; undefined if all is well. */
function unbalanced(html: string): string | undefined {
  const open: string[] = [];
  for (const [, slash, name = "", inside = ""] of html
    .replace(/<style>[^]*?<\/style>/g, "")
    .matchAll(/<(\/?)([a-z][a-z0-9]*)((?:"[^"]*"|[^">])*)>/g)) {
    if (["meta", "link", "br"].includes(name) || inside.endsWith("/")) continue;
    if (slash === "") open.push(name);
    else if (open.pop() !== name) return name;
  }
  return open.pop();
}

describe("toHtml", () => {
  const result = resultOf("plain", 1);
  const html = toHtml([result]);

  it("holds every arm with its share, interval, times and tokens, every claim and every pair", () => {
    for (const { arm, accuracy, interval, ms, prefillTokens, placebo } of result.arms) {
      const cells = new RegExp(`<td>${arm}${placebo ? " \\(placebo\\)" : ""}</td><td class="number">${(100 * accuracy).toFixed(1)} %</td>`);
      expect(html).toMatch(cells);
      expect(html).toContain(`${(100 * interval[0]).toFixed(1)} to ${(100 * interval[1]).toFixed(1)}`);
      expect(html).toContain(`>${ms.toFixed(2)}</td>`);
      expect(html).toContain(`>${prefillTokens.toFixed(1)}</td>`);
    }
    for (const { claim, verdict } of result.claims)
      expect(html).toContain(`<td>${claim}</td><td><span class="${verdict}">${verdict}</span></td>`);
    expect(html.match(/<small>p /g)).toHaveLength(2 * result.comparisons.length);
    expect(result.comparisons).toHaveLength(10);
    expect(html).toContain(result.verdict);
  });

  it("is one document that loads nothing and runs nothing", () => {
    expect(html.startsWith("<!doctype html>")).toBe(true);
    expect(unbalanced(html)).toBeUndefined();
    expect(html).not.toMatch(/<script|<link|<img|<iframe|@import|url\(|https?:|\son[a-z]+=/i);
    expect(html).toContain("default-src 'none'");
    expect(html).toContain("prefers-color-scheme: dark");
    expect(html).toContain("@media print");
  });

  it("draws within its frame, and says in words what a chart shows", () => {
    const charts = [...html.matchAll(/<svg viewBox="0 0 (\d+) (\d+)" role="img" aria-label="([^"]+)">([^]*?)<\/svg>/g)];
    expect(charts).toHaveLength(3);
    for (const [, width = "", height = "", label = "", body = ""] of charts) {
      for (const name of names) expect(label).toContain(name);
      for (const [, key = "", value = ""] of body.matchAll(/\b(x|y|x1|x2|y1|y2|cx|cy)="([^"]+)"/g)) {
        const number = Number(value);
        expect(number).toBeGreaterThanOrEqual(0);
        expect(number).toBeLessThanOrEqual(Number(key.includes("x") ? width : height));
      }
      for (const [, value = ""] of body.matchAll(/\bwidth="([^"]+)"/g)) expect(Number(value)).toBeGreaterThanOrEqual(0);
    }
    const [shares] = charts;
    const xs = [...(shares?.[4] ?? "").matchAll(/<circle cx="([^"]+)"/g)].map(([, x]) => Number(x));
    // a share is where it belongs between the lines of 0 and 100 %
    const grid = [...(shares?.[4] ?? "").matchAll(/<line x1="([^"]+)"[^>]*class="grid"/g)].map(([, x]) => Number(x));
    const [zero, one] = [Math.min(...grid), Math.max(...grid)];
    result.arms.forEach(({ accuracy }, i) => {
      expect(at(xs, i)).toBeCloseTo(zero + accuracy * (one - zero), 1);
    });
  });

  it("puts several results on one page, and none", () => {
    expect(toHtml([result, resultOf("other", 2)]).match(/<section>/g)).toHaveLength(2);
    expect(unbalanced(toHtml([]))).toBeUndefined();
  });

  it("shows any text as text", () => {
    fc.assert(
      fc.property(
        fc.string({ unit: "binary", minLength: 1, maxLength: 30 }),
        fc.constantFrom("", "<b>", "</style>", "\"'>", "&amp;", "<!--"),
        (some, more) => {
          const page = toHtml([resultOf(`q${some}${more}`, 3, 8)]);
          expect(unbalanced(page)).toBeUndefined();
          expect(page).not.toContain("q<b>");
          if (more !== "")
            expect(page).not.toContain(`${some}${more}`.length > 3 && /[<>"]/.test(more) ? `q${some}${more}` : "\u0000never\u0000");
        },
      ),
      runs(100),
    );
  });
});

describe("toMarkdown", () => {
  it("has a line for every arm in every table, and as many cells in each", () => {
    const markdown = toMarkdown([resultOf("a | b\nc", 4)]);
    const tables = markdown.split("\n\n").filter((block) => block.startsWith("|"));
    expect(tables).toHaveLength(4);
    for (const table of tables) {
      const counts = table
        .trimEnd()
        .split("\n")
        .map((line) => line.replaceAll("\\|", "").split("|").length);
      expect(new Set(counts).size).toBe(1);
    }
    for (const table of tables.slice(0, 3)) expect(table.trimEnd().split("\n")).toHaveLength(2 + names.length);
  });
});

describe("size", () => {
  it.each([
    [0, "0 B"],
    [999, "999 B"],
    [1000, "1.0 kB"],
    [6144, "6.1 kB"],
    [41_412, "41 kB"],
    [2_444_608, "2.4 MB"],
    [5e9, "5.0 GB"],
  ])("of %i is %s", (bytes, text) => {
    expect(size(bytes)).toBe(text);
  });
});
