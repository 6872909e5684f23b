// Renders chat messages to the text that a model was trained on, with the Jinja template from its file.
import { Template } from "@huggingface/jinja";
import { LatentError } from "../errors.js";
import { checkKeys, checkOneOf, checkString, invalid } from "../check.js";

/** One message of a chat, for the model's own template. */
export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export type ChatRenderer = (messages: readonly ChatMessage[], addGenerationPrompt: boolean) => string;

/** For models without a template: one line a message, `role: content`, and `assistant:` as the generation prompt. */
const plainTemplate: ChatRenderer = (messages, addGenerationPrompt) =>
  messages.map((message) => `${message.role}: ${message.content}\n`).join("") + (addGenerationPrompt ? "assistant:" : "");

/** What to do about a template that fails. */
const hint = "Load the model with `template: 'plain'`, or prefill a prompt that is ready-made.";

/**
 * @param source Jinja source, or undefined for the plain form
 * @throws {@link LatentError} `ERR_LATENT_TEMPLATE` if the source does not parse
 */
export function chatRenderer(source: string | undefined, specials: { readonly bos: string; readonly eos: string }): ChatRenderer {
  if (source === undefined) return plainTemplate;
  let template: Template;
  try {
    template = new Template(source);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_TEMPLATE", "the model's chat template does not parse", { cause, hint });
  }
  return (messages, addGenerationPrompt) => {
    try {
      return template.render({
        messages: messages.map((message) => ({ ...message })),
        add_generation_prompt: addGenerationPrompt,
        bos_token: specials.bos,
        eos_token: specials.eos,
      });
    } catch (cause) {
      throw new LatentError("ERR_LATENT_TEMPLATE", `the model's chat template refused the messages: ${String(cause)}`, { cause, hint });
    }
  };
}

/** @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` */
export function checkMessages(value: unknown): readonly ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0) throw invalid("messages", "an array of at least one message", value);
  return value.map((message: unknown, i) => {
    checkKeys(`messages[${i}]`, message, ["role", "content"]);
    const { role, content } = message as { role: unknown; content: unknown };
    return {
      role: checkOneOf(`messages[${i}].role`, role, ["system", "user", "assistant"]),
      content: checkString(`messages[${i}].content`, content),
    };
  });
}
