// Numbers of a tensor in another order, for those who keep keys and values by head or by channel.
import { checkKeys, invalid } from "../check.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { settled } from "./input.js";

/**
 * A new tensor `[m, n, ...]` of x `[n, m, ...]`: its first two axes exchanged. Keys `[tokens, heads, dimension]` become `[heads, tokens, dimension]` and
 * the same call turns them back; a matrix `[tokens, channels]` becomes `[channels, tokens]`. Below about half a megabyte it is done before the call
 * returns.
 *
 * ```ts
 * using byHead = await transpose(keys); // [2048, 8, 128] -> [8, 2048, 128]
 * ```
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (fewer than two axes), `ERR_LATENT_DISPOSED`, `ERR_LATENT_OUT_OF_MEMORY`; the signal's reason
 * on abort
 */
export async function transpose(x: Tensor, options: { readonly signal?: AbortSignal } = {}): Promise<Tensor> {
  checkKeys("options", options, ["signal"]);
  const given: unknown = x;
  if (!(given instanceof Tensor)) throw invalid("x", "a Tensor [n, m, ...]", given);
  return Tensor.fromNative(await settled(() => native().transpose(given.toNative()), options.signal));
}
