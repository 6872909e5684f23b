// The endpoint as any OpenAI client meets it: over plain HTTP, with the shapes that such clients read.
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { chatCompletions, type ChatCompletions, type ChatOptions } from "../../lib/bus/chat-completions.js";
import { listen, type Hub } from "../../lib/bus/brokers/hub/hub.js";
import { bundledModel, KvStore, loadModel, pipe, type Agent, type Model } from "../../lib/index.js";

interface Completion {
  readonly id: string;
  readonly object: string;
  readonly created: number;
  readonly model: string;
  readonly choices: readonly {
    readonly index: number;
    readonly message: { readonly role: string; readonly content: string };
    readonly finish_reason: string;
  }[];
  readonly usage: {
    readonly prompt_tokens: number;
    readonly completion_tokens: number;
    readonly total_tokens: number;
    readonly prompt_tokens_details: { readonly cached_tokens: number };
    readonly completion_tokens_details: { readonly reasoning_tokens: number };
  };
  readonly latentwire: { readonly hops: readonly { readonly medium: string; readonly positions: number }[] };
}

interface Refused {
  readonly error: { readonly message: string; readonly type: string; readonly param: string | null; readonly code: string | null };
}

interface Chunk {
  readonly object: string;
  readonly choices: readonly {
    readonly delta: { readonly role?: string; readonly content?: string };
    readonly finish_reason: string | null;
  }[];
  readonly usage?: Completion["usage"] | null;
  readonly latentwire?: Completion["latentwire"];
}

const question = "where does tom live?";
const user = (content: unknown) => ({ role: "user", content });

let finch: Model;
let wren: Model;
let reader: Agent;
let solver: Agent;
/** Takes as long as it is let: a row of many that think for long. */
let slow: readonly Agent[];
const open: { readonly chat: ChatCompletions; readonly hub: Hub }[] = [];

beforeAll(async () => {
  finch = await loadModel(bundledModel());
  wren = await loadModel(bundledModel("wren"));
  reader = finch.agent({ name: "reader", user: "mia has the red key. tom lives in oslo.", think: { policy: "hidden", steps: 8 } });
  solver = finch.agent({ name: "solver", generate: { maxTokens: 16 } });
  const thinker = finch.agent({ name: "thinker", think: { policy: "hidden", steps: 200 } });
  slow = [...Array.from({ length: 200 }, () => thinker), solver];
});

afterAll(async () => {
  for (const { chat, hub } of open) {
    await chat.close({ drainMs: 0 });
    await hub.close({ drainMs: 0 });
  }
  await finch.dispose();
  await wren.dispose();
});

async function serve(
  options: Partial<ChatOptions> = {},
  token?: string,
): Promise<{ readonly chat: ChatCompletions; readonly url: string }> {
  const chat = chatCompletions({ agents: [reader, solver], teams: { team: [reader, solver] }, ...options });
  const hub = await listen("http://127.0.0.1:0", { routes: chat.routes, ...(token !== undefined && { token }) });
  open.push({ chat, hub });
  return { chat, url: hub.url };
}

const serveSlow = (options: Partial<ChatOptions> = {}) => serve({ agents: [solver], teams: { slow }, medium: "latent", ...options });

function post(url: string, body: unknown, more: RequestInit = {}): Promise<Response> {
  const headers = { "content-type": "application/json" };
  return fetch(`${url}/v1/chat/completions`, {
    method: "POST",
    headers,
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...more,
  });
}

async function complete(url: string, body: object): Promise<Completion> {
  const response = await post(url, { model: "team", messages: [user(question)], ...body });
  expect(response.status).toBe(200);
  return (await response.json()) as Completion;
}

async function refused(url: string, body: unknown): Promise<Refused["error"] & { readonly status: number }> {
  const response = await post(url, body);
  const { error } = (await response.json()) as Refused;
  expect(Object.keys(error).sort()).toEqual(["code", "message", "param", "type"]);
  return { ...error, status: response.status };
}

function chunksOf(text: string): readonly string[] {
  return text
    .split("\n\n")
    .filter((event) => event !== "")
    .map((event) => {
      expect(event.startsWith("data: ")).toBe(true);
      return event.slice("data: ".length);
    });
}

