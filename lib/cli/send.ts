// `latentwire send`: asks an agent on a bus, and shows its answer as it comes; or puts a message into an inbox.
import type { Medium } from "../agents/events.js";
import type { Bus } from "../bus/bus.js";
import type { BusHop } from "../bus/remote-agent.js";
import { LatentError } from "../errors.js";
import { connectTo, type BusAccessOptions } from "./bus-access.js";
import type { Output } from "./output.js";

export interface SendCommand extends BusAccessOptions {
  readonly operands: readonly string[];
  readonly inbox?: boolean;
  readonly think?: Medium;
  readonly deadlineMs?: number;
  readonly name?: string;
}

export async function send(output: Output, options: SendCommand, signal: AbortSignal): Promise<void> {
  const [address = "", to = "", text = ""] = options.operands;
  if (options.inbox === true && options.think !== undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "--think is for agents, not for --inbox");
  await using bus = await connectTo(address, options, options.name, signal);
  if (options.inbox === true) await put(output, bus, to, text, options, signal);
  else if (options.think !== undefined) await think(output, bus, to, text, options.think, options, signal);
  else await ask(output, bus, to, text, options, signal);
}

async function ask(output: Output, bus: Bus, to: string, text: string, options: SendCommand, signal: AbortSignal): Promise<void> {
  const reply = bus.agent(to).say(text, { ...deadlineOf(options), signal });
  for await (const delta of reply) output.part(delta);
  const answer = await reply.answer;
  showHop(output, answer.hop);
  // people have read it already
  output.result(answer, () => "");
}

async function think(
  output: Output,
  bus: Bus,
  to: string,
  text: string,
  medium: Medium,
  options: SendCommand,
  signal: AbortSignal,
): Promise<void> {
  const { content, hop } = await bus.agent(to).think(text, { medium, ...deadlineOf(options), signal });
  using thought = content;
  showHop(output, hop);
  const { form, way, positions, bytes, why } = thought;
  const result = { form, way, positions, bytes, why, ...(thought.text !== undefined && { text: thought.text }), hop };
  output.result(result, () =>
    [`${form}: ${positions} positions, ${bytes} bytes, by ${way}`, ...(thought.text === undefined ? [] : [thought.text])].join("\n"),
  );
}

async function put(output: Output, bus: Bus, to: string, text: string, options: SendCommand, signal: AbortSignal): Promise<void> {
  const validForMs = options.deadlineMs;
  const sent = await bus.send(to, text, { ...(validForMs !== undefined && { validForMs }), signal });
  const { id, form, why, way, bytes, sequence, ms } = sent;
  output.progress(`${bus.name} -> ${to}: ${form}, ${bytes} bytes, ${ms.toFixed(1)} ms (${why})`);
  output.result({ id, form, why, way, bytes, sequence, ms }, () => id);
}

function deadlineOf({ deadlineMs }: SendCommand): { readonly deadlineMs?: number } {
  return deadlineMs === undefined ? {} : { deadlineMs };
}

function showHop(output: Output, { from, to, prefillTokens, latentSteps, decodedTokens, ms, roundTripMs }: BusHop): void {
  output.progress(
    `${from} -> ${to}: ${prefillTokens} positions prefilled, ${latentSteps} latent steps, ${decodedTokens} tokens decoded; ` +
      `${ms.toFixed(1)} ms of ${roundTripMs.toFixed(1)} ms`,
  );
}
