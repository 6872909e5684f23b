// The command line in a process of its own, as a user has it.
import { spawn } from "node:child_process";
import path from "node:path";

const main = path.resolve("dist/cli/main.js");

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command; with `interruptAt` it sends itself SIGINT when it says that, so that the signal never comes too late. */
export function latentwire(
  args: readonly string[],
  options: { readonly interruptAt?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const hook = `const write = process.stderr.write.bind(process.stderr);
      process.stderr.write = (text, ...rest) => {
        if (String(text).includes(${JSON.stringify(options.interruptAt)})) process.kill(process.pid, "SIGINT");
        return write(text, ...rest);
      };`;
    const flags = options.interruptAt === undefined ? [] : ["--import", `data:text/javascript,${encodeURIComponent(hook)}`];
    const child = spawn(process.execPath, [...flags, main, ...args], {
      env: { ...process.env, ...options.env },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (data: Buffer) => (stdout += data.toString()));
    child.stderr.on("data", (data: Buffer) => (stderr += data.toString()));
    child.on("error", reject);
    child.on("close", (code) => {
      resolve({ code, stdout, stderr });
    });
  });
}
