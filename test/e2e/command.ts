// The command line in a process of its own, as a user has it.
import { spawn, type ChildProcess } from "node:child_process";
import path from "node:path";

const main = path.resolve("dist/cli/main.js");

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A command that goes on until it is told to end. */
export interface Running {
  readonly kill: (signal: NodeJS.Signals) => void;
  /** Resolves with all that it has said, on stdout and stderr, when that matches; rejects if it ends before. */
  readonly said: (pattern: RegExp) => Promise<string>;
  readonly ended: Promise<Ended>;
}

const started = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of started) child.kill("SIGKILL");
});

export function startLatentwire(args: readonly string[], env: NodeJS.ProcessEnv = {}): Running {
  const child = spawn(process.execPath, [main, ...args], { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  started.add(child);
  const told = { stdout: "", stderr: "" };
  const waiting = new Set<() => void>();
  let code: number | null | undefined;
  const hear = (stream: "stdout" | "stderr") => (data: Buffer) => {
    told[stream] += data.toString();
    for (const look of waiting) look();
  };
  child.stdout.on("data", hear("stdout"));
  child.stderr.on("data", hear("stderr"));
  const ended = new Promise<Ended>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (exit) => {
      code = exit;
      started.delete(child);
      for (const look of waiting) look();
      resolve({ code: exit, ...told });
    });
  });
  return {
    kill: (signal) => child.kill(signal),
    said: (pattern) =>
      new Promise((resolve, reject) => {
        const look = (): void => {
          const all = told.stdout + told.stderr;
          if (pattern.test(all)) resolve(all);
          else if (code !== undefined) reject(new Error(`it ended with ${String(code)}, and said: ${all}`));
          else return;
          waiting.delete(look);
        };
        waiting.add(look);
        look();
      }),
    ended,
  };
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
