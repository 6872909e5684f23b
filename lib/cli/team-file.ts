// Agents described in a JSON file, and the models that they are of.
import { readFile } from "node:fs/promises";
import path from "node:path";
import { checkKeys, checkString, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import type { Agent, AgentOptions } from "../agents/agent.js";
import type { Model } from "../models/model.js";
import { openModel, type ModelAccess } from "./model-access.js";

export interface TeamMember {
  readonly options: AgentOptions;
  /** A GGUF file of its own. */
  readonly model: string | undefined;
}

/** `{ "agents": [{ "name", "model"?, "system"?, "user"?, "think"?, "generate"? }] }`; the files of models are relative to the file. */
export async function readTeam(file: string): Promise<readonly TeamMember[]> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(file, "utf8"));
  } catch (cause) {
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `cannot read the file of agents ${file}: ${String(cause)}`, { cause });
  }
  checkKeys(`the file of agents ${file}`, value, ["agents"]);
  const agents: unknown = Reflect.get(value as object, "agents");
  if (!Array.isArray(agents) || agents.length === 0) throw invalid("agents", "an array of at least one agent", agents);
  return agents.map((agent: unknown, i) => {
    checkKeys(`agents[${i}]`, agent, ["name", "model", "system", "user", "think", "generate"]);
    const { model, ...options } = agent as AgentOptions & { readonly model?: unknown };
    if (options.user !== undefined) checkString(`agents[${i}].user`, options.user);
    const own = model === undefined ? undefined : checkString(`agents[${i}].model`, model);
    return { options, model: own === undefined ? undefined : path.resolve(path.dirname(file), own) };
  });
}

/** Agents and the models that they are of, each loaded once. */
export class LoadedTeam implements AsyncDisposable {
  private constructor(
    readonly agents: readonly Agent[],
    readonly models: readonly Model[],
  ) {}

  /** `model`: of the agents that name none. */
  static async load(
    members: readonly TeamMember[],
    model: string | undefined,
    access: ModelAccess,
    signal: AbortSignal,
  ): Promise<LoadedTeam> {
    const loaded = new Map<string, Model>();
    try {
      const agents: Agent[] = [];
      for (const member of members) {
        const file = member.model ?? model;
        if (file === undefined)
          throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `agent '${member.options.name}' names no model: give one, or --model`);
        const of = loaded.get(file) ?? (await openModel(file, access, signal));
        loaded.set(file, of);
        agents.push(of.agent(member.options));
      }
      return new LoadedTeam(agents, [...loaded.values()]);
    } catch (error) {
      await Promise.all([...loaded.values()].map((one) => one.dispose()));
      throw error;
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.models.map((model) => model.dispose()));
  }
}
