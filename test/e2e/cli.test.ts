// The command line as a user meets it: what is on stdout, what is on stderr, and how it exits.
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { bundledModel } from "../../lib/index.js";
import { latentwire } from "./command.js";
import { folder } from "./helpers.js";

const team = (agents: unknown): string => {
  const file = path.join(folder, "team.json");
  writeFileSync(file, JSON.stringify({ agents }));
  return file;
};

describe("demo", () => {
  const small = ["demo", "--n", "8", "--out", path.join(folder, "demo")];

  it("prints one JSON object with three media, the proof that kv is lossless, and two evaluations", async () => {
    const { code, stdout } = await latentwire([...small, "--json"]);
    expect(code).toBe(0);
    const value = JSON.parse(stdout) as {
      arms: Record<string, unknown>[];
      lossless: { maxAbsLogitDiff: number; sameTokens: boolean };
      evaluations: { n: number; translator: string | null; arms: { arm: string }[] }[];
      report: string;
    };
    expect(value.arms.map((arm) => arm["medium"])).toEqual(["kv", "latent", "text"]);
    for (const arm of value.arms) {
      for (const key of ["prefillTokens", "latentSteps", "decodedTokens", "bytes", "ms"]) expect(arm[key]).toBeTypeOf("number");
      expect(arm["answer"]).toBeTypeOf("string");
    }
    expect(value.lossless.sameTokens).toBe(true);
    expect(value.lossless.maxAbsLogitDiff).toBeLessThan(0.05);
    const [one, two] = value.evaluations;
    expect(one).toMatchObject({ n: 8, translator: null });
    expect(one?.arms.map(({ arm }) => arm)).toEqual(["single", "text", "kv", "latent", "none", "shuffled", "noise"]);
    expect(two?.translator).toContain("ridge");
    expect(two?.arms.map(({ arm }) => arm)).toContain("shuffled-translator");
    expect(readFileSync(value.report, "utf8").match(/<section>/g)).toHaveLength(2);
  });

  it("shows tables to people and keeps progress off stdout", async () => {
    const { code, stdout, stderr } = await latentwire(small);
    expect(code).toBe(0);
    expect(stdout).toContain("decoded tokens");
    expect(stdout).toContain("p against text");
    expect(stdout).toContain("shuffled-translator (placebo)");
    expect(stdout).not.toContain("running the");
    expect(stderr).toContain("running the kv arm");
  });

  it("asks another model one question, and says nothing with --quiet", async () => {
    const { code, stdout, stderr } = await latentwire(["demo", "--quiet", "--model", bundledModel("wren")]);
    // the bundled file by name is a model like any other
    expect(code).toBe(0);
    expect(stderr).toBe("");
    expect(stdout).toContain("latentwire eval --model");
    expect(stdout).not.toContain("placebo)");
  });
});

describe("run", () => {
  const agents = [
    { name: "reader", user: "mia has the red key.", think: { policy: "hidden", steps: 4 } },
    { name: "solver", generate: { maxTokens: 4 } },
  ];

  it("runs a team over each medium", async () => {
    for (const medium of ["kv", "latent", "text"]) {
      const { code, stdout } = await latentwire([
        "run",
        "--json",
        "--model",
        bundledModel(),
        "--team",
        team(agents),
        "--medium",
        medium,
        // where there is none, llama.cpp computes on the CPU
        ...(medium === "kv" ? ["--gpu-layers", "1000"] : []),
        "who has the red key?",
      ]);
      expect(code).toBe(0);
      expect(JSON.parse(stdout)).toMatchObject({ hops: [{ from: "reader", to: "solver", medium, latentSteps: 4 }] });
    }
  });

  it("exits with 2 on wrong usage and 1 on failure, and says why", async () => {
    const model = bundledModel();
    expect(await latentwire(["fly"])).toMatchObject({ code: 2, stdout: "" });
    expect(await latentwire(["run", "x"])).toMatchObject({ code: 2, stdout: "" });
    const wrongMedium = await latentwire(["run", "--model", model, "--team", team(agents), "--medium", "smoke", "x"]);
    expect(wrongMedium.code).toBe(2);
    expect(wrongMedium.stderr).toContain("kv, latent or text");
    const negative = await latentwire(["run", "--model", model, "--team", team(agents), "--gpu-layers", "-1", "x"]);
    expect(negative.code).toBe(2);
    expect(negative.stderr).toContain("an integer of 0 or more");
    const misspelt = await latentwire(["run", "--model", model, "--team", team([{ name: "a", sistem: "x" }]), "x"]);
    expect(misspelt.code).toBe(2);
    expect(misspelt.stderr).toContain("sistem");
    const absent = await latentwire(["inspect", path.join(folder, "absent.gguf"), "--json"]);
    expect(absent).toMatchObject({ code: 1, stdout: "" });
    expect(absent.stderr).toContain("ERR_LATENT_MODEL_NOT_FOUND");
  });

  it("exits with 130 when interrupted, with nothing on stdout", async () => {
    const slow = [{ name: "a", think: { policy: "hidden", steps: 450 } }, { name: "b" }];
    const ended = await latentwire(["run", "--model", bundledModel(), "--team", team(slow), "x"], { interruptAt: "a: starts" });
    expect(ended).toMatchObject({ code: 130, stdout: "" });
  });
});

