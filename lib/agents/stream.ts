// Turns a function that emits events into a RunStream: started at once, read by one consumer, cancelled when the consumer leaves.
import { LatentError } from "../errors.js";
import type { RunEvent, RunResult, RunStream } from "./events.js";

export type Emit = (event: RunEvent) => void;

export function startRun(execute: (emit: Emit, signal: AbortSignal) => Promise<RunResult>, signal: AbortSignal | undefined): RunStream {
  const left = new AbortController();
  const combined = signal === undefined ? left.signal : AbortSignal.any([signal, left.signal]);
  const queue: RunEvent[] = [];
  let wake: (() => void) | undefined;
  let ended = false;
  let read = false;
  const answer = execute((event) => {
    queue.push(event);
    wake?.();
  }, combined).finally(() => {
    ended = true;
    wake?.();
  });
  // the iterator reports a failure too: without this a reader of events alone would cause an unhandled rejection
  answer.catch(() => undefined);

  return {
    answer,
    async *[Symbol.asyncIterator]() {
      if (read) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "the events of a run can be read once");
      read = true;
      try {
        for (;;) {
          const next = queue.shift();
          if (next !== undefined) yield next;
          else if (ended) break;
          else {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          }
        }
        await answer;
      } finally {
        if (!ended) {
          left.abort(new DOMException("the reader left the run", "AbortError"));
          await answer.catch(() => undefined);
        }
      }
    },
  };
}
