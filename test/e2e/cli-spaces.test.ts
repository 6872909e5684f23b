// `latentwire align` and `latentwire similarity` on files of rows and on models, as a user meets them.
import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { bundledModel, Tensor, Translator, writeNpy, writeSafetensors } from "../../lib/index.js";
import { worldDocuments } from "../world.js";
import { moved, orthogonal, randomRows, tensorOf } from "../plain.js";
import { folder } from "./helpers.js";

const main = path.resolve("dist/cli/main.js");
const file = (name: string): string => path.join(folder, name);

function latentwire(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data: Buffer) => (stdout += data.toString()));
    child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      resolve({ code, stdout, stderr });
    });
  });
}

interface Result {
  readonly n: number;
  readonly d: readonly number[];
  readonly methods: readonly {
    readonly method: string;
    readonly anchors: number | null;
    readonly heldOut: Record<string, number> | null;
    readonly null: Record<string, number> | null;
    readonly verdict: string;
    readonly error?: string;
  }[];
}

const rows = randomRows(120, 10, 1);

beforeAll(async () => {
  await writeNpy(file("a.npy"), tensorOf(rows));
  await writeNpy(file("b.npy"), tensorOf(moved(rows, orthogonal(10, 2), 2)));
  await writeNpy(file("other.npy"), tensorOf(randomRows(120, 7, 3)));
  await writeNpy(file("short.npy"), tensorOf(randomRows(50, 7, 3)));
  await writeSafetensors(
    file("many.safetensors"),
    new Map([
      ["rows", tensorOf(rows)],
      ["more", Tensor.zeros([3])],
    ]),
  );
});

describe("align", () => {
  it("tries all methods on the same anchors and prints one JSON object", async () => {
    const { code, stdout } = await latentwire(
      "align",
      "--pairs",
      file("a.npy"),
      file("b.npy"),
      "--anchors",
      "40",
      "--seed",
      "3",
      "--method",
      "all",
      "--json",
    );
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as Result;
    expect(result).toMatchObject({ n: 120, d: [10, 10] });
    expect(result.methods.map((line) => line.method)).toEqual(
      expect.arrayContaining(["procrustes", "ridge", "parseval", "relative-cosine", "relative-whitened"]),
    );
    for (const { method, anchors, heldOut, null: chance, verdict } of result.methods) {
      expect(anchors, method).toBe(40);
      expect(heldOut?.["count"], method).toBe(24);
      for (const name of ["retrieval1", "mrr", "cosine"]) expect(typeof heldOut?.[name], `${method} ${name}`).toBe("number");
      expect(heldOut?.["mrr"], method).toBeGreaterThan(chance?.["mrr"] ?? 1);
      // a quarter of the dimensions is not enough for rows that fill all of them
      if (method !== "low-rank") expect(verdict, method).not.toBe("unusable");
    }
    expect(result.methods.find((line) => line.method === "procrustes")?.heldOut?.["retrieval1"]).toBe(1);
  });

  it("says which methods cannot be fitted on so few pairs", async () => {
    const { stdout } = await latentwire("align", "--pairs", file("a.npy"), file("b.npy"), "--anchors", "10", "--method", "all", "--json");
    const { methods } = JSON.parse(stdout) as Result;
    expect(methods.find((line) => line.method === "affine")).toMatchObject({
      verdict: "unusable",
      error: "ERR_LATENT_ILL_CONDITIONED",
      heldOut: null,
    });
    expect(methods.find((line) => line.method === "procrustes")?.verdict).toBe("good");
  });

  it("writes the translator that auto chose, with progress on stderr and a table on stdout", async () => {
    const out = file("t.safetensors");
    const { code, stdout, stderr } = await latentwire("align", "--pairs", `${file("many.safetensors")}#rows`, file("b.npy"), "--out", out);
    expect(code).toBe(0);
    expect(stdout).toMatch(/method +anchors +retrieval@1/);
    expect(stdout).toMatch(/100\.0 % .*good/);
    expect(stderr).toContain("trying procrustes");
    expect(stderr).toContain(`written to ${out}`);
    using translator = await Translator.load(out);
    expect(translator.report?.verdict).toBe("good");
    using there = await translator.apply(tensorOf(rows));
    expect(there.shape).toEqual([120, 10]);
  });

  it("exits with 3 where nothing is of use, and writes nothing", async () => {
    const out = file("useless.safetensors");
    const { code, stdout } = await latentwire("align", "--pairs", file("a.npy"), file("other.npy"), "--out", out, "--json");
    expect(code).toBe(3);
    expect((JSON.parse(stdout) as Result).methods).toMatchObject([{ verdict: "unusable" }]);
    expect(existsSync(out)).toBe(false);
  });

  it("names what is wrong with what it is given", async () => {
    writeFileSync(file("bad.npy"), "no array");
    const pairs = ["--pairs", file("a.npy"), file("b.npy")];
    for (const [args, code, message] of [
      [["--pairs", file("a.npy"), file("bad.npy")], 1, "ERR_LATENT_FILE_FORMAT"],
      [["--pairs", file("a.npy"), file("short.npy")], 2, "ERR_LATENT_INVALID_ARGUMENT"],
      [["--pairs", file("a.npy"), file("nowhere.npy")], 2, "ERR_LATENT_INVALID_ARGUMENT"],
      [["--pairs", file("a.npy")], 2, "two"],
      [["--pairs", file("a.npy"), file("many.safetensors")], 2, "#rows"],
      [[...pairs, "--method", "magic"], 2, "procrustes"],
      [[...pairs, "--seed", "x"], 2, "integer"],
      [[...pairs, "--method", "all", "--out", "x"], 2, "--out"],
      [[], 2, "--pairs"],
    ] as const) {
      const ended = await latentwire("align", ...args);
      expect(ended.code, args.join(" ")).toBe(code);
      expect(ended.stderr, args.join(" ")).toContain(message);
      expect(ended.stdout).toBe("");
    }
  });
});

