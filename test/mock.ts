// The mock of the CUDA backend for a test file: importing this makes it the process's backend, which holds for the whole file.
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { packageRoot } from "../lib/native.js";

const addon = process.env["LATENTWIRE_NATIVE_PATH"];
/** Beside the addon's folder, or that of the main build for an addon whose build has none. */
export const mockLibrary =
  [...(addon === undefined ? [] : [path.join(path.dirname(path.resolve(addon)), "..", "latentwire_mock.so")])].find((file) =>
    existsSync(file),
  ) ?? path.join(packageRoot, "build", "latentwire_mock.so");

const folder = mkdtempSync(path.join(tmpdir(), "latentwire-mock-"));
const faultFile = path.join(folder, "faults");
process.on("exit", () => {
  rmSync(folder, { recursive: true, force: true });
});

/** What a process needs in its environment to use the mock, with the faults of a line each; see cuda/mock/backend.cpp. */
export function mockEnvironment(faults = ""): Record<string, string> {
  const file = path.join(folder, `faults-${Math.random().toString(36).slice(2)}`);
  writeFileSync(file, faults);
  return { LATENTWIRE_CUDA_BACKEND: mockLibrary, LATENTWIRE_MOCK_FAULTS: file };
}

writeFileSync(faultFile, "");
process.env["LATENTWIRE_CUDA_BACKEND"] = mockLibrary;
process.env["LATENTWIRE_MOCK_FAULTS"] = faultFile;
process.env["LATENTWIRE_MOCK_BYTES"] = String(64 << 20);

/** Runs `call` with faults, and without any again after it. */
export async function withFaults<T>(faults: string, call: () => Promise<T>): Promise<T> {
  writeFileSync(faultFile, `${faults}\n`);
  try {
    return await call();
  } finally {
    writeFileSync(faultFile, "");
  }
}
