// Whether an answer is right. A check is data, so that a suite can be written as a file.
import { checkArray, checkKeys, checkNumber, checkString, invalid } from "../check.js";

/**
 * How an answer is judged. `equals`: the whole answer, apart from case, white space and a full stop at its end. `contains`: these words somewhere in
 * it. `number`: the number in its last `\boxed{}`, else the last one in it. `choice`: the label in `\boxed{}`, else what follows "answer is" or
 * "answer:", else a label at its beginning, else the last label that stands alone.
 */
export type AnswerCheck =
  | { readonly equals: string | readonly string[] }
  | { readonly contains: string | readonly string[] }
  | { readonly number: number }
  | { readonly choice: string; readonly of: readonly string[] };

/** @throws LatentError `ERR_LATENT_INVALID_ARGUMENT` */
export function checkAnswerCheck(name: string, value: unknown): AnswerCheck {
  checkKeys(name, value, ["equals", "contains", "number", "choice", "of"]);
  const check = value as Readonly<Record<string, unknown>>;
  const kinds = ["equals", "contains", "number", "choice"].filter((kind) => check[kind] !== undefined);
  const [kind] = kinds;
  if (kinds.length !== 1 || kind === undefined || (check["of"] !== undefined && kind !== "choice"))
    throw invalid(name, "one of { equals }, { contains }, { number } and { choice, of }", value);
  if (kind === "number") return { number: checkNumber(`${name}.number`, check["number"], -Number.MAX_VALUE, Number.MAX_VALUE) };
  if (kind === "choice") {
    const labels = texts(`${name}.of`, check["of"]);
    const choice = checkString(`${name}.choice`, check["choice"]);
    if (!labels.includes(choice)) throw invalid(`${name}.choice`, `one of ${labels.join(", ")}`, choice);
    return { choice, of: labels };
  }
  const wanted = check[kind];
  const list = texts(`${name}.${kind}`, typeof wanted === "string" ? [wanted] : wanted);
  return kind === "equals" ? { equals: list } : { contains: list };
}

function texts(name: string, value: unknown): readonly string[] {
  const list = checkArray<unknown>(name, value as readonly unknown[]);
  if (list.length === 0) throw invalid(name, "one text or more", value);
  return list.map((one, i) => {
    const text = checkString(`${name}[${i}]`, one);
    if (normal(text) === "") throw invalid(`${name}[${i}]`, "a text that is not empty", text);
    return text;
  });
}

/** Whether `answer` passes. */
export function isRight(check: AnswerCheck, answer: string): boolean {
  if ("number" in check) {
    const found = numberIn(answer);
    return found !== undefined && Math.abs(found - check.number) <= 1e-6 * Math.max(1, Math.abs(check.number));
  }
  if ("choice" in check) return labelIn(answer, check.of) === check.choice;
  const wanted = "equals" in check ? check.equals : check.contains;
  const list = typeof wanted === "string" ? [wanted] : wanted;
  const given = normal(answer);
  if ("equals" in check) return list.some((text) => normal(text) === given);
  return list.some((text) => holds(given, normal(text)));
}

/** The share of right answers that guessing gives, where a check tells. */
export function chanceOf(check: AnswerCheck): number | undefined {
  return "choice" in check ? 1 / check.of.length : undefined;
}

function normal(text: string): string {
  return text
    .normalize("NFC")
    .trim()
    .replace(/\s+/gu, " ")
    .replace(/\s*\.$/u, "")
    .toLowerCase();
}

/** Whole words in a row; a text of signs alone is looked for as it is. */
function holds(text: string, wanted: string): boolean {
  const words = (of: string): string => ` ${of.replace(/[^\p{L}\p{N}]+/gu, " ").trim()} `;
  return words(wanted).trim() === "" ? text.includes(wanted) : words(text).includes(words(wanted));
}

function boxed(text: string): string | undefined {
  return [...text.matchAll(/\\boxed\{([^{}]*)\}/gu)].at(-1)?.[1];
}

function numberIn(text: string): number | undefined {
  const inBox = boxed(text);
  const numbers = (inBox ?? text).match(/-?(?:\d[\d,]*)?\.?\d+/gu) ?? [];
  const found = inBox === undefined ? numbers.at(-1) : numbers[0];
  return found === undefined ? undefined : Number(found.replaceAll(",", ""));
}

function labelIn(text: string, labels: readonly string[]): string | undefined {
  const label = `(${labels.map((one) => one.replace(/[^\p{L}\p{N}]/gu, "\\$&")).join("|")})`;
  const alone = `(?<![\\p{L}\\p{N}])${label}(?![\\p{L}\\p{N}])`;
  const inBox = boxed(text)?.match(new RegExp(alone, "u"))?.[1];
  if (inBox !== undefined) return inBox;
  const said = [...text.matchAll(new RegExp(`answer(?: is|:)[\\s(*"]*${alone}`, "giu"))].at(-1)?.[1];
  const exact = labels.find((one) => one === said) ?? labels.find((one) => one.toLowerCase() === said?.toLowerCase());
  if (exact !== undefined) return exact;
  const first = text.trimStart().match(new RegExp(`^[(]?${alone}(?:[).:,]|\\s*$)`, "u"))?.[1];
  return first ?? [...text.matchAll(new RegExp(alone, "gu"))].at(-1)?.[1];
}
