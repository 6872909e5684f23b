// Suites from files: what is read, what is refused and with which line, and when an answer is right.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { isRight, LatentError, parseSuite, readSuite, type AnswerCheck } from "../../lib/index.js";
import { at, codeOf, runs } from "../helpers.js";

const folder = mkdtempSync(path.join(tmpdir(), "latentwire-suite-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const lines = (...values: unknown[]): string => values.map((value) => `${JSON.stringify(value)}\n`).join("");

function refusal(text: string | Uint8Array): { code: string; line: unknown; message: string } {
  try {
    parseSuite(text, "x.jsonl");
  } catch (error) {
    if (LatentError.isInstance(error)) return { code: error.code, line: error.details["line"], message: error.message };
    throw error;
  }
  return { code: "none", line: undefined, message: "" };
}

describe("parseSuite", () => {
  it("reads facts, a question and an answer", () => {
    const suite = parseSuite(
      lines(
        { facts: "mia has the key.", question: "who has the key?", answer: "mia" },
        { facts: ["a b.", "c d."], question: "what?", answer: ["b", "d"], id: "second", group: "easy", chance: 0.25 },
        { facts: "x", question: "y", check: { contains: "z" } },
      ),
      "mine",
    );
    expect(suite).toMatchObject({ name: "mine", kind: "facts" });
    expect(suite.items).toEqual([
      { id: "1", facts: "mia has the key.", question: "who has the key?", check: { equals: ["mia"] } },
      { id: "second", facts: "a b. c d.", question: "what?", check: { equals: ["b", "d"] }, group: "easy", chance: 0.25 },
      { id: "3", facts: "x", question: "y", check: { contains: ["z"] } },
    ]);
  });

  it("reads prompts, to which both agents are put", () => {
    const suite = parseSuite(lines({ prompt: "1 + 1?", check: { number: 2 } }));
    expect(suite.kind).toBe("prompt");
    expect(suite.items).toEqual([{ id: "1", facts: "1 + 1?", question: "1 + 1?", check: { number: 2 } }]);
  });

  it("reads GSM8K, with separators and signs in the answer", () => {
    const suite = parseSuite(
      lines({ question: "how many?", answer: "3 * 400 = 1200\n#### 1,200" }, { question: "and now?", answer: "so\n#### -3.5" }),
    );
    expect(suite.items.map(({ check }) => check)).toEqual([{ number: 1200 }, { number: -3.5 }]);
    expect(suite.kind).toBe("prompt");
  });

  it("reads ARC in both forms, and knows what guessing gives", () => {
    const table = { id: "a", question: "why?", choices: { text: ["x", "y"], label: ["A", "B"] }, answerKey: "B" };
    const own = {
      id: "b",
      question: {
        stem: "why?",
        choices: [
          { text: "x", label: "A" },
          { text: "y", label: "B" },
        ],
      },
      answerKey: "B",
    };
    const [first, second] = parseSuite(lines(table, own)).items;
    expect(first).toEqual({
      id: "a",
      facts: "why?\nA. x\nB. y",
      question: "why?\nA. x\nB. y",
      check: { choice: "B", of: ["A", "B"] },
      chance: 0.5,
    });
    expect({ ...second, id: "a" }).toEqual(first);
  });

  it("has a digest of its items, whatever the file looks like", () => {
    const one = { facts: "a", question: "b", answer: "c" };
    const text = lines(one);
    expect(parseSuite(text).digest).toBe(parseSuite(Buffer.from(text.replace("\n", "\r\n"))).digest);
    expect(parseSuite(text).digest).toBe(parseSuite(text.trimEnd()).digest);
    expect(parseSuite(text).digest).not.toBe(parseSuite(lines({ ...one, answer: "d" })).digest);
  });

  const good = { facts: "a", question: "b", answer: "c" };
  it.each<[string, string | Uint8Array, number, string]>([
    ["nothing", "", 1, "no item"],
    ["an empty line", `${lines(good)}\n${lines(good)}`, 2, "empty"],
    ["no JSON", `${lines(good)}{"facts"`, 2, "no JSON"],
    ["no object", lines(good, [1]), 2, "no object"],
    ["null", lines(null), 1, "no object"],
    ["an unknown field", lines(good, { ...good, anwser: "x" }), 2, "anwser"],
    ["no answer", lines({ facts: "a", question: "b" }), 1, "answer or a check"],
    ["answer and check", lines({ ...good, check: { equals: "c" } }), 1, "answer or a check"],
    ["an empty answer", lines({ ...good, answer: " " }), 1, "not empty"],
    ["no answers", lines({ ...good, answer: [] }), 1, "one text or more"],
    ["an answer that is a number", lines({ ...good, answer: 5 }), 1, "check.equals"],
    ["empty facts", lines({ ...good, facts: "" }), 1, "facts"],
    ["facts that are no text", lines({ ...good, facts: [1] }), 1, "facts[0]"],
    ["the same id", lines({ ...good, id: "x" }, good, { ...good, id: "x" }), 3, "line 1"],
    ["an id like a line's number", lines({ ...good, id: "2" }, good), 2, "line 1"],
    ["two kinds", lines(good, { prompt: "a", check: { equals: "b" } }), 2, "of kind prompt"],
    ["a check of two kinds", lines({ prompt: "a", check: { equals: "b", number: 1 } }), 1, "one of"],
    ["a choice that is none", lines({ prompt: "a", check: { choice: "C", of: ["A", "B"] } }), 1, "choice"],
    ["a chance above 1", lines({ ...good, chance: 2 }), 1, "chance"],
    ["GSM8K without a number", lines({ question: "a", answer: "b" }), 1, "####"],
    ["ARC without the key", lines({ question: "a", choices: { text: ["x"], label: ["A"] }, answerKey: "B" }), 1, "answerKey"],
    ["ARC with one label twice", lines({ question: "a", choices: { text: ["x", "y"], label: ["A", "A"] }, answerKey: "A" }), 1, "label"],
    ["ARC with a choice too many", lines({ question: "a", choices: { text: ["x", "y"], label: ["A"] }, answerKey: "A" }), 1, "choices"],
    ["bytes that are no UTF-8", Buffer.concat([Buffer.from(lines(good)), Buffer.of(0x22, 0xff, 0x22)]), 2, "UTF-8"],
  ])("refuses %s", (_, text, line, says) => {
    expect(refusal(text)).toMatchObject({ code: "ERR_LATENT_SUITE_FORMAT", line });
    expect(refusal(text).message).toContain(says);
    expect(refusal(text).message).toContain(`line ${line}`);
  });

  it("takes anything without another error", () => {
    const word = fc.oneof(
      fc.string(),
      fc.constantFrom("facts", "question", "answer", "check", "prompt", "choices", "answerKey", "__proto__"),
    );
    const value = fc.letrec((tie) => ({
      any: fc.oneof(
        fc.string(),
        fc.integer(),
        fc.boolean(),
        fc.constant(null),
        fc.array(tie("any"), { maxLength: 3 }),
        fc.dictionary(word, tie("any"), { maxKeys: 6 }),
      ),
    })).any;
    const text = fc.oneof(
      fc.uint8Array({ maxLength: 200 }),
      fc.string({ unit: "binary", maxLength: 200 }),
      fc.array(value, { maxLength: 5 }).map((all) => lines(...all)),
    );
    fc.assert(
      fc.property(text, (input) => {
        const { code } = refusal(input);
        expect(["ERR_LATENT_SUITE_FORMAT", "none"]).toContain(code);
      }),
      runs(500),
    );
  });

  it("takes every damage of one byte without another error", () => {
    const whole = Buffer.from(lines(good, { facts: ["a", "é"], question: "b", check: { choice: "A", of: ["A", "B"] } }));
    for (let i = 0; i < whole.length; i++) {
      const damaged = Buffer.from(whole);
      damaged[i] = at(whole, i) ^ 0x80;
      expect(["ERR_LATENT_SUITE_FORMAT", "none"]).toContain(refusal(damaged).code);
      expect(["ERR_LATENT_SUITE_FORMAT", "none"]).toContain(refusal(whole.subarray(0, i)).code);
    }
  });
});

describe("readSuite", () => {
  it("reads a file, and says when it cannot", async () => {
    const file = path.join(folder, "a.jsonl");
    writeFileSync(file, lines({ facts: "a", question: "b", answer: "c" }));
    expect(await readSuite(file)).toMatchObject({ name: "a.jsonl", kind: "facts" });
    expect(await codeOf(() => readSuite(path.join(folder, "none.jsonl")))).toBe("ERR_LATENT_SUITE_FORMAT");
    expect(await codeOf(() => readSuite(5 as never))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});

describe("isRight", () => {
  it.each<[AnswerCheck, string, boolean]>([
    [{ equals: "oslo" }, " Oslo. ", true],
    [{ equals: "red key" }, "red  key", true],
    [{ equals: "red key" }, "the red key", false],
    [{ equals: ["a", "b"] }, "b", true],
    [{ equals: "." }, "x", false],
    [{ contains: "red key" }, "It is the red key, I think.", true],
    [{ contains: "red key" }, "a red keyboard", false],
    [{ contains: ["tokyo", "oslo"] }, "In OSLO!", true],
    [{ contains: "oslo" }, "", false],
    [{ contains: "+" }, "a + b", true],
    [{ number: 1200 }, "so it is 1,200", true],
    [{ number: 18 }, "9 * 2 = $18.", true],
    [{ number: 18 }, "\\boxed{18} and 3 more words", true],
    [{ number: 18 }, "18 and then 19", false],
    [{ number: -0.5 }, "x = -.5", true],
    [{ number: 5 }, "five", false],
    [{ choice: "B", of: ["A", "B", "C"] }, "B", true],
    [{ choice: "B", of: ["A", "B", "C"] }, "(B) because A is wrong", true],
    [{ choice: "B", of: ["A", "B", "C"] }, "A is wrong, so the answer is (B).", true],
    [{ choice: "B", of: ["A", "B", "C"] }, "Answer: b", true],
    [{ choice: "B", of: ["A", "B", "C"] }, "\\boxed{B}, not C", true],
    [{ choice: "B", of: ["A", "B", "C"] }, "A Banana", false],
    [{ choice: "B", of: ["A", "B", "C"] }, "", false],
    [{ choice: "2", of: ["1", "2"] }, "2.", true],
  ])("%j and %j: %s", (check, answer, right) => {
    expect(isRight(check, answer)).toBe(right);
  });

  it("takes any answer", () => {
    const checks: AnswerCheck[] = [{ equals: "a" }, { contains: "a" }, { number: 1 }, { choice: "(A", of: ["(A", "B"] }];
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.constantFrom(...checks), (answer, check) => {
        expect(typeof isRight(check, answer)).toBe("boolean");
      }),
    );
  });
});
