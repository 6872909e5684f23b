// From a native job to a promise as users expect it: abort signals, and errors of this package.
import { cancelledCode, toLatentError } from "./errors.js";
import type { NativeJob } from "./native.js";

/**
 * The result of `job`. When `signal` aborts, the job is cancelled and, once it has stopped, the promise rejects with `signal.reason`; a job
 * that finishes all the same resolves. Without a signal, a cancelled job rejects with an `AbortError`.
 */
export async function run<T>(job: NativeJob<T>, signal?: AbortSignal): Promise<T> {
  const cancel = (): void => {
    job.cancel();
  };
  if (signal?.aborted === true) cancel();
  signal?.addEventListener("abort", cancel, { once: true });
  try {
    return await job.promise;
  } catch (error) {
    if (error instanceof Error && Reflect.get(error, "code") === cancelledCode) signal?.throwIfAborted();
    throw toLatentError(error);
  } finally {
    signal?.removeEventListener("abort", cancel);
  }
}
