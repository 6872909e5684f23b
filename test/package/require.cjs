// A user's project, CommonJS: Node >= 20.19 requires ES modules. Copied and run by scripts/test-consumer.mjs.
const { Tensor } = require("latentwire");
const { version } = require("latentwire/package.json");

const tensor = Tensor.zeros([3]);
if (tensor.byteLength !== 12) throw new Error(`got ${String(tensor.byteLength)} bytes`);
tensor.dispose();
console.log(`ok ${version}`);
