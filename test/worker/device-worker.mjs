// The worker of device.test.ts: keeps copies and kernels of the device in flight until it is stopped.
import { createRequire } from "node:module";
import { parentPort, workerData } from "node:worker_threads";

const { addon, mode } = workerData;
const { Tensor, packProjection } = createRequire(import.meta.url)(addon);

if (mode === "exit") {
  const there = await new Tensor("f32", [3], Float32Array.of(1, 2, 3)).to("cuda").promise;
  const back = await there.to("cpu").promise;
  parentPort.postMessage([...back.toTyped()]);
} else if (mode === "share") {
  const there = await new Tensor("f32", [3], Float32Array.of(1, 2, 3)).to("cuda").promise;
  const shared = await there.share().promise;
  parentPort.postMessage({ device: "cuda", dtype: "f32", shape: [3], handle: Buffer.from(shared.handle).toString("base64") });
  parentPort.once("message", () => shared.dispose());
} else {
  const large = new Tensor("f32", [1 << 20]); // a whole part of the pinned memory
  const rows = new Tensor("f32", [16, 8]);
  const projection = await packProjection({ weights: new Tensor("f32", [8, 4]) }, true).promise;
  const chain = (call) => {
    const next = () => call().then(next, () => undefined);
    void next();
  };
  chain(() => large.to("cuda").promise.then((one) => one.to("cpu").promise));
  chain(() => large.to("cuda").promise);
  chain(() => projection.apply(rows).promise);
  parentPort.postMessage("running");
}
