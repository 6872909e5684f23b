// Lines of JSON as two public sets of tasks have them, for files that a user brings: GSM8K, and ARC in its own form and in that of its tables.
import { checkArray, checkKeys, checkString, invalid } from "../check.js";
import type { SuiteItem } from "./suite.js";

type Line = Readonly<Record<string, unknown>>;

export function isGsm8k(value: Line): boolean {
  return typeof value["question"] === "string" && typeof value["answer"] === "string";
}

export function isArc(value: Line): boolean {
  return value["question"] !== undefined && value["answerKey"] !== undefined;
}

/** The number behind `####` is the answer; the worked solution before it is not used. */
export function gsm8kItem(value: Line, line: number): SuiteItem {
  checkKeys("a GSM8K item", value, ["question", "answer"]);
  const question = checkString("question", value["question"]);
  const answer = checkString("answer", value["answer"]);
  const found = /####\s*(-?[\d,]*\.?\d+)\s*$/u.exec(answer)?.[1];
  if (found === undefined) throw invalid("answer", "one that ends in #### and a number", answer.slice(-40));
  return { id: String(line), facts: question, question, check: { number: Number(found.replaceAll(",", "")) } };
}

/** The choices stand below the question, a line each with its label. */
export function arcItem(value: Line, line: number): SuiteItem {
  checkKeys("an ARC item", value, ["id", "question", "choices", "answerKey"]);
  const { stem, labels, choices } = typeof value["question"] === "string" ? tableForm(value) : ownForm(value["question"]);
  const key = checkString("answerKey", value["answerKey"]);
  if (!labels.includes(key)) throw invalid("answerKey", `one of ${labels.join(", ")}`, key);
  const prompt = [stem, ...choices.map((text, i) => `${labels[i] ?? ""}. ${text}`)].join("\n");
  return {
    id: value["id"] === undefined ? String(line) : checkString("id", value["id"]),
    facts: prompt,
    question: prompt,
    check: { choice: key, of: labels },
    chance: 1 / labels.length,
  };
}

interface Choices {
  readonly stem: string;
  readonly labels: readonly string[];
  readonly choices: readonly string[];
}

/** `{ "question": "…", "choices": { "text": ["…"], "label": ["A"] } }` */
function tableForm(value: Line): Choices {
  checkKeys("choices", value["choices"], ["text", "label"]);
  const { text, label } = value["choices"] as { readonly text: unknown; readonly label: unknown };
  return checked(value["question"], list("choices.label", label), list("choices.text", text));
}

/** `{ "question": { "stem": "…", "choices": [{ "text": "…", "label": "A" }] } }` */
function ownForm(question: unknown): Choices {
  checkKeys("question", question, ["stem", "choices"]);
  const { stem, choices } = question as { readonly stem: unknown; readonly choices: unknown };
  const all = list("question.choices", choices);
  for (const one of all) checkKeys("a choice", one, ["text", "label"]);
  const part = (key: string): unknown[] => all.map((one): unknown => Reflect.get(one as object, key));
  return checked(stem, part("label"), part("text"));
}

function checked(stem: unknown, labels: readonly unknown[], choices: readonly unknown[]): Choices {
  if (labels.length === 0 || labels.length !== choices.length) throw invalid("choices", "as many texts as labels, one or more", choices);
  const texts = (name: string, values: readonly unknown[]): string[] => values.map((value) => checkString(name, value));
  const names = texts("label", labels);
  if (new Set(names).size < names.length || names.includes("")) throw invalid("label", "another one for each choice, and not empty", names);
  return { stem: checkString("question", stem), labels: names, choices: texts("text", choices) };
}

function list(name: string, value: unknown): readonly unknown[] {
  return checkArray<unknown>(name, value as readonly unknown[]);
}
