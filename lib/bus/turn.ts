// One request to an agent, carried out: what came is put into a sequence, the agent reads its question, and thinks or speaks.
import { LatentError } from "../errors.js";
import type { Agent, Note } from "../agents/agent.js";
import { noCounts, readPrompt, receiveLatents, speak, think, type Turn } from "../agents/stage.js";
import { StoreOfRun } from "../agents/store-of-run.js";
import type { KvStore } from "../kv/store.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import type { Translator } from "../spaces/translator.js";
import type { Offer } from "./form.js";
import type { Parcel } from "./parcel.js";
import type { AgentCounts, AgentRequest } from "./request.js";

export interface TurnOfAgent {
  readonly agent: Agent;
  readonly pool: Pool;
  readonly translators: readonly Translator[];
  /** How texts of others stand in the prompt. */
  readonly noteStyle: "inline" | "message";
  readonly store: KvStore | undefined;
  readonly request: AgentRequest;
  readonly contents: readonly Parcel[];
  readonly signal: AbortSignal;
  /** Called with text as it is spoken. */
  readonly emit: (delta: string) => void;
}

/** What the agent hands over; its handles are the caller's, who disposes them. */
export async function takeTurn(of: TurnOfAgent): Promise<{ readonly offer: Offer; readonly counts: AgentCounts }> {
  const started = performance.now();
  const { agent, pool, request, signal } = of;
  const sequence = pool.sequence();
  try {
    const notes: Note[] = [...request.notes];
    const counts = noCounts();
    const turn: Turn = {
      agent,
      sequence,
      question: request.question,
      notes,
      noteStyle: of.noteStyle,
      store: of.store === undefined ? undefined : new StoreOfRun(of.store),
      counts,
      emit: (event) => {
        if (event.type === "text-delta" && event.final) of.emit(event.delta);
      },
      signal,
    };
    for (const content of of.contents) await receive(turn, content, of, notes);
    const offer = await act(turn, request);
    const { prefillTokens, latentSteps, decodedTokens, fromRam, fromDisk } = counts;
    return { offer, counts: { prefillTokens, latentSteps, decodedTokens, stored: fromRam + fromDisk, ms: performance.now() - started } };
  } finally {
    await sequence.dispose();
  }
}

/** Behind what is there already. */
async function receive(turn: Turn, content: Parcel, { pool, translators }: TurnOfAgent, notes: Note[]): Promise<void> {
  const { sequence, signal } = turn;
  if (content.form === "kv") {
    using kv = await content.kv(pool, { signal });
    await sequence.importKv(kv, { signal });
    return;
  }
  if (content.form === "text") {
    if (content.text !== undefined) notes.push(noteOf(content, content.text));
    return;
  }
  using latent = await content.latent({ signal });
  const { space } = pool.model;
  if (latent.space.id === space.id) {
    await receiveLatents(turn, latent);
    return;
  }
  const translator = translators.find(({ card }) => card.from?.id === latent.space.id && card.to?.id === space.id);
  if (translator !== undefined) {
    using translated = await translator.translate(latent, { signal });
    await receiveLatents(turn, translated);
    return;
  }
  if (content.text === undefined)
    throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `${turn.agent.name} was given latents of another space, and no text`, {
      details: { have: latent.space, want: space },
    });
  // declared: the requester hears that it was text
  notes.push(noteOf(content, content.text));
}

function noteOf({ label, from }: Parcel, text: string): Note {
  return { from: label === "" ? from : label, text };
}

async function act(turn: Turn, { op, question, medium, generate }: AgentRequest): Promise<Offer> {
  const { agent, sequence, signal, counts } = turn;
  if (op === "generate") {
    const before = sequence.length;
    await sequence.prefill(question, { signal });
    counts.prefillTokens += sequence.length - before;
    return { text: (await speak(turn, { ...agent.generate, ...generate }, true)).text };
  }
  await readPrompt(turn, op === "think" && agent.think.policy === "hidden" ? "last" : "none");
  if (op === "say") return { text: (await speak(turn, { ...agent.generate, ...generate }, true)).text };
  return await handOver(sequence, turn, medium);
}

async function handOver(sequence: Sequence, turn: Turn, medium: AgentRequest["medium"]): Promise<Offer> {
  const { agent, signal } = turn;
  const thought = await think(turn, medium);
  // a thought in words can stand for itself
  const words = { label: agent.name, ...(thought.text !== undefined && { text: thought.text }) };
  if (medium === "latent") return thought.latents === undefined ? words : { ...words, latent: thought.latents };
  thought.latents?.dispose();
  return medium === "kv" ? { ...words, kv: await sequence.exportKv({ label: agent.name, signal }) } : words;
}
