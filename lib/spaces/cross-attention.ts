// A stack of cross-attention blocks: queries attend to rows that stay as they are, and never to each other.
//
//   q = q + Wo attend(Wq LN(q), Wk LN(kv), Wv LN(kv));  q = q + W2 gelu(W1 LN(q))
import { fit } from "../fits/input.js";
import { withSignal } from "../jobs.js";
import type { Storage } from "../kernels/input.js";
import type { PackProjectionOptions, Projection, ProjectionLayer } from "../kernels/projection.js";
import { native } from "../native.js";
import { Tensor } from "../tensor.js";
import { packed, type ModuleTensors } from "./module-tensors.js";
import { combineRows } from "./rows.js";

type Signal = AbortSignal | undefined;

interface Block {
  readonly query: Projection;
  readonly key: Projection;
  readonly value: Projection;
  readonly out: Projection;
  readonly feedForward: Projection;
}

/** Blocks `blocks.0`, `blocks.1`, … of a file; holds native memory. */
export class CrossAttention {
  private constructor(
    readonly heads: number,
    readonly blocks: readonly Block[],
  ) {}

  static async load(file: ModuleTensors, d: number, heads: number, layers: number, storage: Storage): Promise<CrossAttention> {
    const blocks: Block[] = [];
    try {
      for (let i = 0; i < layers; i++) blocks.push(await loadBlock(file, `blocks.${i}`, d, storage));
      return new CrossAttention(heads, blocks);
    } catch (error) {
      disposeBlocks(blocks);
      throw error;
    }
  }

  /** What becomes of the queries, `[n, d]`, a tensor of their own. */
  async run(queries: Tensor, rows: Tensor, signal: Signal): Promise<Tensor> {
    let q = await queries.convert("f32", withSignal(signal));
    for (const block of this.blocks) {
      using before = q;
      q = await this.#block(block, before, rows, signal);
    }
    return q;
  }

  async #block(block: Block, q: Tensor, rows: Tensor, signal: Signal): Promise<Tensor> {
    const one = withSignal(signal);
    using asked = await block.query.apply(q, one);
    using keys = await block.key.apply(rows, one);
    using values = await block.value.apply(rows, one);
    using found = Tensor.fromNative(
      await fit(() => native().attend(asked.toNative(), keys.toNative(), values.toNative(), this.heads), signal),
    );
    using moved = await block.out.apply(found, one);
    using sum = await combineRows([q, moved], "sum", signal);
    return await block.feedForward.apply(sum, one);
  }

  dispose(): void {
    disposeBlocks(this.blocks);
  }
}

async function loadBlock(file: ModuleTensors, name: string, d: number, storage: Storage): Promise<Block> {
  const done: Projection[] = [];
  const pack = async (options: PackProjectionOptions): Promise<Projection> => {
    const projection = await packed({ ...options, storage, ...withSignal(file.signal) });
    done.push(projection);
    return projection;
  };
  try {
    // queries, keys and values lie one below the other
    const weights = file.floats(`${name}.attn.in_proj_weight`, [3 * d, d]);
    const biases = file.floats(`${name}.attn.in_proj_bias`, [3 * d]);
    const part = async (i: number): Promise<readonly [ProjectionLayer]> => [
      { weights: await file.across(weights.slice(i * d * d, (i + 1) * d * d), d, d), bias: biases.slice(i * d, (i + 1) * d) },
    ];
    const ownNorm = file.layerNorm(`${name}.q_norm`, d);
    const rowNorm = file.layerNorm(`${name}.kv_norm`, d);
    return {
      query: await pack({ layers: await part(0), norm: ownNorm }),
      key: await pack({ layers: await part(1), norm: rowNorm }),
      value: await pack({ layers: await part(2), norm: rowNorm }),
      out: await pack({ layers: [await file.layer(`${name}.attn.out_proj`, d, d)] }),
      feedForward: await pack({
        layers: [await file.layer(`${name}.ffn.0`, d, 4 * d), await file.layer(`${name}.ffn.2`, 4 * d, d)],
        norm: file.layerNorm(`${name}.ffn_norm`, d),
        activation: "gelu",
        rescale: "residual",
      }),
    };
  } catch (error) {
    for (const projection of done) projection.dispose();
    throw error;
  }
}

function disposeBlocks(blocks: readonly Block[]): void {
  for (const block of blocks) for (const projection of Object.values(block) as Projection[]) projection.dispose();
}
