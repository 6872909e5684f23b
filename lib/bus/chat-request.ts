// What an OpenAI client asks for, checked and put into the terms of agents. Wrong types, and what would change the answer but is not done here, are refused by
// name; fields that are not known are ignored, as OpenAI's servers do.
import { randomInt } from "node:crypto";
import { LatentError } from "../errors.js";
import { checkGenerateOptions, type GenerateOptions } from "../models/generation.js";

/** A refusal in the shape that OpenAI clients read. */
export class ChatError extends Error {
  constructor(
    readonly status: number,
    readonly code: string | null,
    message: string,
    readonly param: string | null = null,
  ) {
    super(message);
  }

  toJSON(): object {
    const { status, message, param, code } = this;
    const type = status === 429 ? "rate_limit_error" : status >= 500 ? "server_error" : "invalid_request_error";
    return { error: { message, type, param, code } };
  }
}

export interface ChatRequest {
  readonly model: string;
  /** The last message, below what was said before it. */
  readonly question: string;
  readonly stream: boolean;
  readonly includeUsage: boolean;
  /** Of the agent that answers; what is left out is its own. */
  readonly generate: GenerateOptions;
}

type Fields = Readonly<Record<string, unknown>>;

const mostMessages = 4096;
const mostStops = 4;
const mostTokens = 2 ** 31 - 1;

/** @throws ChatError */
export function parseChatRequest(body: string): ChatRequest {
  let value: unknown;
  try {
    value = JSON.parse(body);
  } catch {
    throw new ChatError(400, "invalid_json", "The body of the request is not JSON.");
  }
  const fields = objectOf("the body", value);
  refuseOthers(fields);
  const stream = booleanOf(fields, "stream") ?? false;
  return {
    model: required("model", stringOf(fields, "model")),
    question: questionOf(fields["messages"]),
    stream,
    includeUsage: includeUsageOf(fields, stream),
    generate: generateOf(fields),
  };
}

/** What asks for another answer than an agent gives. */
function refuseOthers(fields: Fields): void {
  const given = (name: string): boolean => {
    const value = fields[name];
    return Array.isArray(value) ? value.length > 0 : typeof value === "object" && value !== null && Object.keys(value).length > 0;
  };
  for (const name of ["tools", "functions", "logit_bias", "audio"]) if (given(name)) throw unsupported(name, `'${name}' is not supported.`);
  const n = integerOf(fields, "n", 1, 128);
  if (n !== undefined && n !== 1) throw unsupported("n", "'n' can be 1 only.");
  if (booleanOf(fields, "logprobs") === true) throw unsupported("logprobs", "'logprobs' is not supported.");
  const format = absent(fields["response_format"]) ? undefined : objectOf("response_format", fields["response_format"]);
  if (format !== undefined && format["type"] !== "text")
    throw unsupported("response_format", '\'response_format\' can be {"type": "text"} only.');
  const modalities = fields["modalities"];
  if (Array.isArray(modalities) && modalities.some((one) => one !== "text"))
    throw unsupported("modalities", "'modalities' can be text only.");
}

function includeUsageOf(fields: Fields, stream: boolean): boolean {
  const given = fields["stream_options"];
  if (absent(given)) return false;
  if (!stream) throw new ChatError(400, "invalid_value", "'stream_options' can be given with 'stream' only.", "stream_options");
  return booleanOf(objectOf("stream_options", given), "include_usage", "stream_options.include_usage") ?? false;
}

/**
 * The last message is the question. What was said before it stands above, in the form in which agents read the notes of others: `role: text`, with an empty
 * line behind each.
 */
function questionOf(messages: unknown): string {
  if (absent(messages)) throw missing("messages");
  if (!Array.isArray(messages)) throw wrongType("messages", "an array", messages);
  if (messages.length === 0) throw new ChatError(400, "invalid_value", "'messages' must not be empty.", "messages");
  if (messages.length > mostMessages) throw new ChatError(400, "invalid_value", `'messages' can be ${mostMessages} at most.`, "messages");
  const turns = messages.map((message: unknown, i) => turnOf(message, `messages[${i}]`));
  const last = turns.pop();
  if (last?.role !== "user")
    throw unsupported(`messages[${turns.length}].role`, "The last message must be of the user: it is the question.");
  return turns.map(({ role, text }) => `${role}: ${text}\n\n`).join("") + last.text;
}

function turnOf(message: unknown, where: string): { readonly role: string; readonly text: string } {
  const fields = objectOf(where, message);
  const role = required(`${where}.role`, stringOf(fields, "role", `${where}.role`));
  if (!["system", "developer", "user", "assistant"].includes(role))
    throw unsupported(`${where}.role`, `Messages of the role '${shown(role)}' are not supported; there are system, user and assistant.`);
  if (Array.isArray(fields["tool_calls"]) && fields["tool_calls"].length > 0)
    throw unsupported(`${where}.tool_calls`, "Calls of tools are not supported.");
  const { content } = fields;
  const text = role === "assistant" && absent(content) ? "" : textOf(content, `${where}.content`);
  return { role: role === "developer" ? "system" : role, text };
}

