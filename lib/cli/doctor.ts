// `latentwire doctor`: can this machine run the package, and if not, what to do; and, if asked, whether a bus can be used. Fails (exit 1) if any check fails. A GPU is no condition: where
// there is none to be used, it says at which stage it was missed.
import { deviceStatus } from "../devices.js";
import { LatentError } from "../errors.js";
import { packProjection } from "../kernels/projection.js";
import { bundledModel } from "../models/bundled.js";
import { loadModel } from "../models/model.js";
import { loadRuntime } from "../models/runtime.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import type { Bus } from "../bus/bus.js";
import { connectTo, type BusAccessOptions } from "./bus-access.js";
import type { Output } from "./output.js";

/** How long a bus may take to answer. */
const busMs = 10_000;

interface Check {
  readonly name: string;
  readonly status: "ok" | "warn" | "fail" | "none";
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

/** Whether there is a GPU, and if so, whether it computes what the CPU does. */
async function checkGpu(): Promise<Check> {
  const status = await deviceStatus();
  if (!status.available) return { name: "gpu", status: "none", found: `${status.reason}: ${status.message}`, fix: status.hint };
  return check("gpu", async () => {
    using weights = Tensor.fromTyped(
      "f32",
      [4, 4],
      Float32Array.from({ length: 16 }, (_, i) => Math.sin(i)),
    );
    using there = await packProjection({ layers: [{ weights }], norm: { kind: "rms" }, device: "cuda" });
    using here = await packProjection({ layers: [{ weights }], norm: { kind: "rms" } });
    const row = Float32Array.of(1, -2, 3, -4);
    using result = await there.apply(row);
    const expected = here.applySync(row);
    if (!result.toFloat32().every((value, i) => Math.abs(value - (expected[i] ?? 0)) < 1e-4))
      throw new Error(`${status.backend} computes another result than the CPU; do not use it here, and please report it`);
    const names = status.devices.map((one) => `${one.name} (${one.computeCapability}, driver ${one.driver})`);
    return `${status.backend} ${status.build}: ${names.join(", ")}`;
  });
}

/** Whether a bus answers and lets this side in, and who is there. */
async function checkBus(address: string, options: BusAccessOptions, signal: AbortSignal): Promise<readonly Check[]> {
  let present: Check = { name: "agents", status: "none", found: "not asked, for the bus cannot be reached", fix: "" };
  const reached = await check("bus", async () => {
    const late = AbortSignal.timeout(busMs);
    try {
      await using bus = await connectTo(address, options, undefined, AbortSignal.any([signal, late]));
      present = whoIsThere(bus);
      return `${bus.address} answers, and lets this side in`;
    } catch (error) {
      if (late.aborted) throw new LatentError("ERR_LATENT_BUS_DISCONNECTED", `nothing answered within ${busMs} ms`, { cause: error });
      throw error;
    }
  });
  return [reached, present];
}

function whoIsThere(bus: Bus): Check {
  const names = (all: readonly { readonly name: string }[]): string => [...new Set(all.map(({ name }) => name))].sort().join(", ");
  const [agents, inboxes] = [names(bus.agents()), names(bus.inboxes())];
  const found = `agents: ${agents || "none"}; inboxes: ${inboxes || "none"}`;
  if (agents !== "") return { name: "agents", status: "ok", found, fix: "" };
  return { name: "agents", status: "warn", found, fix: "Nobody serves agents there now; `latentwire serve --connect` does." };
}

export async function doctor(output: Output, options: BusAccessOptions & { readonly bus?: string }, signal: AbortSignal): Promise<void> {
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
    await checkGpu(),
    ...(options.bus === undefined ? [] : await checkBus(options.bus, options, signal)),
  ];
  output.result(checks, () =>
    output.table(
      ["check", "status", "found", "fix"],
      checks.map((one) => [one.name, one.status, one.found, one.fix]),
    ),
  );
  if (checks.some((one) => one.status === "fail")) process.exitCode = 1;
}
