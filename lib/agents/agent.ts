// An agent: a name, a prompt, a way to think and a way to speak, on one model. It holds no cells itself; a run gives it a sequence.
import { checkKeys, checkString, invalid, fallback } from "../check.js";
import { checkGenerateOptions, type GenerateOptions } from "../models/generation.js";
import type { ChatMessage } from "../models/chat.js";
import type { Model } from "../models/model.js";
import { checkThought, type ThoughtPolicy } from "../policies/thought.js";

/** What makes an agent; see {@link Model.agent}. */
export interface AgentOptions {
  /** Shown in events and hops; not empty. */
  readonly name: string;
  /** System prompt. Without it no system message is written. */
  readonly system?: string;
  /** What the agent reads as its user message. Default: the question as it is. */
  readonly user?: string | ((question: string) => string);
  /** How it thinks when it hands over. Default: `{ policy: 'tokens', maxTokens: 256 }`. */
  readonly think?: ThoughtPolicy;
  /** How it speaks when it answers, or when latent thoughts must travel as text. Default: greedy, at most 256 tokens. */
  readonly generate?: Omit<GenerateOptions, "signal" | "priority">;
}

/** Text of an earlier agent that arrives by the text medium. */
export interface Note {
  readonly from: string;
  readonly text: string;
}

/** Made by {@link Model.agent}. */
export class Agent {
  readonly name: string;
  readonly system: string | undefined;
  readonly think: ThoughtPolicy;
  readonly generate: GenerateOptions;
  readonly #user: (question: string) => string;

  /**
   * @internal
   * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`
   */
  constructor(
    readonly model: Model,
    options: AgentOptions,
  ) {
    checkKeys("agent options", options, ["name", "system", "user", "think", "generate"]);
    this.name = checkString("name", options.name);
    if (this.name === "") throw invalid("name", "a string that is not empty", "");
    this.system = options.system === undefined ? undefined : checkString("system", options.system);
    const user = options.user;
    if (user !== undefined && typeof user !== "string" && typeof user !== "function") throw invalid("user", "a string or a function", user);
    this.#user = typeof user === "function" ? user : (question) => user ?? question;
    this.think = checkThought(fallback(options.think, { policy: "tokens" }));
    this.generate = fallback(options.generate, {});
    checkGenerateOptions(this.generate);
  }

  /** The same agent with other ways to speak when it answers; what is left out stays. */
  with(generate: GenerateOptions): Agent {
    const { model, name, system, think } = this;
    const spoken = { ...this.generate, ...generate };
    return new Agent(model, { name, ...(system !== undefined && { system }), user: this.#user, think, generate: spoken });
  }

  /**
   * The agent's chat messages. Notes of earlier agents come as user messages of their own (`message`), or above the question in one message with
   * their senders' names (`inline`), which templates that insist on alternating roles need.
   */
  messages(question: string, notes: readonly Note[], style: "inline" | "message"): readonly ChatMessage[] {
    const system: ChatMessage[] = this.system === undefined ? [] : [{ role: "system", content: this.system }];
    const asked = checkString("user", this.#user(question));
    if (style === "message") {
      return [...system, ...notes.map((note): ChatMessage => ({ role: "user", content: note.text })), { role: "user", content: asked }];
    }
    const above = notes.map((note) => `${note.from}: ${note.text}\n\n`).join("");
    return [...system, { role: "user", content: above + asked }];
  }
}
