// Two agents on a bus, called by their names, and a message with latents in an inbox. `memory:` is this process; with "unix:/run/agents.sock",
// "http://host:7411" or "nats://host" for an address the agents may be elsewhere, and nothing else changes.
import { bundledModel, connect, loadModel } from "latentwire";

await using model = await loadModel(bundledModel());
const facts = "mia has the red key. tom lives in oslo. ann has the blue coin. ben lives in lima. zoe has the green ring.";

await using there = await connect("memory:example", { name: "there" });
await there.serve([
  model.agent({ name: "reader", user: facts, think: { policy: "hidden", steps: 8 } }),
  model.agent({ name: "solver", generate: { maxTokens: 16 } }),
]);

await using here = await connect("memory:example", { name: "here" });
const { content } = await here.agent("reader").think("where does tom live?", { medium: "kv" });
const reply = here.agent("solver").say("where does tom live?", { received: [content] });
for await (const delta of reply) process.stdout.write(delta);
console.log(`\n${JSON.stringify((await reply.answer).hop.given)}`);

const inbox = await there.inbox("letters", { accepts: model });
using thought = (await here.agent("reader").think("who has the red key?", { medium: "latent" })).content;
await here.send("letters", thought);
for await (const message of inbox) {
  console.log(`${message.from} sent ${message.content.form}, ${message.content.positions} rows: ${message.content.why}`);
  await message.ack();
  break;
}
