// An agent somewhere on the bus, called like one that is here: the call is a message in its inbox, so it is not lost when the agent is; the answer comes as
// it is made, and what an agent hands over is a parcel that can go on to the next without having been here.
import { checkArray, checkInteger, checkKeys, checkOneOf, checkString, fallback, invalid } from "../check.js";
import type { Medium } from "../agents/events.js";
import type { Note } from "../agents/agent.js";
import { LatentError } from "../errors.js";
import { KvHandle } from "../kv/handle.js";
import { checkGenerateOptions } from "../models/generation.js";
import { Latent } from "../spaces/latent.js";
import { ownMachine, ownProcess, type Announcement } from "./announcement.js";
import type { Entry } from "./brokers/broker.js";
import { checkConversation, checkText, checkTraceparent, longestMs, type Envelope } from "./envelope.js";
import { positionsOf, wayOf } from "./claim.js";
import { newId } from "./message.js";
import { Parcel } from "./parcel.js";
import { eitherOf, Post, type PackedOffer } from "./post.js";
import { checkCounts, failureFrom, type AgentCounts, type AgentRequest, type SentGenerateOptions } from "./request.js";

/** What an agent gets from others besides its question: content, which it continues from in this order, or texts. */
export type Received = Parcel | Latent | KvHandle | Note;

/** Options of every call of a {@link RemoteAgent}. */
export interface AskOptions {
  /** What other agents handed over. Default: nothing. */
  readonly received?: readonly Received[];
  /** Calls of one conversation are answered in order. Default: a conversation of its own. */
  readonly conversation?: string;
  /** How long the whole call may take, in milliseconds. Default two minutes. */
  readonly deadlineMs?: number;
  /** How long to wait for somebody to serve the agent, in milliseconds. Default 0: who is not there is an error at once. */
  readonly waitMs?: number;
  /** W3C trace context, passed on to the agent. */
  readonly traceparent?: string;
  readonly signal?: AbortSignal;
}

/** What crossed on one call, there and back. */
export interface BusHop extends AgentCounts {
  readonly from: string;
  readonly to: string;
  /** Of what the agent was given: the form, how it came to it, and why. `none` where it was asked a question alone. */
  readonly given: readonly {
    readonly form: Medium;
    readonly way: Parcel["way"];
    readonly why: string;
    readonly positions: number;
    readonly bytes: number;
  }[];
  /** From the call to the answer. */
  readonly roundTripMs: number;
}

/** What an agent thought, for the next one. */
export interface RemoteThought {
  /** Pass it on in `received`, or read it; dispose it when nobody needs it any more. */
  readonly content: Parcel;
  readonly hop: BusHop;
}

/** What an agent said. */
export interface RemoteAnswer {
  readonly text: string;
  readonly hop: BusHop;
}

/** An answer that comes as it is made: iterate for its text (leaving the loop cancels it), or await the whole. */
export interface RemoteReply extends AsyncIterable<string> {
  readonly answer: Promise<RemoteAnswer>;
}

const askOptions = ["received", "conversation", "deadlineMs", "waitMs", "traceparent", "signal"] as const;
/** After so much silence the agent is asked whether it is still at it. */
const silenceMs = 3000;

interface Call {
  readonly op: AgentRequest["op"];
  readonly question: string;
  readonly medium?: Medium | undefined;
  readonly generate?: SentGenerateOptions | undefined;
}

/** Made by {@link Bus.agent}. */
export class RemoteAgent {
  readonly #post: Post;

  /** @internal */
  constructor(
    post: Post,
    readonly name: string,
  ) {
    this.#post = post;
  }

  /** What it said of itself; undefined if nobody serves it now. */
  get announcement(): Announcement | undefined {
    return this.#post.find("agent", this.name);
  }

  /**
   * Reads the question and what was received, thinks by its policy, and hands over: its cells (`kv`, the default), latents, or words.
   * @throws {@link LatentError} `ERR_LATENT_BUS_UNKNOWN_AGENT`, `ERR_LATENT_BUS_FORM`, `ERR_LATENT_BUS_DEADLINE`, `ERR_LATENT_BUS_PEER` or the agent's own code with
   * `details.by: "peer"`, `ERR_LATENT_BUS_DISCONNECTED`; the signal's reason on abort
   */
  async think(question: string, options: AskOptions & { readonly medium?: Medium } = {}): Promise<RemoteThought> {
    checkKeys("options", options, [...askOptions, "medium"]);
    const medium = checkOneOf("medium", fallback(options.medium, "kv"), ["kv", "latent", "text"]);
    const { parcel, hop } = await this.#call({ op: "think", question, medium }, options, () => undefined);
    return { content: parcel, hop };
  }

