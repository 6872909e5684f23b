// `latentwire align` and `latentwire similarity` on files of rows, as a user meets them.
import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { Tensor, Translator, writeNpy, writeSafetensors } from "../../lib/index.js";
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
