// The one error class of the package and the one list of its codes. The native half of the list mirrors native/core/status.h; a test compares them.

/** Codes that the native side raises. Its cancellation code is not here: a cancelled operation rejects with an `AbortError`. */
const nativeHints = {
  ERR_LATENT_INVALID_ARGUMENT: "Check the value that the message names against the documentation of the call.",
  ERR_LATENT_DISPOSED: "Keep the object open until its last use; `using` or `await using` disposes it at the end of the block.",
  ERR_LATENT_OUT_OF_MEMORY: "Dispose what is no longer needed, or ask for less: a shorter context, fewer sequences, a smaller tensor.",
  ERR_LATENT_DTYPE: "Use one of the types that the message names; floats become integers only through a codec, which carries the scale.",
  ERR_LATENT_NON_FINITE: "The data holds NaN or an infinity; look for an overflow, or a damaged model or payload, upstream.",
  ERR_LATENT_ENGINE_NOT_FOUND:
    "Install the package with its optional dependencies, or name the folder of a llama.cpp build in LATENTWIRE_LLAMA_DIR.",
  ERR_LATENT_ENGINE_VERSION: "Install exactly the llama.cpp release that the message names; others have another binary interface.",
  ERR_LATENT_ENGINE_SYMBOL: "The llama.cpp libraries are incomplete or of another release; reinstall the platform package.",
  ERR_LATENT_ENGINE_ABI: "The llama.cpp libraries were built with another layout; reinstall the platform package.",
  ERR_LATENT_ENGINE_COLLISION: "Another llama.cpp is loaded in this process; run one of the two in a child process.",
  ERR_LATENT_ENGINE_SELF_TEST:
    "This model or this llama.cpp build gives wrong results here, so it is not used; try another build or model file.",
  ERR_LATENT_ENGINE_FAILED: "An unforeseen failure inside the engine; the message has its reason. Please report it.",
  ERR_LATENT_MODEL_NOT_FOUND: "Check the path of the model file and the right to read it.",
  ERR_LATENT_MODEL_FORMAT: "The file is damaged or not GGUF; download or convert it again.",
  ERR_LATENT_MODEL_UNSUPPORTED: "Use a model of a supported architecture; the message says what this one lacks.",
  ERR_LATENT_CONTEXT_OVERFLOW: "Open the pool with a larger `contextLength`, or truncate or dispose sequences.",
  ERR_LATENT_SEQUENCE_LIMIT: "Dispose sequences that are done, or open the pool with a larger `maxSequences`.",
  ERR_LATENT_SEQUENCE_BUSY: "Await the running operation of the sequence before the next one, or fork the sequence.",
  ERR_LATENT_SEQUENCE_EMPTY: "Prefill at least one token or row first.",
  ERR_LATENT_POSITION_SCHEME: "This model's positions cannot be moved; use the recomputing mode, or pass text.",
  ERR_LATENT_POOL_POISONED: "The pool failed inside llama.cpp and answers no more; dispose it and open a new one.",
  ERR_LATENT_SPACE_MISMATCH: "The vectors live in another model's space; put a translator between the two, or pass text.",
  ERR_LATENT_KV_FORMAT: "These bytes are no stream of keys and values, or not a sound one; export and send them again.",
  ERR_LATENT_KV_TRUNCATED: "The stream ended before its last record; send it again, or send what the receiver does not hold yet.",
  ERR_LATENT_KV_CHECKSUM: "The bytes were damaged or changed on the way; send them again.",
  ERR_LATENT_KV_MODEL_MISMATCH: "Keys and values are of use to the very model that made them; pass text to another one.",
  ERR_LATENT_KV_LAYOUT: "Keys and values of this cache cannot be read, or not be used here; pass text instead.",
  ERR_LATENT_KV_VERSION: "The two sides are of different versions; bring both up to date.",
  ERR_LATENT_KV_LIMIT: "It holds more than this pool's context can; open the pool with a larger `contextLength`, or send less.",
  ERR_LATENT_KV_UNREACHABLE:
    "Shared memory does not reach from there to here; send the records as a stream, or use a link, which does so by itself.",
  ERR_LATENT_KV_POSITION: "Import with `positions: 'append'` or `{ at }`, which lay the entries out anew.",
  ERR_LATENT_KV_CODEC: "Name the codec that the message tells among `codecs`, or ask the sender for another one.",
  ERR_LATENT_DEVICE_UNAVAILABLE: "Run `latentwire doctor`, which says what is missing; `device: 'auto'` takes the CPU instead.",
  ERR_LATENT_DEVICE_FAILED: "The device refused this operation and can be used on; the message has its reason. Please report it.",
  ERR_LATENT_DEVICE_LOST: "The device answers no more in this process: go on on the CPU, and restart the process to use it again.",
} as const;

