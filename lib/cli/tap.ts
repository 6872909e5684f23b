// `latentwire tap`: what goes over a bus, as it goes. Envelopes, never content.
import type { TapEvent } from "../bus/bus.js";
import { connectTo, type BusAccessOptions } from "./bus-access.js";
import type { Output } from "./output.js";

export async function tap(
  output: Output,
  options: BusAccessOptions & { readonly operands: readonly string[] },
  signal: AbortSignal,
): Promise<void> {
  const [address = ""] = options.operands;
  await using bus = await connectTo(address, options, undefined, signal);
  output.progress(`watching ${bus.address}; interrupt to end`);
  for await (const event of bus.tap({ signal })) {
    const line = lineOf(event);
    output.result(line, () => {
      const { time, from, to, kind, form, bytes, why } = line;
      return output.safe([time, `${from} -> ${to}`, kind, form, `${bytes} B`, why].filter((one) => one !== "").join("  "));
    });
  }
}

/** Every field by name, so that nothing of the content can slip through. */
function lineOf({ channel, envelope, bytes }: TapEvent) {
  const { id, kind, from, to, peer, conversation, sequence, about = "", sentAt, claims = [], text, why = "" } = envelope;
  // replies go to a connection, which has no name
  const isToPeer = channel.startsWith("peer.");
  const form = claims[0]?.form ?? (text === undefined ? "" : "text");
  const positions = claims.reduce((sum, claim) => sum + (claim.form === "kv" ? claim.positions : claim.shape[0]), 0);
  const content = claims.reduce((sum, claim) => sum + claim.bytes, text === undefined ? 0 : Buffer.byteLength(text));
  return {
    time: new Date(sentAt).toISOString(),
    from,
    to: isToPeer ? to.slice(0, 8) : channel,
    kind,
    form,
    bytes,
    why,
    positions,
    contentBytes: content,
    ...{ id, about, peer, conversation, sequence },
  };
}
