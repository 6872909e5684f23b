// Environments that end while native work runs. Each of these once took the process down in another addon, so they run often and at random moments.
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { Worker } from "node:worker_threads";
import { describe, expect, it } from "vitest";
import { cancel, run } from "../../lib/jobs.js";
import { native, packageRoot } from "../../lib/native.js";
import { Tensor } from "../../lib/tensor.js";

const addon = process.env["LATENTWIRE_NATIVE_PATH"] ?? path.join(packageRoot, "build", "Release", "latentwire.node");
const script = new URL("./worker.mjs", import.meta.url);
const rounds = Number(process.env["LATENTWIRE_TEST_ROUNDS"] ?? 200);

function start(mode: "run" | "exit" | "process-exit" | "throw"): Worker {
  return new Worker(script, { workerData: { addon: path.resolve(addon), mode } });
}

interface Resizable extends ArrayBuffer {
  resize(size: number): void;
}

/** Newer than the language level that the package is compiled for. */
function resizableBuffer(size: number): Resizable {
  return Reflect.construct(ArrayBuffer, [size, { maxByteLength: 2 * size }]) as Resizable;
}

async function sleep(ms: number): Promise<void> {
  await new Promise((resolve) => {
    setTimeout(resolve, ms);
  });
}

/** Fails after a generous time instead of hanging: an environment that waits for a lost job would never end. */
async function within<T>(what: string, promise: Promise<T>, ms = 30_000): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Error(`${what} took more than ${ms} ms`));
    }, ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

describe("a worker with jobs in flight", () => {
  it(`can be terminated at any moment (${rounds} times)`, { timeout: 300_000 }, async () => {
    native();
    const lanes = 4;
    let ended = 0;
    const lane = async (): Promise<void> => {
      while (ended < rounds) {
        ended++;
        const worker = start("run");
        // sometimes before the addon is loaded, mostly in the middle of work
        if (Math.random() < 0.9) await within("start", once(worker, "message"));
        await sleep(Math.random() * 10);
        await within("terminate", worker.terminate());
      }
    };
    await Promise.all(Array.from({ length: lanes }, lane));
    // this environment is not touched
    await expect(run(native().diagnostics.sleepJob(1))).resolves.toBeUndefined();
  });

  it("does not wait for its longest job", async () => {
    const worker = start("run");
    await once(worker, "message");
    const begin = performance.now();
    await within("terminate", worker.terminate());
    expect(performance.now() - begin).toBeLessThan(10_000);
  });

  it("does not wait for another environment's job that holds the pool", async () => {
    const blockers = Array.from({ length: 300 }, () => native().diagnostics.sleepJob(3_600_000));
    const worker = start("run");
    await once(worker, "message");
    await within("terminate", worker.terminate());
    for (const job of blockers) cancel(job);
    await Promise.allSettled(blockers.map((job) => job.promise));
  });

  it("may exit by itself, by process.exit and by an exception", async () => {
    for (let i = 0; i < 10; i++) {
      const normal = start("exit");
      expect(await within("exit", once(normal, "exit"))).toEqual([0]);
      const exiting = start("process-exit");
      expect(await within("process.exit", once(exiting, "exit"))).toEqual([7]);
      const throwing = start("throw");
      const error = once(throwing, "error");
      await within("exception", error);
    }
  });

  it("may be the only one that loads the addon, again and again", () => {
    // Node unloads an addon with its last environment, but the pool's threads live on inside it
    const program = `
      const { Worker } = require("node:worker_threads");
      const { once } = require("node:events");
      (async () => {
        for (let i = 0; i < 5; i++) {
          const worker = new Worker(${JSON.stringify(script.pathname)}, { workerData: { addon: ${JSON.stringify(path.resolve(addon))}, mode: i % 2 ? "run" : "exit" } });
          if (i % 2) { await once(worker, "message"); await worker.terminate(); } else await once(worker, "exit");
          await new Promise((resolve) => setTimeout(resolve, 20));
        }
        console.log("alive");
      })();`;
    expect(execFileSync(process.execPath, ["-e", program], { encoding: "utf8", timeout: 60_000 })).toBe("alive\n");
  });
});

describe("a process with jobs in flight", () => {
  it.each([
    ["ends when the last job is done", "n.diagnostics.sleepJob(30).promise.then(() => console.log('done'))", "done\n"],
    [
      "may call process.exit",
      "for (let i = 0; i < 20; i++) n.diagnostics.sleepJob(3600000); setTimeout(() => { console.log('out'); process.exit(0); }, 5)",
      "out\n",
    ],
    ["is not kept alive by the addon", "n.diagnostics.noop(); console.log('idle')", "idle\n"],
  ])("%s", (_, code, output) => {
    const program = `const n = require(${JSON.stringify(path.resolve(addon))}); ${code}`;
    expect(execFileSync(process.execPath, ["-e", program], { encoding: "utf8", timeout: 60_000 })).toBe(output);
  });
});

describe("buffers under a running job", () => {
  it("may be transferred or resized, because the data was copied", async () => {
    const work: Promise<Tensor>[] = [];
    for (let i = 0; i < 50; i++) {
      const data = new Float32Array(1 << 16).fill(i);
      const tensor = Tensor.fromTyped("f32", [data.length], data);
      work.push(tensor.convert("f16"));
      structuredClone(data.buffer, { transfer: [data.buffer] });
      const resizable = resizableBuffer(1 << 18);
      const view = new Float32Array(resizable).fill(i);
      work.push(Tensor.fromTyped("f32", [view.length], view).convert("bf16"));
      resizable.resize(0);
      tensor.dispose();
    }
    const results = await Promise.all(work);
    results.forEach((tensor, index) => {
      expect(tensor.toFloat32().every((value) => value === Math.floor(index / 2))).toBe(true);
      tensor.dispose();
    });
  });
});