describe("align of two models", () => {
  const models = ["--from", bundledModel("wren"), "--to", bundledModel("finch")];
  const documents = worldDocuments(120, 11).map(({ text }) => text);

  it("lets both read the texts, and writes a translator for thoughts of so many steps", async () => {
    writeFileSync(file("texts.txt"), `${documents.join("\n")}\n\n`);
    const out = file("models.safetensors");
    const options = ["--texts", file("texts.txt"), "--method", "ridge", "--maps", "slot", "--steps", "4"];
    const { code, stdout, stderr } = await latentwire("align", ...models, ...options, "--out", out, "--json");
    expect(code).toBe(0);
    const result = JSON.parse(stdout) as Result;
    expect(result).toMatchObject({ n: 120, slots: 4, d: [128, 192], methods: [{ method: "ridge", maps: "slot", verdict: "good" }] });
    expect(result.methods[0]?.heldOut?.["count"]).toBe(24 * 4);
    expect(stderr).toMatch(/^ *\d+ % reading by wren/m);
    expect(stderr).toContain("% ridge: fitting ridge (slot)");
    // no percent is told twice
    const lines = stderr.trimEnd().split("\n");
    expect(new Set(lines).size).toBe(lines.length);
    using translator = await Translator.load(out);
    expect(translator.card).toMatchObject({ slots: 4, from: { dimension: 128 }, to: { dimension: 192 } });
  });

  it("tries all methods on texts that it reads once, from an array in JSON", async () => {
    writeFileSync(file("texts.json"), JSON.stringify(documents.map((text) => `${text}\n`)));
    const args = [...models, "--texts", file("texts.json"), "--gather", "last", "--method", "all"];
    const { code, stdout, stderr } = await latentwire("align", ...args);
    expect(code).toBe(0);
    for (const method of ["procrustes", "ridge", "low-rank", "projector"]) expect(stdout).toMatch(new RegExp(`^${method} .*%`, "m"));
    expect(stderr.match(/100 % reading/g)).toHaveLength(1);
  });

  it("exits with 3 where the texts are too few to tell", async () => {
    writeFileSync(file("few.txt"), documents.slice(0, 9).join("\n"));
    const out = file("few.safetensors");
    const { code, stdout } = await latentwire("align", ...models, "--texts", file("few.txt"), "--method", "ridge", "--out", out, "--json");
    expect(code).toBe(3);
    expect(JSON.parse(stdout)).toMatchObject({ n: 9, methods: [{ verdict: "unusable" }] });
    expect(existsSync(out)).toBe(false);
  });

  it("names what is wrong with what it is given", async () => {
    writeFileSync(file("bad.json"), '{"texts": []}');
    writeFileSync(file("broken.json"), "[");
    writeFileSync(file("one.txt"), "one text");
    const texts = ["--texts", file("few.txt")];
    for (const [args, code, message] of [
      [models, 2, "--texts"],
      [["--from", bundledModel(), ...texts], 2, "--to"],
      [["--pairs", file("a.npy"), file("b.npy"), ...texts], 2, "--texts must be left out with --pairs"],
      [["--pairs", file("a.npy"), file("b.npy"), "--steps", "4"], 2, "--steps must be left out"],
      [[...models, "--texts", file("nowhere.txt")], 2, "cannot read the texts"],
      [[...models, "--texts", file("bad.json")], 2, "an array of strings"],
      [[...models, "--texts", file("broken.json")], 2, "cannot read the texts"],
      [[...models, "--texts", file("one.txt")], 2, "at least 8 different texts"],
      [[...models, ...texts, "--gather", "mean", "--steps", "4"], 2, "think"],
      [[...models, ...texts, "--steps", "0"], 2, "at least one"],
      [[...models, ...texts, "--gather", "first"], 2, "slots, last or mean"],
      [["--from", file("nowhere.gguf"), "--to", bundledModel(), ...texts], 1, "ERR_LATENT_MODEL_NOT_FOUND"],
    ] as const) {
      const ended = await latentwire("align", ...args);
      expect(ended.stderr, args.join(" ")).toContain(message);
      expect(ended.code, args.join(" ")).toBe(code);
      expect(ended.stdout).toBe("");
    }
  });
});

