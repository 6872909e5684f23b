// Agents in a row: each continues from what the one before it holds, and the last one answers. Between agents of different models a translator may stand.
import { checkKeys, checkOneOf, checkString, invalid, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import type { KvStore } from "../kv/store.js";
import type { Model } from "../models/model.js";
import type { Pool } from "../models/pool.js";
import type { Sequence } from "../models/sequence.js";
import { thoughtLimit } from "../policies/thought.js";
import { requireSameSpace } from "../spaces/space.js";
import { Translator } from "../spaces/translator.js";
import { Agent, type Note } from "./agent.js";
import type { Hop, HopTranslator, Medium, RunResult, RunStream } from "./events.js";
import {
  noCounts,
  readPrompt,
  receiveLatents,
  requirePool,
  requireStore,
  resultOf,
  speak,
  sum,
  think,
  type Counts,
  type Turn,
} from "./stage.js";
import { StoreOfRun } from "./store-of-run.js";
import { startRun, type Emit } from "./stream.js";

/** Options of a run of a {@link Pipe}. */
export interface PipeOptions {
  /** How thoughts travel: one medium for all hops, or one for each. Default `kv`, and `latent` through a translator. */
  readonly medium?: Medium | readonly Medium[];
  /**
   * What a `kv` hop keeps: `all` the sender holds (default), its `own` prompt and thought, or its `thoughts` alone. What is kept is re-anchored to
   * position 0, which needs a model whose keys can be moved.
   */
  readonly keep?: "all" | "own" | "thoughts";
  /** Notes of the text medium: above the question in one message (`inline`, default), or as user messages of their own (`message`). */
  readonly notes?: "inline" | "message";
  /** `latentmas`: as the reference code does, the last agent starts from nothing when no latent step was taken. Default `none`. */
  readonly compat?: "none" | "latentmas";
  /** A pool to run in; all agents must then be of its model. Default: one is made for the run, as large as the run can need. */
  readonly pool?: Pool;
  /**
   * Prompts are kept here: an agent that starts with an empty cache takes from it what is held of its prompt, prefills the rest, and puts that back.
   * A store that fails costs the run nothing; {@link RunResult.store} tells.
   */
  readonly store?: KvStore;
  readonly signal?: AbortSignal;
}

/** Agents in a row; see {@link pipe}. */
export interface Pipe {
  readonly agents: readonly Agent[];
  /** `translators[i]`: between agents i and i + 1; undefined where none is. */
  readonly translators: readonly (Translator | undefined)[];
  /** Runs to the end. @throws LatentError; `signal.reason` when aborted */
  run(question: string, options?: PipeOptions): Promise<RunResult>;
  /** Starts a run and returns its events and its answer. Leaving the loop over the events cancels it. */
  stream(question: string, options?: PipeOptions): RunStream;
}

const media = ["kv", "latent", "text"] as const;

/**
 * Puts agents in a row; 1 or more. One agent alone just answers. An agent may stand in a row more than once. Agents of different models understand each
 * other's latents through a translator that stands between them:
 *
 * ```ts
 * using translator = await fitTranslator({ from: wren, to: finch, texts, onWeak: "text" });
 * const { text, hops } = await pipe(reader, translator, solver).run(question);
 * ```
 * A translator that is no better than chance and was made with `onWeak: "text"` is not used: the hop's medium is `text` then, and its `translator` tells.
 * The caller disposes translators.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function pipe(...stages: readonly [Agent, ...(Agent | Translator)[]]): Pipe {
  if (stages.length === 0) throw invalid("agents", "at least one agent", stages);
  const agents: Agent[] = [];
  const translators: (Translator | undefined)[] = [];
  for (const stage of stages as readonly unknown[]) {
    const isFirst = agents.length === translators.length;
    if (stage instanceof Agent) {
      if (agents.length > translators.length) translators.push(undefined);
      agents.push(stage);
    } else if (!(stage instanceof Translator)) throw invalid("agents", "agents made by model.agent(), and translators between them", stage);
    else if (isFirst) throw invalid("agents", "one translator between two agents; compose() makes one of two", stage.card.method);
    else translators.push(stage);
  }
  if (translators.length === agents.length) throw invalid("agents", "a row that ends with an agent", "a translator");
  const row: Row = { agents: Object.freeze(agents), translators: Object.freeze(translators) };
  return {
    ...row,
    async run(question, options = {}) {
      const plan = makePlan(row, question, options);
      return execute(plan, () => undefined, options.signal ?? new AbortController().signal);
    },
    stream(question, options = {}) {
      const plan = makePlan(row, question, options);
      return startRun((emit, signal) => execute(plan, emit, signal), options.signal);
    },
  };
}

interface Row {
  readonly agents: readonly Agent[];
  readonly translators: readonly (Translator | undefined)[];
}

interface Plan extends Row {
  readonly question: string;
  /** `media[i]`: between agents i and i + 1. */
  readonly media: readonly Medium[];
  /** What was asked for, which is not `media` where a translator is of no use. */
  readonly asked: readonly Medium[];
  readonly keep: "all" | "own" | "thoughts";
  readonly notes: "inline" | "message";
  readonly compat: "none" | "latentmas";
  readonly pool: Pool | undefined;
  readonly store: KvStore | undefined;
  /** Positions needed at most by one sequence of a model. */
  readonly need: ReadonlyMap<Model, number>;
}

