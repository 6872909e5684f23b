// `latentwire run`: a pipe of agents described in a JSON file.
import { invalid } from "../check.js";
import type { Medium } from "../agents/events.js";
import { pipe } from "../agents/pipe.js";
import type { ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";
import { LoadedTeam, readTeam } from "./team-file.js";

interface RunOptions extends ModelAccess {
  readonly argument?: string;
  readonly model: string;
  readonly team: string;
  readonly medium: Medium;
}

export async function run(output: Output, options: RunOptions, signal: AbortSignal): Promise<void> {
  await using team = await LoadedTeam.load(await readTeam(options.team), options.model, options, signal);
  const [first, ...rest] = team.agents;
  if (first === undefined) throw invalid("agents", "at least one agent", team.agents);
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
