// Everything that keys and values do between pools, with caches that are read and written where llama.cpp keeps them; and on the device of the mock
// backend, as whose memory it passes.
import { Model, type PoolOptions } from "../../lib/index.js";

const throughStates = Model.prototype.createPool;
Model.prototype.createPool = function inPlace(options: PoolOptions = {}) {
  return throughStates.call(this, { inPlace: true, ...options });
};

await import("./kv.test.js");