// Everything that can be refused is refused here, before a pool exists.
function makePlan({ agents, translators }: Row, question: string, options: PipeOptions): Plan {
  checkKeys("options", options, ["medium", "keep", "notes", "compat", "pool", "store", "signal"]);
  checkString("question", question);
  requirePool(options.pool);
  requireStore(options.store);
  const chosen = mediaOf(translators, options.medium);
  const plan = {
    agents,
    translators,
    question,
    asked: chosen,
    // what is no better than chance goes as text, if its maker said so
    media: chosen.map((medium, i) => (medium === "latent" && translators[i]?.card.onWeak === "text" ? "text" : medium)),
    keep: checkOneOf("keep", fallback(options.keep, "all"), ["all", "own", "thoughts"]),
    notes: checkOneOf("notes", fallback(options.notes, "inline"), ["inline", "message"]),
    compat: checkOneOf("compat", fallback(options.compat, "none"), ["none", "latentmas"]),
    pool: options.pool,
    store: options.store,
  };
  plan.media.forEach((medium, i) => {
    checkHop(agents[i], agents[i + 1], medium, translators[i]);
  });
  for (const agent of agents) {
    if (plan.pool !== undefined && agent.model !== plan.pool.model) {
      throw new LatentError("ERR_LATENT_SPACE_MISMATCH", `agent ${agent.name} is of another model than the pool`);
    }
  }
  const need = contextNeed(plan);
  for (const [model, positions] of need) {
    const have = plan.pool?.info.contextLength ?? model.info.contextLength;
    if (positions > have) {
      throw new LatentError(
        "ERR_LATENT_CONTEXT_OVERFLOW",
        `the run needs up to ${positions} positions in one sequence, the context has ${have}`,
        {
          details: { need: positions, have },
        },
      );
    }
  }
  return { ...plan, need };
}

function mediaOf(translators: Row["translators"], given: PipeOptions["medium"]): Medium[] {
  const hops = translators.length;
  if (given === undefined) return translators.map((translator) => (translator === undefined ? "kv" : "latent"));
  const value: unknown = given;
  const list: readonly unknown[] =
    typeof value === "string" ? Array.from({ length: hops }, () => value) : Array.isArray(value) ? value : [];
  if (list.length !== hops) throw invalid("medium", `one medium, or one for each of the ${hops} hops`, given);
  return list.map((one) => checkOneOf("medium", one, media));
}

function checkHop(from: Agent | undefined, to: Agent | undefined, medium: Medium, translator: Translator | undefined): void {
  if (from === undefined || to === undefined || medium === "text") return;
  if (translator !== undefined) {
    checkTranslated(from, to, medium, translator);
    return;
  }
  if (from.model === to.model) return;
  if (medium === "latent" && from.model.space.id === to.model.space.id) return;
  throw new LatentError(
    "ERR_LATENT_SPACE_MISMATCH",
    `${from.name} and ${to.name} are of different models, so '${medium}' cannot cross between them`,
    { hint: "Put a translator between the two (fitTranslator), or use the text medium." },
  );
}

