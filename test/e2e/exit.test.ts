// A process may exit at any moment: what its native threads are at then ends first, and the exit code is its own.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const script = fileURLToPath(new URL("exit-process.mjs", import.meta.url));

describe("process.exit in the middle of", () => {
  it.each(["prefill", "think", "generate"])("%s, or of loading before it, ends as it says", async (what) => {
    for (let ms = 10; ms <= 200; ms += 15) {
      const child = spawn(process.execPath, [script, what, String(ms)], { stdio: ["ignore", "ignore", "pipe"] });
      const [code, signal] = (await once(child, "exit")) as [number | null, string | null];
      expect({ ms, code, signal }).toEqual({ ms, code: 7, signal: null });
    }
  });
});
