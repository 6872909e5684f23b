// `latentwire inspect <model>`: what a model file is and what agents on it can do.
import { loadModel } from "../models/model.js";
import type { Output } from "./output.js";

export async function inspect(output: Output, options: { readonly argument?: string }, signal: AbortSignal): Promise<void> {
  await using model = await loadModel(options.argument ?? "", { signal });
  await using pool = await model.createPool({ contextLength: 256, maxSequences: 1, signal });
  const facts = {
    path: model.path,
    ...model.info,
    space: model.space.id,
    canShift: pool.info.canShift,
    kvBytesPerPosition: pool.info.kvBytesPerPosition,
  };
  output.result(facts, () =>
    output.table(
      ["fact", "value"],
      Object.entries(facts).map(([key, value]) => [
        key,
        key === "chatTemplate" ? (value === undefined ? "none" : `${String(value).length} characters`) : String(value),
      ]),
    ),
  );
}
