// `latentwire serve`: agents of a file, for others to call: on a hub that it opens, on a bus that is there, or both. A signal drains it: what runs is
// answered; a second one ends it at once.
import type { Medium } from "../agents/events.js";
import type { Agent } from "../agents/agent.js";
import { invalid } from "../check.js";
import { chatCompletions, type ChatCompletions } from "../bus/chat-completions.js";
import type { Bus } from "../bus/bus.js";
import { connect } from "../bus/connect.js";
import { listen, type Hub } from "../bus/brokers/hub/hub.js";
import { metric } from "../bus/metrics.js";
import type { Served } from "../bus/serve.js";
import { LatentError } from "../errors.js";
import { readAccess, type BusAccess, type BusAccessOptions } from "./bus-access.js";
import type { ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";
import { LoadedTeam, readTeam } from "./team-file.js";

export interface ServeCommand extends BusAccessOptions, ModelAccess {
  readonly model?: string;
  readonly agents: string;
  readonly listen?: string;
  readonly connect?: string;
  readonly name?: string;
  readonly team?: readonly string[];
  readonly medium?: Medium;
  readonly drainMs: number;
  readonly concurrency: number;
}

/** What all agents in their order are called, if `--team` says nothing else. */
const wholeTeam = "team";

export async function serve(output: Output, options: ServeCommand): Promise<void> {
  if (options.listen === undefined && options.connect === undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "serve takes --listen, --connect or both");
  const access = await readAccess(options);
  if (access.tls !== undefined && ![options.listen, options.connect].some((one) => one !== undefined && isEncrypted(one)))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "--tls-key, --tls-cert and --tls-ca are for https: and tls:");
  using signals = new Signals(output);
  const { signal } = signals;
  await using team = await LoadedTeam.load(await readTeam(options.agents), options.model, options, signal);
  const { agents } = team;
  const chat = chatCompletions({
    agents,
    teams: teamsOf(options.team, agents),
    ...(options.medium !== undefined && { medium: options.medium }),
    concurrency: options.concurrency,
  });
  const service = new Service(output, options, chat);
  try {
    await service.start(agents, access, signal);
    output.result(service.facts(agents), () => service.line(agents));
    await service.run(signal);
  } catch (error) {
    await service.close(0, signals.now);
    throw error;
  }
  await service.close(options.drainMs, signals.now);
  if (signals.now.aborted) process.exitCode = 130;
}

class Service {
  readonly #served: Served[] = [];
  readonly #buses: Bus[] = [];
  /** Nothing is served here any more. */
  readonly #over = new AbortController();
  #hub: Hub | undefined;
  #isReady = false;
  #left = 0;

  constructor(
    readonly output: Output,
    readonly options: ServeCommand,
    readonly chat: ChatCompletions,
  ) {}

