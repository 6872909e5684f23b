// How many questions one model answers from what another has read, through a translator and through a placebo: examples/two-models.ts, run as it is.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import ts from "typescript";
import { fail, root, say } from "../scripts/common.mjs";
import { row } from "./harness.mjs";

const runs = [
  { texts: 100, from: "wren", to: "finch" },
  { texts: 500, from: "wren", to: "finch" },
  { texts: 2000, from: "wren", to: "finch" },
  { texts: 2000, from: "finch", to: "wren" },
];
const documents = 40;

export async function run(want) {
  const wanted = runs.filter(({ from, to }) => want(nameOf(from, to)));
  if (wanted.length === 0) return [];
  // inside the package, so that the name `latentwire` leads to the package itself
  const folder = fs.mkdtempSync(path.join(root, "build", "example-"));
  try {
    const source = fs.readFileSync(path.join(root, "examples", "two-models.ts"), "utf8");
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    });
    const script = path.join(folder, "two-models.mjs");
    fs.writeFileSync(script, outputText);
    return wanted.map((one) => measure(script, one));
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}

const nameOf = (from, to) => `${to} answers what ${from} read`;

function measure(script, { texts, from, to }) {
  say(`two-models ${texts} ${documents} ${from} ${to}`);
  const start = performance.now();
  const { status, stdout, stderr } = spawnSync(process.execPath, [script, texts, documents, from, to].map(String), { encoding: "utf8" });
  const ms = performance.now() - start;
  if (status !== 0) fail(`examples/two-models.ts failed: ${stderr}`);
  const share = (name) => {
    const [, right, all] = new RegExp(`^${name}: (\\d+) of (\\d+) answers`, "m").exec(stdout) ?? fail(`no answers of the ${name}`);
    return { right: Number(right), all: Number(all) };
  };
  const [, verdict, mrr] = /^(\w+): mean reciprocal rank ([\d.]+)/m.exec(stdout) ?? fail("no verdict");
  const [own, placebo] = [share("translator"), share("placebo")];
  return {
    ...row({ name: nameOf(from, to), shape: `${texts} texts, ridge by slot`, ms }),
    questions: own.all,
    right: own.right / own.all,
    placebo: placebo.right / placebo.all,
    mrr: Number(mrr),
    verdict,
  };
}