function checkTranslated(from: Agent, to: Agent, medium: Medium, translator: Translator): void {
  if (medium === "kv")
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `what ${from.name} caches cannot go through a translator: medium must be 'latent' or 'text'`,
    );
  if (translator.disposed) throw new LatentError("ERR_LATENT_DISPOSED", `the translator between ${from.name} and ${to.name} was disposed`);
  const { card } = translator;
  if (card.from === undefined || card.to === undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `the translator between ${from.name} and ${to.name} does not know its spaces`);
  requireSameSpace(from.model.space, card.from, `what ${from.name} makes`);
  requireSameSpace(card.to, to.model.space, `what the translator makes for ${to.name}`);
  const { think } = from;
  if (card.slots !== undefined && (think.policy !== "hidden" || think.steps !== card.slots)) {
    const steps = think.policy === "hidden" ? `${think.steps} latent steps` : "tokens";
    throw new LatentError(
      "ERR_LATENT_INVALID_ARGUMENT",
      `the translator takes messages of ${card.slots} rows, ${from.name} thinks in ${steps}`,
    );
  }
}

// The most positions that a sequence can come to hold, with room for one token of the answer. Notes count with the tokens they may have.
function contextNeed(plan: Omit<Plan, "need">): Map<Model, number> {
  const need = new Map<Model, number>();
  let held = 0;
  let notes = 0;
  plan.agents.forEach((agent, i) => {
    const { model } = agent;
    const prompt = model.tokenize(model.renderChat(agent.messages(plan.question, [], plan.notes))).length + 1 + notes;
    const medium = plan.media[i];
    const spoken = agent.think.policy === "hidden" && medium === "text" ? (agent.generate.maxTokens ?? 256) : 0;
    const thought = medium === undefined ? 1 : thoughtLimit(agent.think) + spoken;
    need.set(model, Math.max(need.get(model) ?? 0, held + prompt + thought));
    if (medium === "text") notes += (spoken > 0 ? spoken : thoughtLimit(agent.think)) + 8;
    if (medium === "kv" && plan.keep === "all") held += prompt + thought;
    else if (medium === "kv") held = plan.keep === "own" ? prompt + thought : thought;
    else held = medium === "latent" ? thought : 0;
  });
  return need;
}

async function execute(plan: Plan, emit: Emit, signal: AbortSignal): Promise<RunResult> {
  signal.throwIfAborted();
  await using pools = new PoolsOfRun(plan);
  const start = performance.now();
  const { agents, question } = plan;
  const store = plan.store === undefined ? undefined : new StoreOfRun(plan.store);
  emit({ type: "run-start", agents: agents.map((agent) => agent.name), media: plan.media, compat: plan.compat });
  const hops: Hop[] = [];
  const all: Counts[] = [];
  const notes: Note[] = [];
  let inherited: Sequence | undefined;
  let received: Thought["latents"];
  let answer: Pick<RunResult, "text" | "reason"> = { text: "", reason: "end" };
  try {
    for (const [i, agent] of agents.entries()) {
      const began = performance.now();
      const medium = plan.media[i];
      const fresh = plan.compat === "latentmas" && medium === undefined && i > 0 && all.every((one) => one.latentSteps === 0);
      if (fresh) {
        await inherited?.dispose();
        inherited = undefined;
      }
      const sequence: Sequence = inherited ?? (await pools.of(agent.model, signal)).sequence();
      inherited = sequence;
      const counts = noCounts();
      all.push(counts);
      const turn: Turn = { agent, sequence, question, notes, noteStyle: plan.notes, store, counts, emit, signal };
      if (received !== undefined && !fresh) await receiveLatents(turn, received);
      received?.dispose();
      received = undefined;
      emit({ type: "agent-start", agent: agent.name, inherited: sequence.length });
      const held = sequence.length;
      await readPrompt(turn, agent.think.policy === "hidden" && medium !== undefined ? "last" : "none");
      if (medium === undefined) {
        // an answer ends where the context does
        const room = sequence.pool.info.contextLength - sequence.length;
        answer = await speak(turn, { ...agent.generate, maxTokens: Math.min(agent.generate.maxTokens ?? 256, room) }, true);
        break;
      }
      const thought = await think(turn, medium);
      const crossed = await handOver(plan, medium, sequence, held, thought, notes, agent);
      const translator = plan.translators[i];
      if (medium === "latent") received = await translated(thought.latents, translator, signal);
      else thought.latents?.dispose();
      if (medium !== "kv") {
        await sequence.dispose();
        inherited = undefined;
      }
      const hop: Hop = {
        from: agent.name,
        to: agents[i + 1]?.name ?? "",
        medium,
        ...crossed,
        ...counts,
        ms: performance.now() - began,
        ...(translator && { translator: describe(translator, medium, plan.asked[i]) }),
      };
      hops.push(hop);
      emit({ type: "hop-end", hop });
    }
  } finally {
    received?.dispose();
    if (inherited !== undefined) await inherited.dispose();
  }
  const bytes = hops.reduce((total, hop) => total + hop.bytes, 0);
  const totals = sum(all, bytes, performance.now() - start);
  // rows that were fed are already among the prefilled positions
  const reread = hops.reduce((total, hop) => total + (hop.medium === "kv" ? hop.positions : 0), 0);
  const result = resultOf(answer, hops, totals, reread, store);
  emit({ type: "run-end", result });
  return result;
}

