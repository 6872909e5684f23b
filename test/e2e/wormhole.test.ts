// A message in the place of a picture, read by a model: what stands around it and how much of it is heard.
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { bundledModel, injectSpan, loadModel, Tensor, WormholeCodec, type Model } from "../../lib/index.js";
import { codecWeights, configOf, writeCodec } from "../fixtures/wormhole.js";
import { sameBits } from "../helpers.js";
import path from "node:path";
import { folder } from "./helpers.js";

let model: Model;
let codec: WormholeCodec;
const shape = { width: 128, dimension: 32, tokens: 6, imageTokens: 8, heads: 4, layers: 2 };

beforeAll(async () => {
  model = await loadModel(bundledModel("wren"));
  await writeCodec(path.join(folder, "codec.safetensors"), codecWeights(shape, 5), configOf(shape));
  codec = await WormholeCodec.load(path.join(folder, "codec.safetensors"));
});
afterAll(async () => {
  codec.dispose();
  await model.dispose();
});

describe("a message in a prompt", () => {
  it("changes nothing by a closed gate, and is heard through an open one (26)", async () => {
    const tokens = model.tokenize("mia has the red key. tom lives in oslo. where does tom live?");
    const span = { from: 3, to: 8 };
    await using pool = await model.createPool({ contextLength: 256, maxSequences: 3 });
    // the thought of a sender
    const sender = pool.sequence();
    await sender.prefill("ann lives in lima.", { hidden: "last" });
    using thought = await sender.think({ steps: 4 });
    using message = await codec.encode(thought.tensor());
    const { delta, gate } = await codec.decode(message);
    using added = delta;
    using rows = model.inputRows(tokens);
    // any rows may stand for the plain picture
    using base = model.inputRows(model.tokenize("ben ben ben ben ben").subarray(0, 5));
    const logitsOf = async (input: Tensor | Int32Array): Promise<Float32Array> => {
      await using sequence = pool.sequence();
      await sequence.prefill(input, { hidden: "last" });
      expect(sequence.length).toBe(tokens.length);
      expect(sequence.nextPosition).toBe(tokens.length);
      using logits = await sequence.logits();
      return logits.toFloat32();
    };
    using plain = injectSpan({ rows, span, base });
    using shut = injectSpan({ rows, span, base, delta: added, gate: 0 });
    using open = injectSpan({ rows, span, base, delta: added, gate: Math.max(gate, 0.5) });
    const [quiet, silent, heard] = [await logitsOf(plain), await logitsOf(shut), await logitsOf(open)];
    expect(sameBits(quiet, silent)).toBe(true);
    expect(heard.some((value, i) => Math.abs(value - (quiet[i] ?? Number.NaN)) > 1e-3)).toBe(true);
    // rows that are the prompt's own leave the prompt as it is
    using own = Tensor.fromTyped("f32", [5, 128], rows.toFloat32().slice(3 * 128, 8 * 128));
    using same = injectSpan({ rows, span, base: own });
    const [read, fed] = [await logitsOf(tokens), await logitsOf(same)];
    expect(Math.max(...read.map((value, i) => Math.abs(value - (fed[i] ?? Number.NaN))))).toBeLessThan(1e-3);
  });
});
