// Loading the addon: what it offers, and what a user reads when it cannot be loaded.
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { LatentError } from "../../lib/errors.js";
import { loadNative, native, packageRoot } from "../../lib/native.js";

const folder = mkdtempSync(path.join(tmpdir(), "latentwire-load-"));
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function failure(file: string | undefined, root = packageRoot): LatentError {
  try {
    loadNative(file, root);
  } catch (error) {
    if (LatentError.isInstance(error)) return error;
    throw error;
  }
  throw new Error("it loaded");
}

describe("the addon", () => {
  it("is loaded once and has the version of the package", () => {
    expect(native()).toBe(native());
    expect(native().version).toMatch(/^\d+\.\d+\.\d+/);
  });

  it("knows this processor", () => {
    const features = native().cpuFeatures();
    expect(features).toContain(process.arch === "arm64" ? "neon" : "sse4.2");
    expect(new Set(features).size).toBe(features.length);
  });
});

describe("a failure to load", () => {
  it("says on what machine, what was tried, and the way out", () => {
    const file = path.join(folder, "missing.node");
    const error = failure(file);
    expect(error.code).toBe("ERR_LATENT_NATIVE_LOAD");
    for (const part of [process.platform, process.arch, process.version, file]) expect(error.message).toContain(part);
    expect(error.message).not.toContain("\n");
    expect(error.details).toMatchObject({ platform: process.platform, arch: process.arch, node: process.version, tried: file });
    expect(error.details.libc).toMatch(/^(glibc \d+\.\d+|musl|no libc)$/);
    expect(error.hint).toContain("LATENTWIRE_NATIVE_PATH");
    expect(error.cause).toBeInstanceOf(Error);
  });

  it("names the folders when there is no build for this platform", () => {
    expect(failure(undefined, folder).message).toContain(path.join(folder, "{build/Release,prebuilds}"));
  });

  it("covers a file that is no library, and a module that is not the addon", () => {
    const text = path.join(folder, "text.node");
    writeFileSync(text, "not a library");
    expect(failure(text).code).toBe("ERR_LATENT_NATIVE_LOAD");
    const other = path.join(folder, "other.cjs");
    writeFileSync(other, "module.exports = { version: 1 };");
    expect(failure(other).message).toContain("not the addon");
  });

  it("covers an addon of another version", () => {
    const root = path.join(folder, "package");
    mkdirSync(root);
    writeFileSync(path.join(root, "package.json"), JSON.stringify({ version: "999.0.0" }));
    const addon = path.join(root, "addon.cjs");
    writeFileSync(addon, "module.exports = { version: '1.2.3', Tensor: class {} };");
    expect(failure(addon, root).message).toMatch(/version 1\.2\.3, the package of version 999\.0\.0/);
    cpSync(addon, path.join(root, "same.cjs"));
    writeFileSync(path.join(root, "package.json"), JSON.stringify({ version: "1.2.3" }));
    const fresh = path.join(root, "fresh");
    mkdirSync(fresh);
    writeFileSync(path.join(fresh, "package.json"), JSON.stringify({ version: "1.2.3" }));
    expect(loadNative(path.join(root, "same.cjs"), fresh).version).toBe("1.2.3");
  });
});