it("knows its version, and takes the common options before a command as well", async () => {
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  expect(await latentwire(["--version"])).toMatchObject({ code: 0, stdout: `${version}\n` });
  const { code, stdout } = await latentwire(["--json", "--quiet", "inspect", bundledModel("wren")]);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ architecture: "llama" });
});

it("inspect tells the facts of a model", async () => {
  const { code, stdout } = await latentwire(["inspect", bundledModel("wren"), "--json"]);
  expect(code).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({ architecture: "llama", embeddingLength: 128, tiedOutput: false, canShift: true });
});

it("kv quality tells what formats cost on a text, and refuses formats that there are not", async () => {
  const text = path.join(folder, "read.txt");
  writeFileSync(text, "tom is in the red house. the key is in the box. ana has the blue ball. where is the key? ".repeat(3));
  const { code, stdout } = await latentwire([
    "kv",
    "quality",
    "--model",
    bundledModel(),
    "--text",
    text,
    "--formats",
    "f32,q8_0,q4_0",
    "--json",
  ]);
  expect(code).toBe(0);
  const rows = JSON.parse(stdout) as { format: string; ratio: number; kl: { mean: number; max: number }; top1Agreement: number }[];
  expect(rows.map(({ format }) => format)).toEqual(["f32", "q8_0", "q4_0"]);
  const [same, q8, q4] = rows as [(typeof rows)[0], (typeof rows)[0], (typeof rows)[0]];
  expect([same.ratio, q8.ratio, q4.ratio]).toEqual([1 / 2, 64 / 34, 64 / 18]);
  expect(same.kl.max).toBeLessThan(1e-4);
  expect(same.top1Agreement).toBe(1);
  expect(q8.kl.mean).toBeLessThan(q4.kl.mean);
  expect(q4.kl.mean).toBeLessThan(0.3);
  const wrong = await latentwire(["kv", "quality", "--model", bundledModel(), "--text", text, "--formats", "q9"]);
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain("q8_0");
});

it("kv quality tells what codecs cost, and keeps a fit", async () => {
  const text = path.join(folder, "sent.txt");
  const calibration = path.join(folder, "calibration.txt");
  const file = path.join(folder, "finch.kvtc");
  writeFileSync(text, "tom is in the red house. the key is in the box. ana has the blue ball. where is the key? ".repeat(12));
  writeFileSync(calibration, "ana is in the box. tom has the key. the blue house has the red ball. where is tom? ".repeat(20));
  const common = ["kv", "quality", "--model", bundledModel(), "--text", text, "--json"];
  const fit = await latentwire([...common, "--codec", "fp8,kvtc:3", "--calibration", calibration, "--save", file]);
  expect(fit.code).toBe(0);
  interface Row {
    readonly format: string;
    readonly bytes: number;
    readonly ratio: number;
    readonly kl: { readonly mean: number };
  }
  const [fp8, fitted] = JSON.parse(fit.stdout) as [Row, Row];
  expect(fp8.format).toBe("fp8");
  expect(fp8.ratio).toBeGreaterThan(1.8);
  expect(fitted.format).toBe("kvtc:3");
  expect(fitted.kl.mean).toBeLessThan(0.5);
  const again = await latentwire([...common, "--codec", `kvtc:${file}`]);
  expect((JSON.parse(again.stdout) as Row[])[0]).toMatchObject({ bytes: fitted.bytes });
  expect((await latentwire([...common, "--codec", "kvtc:3"])).stderr).toContain("--calibration");
  const wrong = await latentwire([...common, "--codec", "q9"]);
  expect(wrong.code).toBe(2);
  expect(wrong.stderr).toContain("kivi4");
});

it("doctor passes here, and fails with the way out when the engine is missing", async () => {
  expect((await latentwire(["doctor", "--json"])).code).toBe(0);
  const broken = await latentwire(["doctor", "--json"], { env: { LATENTWIRE_LLAMA_DIR: path.join(folder, "nothing") } });
  expect(broken.code).toBe(1);
  const checks = JSON.parse(broken.stdout) as { name: string; status: string; fix: string }[];
  expect(checks.find((check) => check.name === "engine")).toMatchObject({ status: "fail" });
  expect(checks.find((check) => check.name === "engine")?.fix).not.toBe("");
});
