// Four agents end to end: in a pipe in one process, called over a bus in one process, in four processes over a unix socket, and over NATS; each by text and by kv,
// as `agents.mjs` has them. By text every agent gets what all before it said, by kv the cells of the one before it.
import fs from "node:fs";
import path from "node:path";
import { bundledModel, connect, listen, loadModel, pipe } from "../dist/index.js";
import { Peer, startNatsServer } from "./bus-peers.mjs";
import { interleave, row, time } from "./harness.mjs";
import { temporaryFolder } from "./models.mjs";

const names = ["planner", "critic", "refiner", "writer"];
const facts =
  "mia has the red key. tom lives in oslo. ana has the blue coin. ben lives in lima. zoe has the green ring. max lives in bern.";
const question = "where does tom live?";
const arms = [
  { name: "text", medium: "text", thoughts: "32 tokens", think: { policy: "tokens", maxTokens: 32 } },
  { name: "kv", medium: "kv", thoughts: "32 tokens", think: { policy: "tokens", maxTokens: 32 } },
  { name: "kv of latent steps", medium: "kv", thoughts: "8 steps", think: { policy: "hidden", steps: 8 } },
];

/** Agents of all arms that stand at this place of the row. */
const agentsAt = (place) =>
  arms.map(({ name, think }) => ({
    name: nameOf(names[place], name),
    ...(place === 0 && { user: facts }),
    think,
    generate: { maxTokens: 8 },
  }));
const nameOf = (agent, arm) => `${agent}-${arm.replaceAll(" ", "-")}`;

async function overBus(bus, { name, medium }) {
  const thoughts = [];
  const received = () => (medium === "kv" ? thoughts.slice(-1) : thoughts);
  for (const agent of names.slice(0, -1)) {
    const { content } = await bus.agent(nameOf(agent, name)).think(question, { medium, received: received() });
    thoughts.push(content);
  }
  const { text } = await bus.agent(nameOf(names.at(-1), name)).say(question, { received: received() }).answer;
  for (const thought of thoughts) thought.dispose();
  return text;
}

export async function run(want) {
  const title = "bus, 4 agents";
  if (!want(title)) return [];
  const file = bundledModel();
  const model = await loadModel(file);
  const pool = await model.createPool({ contextLength: 2048, maxSequences: 4 });
  const folder = path.join(temporaryFolder(), "nats-agents");
  fs.mkdirSync(folder, { recursive: true });
  const nats = await startNatsServer(folder);
  const hub = await listen(`unix:${path.join(temporaryFolder(), "agents.sock")}`);
  const peers = names.map(() => Peer.inProcess());
  await Promise.all(
    peers.map(async (peer, i) => {
      await peer.ask("agents", "unix", { where: hub.url, file, agents: agentsAt(i) });
      if (nats !== undefined) await peer.ask("agents", "NATS", { where: nats.url, file, agents: agentsAt(i) });
    }),
  );
  const local = await connect("memory:bench-agents");
  await local.serve(
    names.flatMap((_, i) => agentsAt(i).map((one) => model.agent(one))),
    { notes: "message" },
  );
  const buses = [
    ["one process, over memory", local],
    ["four processes, over unix", await connect(hub)],
    ...(nats === undefined ? [] : [["four processes, over NATS", await connect(nats.url)]]),
  ];
  const answers = new Map();
  const noted = (key, text) => answers.set(key, text);
  const cases = arms.flatMap((arm) => [
    async () => {
      const team = pipe(...names.map((_, i) => model.agent(agentsAt(i)[arms.indexOf(arm)])));
      const key = `one process, a pipe/${arm.name}`;
      return {
        [key]: await time(async () => noted(key, (await team.run(question, { medium: arm.medium, notes: "message", pool })).text)),
      };
    },
    ...buses.map(([where, bus]) => async () => {
      const key = `${where}/${arm.name}`;
      return { [key]: await time(async () => noted(key, await overBus(bus, arm))) };
    }),
  ]);
  const times = await interleave(cases);
  for (const [key, text] of answers)
    if (text.trim() !== answers.get(`one process, a pipe/${key.split("/")[1]}`).trim()) throw new Error(`${key} answered '${text}'`);
  for (const [, bus] of buses) await bus.close();
  await Promise.all(peers.map((peer) => peer.stop()));
  await hub.close();
  await nats?.stop();
  await pool.dispose();
  await model.dispose();
  const places = ["one process, a pipe", ...buses.map(([where]) => where)];
  return arms.flatMap(({ name, thoughts }) =>
    places.map((where) => {
      const ms = times[`${where}/${name}`];
      const text = times[`${where}/text`];
      return row({
        name: `${title} by ${name}`,
        shape: `${where}; thoughts of up to ${thoughts}; finch`,
        ms,
        peers: name === "text" ? {} : { text },
        ratio: name === "text" ? null : text / ms,
      });
    }),
  );
}
