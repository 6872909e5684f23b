// `latentwire eval` as a user meets it: the JSON and the table, files of their own, a folder that an evaluation is resumed from, and wrong usage.
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { bundledModel, type EvalResult } from "../../lib/index.js";
import { latentwire } from "./command.js";
import { folder } from "./helpers.js";

const file = (name: string): string => path.join(folder, name);
const write = (name: string, lines: readonly unknown[]): string => {
  writeFileSync(file(name), lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  return file(name);
};
const facts = write("facts.jsonl", [
  { facts: "mia has the red key. tom lives in oslo.", question: "where does tom live?", answer: "oslo", group: "places" },
  {
    facts: "mia has the red key. tom lives in oslo.",
    question: "what does mia have?",
    answer: ["red key", "the red key"],
    group: "things",
  },
  {
    facts: ["ana lives in rome.", "ben has the blue cup."],
    question: "who has the blue cup?",
    check: { contains: "ben" },
    group: "things",
  },
]);

describe("eval", () => {
  it("prints the result of the relay suite as one JSON value", async () => {
    const { code, stdout } = await latentwire(["eval", "--suite", "relay", "--n", "20", "--json"]);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as EvalResult;
    expect(result).toMatchObject({ suite: "relay", n: 20 });
    expect(result.verdict).toMatch(/^On finch, /);
    expect(result.hardware).toContain("Node v");
    expect(result.arms.map(({ arm }) => arm)).toEqual(["single", "text", "kv", "latent", "none", "shuffled", "noise"]);
    for (const one of result.arms) {
      expect(one.interval).toHaveLength(2);
      expect(one.interval[0]).toBeLessThanOrEqual(one.accuracy);
      expect(one.interval[1]).toBeGreaterThanOrEqual(one.accuracy);
      for (const key of ["accuracy", "prefillTokens", "latentSteps", "decodedTokens", "bytes", "ms"] as const)
        expect(one[key]).toBeTypeOf("number");
    }
  });

  it("shows a table and the verdict, with progress beside it", async () => {
    const { code, stdout, stderr } = await latentwire([
      "eval",
      "--model",
      bundledModel("wren"),
      "--suite",
      facts,
      "--arms",
      "kv/hidden4,shuffled:kv",
    ]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/^arm +right +95 %/);
    for (const arm of ["single", "text", "kv/hidden4", "none (placebo)", "shuffled:kv (placebo)"])
      expect(stdout).toMatch(new RegExp(`^${arm.replace(/[()]/g, "\\$&")} +\\d`, "m"));
    expect(stdout).toContain("On wren, ");
    expect(stderr).toContain("100 %, 3 of 3 items");
    expect((await latentwire(["eval", "--n", "2", "--suite", facts, "--quiet"])).stderr).toBe("");
  });

  it("keeps what is done in a folder, goes on from it, and writes three reports", async () => {
    const out = file("out");
    const ended = await latentwire(["eval", "--n", "60", "--out", out], { interruptAt: "of 60 items" });
    expect(ended).toMatchObject({ code: 130, stdout: "" });
    const begun = readFileSync(path.join(out, "items.jsonl"), "utf8").trimEnd().split("\n");
    expect(existsSync(path.join(out, "result.json"))).toBe(false);
    const { code, stdout } = await latentwire(["eval", "--n", "60", "--out", out, "--json", "--quiet"]);
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as EvalResult;
    expect(result.n).toBe(60);
    expect(JSON.parse(readFileSync(path.join(out, "result.json"), "utf8"))).toEqual(result);
    expect(readFileSync(path.join(out, "report.md"), "utf8")).toContain(result.verdict);
    expect(readFileSync(path.join(out, "report.html"), "utf8")).toContain("<svg");
    const whole = readFileSync(path.join(out, "items.jsonl"), "utf8").trimEnd().split("\n");
    expect(whole).toHaveLength(61);
    expect(whole.slice(0, begun.length)).toEqual(begun);
    const fresh = await latentwire(["eval", "--n", "60", "--json", "--quiet"]);
    const rights = ({ arms }: EvalResult): (string | number)[][] =>
      arms.map(({ arm, right, prefillTokens, decodedTokens }) => [arm, right, prefillTokens, decodedTokens]);
    expect(rights(JSON.parse(fresh.stdout) as EvalResult)).toEqual(rights(result));
    const other = await latentwire(["eval", "--n", "60", "--out", out, "--steps", "4"]);
    expect(other.code).toBe(1);
    expect(other.stderr).toContain("ERR_LATENT_EVAL_RESUME");
  });

  it("evaluates two models, by text alone where there is nothing to fit a translator on", async () => {
    const models = ["--models", bundledModel("wren"), bundledModel("finch"), "--note-tokens", "32"];
    const plain = await latentwire(["eval", ...models, "--suite", facts, "--json", "--quiet"]);
    expect(plain.code).toBe(0);
    expect((JSON.parse(plain.stdout) as EvalResult).arms.map(({ arm }) => arm)).toEqual(["single", "text", "none", "shuffled", "noise"]);
    const texts = file("texts.txt");
    const words = ["red", "blue", "green", "gold", "pink", "gray", "black", "white"];
    writeFileSync(
      texts,
      ["mia", "tom", "ana", "ben", "eva"].flatMap((name) => words.map((word) => `${name} has the ${word} key.`)).join("\n"),
    );
    const fitted = await latentwire(["eval", ...models, "--suite", facts, "--texts", texts, "--maps", "shared", "--json"]);
    expect(fitted.code).toBe(0);
    expect(fitted.stderr).toContain("fitting a translator on 40 texts");
    const { arms, translator } = JSON.parse(fitted.stdout) as EvalResult;
    expect(arms.map(({ arm }) => arm)).toContain("shuffled-translator");
    expect(translator).toMatch(/^ridge/);
  });

  it.each<[string, number, string, readonly string[]]>([
    ["a model and models", 2, "one of the two", ["--model", "a", "--models", "a", "b"]],
    ["three models", 2, "two files", ["--models", "a", "b", "c"]],
    ["an arm that is none", 2, "an arm must be", ["--arms", "kv,smoke"]],
    ["a count that is none", 2, "an integer", ["--n", "many"]],
    ["maps that are none", 2, "shared, slot or flat", ["--maps", "round"]],
    ["a budget that is none", 2, "a number", ["--budget", "soon"]],
    ["a suite that is not there", 1, "ERR_LATENT_SUITE_FORMAT", ["--suite", "none.jsonl"]],
  ])("refuses %s", async (_, code, says, args) => {
    const ended = await latentwire(["eval", ...args]);
    expect(ended).toMatchObject({ code, stdout: "" });
    expect(ended.stderr).toContain(says);
  });

  it("names the line of a suite that is wrong", async () => {
    const ended = await latentwire(["eval", "--suite", write("wrong.jsonl", [{ facts: "a", question: "b", answer: "c" }, { facts: "a" }])]);
    expect(ended.code).toBe(1);
    expect(ended.stderr).toContain("wrong.jsonl, line 2");
  });

  it("stops early with a budget", async () => {
    const { code, stdout } = await latentwire(["eval", "--n", "300", "--budget", "0", "--json", "--quiet"]);
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ stopped: "time", n: 0 });
  });
});