describe("models", () => {
  it("are the agents and the teams", async () => {
    const { url } = await serve();
    const list = (await (await fetch(`${url}/v1/models`)).json()) as { readonly object: string; readonly data: readonly object[] };
    expect(list.object).toBe("list");
    expect(list.data).toMatchObject(["reader", "solver", "team"].map((id) => ({ id, object: "model", owned_by: "latentwire" })));
    expect(await (await fetch(`${url}/v1/models/team`)).json()).toMatchObject({ id: "team", object: "model" });
    const absent = await fetch(`${url}/v1/models/gpt`);
    expect(absent.status).toBe(404);
    expect(await absent.json()).toMatchObject({ error: { code: "model_not_found", type: "invalid_request_error" } });
    const wrong = await fetch(`${url}/v1/chat/completions`);
    expect([wrong.status, wrong.headers.get("allow")]).toEqual([405, "POST"]);
    expect(await wrong.json()).toMatchObject({ error: { code: "method_not_supported" } });
    expect((await fetch(`${url}/v1/embeddings`, { method: "POST" })).status).toBe(404);
  });

  it("have a name of their own each, and media that can cross", () => {
    expect(() => chatCompletions({ agents: [reader], teams: { reader: [reader, solver] } })).toThrow(/name of its own/);
    expect(() => chatCompletions({ agents: [reader], teams: { "a b": [reader] } })).toThrow(/letters/);
    expect(() => chatCompletions({ agents: [reader], teams: { none: [] } })).toThrow(/at least one/);
    const other = wren.agent({ name: "other" });
    expect(() => chatCompletions({ agents: [reader, other], teams: { both: [reader, other] }, medium: "kv" })).toThrow(
      expect.objectContaining({ code: "ERR_LATENT_SPACE_MISMATCH" }) as Error,
    );
  });

  it("of agents of two models pass text, and say so", async () => {
    const other = wren.agent({ name: "other", generate: { maxTokens: 8 } });
    const { url } = await serve({ agents: [reader, other], teams: { both: [reader, other] } });
    expect((await complete(url, { model: "both" })).latentwire.hops).toMatchObject([{ from: "reader", to: "other", medium: "text" }]);
  });
});

describe("an answer", () => {
  it("is what the pipe says, with what it took", async () => {
    const { url, chat } = await serve();
    const expected = await pipe(reader, solver).run(question);
    const { id, created, ...answer } = await complete(url, {});
    expect(id).toMatch(/^chatcmpl-[0-9a-f]{32}$/);
    expect(Math.abs(created - Date.now() / 1000)).toBeLessThan(600);
    const { totals, hops } = expected;
    const cached = hops[0]?.positions ?? 0;
    expect(answer).toMatchObject({
      object: "chat.completion",
      model: "team",
      choices: [{ index: 0, message: { role: "assistant", content: expected.text, refusal: null }, logprobs: null, finish_reason: "stop" }],
      usage: {
        prompt_tokens: totals.prefillTokens + cached,
        completion_tokens: totals.decodedTokens + 8,
        total_tokens: totals.prefillTokens + cached + totals.decodedTokens + 8,
        prompt_tokens_details: { cached_tokens: cached },
        completion_tokens_details: { reasoning_tokens: 8 },
      },
      latentwire: { hops: [{ from: "reader", to: "solver", medium: "kv", positions: cached, bytes: 0, latentSteps: 8 }] },
    });
    expect(chat.counts).toMatchObject({ running: 0, answered: 1, failed: 0, refused: 0, promptTokens: totals.prefillTokens + cached });
  });

  it("comes as it is made", async () => {
    const { url } = await serve();
    const whole = await complete(url, {});
    const body = { model: "team", messages: [user(question)], stream: true, stream_options: { include_usage: true } };
    const response = await post(url, body);
    expect(response.headers.get("content-type")).toContain("text/event-stream");
    const events = chunksOf(await response.text());
    expect(events.at(-1)).toBe("[DONE]");
    const chunks = events.slice(0, -1).map((event) => JSON.parse(event) as Chunk);
    expect(chunks.every(({ object }) => object === "chat.completion.chunk")).toBe(true);
    expect(chunks[0]?.choices[0]).toMatchObject({ index: 0, delta: { role: "assistant", content: "" }, finish_reason: null });
    const said = chunks.flatMap(({ choices }) => choices.map(({ delta }) => delta.content ?? "")).join("");
    expect(said).toBe(whole.choices[0]?.message.content);
    const [end, usage] = chunks.slice(-2);
    expect(end).toMatchObject({ choices: [{ delta: {}, finish_reason: "stop" }], usage: null, latentwire: { hops: [{ medium: "kv" }] } });
    expect(usage).toMatchObject({ choices: [], usage: whole.usage });
    const plain = chunksOf(await (await post(url, { ...body, stream_options: null })).text());
    expect(plain.join()).not.toContain("usage");
  });

  it("knows what was said before, and takes parts of text", async () => {
    const { url } = await serve();
    const messages = [
      { role: "developer", content: "be brief." },
      user([
        { type: "text", text: "who has " },
        { type: "text", text: "the red key?" },
      ]),
      { role: "assistant", content: "mia" },
      user(question),
    ];
    const expected = await pipe(solver).run(`system: be brief.\n\nuser: who has the red key?\n\nassistant: mia\n\n${question}`);
    const answer = await complete(url, { model: "solver", messages });
    expect(answer.choices[0]?.message.content).toBe(expected.text);
    expect(answer.usage).toMatchObject({ prompt_tokens: expected.totals.prefillTokens, prompt_tokens_details: { cached_tokens: 0 } });
  });

  it("is as long, and as much by chance, as it was asked to be", async () => {
    const { url } = await serve();
    const short = await complete(url, { model: "solver", max_tokens: 1, messages: [user("tom lives in")] });
    expect(short).toMatchObject({ choices: [{ finish_reason: "length" }], usage: { completion_tokens: 1 } });
    expect(await complete(url, { model: "solver", max_tokens: 5, max_completion_tokens: 1 })).toMatchObject({
      usage: { completion_tokens: 1 },
    });
    const random = {
      model: "solver",
      temperature: 2,
      top_p: 1,
      seed: -3,
      max_tokens: 12,
      presence_penalty: 1,
      frequency_penalty: -1,
      stop: null,
    };
    const [one, two] = [await complete(url, random), await complete(url, random)];
    expect(one.choices).toEqual(two.choices);
    const text = (await complete(url, {})).choices[0]?.message.content ?? "";
    const stopped = await complete(url, { stop: text.trim().slice(-2) });
    expect(stopped.choices[0]).toMatchObject({ finish_reason: "stop" });
    expect(text.startsWith(stopped.choices[0]?.message.content ?? "?")).toBe(true);
    expect(stopped.choices[0]?.message.content).not.toBe(text);
  });

  it("ends where the context does", async () => {
    const { url } = await serve();
    const long = await complete(url, { model: "solver", temperature: 2, seed: 1, max_tokens: 100_000, top_p: 1 });
    expect(["length", "stop"]).toContain(long.choices[0]?.finish_reason);
    expect(long.usage.total_tokens).toBeLessThanOrEqual(finch.info.contextLength + 1);
  });

  it("takes a prompt that the store has", async () => {
    await using store = await KvStore.open();
    const { url } = await serve({ store });
    const messages = [{ role: "system", content: "mia has the red key. tom lives in oslo. ".repeat(30) }, user(question)];
    const first = await complete(url, { model: "solver", messages });
    const second = await complete(url, { model: "solver", messages });
    expect(first.usage.prompt_tokens_details.cached_tokens).toBe(0);
    expect(second.usage.prompt_tokens_details.cached_tokens).toBe(256);
    expect(second.usage.prompt_tokens).toBe(first.usage.prompt_tokens);
    expect(second.choices).toEqual(first.choices);
  });
});

