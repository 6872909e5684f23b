// Agents and rows of agents as models of OpenAI's API: `POST /v1/chat/completions` and `GET /v1/models`, so that clients in any language can use them. A run
// has a cache of its own, so what fails in one does not reach another.
import { once } from "node:events";
import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { checkArray, checkInteger, checkKeys, checkOneOf, fallback, invalid } from "../check.js";
import { Agent } from "../agents/agent.js";
import type { Medium, RunEvent, RunResult } from "../agents/events.js";
import { pipe } from "../agents/pipe.js";
import { requireStore } from "../agents/stage.js";
import { LatentError } from "../errors.js";
import type { KvStore } from "../kv/store.js";
import { ChatError, chatErrorOf, parseChatRequest, type ChatRequest } from "./chat-request.js";
import { checkName, longestMs } from "./envelope.js";

/** Options of {@link chatCompletions}. */
export interface ChatOptions {
  /** Each is a model of its name. */
  readonly agents: readonly Agent[];
  /** Agents in a row, as in {@link pipe}: models too, of the names of these keys. Default: none. */
  readonly teams?: Readonly<Record<string, readonly Agent[]>>;
  /** How thoughts travel in teams. Default: `kv` between agents of one model, `text` between others. */
  readonly medium?: Medium;
  /** So many requests are answered at a time; more are refused with 429. Default 4. */
  readonly concurrency?: number;
  /** Prompts are kept here; see {@link PipeOptions.store}. The caller closes it. Default: none. */
  readonly store?: KvStore;
}

/** Counts of what was asked for. */
export interface ChatCounts {
  readonly running: number;
  readonly answered: number;
  readonly failed: number;
  /** The client went away before the end. */
  readonly left: number;
  /** Wrong requests, and too many at a time. */
  readonly refused: number;
  readonly promptTokens: number;
  readonly completionTokens: number;
}

interface ChatModel {
  readonly agents: readonly [Agent, ...Agent[]];
  readonly media: readonly Medium[];
}

/** Of one answer. */
interface Head {
  readonly id: string;
  readonly created: number;
  readonly model: string;
  readonly system_fingerprint: string;
}

const mostBytes = 1 << 20;
const media = ["kv", "latent", "text"] as const;
const optionNames = ["agents", "teams", "medium", "concurrency", "store"];
const path = "/v1/chat/completions";

/**
 * Makes the endpoint; give its {@link ChatCompletions.routes} to {@link listen}.
 *
 * ```ts
 * const chat = chatCompletions({ agents: [reader, solver], teams: { team: [reader, solver] } });
 * await using hub = await listen("http://127.0.0.1:8080", { routes: chat.routes });
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`, `ERR_LATENT_SPACE_MISMATCH` (the medium cannot cross between the models of a team)
 */
export function chatCompletions(options: ChatOptions): ChatCompletions {
  checkKeys("options", options, optionNames);
  const medium = options.medium === undefined ? undefined : checkOneOf("medium", options.medium, media);
  const models = new Map<string, ChatModel>();
  const add = (name: string, agents: readonly Agent[]): void => {
    if (models.has(checkName("the name of a model", name))) throw invalid("agents and teams", "of a name of its own each", name);
    models.set(name, modelOf(name, agents, medium));
  };
  for (const agent of checkArray("agents", options.agents)) add((agent as Partial<Agent>).name ?? "", [agent]);
  for (const [name, agents] of Object.entries(fallback(options.teams, {}))) add(name, checkArray(`teams.${name}`, agents));
  if (models.size === 0) throw invalid("agents", "at least one agent", options.agents);
  requireStore(options.store);
  return new ChatCompletions(models, checkInteger("concurrency", fallback(options.concurrency, 4), 1, 1024), options.store);
}

function modelOf(name: string, agents: readonly Agent[], medium: Medium | undefined): ChatModel {
  for (const agent of agents as readonly unknown[])
    if (!(agent instanceof Agent)) throw invalid("agents", "agents made by model.agent()", agent);
  const [first, ...rest] = agents;
  if (first === undefined) throw invalid(`teams.${name}`, "at least one agent", agents);
  const hops = rest.map((to, i): Medium => {
    const from = agents[i];
    const isSame = from?.model === to.model;
    if (medium === undefined) return isSame ? "kv" : "text";
    if (isSame || medium === "text" || (medium === "latent" && from?.model.space.id === to.model.space.id)) return medium;
    throw new LatentError(
      "ERR_LATENT_SPACE_MISMATCH",
      `in ${name}, ${from?.name ?? ""} and ${to.name} are of different models, so '${medium}' cannot cross between them`,
      { hint: "Use the text medium, or leave the medium out." },
    );
  });
  return { agents: [first, ...rest], media: hops };
}

