// The models that are measured: the bundled one, which is tiny, and one ten times its width with random weights, made by the tests' own writer.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
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

/** The writer is TypeScript and no part of the package, so its types are dropped: elsewhere, for a compiler in the heap makes every collection of it slower. */
async function fixtureWriter() {
  const source = path.join(root, "test", "fixtures", "gguf.ts");
  const file = path.join(temporaryFolder(), "gguf.mjs");
  const translate = `import ts from "typescript"; import fs from "node:fs";
    const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
    fs.writeFileSync(process.argv[2], ts.transpileModule(fs.readFileSync(process.argv[1], "utf8"), { compilerOptions }).outputText);`;
  execFileSync(process.execPath, ["--input-type=module", "-e", translate, source, file], { cwd: root });
  return import(pathToFileURL(file).href);
}

/** Fits the caches of a server core. */
const small = { width: 512, layers: 8, heads: 8, kvHeads: 4, feedForward: 1536, vocabSize: 4096, dtype: "f16" };
/** The shape of SmolLM-135M, too large for a cache in both formats that people run on CPUs. */
const smolLM = { width: 576, layers: 30, heads: 9, kvHeads: 3, feedForward: 1536, vocabSize: 49152 };

async function randomModel(name, shape) {
  const { writeTinyModel } = await fixtureWriter();
  const file = path.join(temporaryFolder(), `${name}.gguf`);
  writeTinyModel(file, { architecture: "llama", contextLength: 8192, ...shape });
  return file;
}

/** Next to no weights, and a cache of 147456 bytes a position in f16: 36 layers of 8 heads of 128. */
export const qwenCacheModel = () =>
  randomModel("qwen-cache", { width: 64, layers: 36, heads: 8, kvHeads: 8, headDim: 128, feedForward: 64, vocabSize: 512, dtype: "f16" });

async function load(file, name) {
  const model = await loadModel(file);
  const { parameters, layers, embeddingLength } = model.info;
  return { model, label: `${name}, ${(parameters / 1e6).toFixed(1)} M parameters, ${layers} layers, d ${embeddingLength}` };
}

const loaders = [
  () => load(bundledModel("finch"), "finch (tiny)"),
  async () => load(await randomModel("small", small), "random weights f16"),
  async () => load(await randomModel("q8_0", { ...smolLM, dtype: "q8_0" }), "random weights q8_0"),
  async () => load(await randomModel("q4_0", { ...smolLM, dtype: "q4_0" }), "random weights q4_0"),
];
const loaded = new Map();

async function models(count) {
  for (const loader of loaders.slice(0, count)) if (!loaded.has(loader)) loaded.set(loader, await loader());
  return [...loaded.values()].slice(0, count);
}

/** The bundled model and the small random one, loaded once. */
export const smallModels = () => models(2);
/** These, and the shape of a small public model in two formats. */
export const allModels = () => models(4);

export async function disposeModels() {
  for (const { model } of loaded.values()) await model.dispose();
}

export { temporaryFolder };
