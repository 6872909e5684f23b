// The documentation is held against the code: error codes, the example of the README, links, and the table of results.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, it } from "vitest";
import { latentErrorCodes } from "../../lib/errors.js";

const root = fileURLToPath(new URL("../../", import.meta.url));
const read = (file: string): string => readFileSync(path.join(root, file), "utf8");
const below = (folder: string, end: string): string[] =>
  readdirSync(path.join(root, folder))
    .filter((name) => name.endsWith(end))
    .map((name) => `${folder}/${name}`);

// Compiled inside the package, so that the name `latentwire` leads to the package itself.
function runExample(file: string, ...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const { outputText } = ts.transpileModule(read(file), {
    compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
  });
  mkdirSync(path.join(root, "build"), { recursive: true });
  const folder = mkdtempSync(path.join(root, "build", "example-"));
  try {
    const script = path.join(folder, "example.mjs");
    writeFileSync(script, outputText);
    return spawnSync(process.execPath, [script, ...args], { cwd: folder, encoding: "utf8", timeout: 50_000 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("docs/errors.md", () => {
  const text = read("docs/errors.md");
  const entries = [...text.matchAll(/^## (.*)$/gm)].map((match) => match[1]);

  it("has one entry for every code and no other", () => {
    expect([...entries].sort()).toEqual([...latentErrorCodes].sort());
  });

  it("says for every code when it comes and what to do", () => {
    for (const entry of text.split(/^## /m).slice(1)) expect(entry).toMatch(/\n\nWhen: [^]+\nWhat to do: /);
  });
});

describe("examples", () => {
  it("the README shows examples/readme.ts, all of it", () => {
    expect(read("README.md")).toContain(`\`\`\`ts\n${read("examples/readme.ts")}\`\`\`\n`);
    expect(read("examples/readme.ts").trimEnd().split("\n").length).toBeLessThanOrEqual(15);
  });

  it("the example of the README streams an answer and shows its hop", () => {
    const { status, stdout, stderr } = runExample("examples/readme.ts");
    expect(stderr).toMatch(/^[1-9]\d* positions crossed, 0 bytes moved$/m);
    expect(stdout).toMatch(/^\s*[a-z]+/);
    expect(stdout).toContain("'reader'");
    expect(status).toBe(0);
  });

  it("the joined experts answer in both modes", () => {
    const { status, stdout } = runExample("examples/team.ts");
    expect(stdout).toMatch(/^concat: [a-z]+/m);
    expect(stdout).toMatch(/^recompute: [a-z]+/m);
    expect(status).toBe(0);
  });

  it("docs/kernels.md shows examples/soft-thinking.ts, and it thinks four times", () => {
    expect(read("docs/kernels.md")).toContain(`\`\`\`ts\n${read("examples/soft-thinking.ts")}\`\`\`\n`);
    const { status, stdout } = runExample("examples/soft-thinking.ts");
    expect(stdout.match(/^entropy \d+\.\d\d bits, \d+\.\d tokens$/gm)).toHaveLength(4);
    expect(status).toBe(0);
  });

  it("the writer answers from what the reader in another process holds, and from text when the reader dies", () => {
    const lives = runExample("examples/two-processes.ts");
    expect(lives.stdout).toMatch(process.platform === "linux" ? /positions came by shared-memory/ : /positions came by stream/);
    expect(lives.stdout).toMatch(/medium: 'kv', answer: '[a-z]/);
    expect(lives.stdout).toContain("same: true");
    expect(lives.status).toBe(0);
    const dies = runExample("examples/two-processes.ts", "die");
    expect(dies.stdout).toMatch(/^ERR_LATENT_KV_(TRUNCATED|PEER_LOST): /m);
    expect(dies.stdout).toMatch(/medium: 'text', answer: '[a-z]/);
    expect(dies.status).toBe(0);
  });

  it("the restored sequence answers as the saved one", () => {
    const { status, stdout } = runExample("examples/save-restore.ts");
    expect(stdout).toMatch(/\[ '(.+)', '\1' \]/);
    expect(status).toBe(0);
  });
});

describe("docs/fits.md", () => {
  it("shows examples/fits.ts, all of it, which finds the planted map", () => {
    expect(read("docs/fits.md")).toContain(`\`\`\`ts\n${read("examples/fits.ts")}\`\`\`\n`);
    const { status, stdout } = runExample("examples/fits.ts");
    expect(stdout).toMatch(/^an orthogonal map with scale 2\.000 misses 0\.000, a linear one 0\.000$/m);
    expect(stdout).toMatch(/^11\.00 -6\.00 7\.50 of 11 -6 7\.5$/m);
    expect(status).toBe(0);
  });
});

describe("docs/spaces.md", () => {
  it("shows examples/spaces.ts, all of it: two spaces agree, and the translator between them is good", () => {
    expect(read("docs/spaces.md")).toContain(`\`\`\`ts\n${read("examples/spaces.ts")}\`\`\`\n`);
    const { status, stdout } = runExample("examples/spaces.ts");
    expect(stdout).toMatch(/^relative to 20 anchors they differ by 0\.00000$/m);
    expect(stdout).toMatch(/^good: 1 of 120 unseen things found, by chance 0\.\d\d$/m);
    expect(status).toBe(0);
  });
});

describe("docs/different-models.md", () => {
  it("its example answers through a translator, and tells what the placebo gets right", () => {
    expect(read("docs/different-models.md")).toContain("(../examples/two-models.ts)");
    const { status, stdout } = runExample("examples/two-models.ts", "250", "3");
    expect(stdout).toMatch(/^(good|fair): mean reciprocal rank 0\.\d\d on texts that were kept apart, 0\.\d\d by chance$/m);
    expect(stdout).toContain("used: 'latents'");
    const right = (name: string): number => Number(new RegExp(`^${name}: (\\d+) of \\d+ answers are right$`, "m").exec(stdout)?.[1]);
    expect(right("translator")).toBeGreaterThan(right("placebo"));
    expect(status).toBe(0);
  });
});

describe("links", () => {
  it.each(["README.md", "CHANGELOG.md", ...below("docs", ".md")])("of %s lead to files", (file) => {
    for (const [, target = ""] of read(file).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const [name = "", anchor] = target.split("#");
      const found = path.join(root, path.dirname(file), name);
      expect(existsSync(found), `${file}: ${target}`).toBe(true);
      expect(anchor, `${file}: ${target} has an anchor, which is not checked`).toBeUndefined();
    }
  });
});

describe("the tables of results", () => {
  it("are what scripts/result-tables.mjs makes of bench/results", () => {
    const script = path.join(root, "scripts", "result-tables.mjs");
    const { status, stderr } = spawnSync(process.execPath, [script, "--check"], { encoding: "utf8" });
    expect(stderr).toBe("");
    expect(status).toBe(0);
  });
});
