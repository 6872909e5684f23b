// What cannot be taken back in a process, each in one of its own: a device that is not there, for each reason there is, and a device that is lost.
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { packageRoot } from "../../lib/native.js";
import { mockEnvironment } from "../mock.js";
import { compilerEnvironment, folder } from "./helpers.js";

const addon = path.resolve(process.env["LATENTWIRE_NATIVE_PATH"] ?? path.join(packageRoot, "build", "Release", "latentwire.node"));

/** A tiny library made of C. */
function library(name: string, source: string): string {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(`${file}.c`, source);
  execFileSync("cc", ["-shared", "-fPIC", "-w", "-o", file, `${file}.c`], { env: compilerEnvironment });
  return file;
}

/** Runs a module with the built package as `latentwire`; returns its output, and fails unless the process ends well. */
function run(script: string, env: Record<string, string>): string {
  const program = `const latentwire = await import(${JSON.stringify(path.resolve("dist/index.js"))});\n${script}`;
  const { LATENTWIRE_CUDA_BACKEND: _, LATENTWIRE_MOCK_FAULTS: __, ...plain } = process.env;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--input-type=module", "-e", program], {
    env: { ...plain, ...env },
    encoding: "utf8",
    timeout: 60_000,
  });
  expect(status, stderr).toBe(0);
  return stdout.trim();
}

const ask = `
  const { deviceStatus, deviceMemory, packProjection, openTokenTable, Tensor } = latentwire;
  const status = await deviceStatus();
  const weights = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 0, 0, 1));
  const told = [];
  for (const call of [
    () => weights.to("cuda"), () => packProjection({ layers: [{ weights }], device: "cuda" }), () => openTokenTable(weights, { device: "cuda" }), deviceMemory,
  ]) await call().catch((error) => told.push([error.code, error.details.reason, error.message === status.reason + ": " + status.message, error.hint === status.hint]));
  const chosen = await packProjection({ layers: [{ weights }], device: "auto" });
  console.log(JSON.stringify({ status, told, device: chosen.device, why: chosen.deviceReason, y: [...chosen.applySync(Float32Array.of(3, 4))] }));`;

interface Answer {
  readonly status: { readonly available: boolean; readonly reason: string; readonly message: string; readonly hint: string };
  readonly told: unknown;
  readonly device: string;
  readonly why: string;
  readonly y: readonly number[];
}

describe.skipIf(process.platform !== "linux")("a device that is not there", () => {
  const alone = path.join(folder, "alone", "latentwire.node");
  const cases: readonly (readonly [string, string, () => Record<string, string>, RegExp])[] = [
    [
      "no library",
      "CUDA_BACKEND_MISSING",
      () => ({ LATENTWIRE_CUDA_BACKEND: "/nowhere/latentwire_cuda.so" }),
      /\/nowhere\/latentwire_cuda\.so/,
    ],
    [
      "a driver, but no library beside the addon",
      "CUDA_BACKEND_MISSING",
      () => {
        mkdirSync(path.dirname(alone), { recursive: true });
        copyFileSync(addon, alone);
        const driver = library("driver/libcuda.so.1", "int cuInit(unsigned flags) { return 100; }");
        return { LATENTWIRE_NATIVE_PATH: alone, LD_LIBRARY_PATH: path.dirname(driver) };
      },
      /alone\/latentwire_cuda\.so/,
    ],
    [
      "a library without the entry",
      "CUDA_ABI_MISMATCH",
      () => ({ LATENTWIRE_CUDA_BACKEND: library("empty.so", "int nothing;") }),
      /no latent_backend_entry_v1/,
    ],
    [
      "a library of another ABI",
      "CUDA_ABI_MISMATCH",
      () => ({
        LATENTWIRE_CUDA_BACKEND: library(
          "other.so",
          "static const struct { unsigned abi, size; } table = { 999, 8 }; const void* latent_backend_entry_v1(void) { return &table; }",
        ),
      }),
      /ABI 999 of 8 bytes, this addon \d+ of/,
    ],
    [
      "a library without a table",
      "CUDA_ABI_MISMATCH",
      () => ({ LATENTWIRE_CUDA_BACKEND: library("null.so", "const void* latent_backend_entry_v1(void) { return 0; }") }),
      /no table/,
    ],
    ["a library that finds no driver", "CUDA_NO_DRIVER", () => mockEnvironment("no-driver"), /no driver/],
    ["a library that finds no device", "CUDA_NO_DEVICE", () => mockEnvironment("no-device"), /no device/],
  ];

  it.each(cases)("%s is %s, and auto goes on without it", (_, reason, environment, message) => {
    const { status, told, device, why, y } = JSON.parse(run(ask, environment())) as Answer;
    expect(status).toMatchObject({ available: false, reason });
    expect(status.message).toMatch(message);
    expect(status.hint).toMatch(/^[A-Z].*\.$/);
    expect(told).toEqual(Array(4).fill(["ERR_LATENT_DEVICE_UNAVAILABLE", reason, true, true]));
    expect([device, why, y]).toEqual(["cpu", `${reason}: ${status.message}`, [3, 4]]);
  });

  it.each(cases.slice(0, 3))("doctor tells of %s and does not fail", (_, reason, environment) => {
    const env = { ...process.env, LATENTWIRE_CUDA_BACKEND: "", ...environment() };
    const { stdout, status } = spawnSync(process.execPath, ["dist/cli/main.js", "doctor", "--json"], { env, encoding: "utf8" });
    expect(status).toBe(0);
    const checks = JSON.parse(stdout) as readonly { name: string; status: string; found: string; fix: string }[];
    expect(checks.find((one) => one.name === "gpu")).toMatchObject({ status: "none", found: expect.stringContaining(reason) as string });
    expect(checks.find((one) => one.name === "gpu")?.fix).not.toBe("");
  });
});