function textOf(content: unknown, where: string): string {
  if (typeof content === "string") return content;
  if (absent(content)) throw missing(where);
  if (!Array.isArray(content)) throw wrongType(where, "a string or an array of parts", content);
  return content
    .map((part: unknown, i) => {
      const fields = objectOf(`${where}[${i}]`, part);
      if (fields["type"] !== "text")
        throw unsupported(`${where}[${i}].type`, `Parts of the type '${shown(fields["type"])}' are not supported; there is text.`);
      return required(`${where}[${i}].text`, stringOf(fields, "text", `${where}[${i}].text`));
    })
    .join("");
}

function generateOf(fields: Fields): GenerateOptions {
  const maxTokens = integerOf(fields, "max_completion_tokens", 1, mostTokens) ?? integerOf(fields, "max_tokens", 1, mostTokens);
  const temperature = numberOf(fields, "temperature", 0, 2);
  const topP = numberOf(fields, "top_p", 0, 1);
  const seed = integerOf(fields, "seed", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
  const frequencyPenalty = numberOf(fields, "frequency_penalty", -2, 2);
  const presencePenalty = numberOf(fields, "presence_penalty", -2, 2);
  const stop = stopOf(fields["stop"]);
  const options: GenerateOptions = {
    ...(maxTokens !== undefined && { maxTokens }),
    ...(temperature !== undefined && { temperature }),
    ...(topP !== undefined && { topP }),
    // a client that wants chance and names no seed wants another answer each time
    ...(seed !== undefined ? { seed: ((seed % 2 ** 32) + 2 ** 32) % 2 ** 32 } : temperature !== undefined && { seed: randomInt(2 ** 32) }),
    ...(frequencyPenalty !== undefined && { frequencyPenalty }),
    ...(presencePenalty !== undefined && { presencePenalty }),
    ...(stop !== undefined && { stop }),
  };
  checkGenerateOptions(options);
  return options;
}

function stopOf(value: unknown): readonly string[] | undefined {
  if (absent(value)) return undefined;
  const list: readonly unknown[] = typeof value === "string" ? [value] : Array.isArray(value) ? value : [];
  if (list.length === 0 && !Array.isArray(value)) throw wrongType("stop", "a string or an array of strings", value);
  if (list.length > mostStops) throw new ChatError(400, "invalid_value", `'stop' can have ${mostStops} strings at most.`, "stop");
  return list.map((one, i) => {
    if (typeof one !== "string") throw wrongType(`stop[${i}]`, "a string", one);
    if (one === "") throw new ChatError(400, "invalid_value", "'stop' must not have empty strings.", `stop[${i}]`);
    return one;
  });
}

/** OpenAI's clients send null for what is left out. */
function absent(value: unknown): value is null | undefined {
  return value === undefined || value === null;
}

function objectOf(param: string, value: unknown): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw wrongType(param, "an object", value);
  return value as Fields;
}

function stringOf(fields: Fields, name: string, param = name): string | undefined {
  const value = fields[name];
  if (absent(value)) return undefined;
  if (typeof value !== "string") throw wrongType(param, "a string", value);
  return value;
}

function booleanOf(fields: Fields, name: string, param = name): boolean | undefined {
  const value = fields[name];
  if (absent(value)) return undefined;
  if (typeof value !== "boolean") throw wrongType(param, "a boolean", value);
  return value;
}

function numberOf(fields: Fields, name: string, low: number, high: number): number | undefined {
  const value = fields[name];
  if (absent(value)) return undefined;
  if (typeof value !== "number") throw wrongType(name, "a number", value);
  if (!(value >= low && value <= high)) throw new ChatError(400, "invalid_value", `'${name}' must be from ${low} to ${high}.`, name);
  return value;
}

function integerOf(fields: Fields, name: string, low: number, high: number): number | undefined {
  const value = numberOf(fields, name, low, high);
  if (value !== undefined && !Number.isInteger(value)) throw wrongType(name, "an integer", value);
  return value;
}

function required(param: string, value: string | undefined): string {
  if (value === undefined) throw missing(param);
  return value;
}

function missing(param: string): ChatError {
  return new ChatError(400, "missing_required_parameter", `'${param}' is missing.`, param);
}

function unsupported(param: string, message: string): ChatError {
  return new ChatError(400, "unsupported_value", message, param);
}

function wrongType(param: string, want: string, value: unknown): ChatError {
  const got = value === null ? "null" : Array.isArray(value) ? "an array" : `a value of type ${typeof value}`;
  return new ChatError(400, "invalid_type", `'${param}' must be ${want}, not ${got}.`, param);
}

function shown(value: unknown): string {
  return typeof value === "string" ? value.slice(0, 40) : typeof value;
}

/** What went wrong in a run, as a client may know it. */
export function chatErrorOf(error: unknown): ChatError {
  if (error instanceof ChatError) return error;
  if (!LatentError.isInstance(error)) return new ChatError(500, null, "The server failed.");
  const { code, message } = error;
  switch (code) {
    case "ERR_LATENT_CONTEXT_OVERFLOW":
    case "ERR_LATENT_KV_LIMIT":
      return new ChatError(400, "context_length_exceeded", `The conversation is longer than the model can read: ${message}.`, "messages");
    case "ERR_LATENT_INVALID_ARGUMENT":
    case "ERR_LATENT_TEMPLATE":
      return new ChatError(400, code, message);
    case "ERR_LATENT_OUT_OF_MEMORY":
    case "ERR_LATENT_BUS_DISCONNECTED":
      return new ChatError(503, code, message);
    default:
      return new ChatError(500, code, message);
  }
}
