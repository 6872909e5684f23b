// A user's project, ES module: imports the package and moves numbers through native memory. Copied and run by scripts/test-consumer.mjs.
import { createRequire } from "node:module";
import { LatentError, Tensor, loadModel } from "latentwire";
import { faultyStream } from "latentwire/testing";

const { version } = createRequire(import.meta.url)("latentwire/package.json");
const tensor = Tensor.fromTyped("f32", [2, 2], Float32Array.of(1, 2, 3, 4));
const half = await tensor.convert("f16");
if (String(half.toFloat32()) !== "1,2,3,4") throw new Error(`got ${String(half.toFloat32())}`);
tensor.dispose();
half.dispose();

// A failure carries its code across the packed modules.
const failure = await loadModel("missing.gguf").catch((error) => error);
if (!LatentError.isInstance(failure)) throw new Error("not a LatentError", { cause: failure });
let bytes = 0;
for await (const piece of faultyStream([Uint8Array.of(1), Uint8Array.of(2)], { endAfter: 1 })) bytes += piece.length;
if (bytes !== 1) throw new Error(`got ${String(bytes)} bytes`);
console.log(`ok ${version}`);
