// `latentwire kv quality`: what storing or sending keys and values in fewer bits does to a model's predictions, on a text of the user's.
import { readFile, writeFile } from "node:fs/promises";
import { LatentError } from "../errors.js";
import { kvCodecNames, type KvCodecChoice } from "../kv/codec.js";
import type { KvFormat } from "../kv/handle.js";
import { Kvtc } from "../kv/kvtc.js";
import { kvQuality } from "../kv/quality.js";
import type { Model } from "../models/model.js";
import { openModel, type ModelAccess } from "./model-access.js";
import type { Output } from "./output.js";

export interface KvQualityCommand extends ModelAccess {
  readonly model: string;
  readonly text: string;
  readonly formats?: readonly KvFormat[];
  readonly codec?: readonly string[];
  readonly calibration?: string;
  readonly save?: string;
}

const longest = 4096;

export async function quality(output: Output, options: KvQualityCommand, signal: AbortSignal): Promise<void> {
  const text = await readFile(options.text, "utf8");
  await using model = await openModel(options.model, options, signal);
  const all = model.tokenize(text);
  const length = Math.min(all.length, model.info.contextLength, longest);
  if (length < all.length) output.progress(`the first ${length} of ${all.length} tokens`);
  const tokens = all.subarray(0, length);
  const codecs: Record<string, KvCodecChoice> = {};
  const known: Kvtc[] = [];
  for (const name of options.codec ?? []) {
    const builtIn = kvCodecNames.find((one) => one === name);
    const codec = builtIn ?? (await kvtcOf(name, model, options, output, signal));
    if (codec instanceof Kvtc) known.push(codec);
    codecs[name] = codec;
  }
  await using pool = await model.createPool({ contextLength: 2 * length, maxSequences: 2, signal });
  const rows = await kvQuality(pool, tokens, {
    ...(options.formats && { formats: options.formats }),
    ...(options.codec && { codecs, known }),
    signal,
  });
  for (const codec of known) codec.dispose();
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

/** `kvtc:BITS`, fitted to the calibration text, or `kvtc:FILE`, that a fit was saved to. */
async function kvtcOf(name: string, model: Model, options: KvQualityCommand, output: Output, signal: AbortSignal): Promise<Kvtc> {
  const what = name.slice("kvtc:".length);
  const bits = Number(what);
  if (Number.isNaN(bits)) return Kvtc.load(await readFile(what));
  if (options.calibration === undefined)
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${name} is fitted to a text: name it with --calibration`);
  const tokens = model.tokenize(await readFile(options.calibration, "utf8"));
  const each = Math.min(model.info.contextLength, longest);
  await using pool = await model.createPool({ contextLength: each, maxSequences: 1, signal });
  const samples = [];
  for (let at = 0; at < Math.min(tokens.length, 4 * longest); at += each) {
    await using sequence = pool.sequence();
    await sequence.prefill(tokens.subarray(at, at + each), { signal });
    samples.push(await sequence.exportKv({ signal }));
    output.progress(`${Math.min(at + each, tokens.length)} tokens read`);
  }
  const codec = await pool.fitKvtc(samples, { bits, signal });
  for (const sample of samples) sample.dispose();
  if (options.save !== undefined) await writeFile(options.save, codec.save());
  return codec;
}