  /**
   * Reads the question and what was received, and answers. Rejects as {@link think} does.
   */
  say(question: string, options: AskOptions & { readonly generate?: SentGenerateOptions } = {}): RemoteReply {
    checkKeys("options", options, [...askOptions, "generate"]);
    return this.#reply({ op: "say", question, generate: options.generate }, options);
  }

  /** Continues a prompt as it is, without the agent's own words around it. Rejects as {@link think} does. */
  generate(prompt: string, options: AskOptions & { readonly generate?: SentGenerateOptions } = {}): RemoteReply {
    checkKeys("options", options, [...askOptions, "generate"]);
    return this.#reply({ op: "generate", question: prompt, generate: options.generate }, options);
  }

  #reply(call: Call, options: AskOptions): RemoteReply {
    checkString("question", call.question);
    if (call.generate !== undefined) checkGenerateOptions(call.generate);
    const left = new AbortController();
    const deltas: string[] = [];
    let wake = (): void => undefined;
    let ended = false;
    let read = false;
    let emitted = 0;
    const emit = (delta: string): void => {
      emitted += delta.length;
      deltas.push(delta);
      wake();
    };
    const answer = this.#call(call, { ...options, signal: eitherOf(left.signal, options.signal) }, emit)
      .then(({ parcel, hop }) => {
        const text = parcel.text ?? "";
        parcel.dispose();
        // what was lost on the way stands in the whole
        if (emitted < text.length) emit(text.slice(emitted));
        return { text, hop };
      })
      .finally(() => {
        ended = true;
        wake();
      });
    answer.catch(() => undefined);
    return {
      answer,
      async *[Symbol.asyncIterator]() {
        if (read) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "an answer can be read once");
        read = true;
        try {
          for (;;) {
            const delta = deltas.shift();
            if (delta !== undefined) yield delta;
            else if (ended) break;
            else await new Promise<void>((resolve) => (wake = resolve));
          }
          await answer;
        } finally {
          if (!ended) left.abort(new DOMException("the reader left the answer", "AbortError"));
        }
      },
    };
  }

  async #call(call: Call, options: AskOptions, emit: (delta: string) => void): Promise<{ parcel: Parcel; hop: BusHop }> {
    const deadlineMs = checkInteger("deadlineMs", fallback(options.deadlineMs, 120_000), 1, longestMs);
    const waitMs = checkInteger("waitMs", fallback(options.waitMs, 0), 0, longestMs);
    const received = checkReceived(options.received);
    const conversation = options.conversation === undefined ? newId() : checkConversation(options.conversation);
    if (options.traceparent !== undefined) checkTraceparent(options.traceparent);
    const started = performance.now();
    const late = new LatentError("ERR_LATENT_BUS_DEADLINE", `${this.name} did not answer within ${deadlineMs} ms`, {
      details: { deadlineMs },
    });
    const deadline = new AbortController();
    const timer = setTimeout(() => {
      deadline.abort(late);
    }, deadlineMs);
    const signal = AbortSignal.any([deadline.signal, eitherOf(this.#post.signal, options.signal)]);
    try {
      const receiver = await this.#find(waitMs, signal);
      const given: PackedOffer[] = [];
      const { id, reply, end } = this.#expect(emit, signal);
      try {
        await this.#post.append(`agent.${this.name}`, signal, async () => {
          for (const one of received) {
            if (!isNote(one)) given.push(await this.#pack(one, given, receiver, deadlineMs, signal));
          }
          const packed = Post.join(given);
          this.#post.keep(id, packed, deadlineMs);
          const data: AgentRequest = {
            op: call.op,
            question: call.question,
            medium: call.medium ?? "text",
            notes: [...received.filter(isNote), ...given.flatMap(noteOf)],
            generate: call.generate ?? {},
            machine: ownMachine(),
            process: ownProcess(),
          };
          const fields = {
            data: { ...data },
            validForMs: deadlineMs,
            ...(packed.claims.length > 0 && { claims: packed.claims }),
            ...(options.traceparent !== undefined && { traceparent: options.traceparent }),
          };
          return { envelope: this.#post.envelope("request", this.name, conversation, fields, id), packed };
        });
        const { envelope, entry } = await reply;
        return { parcel: this.#parcelOf(envelope, entry), hop: this.#hopOf(envelope, given, performance.now() - started) };
      } finally {
        end();
        // the agent has read it by now, or is not to any more
        this.#post.outbox.release(id);
      }
    } finally {
      clearTimeout(timer);
    }
  }

  /** The next content of a request. If it cannot be had, what was packed before it is given up. */
  async #pack(
    one: Exclude<Received, Note>,
    before: readonly PackedOffer[],
    receiver: Announcement,
    keptMs: number,
    signal: AbortSignal,
  ): Promise<PackedOffer> {
    try {
      const offer = one instanceof Parcel ? one : one instanceof Latent ? { latent: one } : { kv: one };
      return await this.#post.pack(offer, { receiver, keptMs, signal, isMore: before.length > 0 });
    } catch (error) {
      for (const release of before.flatMap(({ releases }) => releases)) release();
      throw error;
    }
  }

  /**
   * Resolves with the reply; rejects with what the agent says of its failure, or when the signal aborts, and then the agent is told. `end` waits no more.
   */
  #expect(
    emit: (delta: string) => void,
    signal: AbortSignal,
  ): { id: string; reply: Promise<{ envelope: Envelope; entry: Entry }>; end: () => void } {
    const post = this.#post;
    const id = newId();
    let end = (): void => undefined;
    const subject = `agent.${this.name}`;
    const reply = new Promise<{ envelope: Envelope; entry: Entry }>((resolve, reject) => {
      let parts = 0;
      const nudge = setInterval(() => {
        void post.signalTo(subject, post.envelope("again", this.name, "", { about: id }));
      }, silenceMs);
      const stop = post.expect(id, (envelope, entry) => {
        nudge.refresh();
        const { data = {} } = envelope;
        if (envelope.kind === "part") {
          // once one is missing, the rest comes with the whole
          if (data["part"] === parts && typeof data["delta"] === "string") {
            parts++;
            emit(data["delta"]);
          }
          return;
        }
        if (envelope.kind !== "reply") return;
        end();
        if (data["failure"] !== undefined) reject(failureFrom(this.name, data["failure"]));
        else resolve({ envelope, entry });
      });
      const abort = (): void => {
        end();
        void post.signalTo(subject, post.envelope("cancel", this.name, "", { about: id }));
        reject(signal.reason as Error);
      };
      end = (): void => {
        clearInterval(nudge);
        stop();
        signal.removeEventListener("abort", abort);
      };
      signal.addEventListener("abort", abort, { once: true });
      if (signal.aborted) abort();
    });
    // it is awaited when the request has been sent
    reply.catch(() => undefined);
    return { id, reply, end };
  }

  async #find(waitMs: number, signal: AbortSignal): Promise<Announcement> {
    const unknown = new LatentError("ERR_LATENT_BUS_UNKNOWN_AGENT", `nobody on this bus serves an agent '${this.name}'`);
    const found = this.announcement;
    if (found !== undefined) return found;
    if (waitMs === 0) throw unknown;
    return await new Promise<Announcement>((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer);
        stop();
        signal.removeEventListener("abort", abort);
      };
      const abort = (): void => {
        end();
        reject(signal.reason as Error);
      };
      const timer = setTimeout(() => {
        end();
        reject(unknown);
      }, waitMs);
      const stop = this.#post.onChange(() => {
        const there = this.announcement;
        if (there === undefined) return;
        end();
        resolve(there);
      });
      signal.addEventListener("abort", abort, { once: true });
      if (signal.aborted) abort();
    });
  }

  #parcelOf(envelope: Envelope, entry: Entry): Parcel {
    const [parcel] = this.#post.parcels(envelope, entry, () => {
      this.#post.receipt(envelope);
    });
    return parcel;
  }

  #hopOf(envelope: Envelope, given: readonly PackedOffer[], roundTripMs: number): BusHop {
    return {
      from: this.#post.name,
      to: this.name,
      given: given.map(({ form, why, claims, bytes }) => {
        const [claim] = claims;
        return { form, way: wayOf(claim), why, positions: positionsOf(claim), bytes };
      }),
      ...checkCounts(envelope.data?.["counts"]),
      roundTripMs,
    };
  }
}

function checkReceived(received: readonly Received[] | undefined): readonly Received[] {
  return checkArray("received", fallback(received, [])).map((one: unknown) => {
    if (one instanceof Parcel || one instanceof Latent || one instanceof KvHandle) return one;
    if (typeof one !== "object" || one === null) throw invalid("received", "parcels, latents, keys and values, or notes", one);
    checkKeys("received", one, ["from", "text"]);
    const { from, text } = one as Readonly<Record<string, unknown>>;
    return { from: checkString("received.from", from), text: checkText(text) };
  });
}

function isNote(one: Received): one is Note {
  return !(one instanceof Parcel || one instanceof Latent || one instanceof KvHandle);
}

/** Content that goes as text is a note to the agent. */
function noteOf({ claims, text, label }: PackedOffer): readonly Note[] {
  return claims.length > 0 || text === undefined ? [] : [{ from: label ?? "another agent", text }];
}
