// A running generation: tokens as an async iterable with back-pressure, and the whole as a promise.
import { checkInteger, checkKeys, checkNumber, invalid, fallback } from "../check.js";
import { LatentError } from "../errors.js";
import { cancel, run } from "../jobs.js";
import type { NativeGenerateResult, NativeSequence, NativeTokenEvent } from "../native-engine.js";

/** Options of {@link Sequence.generate}. */
export interface GenerateOptions {
  /** Default 256. */
  readonly maxTokens?: number;
  /** Default 0: greedy. */
  readonly temperature?: number;
  /** Default 40; 0 turns it off. */
  readonly topK?: number;
  /** Default 0.95; 1 turns it off. */
  readonly topP?: number;
  /** Default 0.05; 0 turns it off. */
  readonly minP?: number;
  /** Default 1: off. */
  readonly repeatPenalty?: number;
  /** Default 0: off. */
  readonly frequencyPenalty?: number;
  /** Default 0: off. */
  readonly presencePenalty?: number;
  /** How many of the last tokens the penalties see. Default 64. */
  readonly penaltyWindow?: number;
  /** 0..2^32-1, default 0: the same seed gives the same tokens on one machine. */
  readonly seed?: number;
  /** Strings that end the generation; they are not part of the text. */
  readonly stop?: readonly string[];
  /** -1000..1000, default 0. */
  readonly priority?: number;
  readonly signal?: AbortSignal;
}

/** One sampled token and the text that it completed. */
export interface GeneratedToken {
  readonly token: number;
  /** Text that became certain with this token; may be empty (half a character, or a possible beginning of a stop string). */
  readonly text: string;
}

/** The whole of a generation. */
export interface GenerationResult {
  readonly text: string;
  /** Every sampled token, the end token included. */
  readonly tokens: readonly number[];
  readonly reason: "end" | "length" | "stop";
}

/** Iterate once for tokens as they come, or only await {@link Generation.result}, which reads to the end. */
export interface Generation extends AsyncIterable<GeneratedToken> {
  readonly result: Promise<GenerationResult>;
}

const optionNames = [
  "maxTokens",
  "temperature",
  "topK",
  "topP",
  "minP",
  "repeatPenalty",
  "frequencyPenalty",
  "presencePenalty",
  "penaltyWindow",
  "seed",
  "stop",
  "priority",
  "signal",
] as const;

// How far the engine may run ahead of a slow reader.
const window = 64;
const maxInt32 = 2 ** 31 - 1;

/** @internal */
export function checkGenerateOptions(options: GenerateOptions) {
  checkKeys("options", options, optionNames);
  const stop: unknown = fallback(options.stop, []);
  if (!Array.isArray(stop) || !stop.every((one: unknown) => typeof one === "string" && one !== "")) {
    throw invalid("stop", "an array of strings that are not empty", stop);
  }
  return {
    maxTokens: checkInteger("maxTokens", fallback(options.maxTokens, 256), 0, maxInt32),
    temperature: checkNumber("temperature", fallback(options.temperature, 0), 0, 100),
    topK: checkInteger("topK", fallback(options.topK, 40), 0, maxInt32),
    topP: checkNumber("topP", fallback(options.topP, 0.95), 0, 1),
    minP: checkNumber("minP", fallback(options.minP, 0.05), 0, 1),
    repeatPenalty: checkNumber("repeatPenalty", fallback(options.repeatPenalty, 1), 1e-3, 100),
    frequencyPenalty: checkNumber("frequencyPenalty", fallback(options.frequencyPenalty, 0), -100, 100),
    presencePenalty: checkNumber("presencePenalty", fallback(options.presencePenalty, 0), -100, 100),
    penaltyWindow: checkInteger("penaltyWindow", fallback(options.penaltyWindow, 64), 0, 1 << 20),
    seed: checkInteger("seed", fallback(options.seed, 0), 0, 2 ** 32 - 1),
    stop: stop as readonly string[],
    priority: checkInteger("priority", fallback(options.priority, 0), -1000, 1000),
    window,
  };
}

/** @internal */
export function startGeneration(handle: NativeSequence, options: GenerateOptions): Generation {
  const settings = checkGenerateOptions(options);
  const decoder = new TextDecoder();
  const queue: GeneratedToken[] = [];
  const tokens: number[] = [];
  let text = "";
  let tail = "";
  let outcome: NativeGenerateResult | undefined;
  let failure: unknown;
  let failed = false;
  let consumed = 0;
  let draining = false;
  let iterated = false;
  let notify: (() => void) | undefined;

  options.signal?.throwIfAborted();
  const start = handle.length;
  const onToken = ({ token, bytes }: NativeTokenEvent): void => {
    const piece = decoder.decode(bytes, { stream: true });
    text += piece;
    // -1 flushes text that was held back for a stop string; it belongs to the last token
    if (token < 0) tail += piece;
    else {
      tokens.push(token);
      queue.push({ token, text: piece });
      if (draining) job.credit(1);
    }
    notify?.();
  };
  const job = LatentError.translate(() => handle.generate(settings, onToken));
  const ended = run(job, options.signal).then(
    (value) => {
      const rest = decoder.decode();
      text += rest;
      tail += rest;
      outcome = value;
    },
    (error: unknown) => {
      failure = error;
      failed = true;
    },
  );
  void ended.then(() => notify?.());

  // The engine may have run ahead of the reader, or stopped between choosing the last token and feeding it: hold what the reader saw.
  async function keepConsumed(): Promise<void> {
    const missing = start + consumed - handle.length;
    if (missing < 0) await run(handle.truncate(start + consumed));
    else if (missing > 0) await run(handle.prefill({ tokens: Int32Array.from(tokens.slice(consumed - missing, consumed)), hidden: "none", priority: 0 }));
  }

  let whole: Promise<GenerationResult> | undefined;
  return {
    get result() {
      whole ??= (async () => {
        if (!iterated) {
          draining = true;
          job.credit(tokens.length);
        }
        await ended;
        if (outcome === undefined) throw failure;
        return { text, tokens, reason: outcome.reason };
      })();
      return whole;
    },
    async *[Symbol.asyncIterator]() {
      if (iterated || draining) throw invalid("a generation", "iterated once, and not after its result was awaited", "a second reader");
      iterated = true;
      let complete = false;
      try {
        for (;;) {
          const next = queue.shift();
          if (next !== undefined) {
            consumed++;
            job.credit(1);
            yield next;
          } else if (failed) {
            throw failure;
          } else if (outcome !== undefined) {
            break;
          } else {
            await new Promise<void>((resolve) => {
              notify = resolve;
            });
          }
        }
        complete = true;
        if (tail !== "") yield { token: tokens.at(-1) ?? -1, text: tail };
      } finally {
        if (!complete) {
          cancel(job);
          await ended;
          if (!handle.disposed) await keepConsumed();
        }
      }
    },
  };
}