describe("a request is refused", () => {
  const good = { model: "team", messages: [user(question)] };
  const cases: readonly (readonly [string, unknown, string | null, string])[] = [
    ["that is not JSON", "{", null, "invalid_json"],
    ["that is no object", [], "the body", "invalid_type"],
    ["without a model", { messages: good.messages }, "model", "missing_required_parameter"],
    ["without messages", { model: "team" }, "messages", "missing_required_parameter"],
    ["with messages of a wrong type", { ...good, messages: "hi" }, "messages", "invalid_type"],
    ["with no message", { ...good, messages: [] }, "messages", "invalid_value"],
    ["with a message that is none", { ...good, messages: [1] }, "messages[0]", "invalid_type"],
    ["without a role", { ...good, messages: [{ content: "x" }] }, "messages[0].role", "missing_required_parameter"],
    ["with results of tools", { ...good, messages: [{ role: "tool", content: "x" }] }, "messages[0].role", "unsupported_value"],
    [
      "that ends with an assistant",
      { ...good, messages: [user("x"), { role: "assistant", content: "y" }] },
      "messages[1].role",
      "unsupported_value",
    ],
    ["without content", { ...good, messages: [{ role: "user" }] }, "messages[0].content", "missing_required_parameter"],
    ["with content of a wrong type", { ...good, messages: [user(7)] }, "messages[0].content", "invalid_type"],
    [
      "with a picture",
      { ...good, messages: [user([{ type: "image_url", image_url: { url: "x" } }])] },
      "messages[0].content[0].type",
      "unsupported_value",
    ],
    [
      "with calls of tools",
      { ...good, messages: [{ role: "assistant", content: null, tool_calls: [{}] }, user("x")] },
      "messages[0].tool_calls",
      "unsupported_value",
    ],
    ["with tools", { ...good, tools: [{ type: "function" }] }, "tools", "unsupported_value"],
    ["with a schema", { ...good, response_format: { type: "json_object" } }, "response_format", "unsupported_value"],
    ["with two choices", { ...good, n: 2 }, "n", "unsupported_value"],
    ["with log probabilities", { ...good, logprobs: true }, "logprobs", "unsupported_value"],
    ["with a temperature of a wrong type", { ...good, temperature: "hot" }, "temperature", "invalid_type"],
    ["that is too hot", { ...good, temperature: 3 }, "temperature", "invalid_value"],
    ["with half a token", { ...good, max_tokens: 1.5 }, "max_tokens", "invalid_type"],
    ["with no token", { ...good, max_completion_tokens: 0 }, "max_completion_tokens", "invalid_value"],
    ["with an empty stop", { ...good, stop: "" }, "stop[0]", "invalid_value"],
    ["with five stops", { ...good, stop: ["a", "b", "c", "d", "e"] }, "stop", "invalid_value"],
    ["with options of a stream that is none", { ...good, stream_options: {} }, "stream_options", "invalid_value"],
    ["with a stream of a wrong type", { ...good, stream: "yes" }, "stream", "invalid_type"],
  ];
  let url: string;
  beforeAll(async () => {
    ({ url } = await serve());
  });

  it.each(cases)("%s", async (_what, body, param, code) => {
    expect(await refused(url, body)).toMatchObject({ status: 400, type: "invalid_request_error", param, code });
  });

  it("of a model that there is not", async () => {
    expect(await refused(url, { ...good, model: "gpt" })).toMatchObject({ status: 404, param: "model", code: "model_not_found" });
  });

  it("that is longer than the context, streaming or not", async () => {
    const long = { ...good, messages: [user("where does tom live? ".repeat(400))] };
    for (const stream of [false, true])
      expect(await refused(url, { ...long, stream })).toMatchObject({ status: 400, param: "messages", code: "context_length_exceeded" });
  });

  it("that is too large, however it says so", async () => {
    const large = JSON.stringify({ ...good, filler: "x".repeat(1 << 20) });
    expect(await refused(url, large)).toMatchObject({ status: 413, code: "request_too_large" });
    const body = new Blob([large]).stream();
    const chunked = await post(url, "", { body, duplex: "half" });
    expect(chunked.status).toBe(413);
  });

  it("that a web page sends, or that is not said to be JSON", async () => {
    const json = { "content-type": "application/json" };
    expect((await post(url, good, { headers: { ...json, origin: "http://example.com" } })).status).toBe(401);
    expect((await post(url, good, { headers: { "content-type": "text/plain" } })).status).toBe(415);
  });

  it("without the token of the hub", async () => {
    const closed = await serve({}, "a-secret-token");
    expect((await post(closed.url, good)).status).toBe(401);
    const headers = { "content-type": "application/json", authorization: "Bearer a-secret-token" };
    expect((await post(closed.url, good, { headers })).status).toBe(200);
  });

  it("but not for fields that are not known", async () => {
    const more = { user: "me", metadata: {}, tools: [], tool_choice: "auto", n: 1, parallel_tool_calls: true, future: [1] };
    expect((await post(url, { ...good, ...more })).status).toBe(200);
  });
});

