// `latentwire run`: a pipe of agents described in a JSON file.
import { readFile } from "node:fs/promises";
import { checkKeys, checkString, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { AgentOptions } from "../agents/agent.js";
import type { Medium } from "../agents/events.js";
import { pipe } from "../agents/pipe.js";
import { loadModel } from "../models/model.js";
import type { Output } from "./output.js";

interface RunOptions {
  readonly argument?: string;
  readonly model: string;
  readonly team: string;
  readonly medium: Medium;
}

async function readTeam(file: string): Promise<readonly AgentOptions[]> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `cannot read the team file ${file}: ${String(cause)}`, { cause });
  }
  checkKeys("the team file", value, ["agents"]);
  const agents: unknown = Reflect.get(value as object, "agents");
  if (!Array.isArray(agents) || agents.length === 0) throw invalid("agents", "an array of at least one agent", agents);
  return agents.map((agent: unknown, i) => {
    checkKeys(`agents[${i}]`, agent, ["name", "system", "user", "think", "generate"]);
    const options = agent as AgentOptions;
    if (options.user !== undefined) checkString(`agents[${i}].user`, options.user);
    return options;
  });
}

export async function run(output: Output, options: RunOptions, signal: AbortSignal): Promise<void> {
  const team = await readTeam(options.team);
  await using model = await loadModel(options.model, { signal });
  const [first, ...rest] = team.map((agent) => model.agent(agent));
  if (first === undefined) throw invalid("agents", "at least one agent", team);
  const stream = pipe(first, ...rest).stream(options.argument ?? "", { medium: options.medium, signal });
  for await (const event of stream) {
    if (event.type === "agent-start") output.progress(`${event.agent}: starts with ${event.inherited} positions`);
    if (event.type === "hop-end") {
      const { hop } = event;
      output.progress(`${hop.from} -> ${hop.to} by ${hop.medium}: ${hop.positions} positions, ${hop.bytes} bytes, ${hop.ms.toFixed(1)} ms`);
    }
  }
  const result = await stream.answer;
  output.result(result, () => result.text);
}
