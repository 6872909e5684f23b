// The broker in memory, by the suite that all brokers must pass.
import { MemoryCore } from "../../lib/bus/brokers/memory-broker.js";
import { brokerSuite, suiteLogBytes } from "./bus-broker-suite.js";

brokerSuite("memory", async () => {
  const core = new MemoryCore({ logBytes: suiteLogBytes });
  return { connect: async () => core.connect("memory:"), stop: async () => undefined };
});
