// Translators as safetensors files: the matrices by name, the card and the order of the stages in the metadata. A file from a stranger is checked until
// every matrix meets the next.
import { LatentError } from "../errors.js";
import { damaged } from "../files/bytes.js";
import { readSealed, unsound, writeSealed } from "../files/sealed.js";
import { checkArray, checkBoolean, checkInteger, checkKeys, checkNumber, checkOneOf, checkString, fallback } from "../check.js";
import { checkStorage } from "../kernels/input.js";
import { Tensor } from "../tensor.js";
import { makeSpace, type Space } from "./space.js";
import type { Activation, SimpleStage, Stage } from "./stages.js";
import type { TranslatorReport } from "./report.js";
import type { TranslatorCard } from "./translator.js";

const format = "latentwire translator 1";
const vectors = ["subtract", "multiply", "add"] as const;
const activations = ["identity", "gelu", "silu", "tanh"] as const;

/** A stage without its numbers. */
type SimpleFacts =
  | { readonly kind: "rows"; readonly unit: boolean }
  | { readonly kind: "linear"; readonly activation: Activation; readonly orthogonal: boolean };
type StageFacts = SimpleFacts | { readonly kind: "slots"; readonly count: number; readonly maps: readonly (readonly SimpleFacts[])[] };

export async function writeTranslator(
  path: string,
  card: TranslatorCard,
  stages: readonly Stage[],
  symbols: number | undefined,
): Promise<void> {
  const tensors = new Map<string, Tensor>();
  const put = (name: string, values: Float32Array | undefined): void => {
    if (values !== undefined) tensors.set(name, Tensor.fromTyped("f32", [values.length], values));
  };
  const putSimple = (stage: SimpleStage, name: string): SimpleFacts => {
    if (stage.kind === "rows") {
      for (const part of vectors) put(`${name}.${part}`, stage[part]);
      return { kind: "rows", unit: stage.unit };
    }
    tensors.set(`${name}.weights`, stage.weights);
    put(`${name}.bias`, stage.bias);
    return { kind: "linear", activation: stage.activation, orthogonal: stage.orthogonal };
  };
  const facts = stages.map((stage, i): StageFacts => {
    if (stage.kind !== "slots") return putSimple(stage, `stage.${i}`);
    const maps = stage.maps.map((map, k) => map.map((one, j) => putSimple(one, `stage.${i}.${k}.${j}`)));
    return { kind: "slots", count: stage.count, maps };
  });
  const metadata = new Map([
    ["card", JSON.stringify(card)],
    ["stages", JSON.stringify(facts)],
  ]);
  if (symbols !== undefined) metadata.set("symbols", String(symbols));
  await writeSealed(path, format, tensors, metadata);
}

export async function readTranslator(
  path: string,
): Promise<{ readonly card: TranslatorCard; readonly stages: Stage[]; readonly symbols: number | undefined }> {
  const { tensors, metadata } = await readSealed(path, format);
  try {
    const card = checkCard(JSON.parse(metadata.get("card") ?? ""));
    const facts: unknown = JSON.parse(metadata.get("stages") ?? "");
    const stages: Stage[] = [];
    let dimension = card.dimensions[0];
    for (const [i, stage] of checkArray("stages", facts as readonly unknown[]).entries()) {
      stages.push(restoreStage(stage, `stage.${i}`, dimension, tensors, card.slots));
      dimension = stageOutput(stages[i], dimension);
    }
    if (card.slots !== undefined && !stages.some((stage) => stage.kind === "slots"))
      throw damaged(path, "the card speaks of messages, no stage does");
    if (dimension !== card.dimensions[1])
      throw damaged(path, `its last stage makes ${dimension} dimensions, the card says ${card.dimensions[1]}`);
    const given = metadata.get("symbols");
    const symbols = given === undefined ? undefined : checkInteger("symbols", Number(given), 1, stages.length - 1);
    return { card, stages, symbols };
  } catch (cause) {
    if (LatentError.isInstance(cause) && cause.code === "ERR_LATENT_FILE_FORMAT") throw cause;
    throw unsound(path, cause);
  }
}

function stageOutput(stage: Stage | undefined, dimension: number): number {
  if (stage?.kind !== "slots") return simpleOutput(stage, dimension);
  const [first = []] = stage.maps;
  const long = stage.maps.length === 1 ? stage.count : 1;
  return first.reduce((width, one) => simpleOutput(one, width), dimension * long) / long;
}

function simpleOutput(stage: SimpleStage | undefined, dimension: number): number {
  return stage?.kind === "linear" ? (stage.weights.shape[1] ?? 0) : dimension;
}

type Tensors = ReadonlyMap<string, Tensor>;

