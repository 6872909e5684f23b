// `latentwire doctor`: can this machine run the package, and if not, what to do. Fails (exit 1) if any check fails.
import { LatentError } from "../errors.js";
import { bundledModel } from "../models/bundled.js";
import { loadModel } from "../models/model.js";
import { loadRuntime } from "../models/runtime.js";
import { native } from "../native.js";
import type { Output } from "./output.js";

interface Check {
  readonly name: string;
  readonly status: "ok" | "fail";
  readonly found: string;
  readonly fix: string;
}

async function check(name: string, probe: () => Promise<string> | string): Promise<Check> {
  try {
    return { name, status: "ok", found: await probe(), fix: "" };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return { name, status: "fail", found, fix: LatentError.isInstance(error) ? error.hint : "" };
  }
}

export async function doctor(output: Output, _options: object, signal: AbortSignal): Promise<void> {
  const checks = [
    await check("node", () => {
      const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
      if (major < 20 || (major === 20 && minor < 19)) throw new Error(`Node ${process.version}; 20.19 or newer is needed`);
      return process.version;
    }),
    await check("addon", () => `${native().version}, CPU: ${native().cpuFeatures().join(" ")}`),
    await check("engine", async () => {
      const runtime = await loadRuntime();
      return `llama.cpp ${runtime.llamaVersion} in ${runtime.directory}; devices: ${runtime.devices.map((device) => device.name).join(", ")}`;
    }),
    await check("model", async () => {
      await using model = await loadModel(bundledModel(), { signal });
      await using pool = await model.createPool({ contextLength: 256, maxSequences: 1, signal });
      const sequence = pool.sequence();
      await sequence.prefill("hello", { signal });
      await sequence.think({ steps: 2, signal });
      return `the bundled model thinks: ${pool.counters().latentSteps} latent steps`;
    }),
  ];
  output.result(checks, () =>
    output.table(
      ["check", "status", "found", "fix"],
      checks.map((one) => [one.name, one.status, one.found, one.fix]),
    ),
  );
  if (checks.some((one) => one.status === "fail")) process.exitCode = 1;
}