describe("limits", () => {
  const body = { model: "slow", messages: [user("x")], stream: true };

  it("ends a run whose client goes away, and takes the next one", async () => {
    const { url, chat } = await serveSlow({ concurrency: 1 });
    for (const stream of [true, false]) {
      const left = new AbortController();
      const asked = post(url, { ...body, stream }, { signal: left.signal });
      await vi.waitFor(() => { expect(chat.counts.running).toBe(1); }, 20_000); // prettier-ignore
      if (stream) await asked;
      const busy = await post(url, { model: "solver", messages: [user(question)] });
      expect([busy.status, busy.headers.get("retry-after")]).toEqual([429, "1"]);
      expect(await busy.json()).toMatchObject({ error: { type: "rate_limit_error", code: "rate_limit_exceeded" } });
      left.abort();
      await asked.catch(() => undefined);
      await vi.waitFor(() => { expect(chat.counts.running).toBe(0); }, 20_000); // prettier-ignore
    }
    expect(chat.counts).toMatchObject({ left: 2, answered: 0, failed: 0, refused: 2 });
    expect((await complete(url, { model: "solver" })).choices).toHaveLength(1);
  });

  it("answers what runs when it drains, and ends what takes too long", async () => {
    const { url, chat } = await serveSlow();
    const streamed = await post(url, body);
    const whole = post(url, { ...body, stream: false });
    await vi.waitFor(() => { expect(chat.counts.running).toBe(2); }, 20_000); // prettier-ignore
    const closed = chat.close({ drainMs: 100 });
    expect(await refused(url, { model: "solver", messages: [user(question)] })).toMatchObject({ status: 503, code: "server_draining" });
    await closed;
    const events = chunksOf(await streamed.text());
    expect(JSON.parse(events.at(-1) ?? "")).toMatchObject({ error: { type: "server_error", code: "ERR_LATENT_BUS_DISCONNECTED" } });
    expect((await whole).status).toBe(503);
    expect(chat.counts).toMatchObject({ running: 0, failed: 3 });
  });
});