type Thought = Awaited<ReturnType<typeof think>>;

/** Takes the latents over. */
async function translated(
  latents: Thought["latents"],
  translator: Translator | undefined,
  signal: AbortSignal,
): Promise<Thought["latents"]> {
  if (latents === undefined || translator === undefined) return latents;
  using own = latents;
  return own.shape[0] === 0 ? undefined : await translator.translate(own, { signal });
}

function describe({ card, report }: Translator, medium: Medium, asked: Medium | undefined): HopTranslator {
  const { method, slots, maps, placebo } = card;
  const used = medium === "latent" ? "latents" : asked === "latent" ? "text" : "none";
  const quality = report && { retrieval1: report.heldOut.retrieval1, mrr: report.heldOut.mrr, cosine: report.heldOut.cosine };
  return {
    method,
    ...(slots !== undefined && { slots }),
    ...(maps && { maps }),
    ...(placebo && { placebo }),
    quality,
    verdict: report?.verdict,
    used,
  };
}

async function handOver(
  plan: Plan,
  medium: Medium,
  sequence: Sequence,
  held: number,
  thought: Thought,
  notes: Note[],
  agent: Agent,
): Promise<Pick<Hop, "positions" | "bytes" | "heldBytes">> {
  if (medium === "kv") {
    const kept = plan.keep === "all" ? sequence.length : plan.keep === "own" ? sequence.length - held : thought.positions;
    await sequence.keepLast(kept);
    return { positions: kept, bytes: 0, heldBytes: kept * sequence.pool.info.kvBytesPerPosition };
  }
  if (medium === "latent") return { positions: thought.latents?.shape[0] ?? 0, bytes: thought.latents?.bytes ?? 0, heldBytes: 0 };
  const note = { from: agent.name, text: thought.text ?? "" };
  notes.push(note);
  return { positions: 0, bytes: Buffer.byteLength(note.text, "utf8"), heldBytes: 0 };
}

// The pools of one run: the given one, or one for each model, disposed with the run.
class PoolsOfRun {
  readonly #own = new Map<Model, Promise<Pool>>();

  constructor(readonly plan: Plan) {}

  of(model: Model, signal: AbortSignal): Promise<Pool> {
    if (this.plan.pool !== undefined) return Promise.resolve(this.plan.pool);
    let pool = this.#own.get(model);
    if (pool === undefined) {
      // room for the answer beside what is certain to be needed
      const answer = this.plan.agents.at(-1)?.generate.maxTokens ?? 256;
      const contextLength = Math.min(model.info.contextLength, (this.plan.need.get(model) ?? 0) + answer);
      pool = model.createPool({ contextLength, maxSequences: 2, signal });
      this.#own.set(model, pool);
    }
    return pool;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const pool of this.#own.values()) await pool.then((made) => made.dispose()).catch(() => undefined);
  }
}
