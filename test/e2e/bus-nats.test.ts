// The broker on NATS JetStream, on a real nats-server: the suite that all brokers must pass.
import { connectNats } from "../../lib/bus/brokers/nats/nats-broker.js";
import { brokerSuite, suiteLogBytes } from "./bus-broker-suite.js";
import { natsServer } from "./servers.js";

brokerSuite("NATS", async () => {
  const server = await natsServer();
  return { connect: () => connectNats(server.url, { logBytes: suiteLogBytes }), stop: () => server.stop() };
});
