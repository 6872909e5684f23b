// What a run reports while it goes on and when it ends. Prefilled tokens, latent steps, decoded tokens and bytes are separate counts everywhere.
import type { LatentErrorCode } from "../errors.js";
import type { GenerationResult } from "../models/generation.js";
import type { TranslatorCard } from "../spaces/translator.js";
import type { TranslatorReport } from "../spaces/report.js";

/** Positions that a sequence got from a {@link KvStore} instead of prefilling them. 0 without a store. */
export interface StoredPositions {
  readonly fromRam: number;
  readonly fromDisk: number;
}

/** What a run did with the store that it was given. */
export interface StoreUse extends StoredPositions {
  /** Chunks of 256 positions that were put into the store, because they had to be prefilled. */
  readonly added: number;
  /** Keys and values of these. */
  readonly addedBytes: number;
  /** Why something was not put: the code of the last error. The run goes on without it. */
  readonly failed?: LatentErrorCode;
}

/** How a thought travels: the cells themselves, vectors, or words. */
export type Medium = "kv" | "latent" | "text";

/** The translator that stands between two agents, and what it is worth; see {@link TranslatorReport}. */
export interface HopTranslator extends Pick<TranslatorCard, "method" | "slots" | "maps" | "placebo"> {
  /** Undefined for one that was not fitted but made of others or imported. */
  readonly quality: Pick<TranslatorReport["heldOut"], "retrieval1" | "mrr" | "cosine"> | undefined;
  readonly verdict: TranslatorReport["verdict"] | undefined;
  /** `latents`: the thought went through it. `none`: it is not used, because text was asked for. `text`: it is of no use, and text went instead. */
  readonly used: "latents" | "none" | "text";
}

/** One hand-over: what the sender spent on the thought that crossed, and what crossed. */
export interface Hop extends StoredPositions {
  readonly from: string;
  readonly to: string;
  readonly medium: Medium;
  /** Positions that the receiver holds because of this hop, without reading anything: cells (`kv`) or rows (`latent`); 0 for text. */
  readonly positions: number;
  /** Bytes that were moved: 0 for `kv` in one pool, the sender's rows for `latent`, UTF-8 for `text`. */
  readonly bytes: number;
  /** Cache bytes of `positions` of a `kv` hop: what a copy of them would move. 0 for `latent` and `text`. */
  readonly heldBytes: number;
  /** Positions that the sender prefilled: its prompt, and rows it received. */
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  /** From the sender's start to the end of the hand-over. */
  readonly ms: number;
  /** Present if one stands between the two agents. */
  readonly translator?: HopTranslator;
}

/** Counts over all agents of a run. `ms` includes making the pool if the run made it. */
export interface RunTotals extends StoredPositions {
  readonly prefillTokens: number;
  readonly latentSteps: number;
  readonly decodedTokens: number;
  readonly bytes: number;
  readonly ms: number;
}

/** What a run ends with. */
export interface RunResult {
  /** What the last agent said. */
  readonly text: string;
  /** Why it ended there: the model was done (`end`), a stop string came (`stop`), or it was as long as it may be (`length`). */
  readonly reason: GenerationResult["reason"];
  readonly hops: readonly Hop[];
  /** Over all agents, the last one included. They add up to the pool's own counters. */
  readonly totals: RunTotals;
  /**
   * The same content handed over as text and without a store, by arithmetic and not measured: every position that crossed or came from a store is
   * prefilled, every latent step is a decoded token. Run the pipe with `medium: 'text'` to measure.
   */
  readonly asText: { readonly prefillTokens: number; readonly decodedTokens: number };
  /** Present if the run was given a store. */
  readonly store?: StoreUse;
}

/** What a run reports while it goes on. */
export type RunEvent =
  | {
      readonly type: "run-start";
      readonly agents: readonly string[];
      readonly media: readonly Medium[];
      readonly compat: "none" | "latentmas";
    }
  | { readonly type: "agent-start"; readonly agent: string; readonly inherited: number }
  /** `tokens` were prefilled; the positions before them came from the store. `ms` is without what it took to put them there. */
  | ({ readonly type: "prefill"; readonly agent: string; readonly tokens: number; readonly ms: number } & StoredPositions)
  | { readonly type: "thought-step"; readonly agent: string; readonly step: number; readonly norm: number; readonly cosine: number }
  /** `final` is true for the answer, false for a thought in words. */
  | { readonly type: "text-delta"; readonly agent: string; readonly delta: string; readonly final: boolean }
  | { readonly type: "hop-end"; readonly hop: Hop }
  | { readonly type: "run-end"; readonly result: RunResult };

/** A run in progress: iterate for its events (leaving the loop cancels it), or await the answer. */
export interface RunStream extends AsyncIterable<RunEvent> {
  readonly answer: Promise<RunResult>;
}
