// From a native job to a promise as users expect it: abort signals, and errors of this package.
import { cancelledCode, toLatentError } from "./errors.js";
import { native, type NativeJob } from "./native.js";

/**
 * The result of `job`. When `signal` aborts, the job is cancelled and, once it has stopped, the promise rejects with `signal.reason`; a job
 * that finishes all the same resolves. Without a signal, a cancelled job rejects with an `AbortError`.
 */
export async function run<T>(job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  const stop = (): void => {
    cancel(job);
  };
  if (signal?.aborted === true) stop();
  signal?.addEventListener("abort", stop, { once: true });
  try {
    return await job.promise;
  } catch (error) {
    if (error instanceof Error && Reflect.get(error, "code") === cancelledCode) signal?.throwIfAborted();
    throw toLatentError(error);
  } finally {
    signal?.removeEventListener("abort", stop);
  }
}

/** Options with a signal, if there is one: none is not the same as undefined. */
export function withSignal(signal: AbortSignal | undefined): { readonly signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}

/** Asks a job to stop; harmless when it has ended. */
export function cancel(job: NativeJob<unknown>): void {
  native().cancelJob(job.id);
}
