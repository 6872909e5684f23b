// Environments that end while copies and kernels of the device run: each has its own stream, and what it held goes back.
import { once } from "node:events";
import path from "node:path";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { deviceMemory, Tensor } from "../../lib/index.js";
import { native, packageRoot } from "../../lib/native.js";
import { codeOf, numbers, sameBits } from "../helpers.js";
import { withFaults } from "../mock.js";

const addon = path.resolve(process.env["LATENTWIRE_NATIVE_PATH"] ?? path.join(packageRoot, "build", "Release", "latentwire.node"));
const rounds = Math.ceil(Number(process.env["LATENTWIRE_TEST_ROUNDS"] ?? 100) / 4);

function start(mode: "run" | "exit" | "share"): Worker {
  return new Worker(new URL("./device-worker.mjs", import.meta.url), { workerData: { addon, mode } });
}

describe("a worker with work on the device", () => {
  it(`can be terminated at any moment (${rounds} times), and its memory goes back`, { timeout: 300_000 }, async () => {
    native();
    const held = Tensor.fromTyped("f32", [1000], numbers(1000, 1));
    using there = await held.to("cuda");
    const { processBytes } = await deviceMemory();
    await withFaults("slow 2", async () => {
      let ended = 0;
      const lane = async (): Promise<void> => {
        while (ended < rounds) {
          ended++;
          const worker = start("run");
          if (Math.random() < 0.9) await once(worker, "message");
          await new Promise((resolve) => setTimeout(resolve, Math.random() * 20));
          await worker.terminate();
        }
      };
      await Promise.all([lane(), lane(), lane()]);
    });
    // this environment's stream is its own
    using back = await there.to("cpu");
    expect(sameBits(back.toTyped(), held.toTyped())).toBe(true);
    expect((await deviceMemory()).processBytes).toBe(processBytes);
  });

  it("shares its tensors with other threads", async () => {
    const worker = start("share");
    const [reference] = (await once(worker, "message")) as [Parameters<typeof Tensor.fromShared>[0]];
    using opened = await Tensor.fromShared(reference);
    worker.postMessage("have it");
    expect(await once(worker, "exit")).toEqual([0]);
    using back = await opened.to("cpu");
    expect([...back.toTyped()]).toEqual([1, 2, 3]);
    expect(await codeOf(() => Tensor.fromShared(reference))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });

  it("may exit by itself", async () => {
    const worker = start("exit");
    const [message] = (await once(worker, "message")) as [number[]];
    expect(message).toEqual([1, 2, 3]);
    expect(await once(worker, "exit")).toEqual([0]);
  });
});
