// A process whose llama.cpp may store quantised rows unrotated (LLAMA_ATTN_ROT_DISABLE in its environment): writes what it holds to a file. Arguments:
// the package, the model, the file, the number format of its cache, positions.
import { writeFile } from "node:fs/promises";

const [built, modelFile, file, kvType, positions] = process.argv.slice(2);
const { loadModel } = await import(built);
const model = await loadModel(modelFile);
const pool = await model.createPool({ contextLength: 256, maxSequences: 2, kvType });
const sequence = pool.sequence();
await sequence.prefill(Int32Array.from({ length: Number(positions) }, (_, i) => 5 + ((i * 7) % 40)));
const kv = await sequence.exportKv();
await writeFile(file, await kv.toBytes());
process.stdout.write(String(kv.info.layers[0].keys.rotation));
kv.dispose();
await pool.dispose();
await model.dispose();