const ownHints = {
  ERR_LATENT_NATIVE_LOAD: "Install again on this platform, or build from source and name the file in LATENTWIRE_NATIVE_PATH.",
  ERR_LATENT_TEMPLATE: "The model's chat template cannot render these messages; pass a template or a ready-made prompt.",
  ERR_LATENT_KV_PEER_LOST: "The other side went away; begin anew, which may leave out what the receiver holds, or pass text.",
  ERR_LATENT_KV_AUTH: "The stream is not from whom it should be, or not for you, or too old; do not use it, and find out who sent it.",
  ERR_LATENT_KV_FORGED: "Do not use what this sender sends; read the text instead.",
  ERR_LATENT_KV_STALLED: "The other side stayed silent or took too long; try again, give it more time, or pass text.",
  ERR_LATENT_KV_DISK_FULL: "Make room or allow more `diskBytes`; until then the store serves what it holds, and puts nothing on disk.",
  ERR_LATENT_PACKAGE_MISSING: "Install the package that the message names, or leave out the option that needs it.",
  ERR_LATENT_FILE_FORMAT: "The file is damaged, cut short or of a kind that is not read; write it again, in C order, little-endian.",
  ERR_LATENT_ILL_CONDITIONED:
    "The rows do not determine the map: take more pairs, far fewer anchors than dimensions, or give a ridge or `rcond`.",
  ERR_LATENT_TRANSLATOR_WEAK: "Take more pairs, or another method, or pass text; `onWeak` lets the translator be made all the same.",
  ERR_LATENT_BUS_DISCONNECTED: "The bus cannot be reached; check its address and that its hub or server runs, and connect again.",
  ERR_LATENT_BUS_UNAUTHORIZED: "Give the token, credentials or certificate that the bus wants, or have this peer put on its list.",
  ERR_LATENT_BUS_LIMIT: "It is more than the other side takes: send less, or slower, or have its limit raised.",
  ERR_LATENT_BUS_SUPERSEDED: "Another process reads with the same `durable` name now; give each its own, or let this one end.",
  ERR_LATENT_BUS_ENVELOPE: "What came is no message of this version; bring both sides up to date, and find out who sent it.",
  ERR_LATENT_BUS_FORGED: "The message is not from whom it should be, or was seen before; do not use it, and find out who sent it.",
  ERR_LATENT_BUS_DEADLINE: "The other side was too slow, or is not there; give it more time, or try again.",
  ERR_LATENT_BUS_UNKNOWN_AGENT: "Nobody serves an agent of that name now; `bus.agents()` tells who is there.",
  ERR_LATENT_BUS_GONE: "The content is no longer kept; have it made again, or have it kept longer (`keptMs`).",
  ERR_LATENT_BUS_DIGEST: "The content was damaged or changed on the way; have it sent again.",
  ERR_LATENT_BUS_FORM: "The two sides have no form in common: let text ride along, or put a translator on one of them.",
  ERR_LATENT_BUS_PEER: "The agent at the other side failed; the message has its reason.",
  ERR_LATENT_SUITE_FORMAT: "Mend the line that the message names; docs/evaluation.md shows what lines a suite can have.",
  ERR_LATENT_EVAL_RESUME: "Finish the evaluation as it was begun, or name another folder.",
  ERR_LATENT_MODEL_DIGEST: "The model file is not the one that the manifest names; download it again.",
} as const;

const hints = { ...nativeHints, ...ownHints } as const;

/** Every code of a {@link LatentError}. */
export type LatentErrorCode = keyof typeof hints;

/** What can be said of a {@link LatentError} beyond its code and message. */
export interface LatentErrorOptions {
  /** What to do about it; by default one line that belongs to the code. */
  readonly hint?: string;
  /** The error underneath. */
  readonly cause?: unknown;
  /** Facts for programs, e.g. sizes that were expected and found. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/** The native code of a cancelled operation; users see an `AbortError` instead. */
export const cancelledCode = "ERR_LATENT_CANCELLED";

const marker = Symbol.for("latentwire.LatentError");

/** Whether `code` is one of {@link LatentErrorCode}. */
export function isLatentErrorCode(code: unknown): code is LatentErrorCode {
  return typeof code === "string" && Object.hasOwn(hints, code);
}

/** All codes, in the order of the documentation. */
export const latentErrorCodes: readonly LatentErrorCode[] = Object.freeze(Object.keys(hints).filter(isLatentErrorCode));

/** Every failure that this package reports, except aborts, which stay an `AbortError` (or the signal's own reason). */
export class LatentError extends Error {
  override readonly name = "LatentError";
  readonly code: LatentErrorCode;
  /** One line: what to do about it. */
  readonly hint: string;
  readonly details: Readonly<Record<string, unknown>>;

  constructor(code: LatentErrorCode, message: string, options: LatentErrorOptions = {}) {
    super(message, "cause" in options ? { cause: options.cause } : undefined);
    this.code = code;
    this.hint = options.hint ?? hints[code];
    this.details = options.details ?? {};
    Object.defineProperty(this, marker, { value: true });
  }

  /** True for a LatentError of any copy of this package in the process, which `instanceof` does not see. */
  static isInstance(value: unknown): value is LatentError {
    return typeof value === "object" && value !== null && Reflect.get(value, marker) === true;
  }

  /** @internal Calls native code and throws what {@link toLatentError} makes of its errors. */
  static translate<T>(call: () => T): T {
    try {
      return call();
    } catch (error) {
      throw toLatentError(error);
    }
  }
}

/**
 * What to throw for `error`: a native error becomes a {@link LatentError}, a cancellation an `AbortError`; any other Error (from a listener
 * of the caller, say) stays as it is, and a thrown value that is no Error becomes the cause of one.
 */
export function toLatentError(error: unknown): Error {
  if (!(error instanceof Error)) return new Error("something that is not an Error was thrown", { cause: error });
  if (LatentError.isInstance(error)) return error;
  const code: unknown = Reflect.get(error, "code");
  if (code === cancelledCode) return new DOMException(error.message, "AbortError");
  if (isLatentErrorCode(code)) return new LatentError(code, error.message, { cause: error });
  return error;
}