describe("similarity", () => {
  it("prints every measure, and why one is not defined", async () => {
    const same = await latentwire("similarity", file("a.npy"), file("b.npy"), "--json");
    expect(same.code).toBe(0);
    const { metrics } = JSON.parse(same.stdout) as { metrics: Record<string, number> };
    for (const name of ["linearCka", "rbfCka", "svcca", "cca", "mutualKnn@10"]) expect(metrics[name], name).toBeCloseTo(1, 3);
    expect(metrics["procrustesDistance"]).toBeCloseTo(0, 4);
    expect(metrics["effectiveRankA"]).toBeGreaterThan(9);
    expect(metrics["mrr"]).toBeGreaterThan(0);
    await writeNpy(file("few.npy"), tensorOf(rows.slice(0, 6)));
    const few = JSON.parse((await latentwire("similarity", file("few.npy"), file("few.npy"), "--json")).stdout) as {
      metrics: Record<string, number | null>;
      undefined: Record<string, string>;
    };
    expect(few.metrics["svcca"]).toBeNull();
    expect(few.undefined["svcca"]).toContain("more rows than columns");
    expect(few.metrics["linearCka"]).toBeCloseTo(1, 9);
    const table = await latentwire("similarity", file("a.npy"), file("other.npy"), "--quiet");
    expect(table.stdout).toMatch(/linearCka +0\.\d+/);
    expect(table.stderr).toBe("");
    expect((await latentwire("similarity", file("a.npy"), file("short.npy"))).code).toBe(2);
  });
});
