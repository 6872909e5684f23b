// `latentwire kv quality`: what storing keys and values in fewer bits does to a model's predictions, on a text of the user's.
import { readFile } from "node:fs/promises";
import { kvQuality } from "../kv/quality.js";
import type { KvFormat } from "../kv/handle.js";
import { loadModel } from "../models/model.js";
import type { Output } from "./output.js";

export interface KvQualityCommand {
  readonly model: string;
  readonly text: string;
  readonly formats?: readonly KvFormat[];
}

export async function quality(output: Output, options: KvQualityCommand, signal: AbortSignal): Promise<void> {
  const text = await readFile(options.text, "utf8");
  await using model = await loadModel(options.model, { signal });
  const all = model.tokenize(text);
  const length = Math.min(all.length, model.info.contextLength, 4096);
  if (length < all.length) output.progress(`the first ${length} of ${all.length} tokens`);
  const tokens = all.subarray(0, length);
  await using pool = await model.createPool({ contextLength: 2 * length, maxSequences: 2, signal });
  const rows = await kvQuality(pool, tokens, { ...(options.formats && { formats: options.formats }), signal });
  output.result(rows, () =>
    output.table(
      ["format", "ratio", "KL mean (nats)", "KL max", "top-1 agreement", "converted", "predicted"],
      rows.map(({ format, ratio, kl, top1Agreement, converted, predicted }) => [
        format,
        ratio.toFixed(2),
        kl.mean.toExponential(2),
        kl.max.toExponential(2),
        `${(100 * top1Agreement).toFixed(1)} %`,
        String(converted),
        String(predicted),
      ]),
    ),
  );
}