describe.skipIf(process.platform !== "linux")("a device that is there", () => {
  it("is checked by doctor against the cpu", () => {
    const env = { ...process.env, ...mockEnvironment() };
    const { stdout, status } = spawnSync(process.execPath, ["dist/cli/main.js", "doctor", "--json"], { env, encoding: "utf8" });
    expect(status).toBe(0);
    const checks = JSON.parse(stdout) as readonly { name: string; status: string; found: string }[];
    expect(checks.find((one) => one.name === "gpu")).toMatchObject({ status: "ok", found: expect.stringContaining("mock") as string });
  });

  it("is lost for good when it is lost, and the process goes on", () => {
    const script = `
      import { writeFileSync } from "node:fs";
      const { packProjection, deviceMemory, Tensor } = latentwire;
      const codes = [];
      const code = (promise) => promise.then(() => codes.push("fine"), (error) => codes.push(error.code));
      const weights = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 0, 0, 1));
      const there = await packProjection({ layers: [{ weights }], device: "cuda" });
      const held = await weights.to("cuda");
      writeFileSync(process.env.LATENTWIRE_MOCK_FAULTS, "lost 1");
      await Promise.all([code(there.apply(held)), code(held.to("cpu")), code(weights.to("cuda"))]);
      writeFileSync(process.env.LATENTWIRE_MOCK_FAULTS, "");
      await code(weights.to("cuda"));
      await code(deviceMemory());
      await code(packProjection({ layers: [{ weights }], device: "cuda" }));
      held.dispose();
      there.dispose();
      const here = await packProjection({ layers: [{ weights }] });
      console.log(JSON.stringify({ codes: [...new Set(codes)], y: [...here.applySync(Float32Array.of(1, 2))] }));`;
    expect(JSON.parse(run(script, mockEnvironment()))).toEqual({ codes: ["ERR_LATENT_DEVICE_LOST"], y: [1, 2] });
  });

  it("does not keep a process alive, and lets it exit in the middle of work", () => {
    const idle = `const t = latentwire.Tensor.zeros([4]); const there = await t.to("cuda"); console.log(there.device);`;
    expect(run(idle, mockEnvironment())).toBe("cuda");
    const busy = `
      const t = latentwire.Tensor.zeros([1 << 20]);
      for (let i = 0; i < 10; i++) void t.to("cuda").catch(() => undefined);
      setTimeout(() => { console.log("out"); process.exit(0); }, 5);`;
    expect(run(busy, mockEnvironment("slow 20"))).toBe("out");
  });
});