/** Made by {@link chatCompletions}. */
export class ChatCompletions {
  /** For the `routes` of {@link HubOptions}. */
  readonly routes: (request: IncomingMessage, response: ServerResponse) => boolean;
  readonly #models: ReadonlyMap<string, ChatModel>;
  readonly #concurrency: number;
  readonly #store: KvStore | undefined;
  readonly #running = new Set<Promise<void>>();
  readonly #stopping = new AbortController();
  readonly #created = Math.floor(Date.now() / 1000);
  readonly #counts = { answered: 0, failed: 0, left: 0, refused: 0, promptTokens: 0, completionTokens: 0 };
  #isDraining = false;

  /** @internal */
  constructor(models: ReadonlyMap<string, ChatModel>, concurrency: number, store: KvStore | undefined) {
    this.#models = models;
    this.#concurrency = concurrency;
    this.#store = store;
    this.routes = (request, response) => this.#route(request, response);
  }

  /** Names of the models. */
  get models(): readonly string[] {
    return [...this.#models.keys()];
  }

  get counts(): ChatCounts {
    return { running: this.#running.size, ...this.#counts };
  }

  /** Takes no more requests; those that run may finish within `drainMs`, by default 10 000, and are ended then. Idempotent. */
  async close(options: { readonly drainMs?: number } = {}): Promise<void> {
    checkKeys("options", options, ["drainMs"]);
    const drainMs = checkInteger("drainMs", fallback(options.drainMs, 10_000), 0, longestMs);
    this.#isDraining = true;
    const timer = setTimeout(() => {
      this.#stopping.abort(new LatentError("ERR_LATENT_BUS_DISCONNECTED", "the server is ending"));
    }, drainMs);
    await Promise.all(this.#running);
    clearTimeout(timer);
  }

  #route(request: IncomingMessage, response: ServerResponse): boolean {
    const [asked = ""] = (request.url ?? "").split("?", 1);
    const isRead = request.method === "GET" || request.method === "HEAD";
    if (asked === path && request.method === "POST") this.#accept(request, response);
    else if (asked === "/v1/models" && isRead)
      answer(response, 200, { object: "list", data: this.models.map((name) => this.#cardOf(name)) });
    else if (/^\/v1\/models\/[^/]+$/.test(asked) && isRead) {
      const name = asked.slice("/v1/models/".length);
      if (this.#models.has(name)) answer(response, 200, this.#cardOf(name));
      else this.#refuse(response, unknownModel(name));
    } else if (asked === path || /^\/v1\/models(\/[^/]+)?$/.test(asked)) {
      response.setHeader("allow", asked === path ? "POST" : "GET, HEAD");
      this.#refuse(response, new ChatError(405, "method_not_supported", `${asked} does not take ${request.method ?? ""}.`));
    } else return false;
    return true;
  }

  #cardOf(name: string): object {
    return { id: name, object: "model", created: this.#created, owned_by: "latentwire" };
  }

  /** From here on the request counts, so that bodies which are read are as few as runs. */
  #accept(request: IncomingMessage, response: ServerResponse): void {
    const refusal = this.#refusalOf(request);
    if (refusal !== undefined) {
      // what is left of the body is read and thrown away, for a client that sends does not listen
      request.resume();
      this.#refuse(response, refusal);
      return;
    }
    const done = this.#answer(request, response).finally(() => this.#running.delete(done));
    this.#running.add(done);
  }

  #refusalOf({ headers }: IncomingMessage): ChatError | undefined {
    if (this.#isDraining) return new ChatError(503, "server_draining", "The server is ending.");
    // a page of another site, which a browser of this machine shows, must not use what listens here
    if (headers.origin !== undefined) return new ChatError(403, "origin_not_allowed", "Requests of web pages are not taken.");
    if (!/^application\/json\s*(;|$)/i.test(headers["content-type"] ?? ""))
      return new ChatError(415, "unsupported_media_type", "The content-type must be application/json.");
    if (Number(headers["content-length"] ?? 0) > mostBytes) return tooLong();
    if (this.#running.size >= this.#concurrency)
      return new ChatError(429, "rate_limit_exceeded", `The server answers ${this.#concurrency} requests at a time; try again soon.`);
    return undefined;
  }

  /** Never rejects. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const left = new AbortController();
    response.once("close", () => {
      left.abort(new DOMException("the client went away", "AbortError"));
    });
    try {
      const asked = parseChatRequest(await bodyOf(request));
      await this.#run(asked, response, AbortSignal.any([left.signal, this.#stopping.signal]));
      this.#counts.answered++;
    } catch (error) {
      if (left.signal.aborted || request.errored !== null) this.#counts.left++;
      else this.#fail(response, chatErrorOf(error));
    }
  }

  async #run(asked: ChatRequest, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const model = this.#models.get(asked.model);
    if (model === undefined) throw unknownModel(asked.model);
    const last = model.agents.at(-1) ?? model.agents[0];
    const speaker = last.with(asked.generate);
    const [first, ...rest] = [...model.agents.slice(0, -1), speaker];
    const options = { medium: model.media, signal, ...(this.#store !== undefined && { store: this.#store }) };
    const run = pipe(first, ...rest).stream(asked.question, options);
    const head: Head = {
      id: `chatcmpl-${randomUUID().replaceAll("-", "")}`,
      created: Math.floor(Date.now() / 1000),
      model: asked.model,
      system_fingerprint: `fp_${last.model.info.fingerprint.slice(0, 12)}`,
    };
    if (asked.stream) await stream(response, head, run, asked.includeUsage, signal);
    const result = await run.answer;
    const usage = usageOf(result);
    this.#counts.promptTokens += usage.prompt_tokens;
    this.#counts.completionTokens += usage.completion_tokens;
    if (!asked.stream) answer(response, 200, completionOf(head, result));
  }

  #fail(response: ServerResponse, error: ChatError): void {
    if (!response.headersSent) {
      this.#refuse(response, error);
      return;
    }
    this.#counts.failed++;
    response.end(`data: ${JSON.stringify(error)}\n\n`);
  }

  #refuse(response: ServerResponse, error: ChatError): void {
    if (error.status >= 500) this.#counts.failed++;
    else this.#counts.refused++;
    if (error.status === 429 || error.status === 503) response.setHeader("retry-after", "1");
    answer(response, error.status, error);
  }
}

/** Sends the answer as it is made. Nothing is sent until the first agent begins, so that what fails before has a status of its own. */
async function stream(
  response: ServerResponse,
  head: Head,
  events: AsyncIterable<RunEvent>,
  includeUsage: boolean,
  signal: AbortSignal,
): Promise<void> {
  const send = async (choices: readonly object[], more: object = {}): Promise<void> => {
    const usage = includeUsage ? { usage: null } : {};
    const chunk = { ...head, object: "chat.completion.chunk", choices, ...usage, ...more };
    if (!response.write(`data: ${JSON.stringify(chunk)}\n\n`)) await once(response, "drain", { signal });
  };
  const choice = (delta: object, reason: string | null = null): object[] => [{ index: 0, delta, logprobs: null, finish_reason: reason }];
  for await (const event of events) {
    if (event.type === "agent-start" && !response.headersSent) {
      response.writeHead(200, {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
      });
      await send(choice({ role: "assistant", content: "", refusal: null }));
    }
    if (event.type === "text-delta" && event.final) await send(choice({ content: event.delta }));
    if (event.type !== "run-end") continue;
    const { result } = event;
    await send(choice({}, finishOf(result)), { latentwire: { hops: result.hops } });
    if (includeUsage) await send([], { usage: usageOf(result) });
    response.end("data: [DONE]\n\n");
  }
}

function completionOf(head: Head, result: RunResult): object {
  const message = { role: "assistant", content: result.text, refusal: null };
  return {
    ...head,
    object: "chat.completion",
    choices: [{ index: 0, message, logprobs: null, finish_reason: finishOf(result) }],
    usage: usageOf(result),
    latentwire: { hops: result.hops },
  };
}

function finishOf({ reason }: RunResult): "length" | "stop" {
  return reason === "length" ? "length" : "stop";
}

/** Of all agents together. What the ones before the last think is reasoning; positions that were inherited or stored are cached. */
function usageOf({ totals, asText, hops }: RunResult) {
  const prompt = asText.prefillTokens;
  const completion = asText.decodedTokens;
  const reasoning = hops.reduce((sum, { latentSteps, decodedTokens }) => sum + latentSteps + decodedTokens, 0);
  return {
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    prompt_tokens_details: { cached_tokens: prompt - totals.prefillTokens, audio_tokens: 0 },
    completion_tokens_details: {
      reasoning_tokens: reasoning,
      audio_tokens: 0,
      accepted_prediction_tokens: 0,
      rejected_prediction_tokens: 0,
    },
  };
}

async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    // read to its end all the same, for a client that sends does not listen
    if (bytes <= mostBytes) chunks.push(chunk);
    else chunks.length = 0;
  }
  if (bytes > mostBytes) throw tooLong();
  return Buffer.concat(chunks).toString();
}

function tooLong(): ChatError {
  return new ChatError(413, "request_too_large", `The body of a request has at most ${mostBytes} bytes.`);
}

function unknownModel(name: string): ChatError {
  return new ChatError(
    404,
    "model_not_found",
    `There is no model '${name.slice(0, 64)}'; GET /v1/models lists those that there are.`,
    "model",
  );
}

function answer(response: ServerResponse, status: number, value: object): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(value));
}
