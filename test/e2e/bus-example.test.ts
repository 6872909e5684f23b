// The examples of the bus as a user runs them: two agents in one process, and three hosts of which one is killed.
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { afterEach, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const script = path.join(root, "examples", "three-hosts.sh");
const isRoot = process.getuid?.() === 0;
const namespaces = isRoot && spawnSync("unshare", ["--net", "--pid", "--fork", "--mount-proc", "true"]).status === 0;
const hasNats = spawnSync("nats-server", ["--version"]).status === 0;

const running = new Set<ChildProcess>();
afterEach(() => {
  for (const child of running) child.kill("SIGTERM");
});

function start(args: readonly string[]): { child: ChildProcess; output: () => string; ended: Promise<unknown[]> } {
  const child = spawn(script, args, { stdio: ["ignore", "pipe", "pipe"] });
  running.add(child);
  const ended = once(child, "close").finally(() => running.delete(child));
  let text = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (data: Buffer) => (text += data.toString()));
  return { child, output: () => text, ended };
}

/** What the script makes, and must have removed when it ends. */
const leftovers = (pid: number | undefined): string[] => {
  const links = readdirSync("/sys/class/net").filter((name) => name === `lw${pid}` || name.startsWith(`lw${pid}-`));
  const { stdout } = spawnSync("ip", ["netns", "list"], { encoding: "utf8" });
  // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- null where there is no such program
  return [...links, ...(stdout ?? "").split("\n").filter((line) => line.startsWith(`lw${pid}-`))];
};

async function converses(args: readonly string[], way: "bus" | "shared-memory"): Promise<void> {
  const { child, output, ended } = start(args);
  const [code] = await ended;
  const shown = output();
  expect(shown).toContain("west was killed with a question to critic before it");
  // five answers, by three forms and two models
  expect(shown.match(/'lima' {1,}│ true/g), shown).toHaveLength(5);
  expect(shown).toMatch(new RegExp(`'kv: reader to critic' +│ 'kv' +│ '${way}'`));
  expect(shown).toMatch(/'latent: critic to solver' +│ 'latent'/);
  expect(shown).toMatch(/'latent: critic to stranger' +│ 'text' .*it reads latents of other spaces/);
  expect(shown).toMatch(/'text: critic to solver' +│ 'text'/);
  expect(code).toBe(0);
  expect(leftovers(child.pid)).toEqual([]);
}

describe.skipIf(process.platform !== "linux")("examples/three-hosts.sh", () => {
  it.runIf(hasNats)("three processes over NATS", () => converses(["--processes"], "shared-memory"), 240_000);

  it("three processes over a hub", () => converses(["--processes", "--hub"], "shared-memory"), 240_000);

  it.runIf(namespaces && hasNats)(
    "three network namespaces over NATS: nothing is shared but the network",
    () => converses([], "bus"),
    240_000,
  );

  // "close" comes when nobody has the script's output any more: no host is left either
  it.each(namespaces ? [["processes"], ["namespaces"]] : [["processes"]])(
    "an interrupt leaves nothing behind: %s",
    async (kind) => {
      const { child, output, ended } = start(["--hub", ...(kind === "processes" ? ["--processes"] : [])]);
      while (!output().includes("was killed")) await Promise.race([once(child.stdout ?? child, "data"), ended]);
      child.kill("SIGINT");
      const [code] = await ended;
      expect(code).toBe(130);
      expect(leftovers(child.pid)).toEqual([]);
    },
    240_000,
  );

  it("says which options there are", () => {
    const { status, stderr } = spawnSync(script, ["--hosts"], { encoding: "utf8" });
    expect(stderr).toContain("--hub");
    expect(status).toBe(2);
  });
});

describe("examples/bus.ts", () => {
  it("answers over the bus, and puts latents into an inbox; README and documentation show it", () => {
    const source = readFileSync(path.join(root, "examples", "bus.ts"), "utf8");
    const { outputText } = ts.transpileModule(source, {
      compilerOptions: { target: ts.ScriptTarget.ES2022, module: ts.ModuleKind.ESNext },
    });
    mkdirSync(path.join(root, "build"), { recursive: true });
    const folder = mkdtempSync(path.join(root, "build", "example-"));
    try {
      writeFileSync(path.join(folder, "example.mjs"), outputText);
      const { status, stdout } = spawnSync(process.execPath, ["example.mjs"], { cwd: folder, encoding: "utf8", timeout: 50_000 });
      expect(stdout).toMatch(/^ ?oslo\n\[\{"form":"kv","way":"process"/);
      expect(stdout).toMatch(/^here sent latent, 8 rows: passed on: it can use it as it is$/m);
      expect(status).toBe(0);
    } finally {
      rmSync(folder, { recursive: true });
    }
    expect(readFileSync(path.join(root, "docs", "message-passing.md"), "utf8")).toContain(`\`\`\`ts\n${source}\`\`\`\n`);
  });
});
