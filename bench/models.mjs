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

/** Half of what the cache of a server core holds, in f16: its steps are bound by arithmetic. */
const small = { width: 512, layers: 8, heads: 8, kvHeads: 4, feedForward: 1536, vocabSize: 4096, dtype: "f16" };
/** The shape of SmolLM-135M in q8_0: its steps are bound by reading weights, as those of every larger model are. */
const public135M = { width: 576, layers: 30, heads: 9, kvHeads: 3, feedForward: 1536, vocabSize: 49152, dtype: "q8_0" };

async function randomModel(name, shape) {
  const { writeTinyModel } = await fixtureWriter();
  const file = path.join(temporaryFolder(), `${name}.gguf`);
  writeTinyModel(file, { architecture: "llama", contextLength: 8192, ...shape });
  return file;
}

async function load(file, name) {
  const model = await loadModel(file);
  const { parameters, layers, embeddingLength } = model.info;
  return { model, label: `${name}, ${(parameters / 1e6).toFixed(1)} M parameters, ${layers} layers, d ${embeddingLength}` };
}

const loaders = [
  () => load(bundledModel("finch"), "finch (tiny)"),
  async () => load(await randomModel("small", small), "random weights f16"),
  async () => load(await randomModel("public-135m", public135M), "random weights q8_0"),
];
const loaded = new Map();

async function models(count) {
  for (const loader of loaders.slice(0, count)) if (!loaded.has(loader)) loaded.set(loader, await loader());
  return [...loaded.values()].slice(0, count);
}

/** The bundled model and the small random one, loaded once. */
export const smallModels = () => models(2);
/** These and one of a size that people use. */
export const allModels = () => models(3);

export async function disposeModels() {
  for (const { model } of loaded.values()) await model.dispose();
}

export { temporaryFolder };