function restoreStage(value: unknown, name: string, dimension: number, tensors: Tensors, slots: number | undefined): Stage {
  if (typeof value !== "object" || value === null || Reflect.get(value, "kind") !== "slots")
    return restoreSimple(value, name, dimension, tensors);
  checkKeys(name, value, ["kind", "count", "maps"]);
  const { count, maps } = value as { readonly count: unknown; readonly maps: readonly (readonly unknown[])[] };
  // as many rows as the card says, or what it is applied to would not be cut into whole messages
  checkInteger(`${name}.count`, count, slots ?? 0, slots ?? -1);
  const all = checkArray(`${name}.maps`, maps);
  const messages = Number(count);
  if (all.length !== 1 && all.length !== messages)
    throw new LatentError("ERR_LATENT_FILE_FORMAT", `${name} has ${all.length} maps for messages of ${messages} rows`);
  const width = all.length === 1 ? dimension * messages : dimension;
  const restored = all.map((map, k) => restoreMap(map, `${name}.${k}`, width, tensors));
  const outputs = restored.map((map) => map.reduce((last, one) => simpleOutput(one, last), width));
  const uneven = outputs.some((one) => one !== outputs[0]) || (all.length === 1 && (outputs[0] ?? 0) % messages !== 0);
  if (uneven) throw new LatentError("ERR_LATENT_FILE_FORMAT", `the maps of ${name} do not make rows of one length`);
  return { kind: "slots", count: messages, maps: restored };
}

function restoreMap(value: readonly unknown[], name: string, width: number, tensors: Tensors): SimpleStage[] {
  const stages: SimpleStage[] = [];
  let dimension = width;
  for (const [i, one] of checkArray(name, value).entries()) {
    const stage = restoreSimple(one, `${name}.${i}`, dimension, tensors);
    stages.push(stage);
    dimension = simpleOutput(stage, dimension);
  }
  return stages;
}

function restoreSimple(value: unknown, name: string, dimension: number, tensors: Tensors): SimpleStage {
  checkKeys(name, value, ["kind", "unit", "activation", "orthogonal"]);
  const stage = value as Partial<Record<"kind" | "unit" | "activation" | "orthogonal", unknown>>;
  const vector = (part: string, size: number): Float32Array | undefined => {
    const tensor = tensors.get(`${name}.${part}`);
    if (tensor === undefined) return undefined;
    if (tensor.dtype !== "f32" || tensor.shape.join() !== String(size))
      throw new LatentError("ERR_LATENT_FILE_FORMAT", `${name}.${part} is not f32 [${size}]`);
    return tensor.toFloat32();
  };
  if (checkOneOf(`${name}.kind`, stage.kind, ["rows", "linear"]) === "rows") {
    const [subtract, multiply, add] = vectors.map((part) => vector(part, dimension));
    return { kind: "rows", subtract, multiply, add, unit: checkBoolean(`${name}.unit`, stage.unit) };
  }
  const weights = tensors.get(`${name}.weights`);
  const outputs = weights?.shape[1] ?? 0;
  if (weights?.dtype !== "f32" || weights.shape.length !== 2 || weights.shape[0] !== dimension || outputs < 1)
    throw new LatentError("ERR_LATENT_FILE_FORMAT", `${name}.weights is not f32 [${dimension}, outputs]`);
  const bias = vector("bias", outputs);
  return {
    kind: "linear",
    weights,
    ...(bias && { bias }),
    activation: checkOneOf(`${name}.activation`, stage.activation, activations),
    orthogonal: checkBoolean(`${name}.orthogonal`, stage.orthogonal),
  };
}

function checkCard(value: unknown): TranslatorCard {
  checkKeys("the card", value, ["method", "dimensions", "slots", "maps", "placebo", "from", "to", "report", "onWeak", "storage"]);
  const card = value as TranslatorCard;
  const dimensions = checkArray("dimensions", card.dimensions).map((one, i) => checkInteger(`dimensions[${i}]`, one, 1, 2 ** 31));
  const [from, to] = [checkSpaceFacts("from", card.from), checkSpaceFacts("to", card.to)];
  return {
    method: checkString("method", card.method),
    dimensions: [dimensions[0] ?? 0, dimensions[1] ?? 0],
    ...(card.slots !== undefined && { slots: checkInteger("slots", card.slots, 2, 2 ** 31) }),
    ...(card.maps !== undefined && { maps: checkOneOf("maps", card.maps, ["slot", "flat"]) }),
    ...(checkBoolean("placebo", fallback<boolean>(card.placebo, false)) && { placebo: true }),
    ...(from && { from }),
    ...(to && { to }),
    ...(card.report !== undefined && { report: checkReport(card.report) }),
    onWeak: checkOneOf("onWeak", fallback(card.onWeak, "apply"), ["apply", "text"]),
    storage: checkStorage(card.storage),
  };
}

/** That what is read of a report is there; its other numbers are for people. JSON has no infinities: they are null. */
function checkReport(report: TranslatorReport): TranslatorReport {
  checkOneOf("verdict", report.verdict, ["good", "fair", "unusable"]);
  for (const side of [report.heldOut, report.null]) {
    checkNumber("mrr", side.mrr, 0, 1);
    checkInteger("count", side.count, 1, 2 ** 31);
  }
  return report;
}

/** A space whose id is that of its facts, and not what a file says. */
function checkSpaceFacts(name: string, value: Space | undefined): Space | undefined {
  if (value === undefined) return undefined;
  checkKeys(name, value, ["id", "weights", "layer", "dimension", "positions", "normalisation"]);
  return makeSpace({
    weights: checkString(`${name}.weights`, value.weights),
    layer: checkOneOf(`${name}.layer`, value.layer, ["embeds", "hidden", "relative"]),
    dimension: checkInteger(`${name}.dimension`, value.dimension, 1, 2 ** 31),
    positions: checkString(`${name}.positions`, value.positions),
    normalisation: checkString(`${name}.normalisation`, value.normalisation),
  });
}
