// The one list of codes, and what becomes of errors on their way from native code to the user.
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { cancelledCode, isLatentErrorCode, LatentError, latentErrorCodes, toLatentError } from "../../lib/errors.js";
import { cancel, run } from "../../lib/jobs.js";
import { native } from "../../lib/native.js";

const ownCodes = [
  "ERR_LATENT_NATIVE_LOAD",
  "ERR_LATENT_TEMPLATE",
  "ERR_LATENT_MODEL_DIGEST",
  "ERR_LATENT_KV_PEER_LOST",
  "ERR_LATENT_KV_STALLED",
  "ERR_LATENT_KV_AUTH",
  "ERR_LATENT_KV_DISK_FULL",
  "ERR_LATENT_KV_FORGED",
  "ERR_LATENT_PACKAGE_MISSING",
  "ERR_LATENT_FILE_FORMAT",
  "ERR_LATENT_ILL_CONDITIONED",
  "ERR_LATENT_TRANSLATOR_WEAK",
  "ERR_LATENT_SUITE_FORMAT",
  "ERR_LATENT_BUS_DISCONNECTED",
  "ERR_LATENT_BUS_UNAUTHORIZED",
  "ERR_LATENT_BUS_LIMIT",
  "ERR_LATENT_BUS_SUPERSEDED",
  "ERR_LATENT_BUS_ENVELOPE",
  "ERR_LATENT_BUS_FORGED",
  "ERR_LATENT_BUS_DEADLINE",
  "ERR_LATENT_BUS_UNKNOWN_AGENT",
  "ERR_LATENT_BUS_GONE",
  "ERR_LATENT_BUS_DIGEST",
  "ERR_LATENT_BUS_FORM",
  "ERR_LATENT_BUS_PEER",
  "ERR_LATENT_EVAL_RESUME",
];

function nativeError(code: string): Error {
  return Object.assign(new Error("told by native code"), { code });
}

describe("the list of codes", () => {
  it("is that of native/core/status.h, plus those that only TypeScript raises", () => {
    const header = readFileSync(new URL("../../native/core/status.h", import.meta.url), "utf8");
    const codes = [...header.matchAll(/X\(\w+, "(ERR_LATENT_\w+)"\)/g)].map((match) => match[1]);
    expect(codes.length).toBeGreaterThan(20);
    expect(codes).toContain(cancelledCode);
    expect([...latentErrorCodes].sort()).toEqual([...codes.filter((code) => code !== cancelledCode), ...ownCodes].sort());
  });

  it("has one line of advice for each", () => {
    for (const code of latentErrorCodes) {
      const { hint } = new LatentError(code, "x");
      expect(hint).toMatch(/^[A-Z].*\.$/);
      expect(hint).not.toContain("\n");
    }
  });

  it("knows its members", () => {
    expect(isLatentErrorCode("ERR_LATENT_DTYPE")).toBe(true);
    for (const other of [cancelledCode, "toString", "", 5, null, undefined]) expect(isLatentErrorCode(other)).toBe(false);
  });
});

describe("LatentError", () => {
  it("carries code, hint, cause and details", () => {
    const cause = new Error("below");
    const error = new LatentError("ERR_LATENT_DTYPE", "message", { cause, hint: "do this", details: { wanted: "f32" } });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      name: "LatentError",
      code: "ERR_LATENT_DTYPE",
      message: "message",
      hint: "do this",
      cause,
      details: { wanted: "f32" },
    });
    expect("cause" in new LatentError("ERR_LATENT_DTYPE", "message")).toBe(false);
  });

  it("is recognised across copies of the package, and nothing else is", () => {
    const foreign = Object.assign(new Error("x"), { [Symbol.for("latentwire.LatentError")]: true });
    expect(LatentError.isInstance(foreign)).toBe(true);
    expect(LatentError.isInstance(new LatentError("ERR_LATENT_DTYPE", "x"))).toBe(true);
    for (const other of [new Error("x"), nativeError("ERR_LATENT_DTYPE"), {}, null, undefined, "x"])
      expect(LatentError.isInstance(other)).toBe(false);
  });
});

describe("toLatentError", () => {
  it("maps each native code", () => {
    for (const code of latentErrorCodes) {
      const source = nativeError(code);
      expect(toLatentError(source)).toMatchObject({ name: "LatentError", code, message: "told by native code", cause: source });
    }
  });

  it("makes an AbortError of a cancellation", () => {
    expect(toLatentError(nativeError(cancelledCode))).toMatchObject({ name: "AbortError", message: "told by native code" });
  });

  it("leaves other errors alone and wraps what is none", () => {
    const others = [
      new RangeError("x"),
      nativeError("ENOENT"),
      new LatentError("ERR_LATENT_DTYPE", "x"),
      new DOMException("x", "AbortError"),
    ];
    for (const other of others) expect(toLatentError(other)).toBe(other);
    expect(toLatentError("text")).toMatchObject({ cause: "text" });
  });
});

describe("run", () => {
  it("rejects with the signal's reason when it aborts", async () => {
    const controller = new AbortController();
    const reason = new Error("enough");
    const running = run(native().diagnostics.sleepJob(60_000), controller.signal);
    setTimeout(() => {
      controller.abort(reason);
    }, 5);
    await expect(running).rejects.toBe(reason);
  });

  it("cancels at once under a signal that was aborted before", async () => {
    await expect(run(native().diagnostics.sleepJob(60_000), AbortSignal.abort())).rejects.toMatchObject({ name: "AbortError" });
  });

  it("rejects with an AbortError when the job itself is cancelled", async () => {
    const job = native().diagnostics.sleepJob(60_000);
    cancel(job);
    cancel(job);
    await expect(run(job)).rejects.toMatchObject({ name: "AbortError" });
  });

  it("resolves, and a later abort changes nothing", async () => {
    const controller = new AbortController();
    await expect(run(native().diagnostics.sleepJob(1), controller.signal)).resolves.toBeUndefined();
    controller.abort();
  });

  it("leaves a job alone that has ended, and refuses what is no id", async () => {
    const job = native().diagnostics.sleepJob(0);
    await run(job);
    cancel(job);
    cancel({ promise: job.promise, id: Number.MAX_SAFE_INTEGER });
    for (const id of [0, -1, 1.5, Number.NaN, "1" as never]) {
      expect(() => {
        native().cancelJob(id);
      }).toThrow(expect.objectContaining({ code: "ERR_LATENT_INVALID_ARGUMENT" }));
    }
  });

  it("cancels a job that is still queued without waiting for a worker", async () => {
    const jobs = Array.from({ length: 600 }, () => native().diagnostics.sleepJob(60_000));
    for (const job of jobs) cancel(job);
    const results = await Promise.allSettled(jobs.map((job) => run(job)));
    expect(results.every((result) => result.status === "rejected")).toBe(true);
  });
});
