// The gate before llama.cpp: every engine that is not exactly the pinned one is refused with its own code and the reason, in a process of its own
// because a loaded engine stays. The wrong engines are tiny libraries compiled here.
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { findEngine } from "../../lib/models/runtime.js";
import { codeOf, compilerEnvironment, folder } from "./helpers.js";

const header = readFileSync("native/engine/llama_abi.h", "utf8");
const functions = [...header.matchAll(/X\((\w+),/g)].map((match) => match[1] ?? "").filter((name) => name !== "name");

interface Fake {
  readonly llama?: string;
  readonly ggml?: string;
  readonly without?: string;
  /** Bytes that the default parameters of a model fill. */
  readonly modelBytes?: number;
}

/** A folder with a libllama.so that has every function by name and does nothing. */
function fakeEngine(name: string, { llama = "0.5.0", ggml = "0.25.1", without = "", modelBytes = 78 }: Fake): string {
  const directory = path.join(folder, name);
  mkdirSync(directory, { recursive: true });
  const special: Record<string, string> = {
    llama_version: `const char* llama_version(void) { return "${llama}"; }`,
    ggml_version: `const char* ggml_version(void) { return "${ggml}"; }`,
    llama_model_default_params: `struct big { unsigned char b[${modelBytes}]; }; struct big llama_model_default_params(void) { struct big x = {{0}}; return x; }`,
  };
  const source = functions.filter((one) => one !== without).map((one) => special[one] ?? `void ${one}(void) {}`);
  const file = path.join(directory, "fake.c");
  writeFileSync(file, source.join("\n"));
  execFileSync("cc", ["-shared", "-fPIC", "-w", "-o", path.join(directory, "libllama.so"), file], { env: compilerEnvironment });
  return directory;
}

/** The code and message with which the built package refuses an engine folder. */
function refusalOf(directory: string): string {
  const script = `
    const { loadRuntime } = await import(${JSON.stringify(path.resolve("dist/index.js"))});
    try { await loadRuntime(); console.log("loaded"); } catch (error) { console.log(error.code + ": " + error.message); }`;
  const { stdout, status } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { ...process.env, LATENTWIRE_LLAMA_DIR: directory },
    encoding: "utf8",
  });
  expect(status).toBe(0);
  return stdout.trim();
}

describe.skipIf(process.platform !== "linux")("engines that are refused", () => {
  it("a folder that does not exist, and one without a library", () => {
    expect(refusalOf(path.join(folder, "nowhere"))).toMatch(/^ERR_LATENT_ENGINE_NOT_FOUND/);
    mkdirSync(path.join(folder, "empty"), { recursive: true });
    expect(refusalOf(path.join(folder, "empty"))).toMatch(/^ERR_LATENT_ENGINE_NOT_FOUND/);
  });

  it("another release, told by the package, by llama.cpp and by ggml", () => {
    const packaged = fakeEngine("packaged", {});
    writeFileSync(path.join(packaged, "_nlcBuildMetadata.json"), JSON.stringify({ buildOptions: { llamaCpp: { release: "b9999" } } }));
    expect(refusalOf(packaged)).toMatch(/^ERR_LATENT_ENGINE_VERSION.*b9999/);
    expect(refusalOf(fakeEngine("old-llama", { llama: "0.4.0" }))).toMatch(/^ERR_LATENT_ENGINE_VERSION.*0\.4\.0/);
    expect(refusalOf(fakeEngine("old-ggml", { ggml: "0.24.0" }))).toMatch(/^ERR_LATENT_ENGINE_VERSION.*0\.24\.0/);
  });

  it("a library that lacks a function names it", () => {
    expect(refusalOf(fakeEngine("lacking", { without: "llama_decode" }))).toMatch(/^ERR_LATENT_ENGINE_SYMBOL.*llama_decode/);
  });

  it("another layout of the parameters", () => {
    expect(refusalOf(fakeEngine("wide", { modelBytes: 96 }))).toMatch(/^ERR_LATENT_ENGINE_ABI.*96/);
  });

  it("a second engine in one process", () => {
    const real = findEngine();
    const copy = path.join(folder, "copy");
    cpSync(real, copy, { recursive: true });
    const script = `
      const { loadRuntime } = await import(${JSON.stringify(path.resolve("dist/index.js"))});
      const { native } = await import(${JSON.stringify(path.resolve("dist/native.js"))});
      await loadRuntime();
      try { await native().loadRuntime(${JSON.stringify(copy)}).promise; console.log("loaded"); } catch (error) { console.log(error.code); }`;
    const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    expect(stdout.trim()).toBe("ERR_LATENT_ENGINE_COLLISION");
  });

  it("findEngine says which package is missing", async () => {
    expect(await codeOf(() => findEngine({ LATENTWIRE_LLAMA_DIR: "/no/such/folder" }))).toBe("ERR_LATENT_ENGINE_NOT_FOUND");
  });
});
