// The models that are measured: the bundled one, which is tiny, and one ten times its width with random weights, made by the tests' own writer.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import ts from "typescript";
import { root } from "../scripts/common.mjs";
import { bundledModel, loadModel } from "../dist/index.js";

let folder;

function temporaryFolder() {
  if (folder === undefined) {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), "latentwire-bench-"));
    process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
  }
  return folder;
}

/** The writer is TypeScript and no part of the package, so it is translated here, types dropped. */
async function fixtureWriter() {
  const source = fs.readFileSync(path.join(root, "test", "fixtures", "gguf.ts"), "utf8");
  const { outputText } = ts.transpileModule(source, { compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 } });
  const file = path.join(temporaryFolder(), "gguf.mjs");
  fs.writeFileSync(file, outputText);
  return import(pathToFileURL(file).href);
}

async function randomModel() {
  const { writeTinyModel } = await fixtureWriter();
  const file = path.join(temporaryFolder(), "random.gguf");
  writeTinyModel(file, {
    architecture: "llama",
    width: 512,
    layers: 8,
    heads: 8,
    kvHeads: 4,
    feedForward: 1536,
    vocabSize: 4096,
    contextLength: 8192,
    dtype: "f16",
  });
  return file;
}

async function load(file, name) {
  const model = await loadModel(file);
  const { parameters, layers, embeddingLength } = model.info;
  return { model, label: `${name}, ${(parameters / 1e6).toFixed(1)} M parameters, ${layers} layers, d ${embeddingLength}` };
}

let loaded;

/** Both models, loaded once. */
export function models() {
  loaded ??= (async () => [await load(bundledModel("finch"), "finch (tiny)"), await load(await randomModel(), "random weights")])();
  return loaded;
}

export async function disposeModels() {
  if (loaded === undefined) return;
  for (const { model } of await loaded) await model.dispose();
}

export { temporaryFolder };