  async start(agents: readonly Agent[], access: BusAccess, signal: AbortSignal): Promise<void> {
    const { listen: at, connect: to, name } = this.options;
    const naming = name === undefined ? {} : { name };
    if (at !== undefined) {
      const tls = at.startsWith("https:") ? serverTls(access) : undefined;
      this.#hub = await listen(at, {
        ...(access.token !== undefined && { token: access.token }),
        ...(tls !== undefined && { tls }),
        routes: this.chat.routes,
        metrics: () => this.#metrics(),
        ready: () => this.#isReady,
      });
      this.#buses.push(await connect(this.#hub, naming));
    }
    if (to !== undefined) {
      const { token, tls } = access;
      const showing = { ...(token !== undefined && { token }), ...(tls !== undefined && isEncrypted(to) && { tls }) };
      this.#buses.push(await connect(to, { ...naming, ...showing, signal }));
    }
    for (const bus of this.#buses) {
      const onEnd = (agent: string, error: Error): void => {
        this.#ended(bus, agent, error);
      };
      this.#left += agents.length;
      this.#served.push(await bus.serve(agents, { concurrency: this.options.concurrency, onEnd }));
    }
    signal.throwIfAborted();
    this.#isReady = true;
  }

  /** Resolves when it is to end, also because others have taken all names over; rejects when a bus was lost. */
  async run(signal: AbortSignal): Promise<void> {
    const both = AbortSignal.any([signal, this.#over.signal]);
    await new Promise<void>((resolve) => {
      both.addEventListener("abort", () => { resolve(); }, { once: true }); // prettier-ignore
      if (both.aborted) resolve();
    });
    if (!signal.aborted && !isTakenOver(this.#over.signal.reason)) this.#over.signal.throwIfAborted();
  }

  /** Answers what runs, for so long, or until `now`. Who is connected stays so until then; nobody else is let in. */
  async close(drainMs: number, now: AbortSignal): Promise<void> {
    this.#isReady = false;
    this.#hub?.drain();
    const cut = (): void => {
      for (const one of [this.chat, ...this.#served]) void one.close({ drainMs: 0 }).catch(() => undefined);
    };
    now.addEventListener("abort", cut, { once: true });
    await Promise.all([...this.#buses.map((bus) => bus.close({ drainMs })), this.chat.close({ drainMs })]);
    await this.#hub?.close({ drainMs: Math.min(drainMs, 5000) });
  }

  facts(agents: readonly Agent[]): object {
    return {
      ...{ address: this.#address, addresses: this.#addresses, name: this.#buses[0]?.name },
      agents: agents.map(({ name }) => name),
      models: this.#hub === undefined ? [] : this.chat.models,
    };
  }

  line(agents: readonly Agent[]): string {
    const names = agents.map(({ name }) => name).join(", ");
    const models = this.#hub === undefined ? "" : `; models of /v1/chat/completions: ${this.chat.models.join(", ")}`;
    return `serving ${names} at ${this.#addresses.join(" and ")}${models}`;
  }

  get #addresses(): readonly string[] {
    return this.#buses.map(({ address }) => address);
  }

  get #address(): string {
    return this.#addresses[0] ?? "";
  }

  #ended(bus: Bus, agent: string, error: Error): void {
    this.output.progress(`${agent} is not served at ${bus.address} any more: ${error.message}`);
    this.#left--;
    const isIdle = this.#left === 0 && this.#hub === undefined;
    if (isIdle || !isTakenOver(error)) this.#over.abort(error);
  }

  #metrics(): string {
    const { running, answered, failed, left, refused, promptTokens, completionTokens } = this.chat.counts;
    const all = this.#served.flatMap((served, i) => served.agents.map((one) => ({ ...one, address: this.#addresses[i] ?? "" })));
    const of = (count: "running" | "answered" | "failed") =>
      all.map(({ name: agent, address, ...counts }) => ({ labels: { agent, address }, value: counts[count] }));
    return [
      metric("agent_requests_running", "gauge", "Requests that agents are at.", of("running")),
      metric("agent_requests_answered_total", "counter", "Requests that agents answered.", of("answered")),
      metric("agent_requests_failed_total", "counter", "Requests that agents failed at.", of("failed")),
      metric("chat_requests_running", "gauge", "Chat completions in progress.", running),
      metric("chat_requests_total", "counter", "Chat completions that ended, by how.", [
        { labels: { end: "answered" }, value: answered },
        { labels: { end: "failed" }, value: failed },
        { labels: { end: "left" }, value: left },
        { labels: { end: "refused" }, value: refused },
      ]),
      metric("chat_prompt_tokens_total", "counter", "Positions that chat completions read, inherited ones included.", promptTokens),
      metric("chat_completion_tokens_total", "counter", "Tokens and latent steps that chat completions made.", completionTokens),
    ].join("");
  }
}

/** SIGINT and SIGTERM: after the first one nothing is begun any more, with the second one what runs is cut off. */
class Signals implements Disposable {
  readonly #stop = new AbortController();
  readonly #now = new AbortController();
  readonly #hear: () => void;

  constructor(output: Output) {
    this.#hear = () => {
      if (this.#stop.signal.aborted) {
        // not process.exit(), under which the engine would still be computing
        this.#now.abort();
        return;
      }
      output.progress("ending; what runs is answered first (once more ends at once)");
      this.#stop.abort(new DOMException("interrupted", "AbortError"));
    };
    process.on("SIGINT", this.#hear).on("SIGTERM", this.#hear);
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  get now(): AbortSignal {
    return this.#now.signal;
  }

  [Symbol.dispose](): void {
    process.off("SIGINT", this.#hear).off("SIGTERM", this.#hear);
  }
}

/** Somebody else serves the name now, which is no failure: so a service is replaced while it runs. */
function isTakenOver(error: unknown): boolean {
  return LatentError.isInstance(error) && error.code === "ERR_LATENT_BUS_SUPERSEDED";
}

function teamsOf(given: readonly string[] | undefined, agents: readonly Agent[]): Readonly<Record<string, readonly Agent[]>> {
  const named = new Map(agents.map((agent) => [agent.name, agent]));
  if (given === undefined) return agents.length > 1 && !named.has(wholeTeam) ? { [wholeTeam]: agents } : {};
  return Object.fromEntries(
    given.map((one) => {
      const [, name = "", members = ""] = /^([^=]+)=(.+)$/.exec(one) ?? [];
      if (name === "") throw invalid("--team", "NAME=agent,agent,…", one);
      return [
        name,
        members.split(",").map((member) => {
          const agent = named.get(member);
          if (agent === undefined) throw invalid(`--team ${name}`, `made of ${[...named.keys()].join(", ")}`, member);
          return agent;
        }),
      ];
    }),
  );
}

function serverTls({ tls }: BusAccess): { key: string; cert: string; ca?: string } {
  const { key, cert, ca } = tls ?? {};
  if (key === undefined || cert === undefined)
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      "https: takes --tls-key and --tls-cert; --tls-ca wants certificates of clients too",
    );
  return { key, cert, ...(ca !== undefined && { ca }) };
}

const isEncrypted = (address: string): boolean => /^(https|tls):/.test(address);
