// A conversation of agents on three hosts, for three-hosts.sh. `host NAME` serves the agents of one host; `hub ADDRESS` is the bus where there is no NATS;
// `ask` starts the hosts, runs the conversation by kv, latents and text, kills one host in the middle of it, and shows what crossed. The address of the bus
// is in LATENTWIRE_BUS, its token in LATENTWIRE_TOKEN; LATENTWIRE_HOSTS says, a line each, how to run a program on each host.
import { spawn, type ChildProcess, type SpawnOptions } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import {
  bundledModel,
  connect,
  listen,
  loadModel,
  type Agent,
  type Bus,
  type BusHop,
  type Medium,
  type Model,
  type Parcel,
  type TapEvent,
} from "latentwire";

const facts = "mia has the red key. tom lives in oslo. ana has the blue coin. ben lives in lima. zoe has the green ring.";
const question = "where does ben live?";
const answer = "lima";
const think = { policy: "tokens", maxTokens: 64 } as const;
const generate = { maxTokens: 12 };

/** Which model is on which host, and who thinks and speaks there. */
const hosts: Readonly<Record<string, { readonly model: string; readonly agents: (model: Model) => readonly Agent[] }>> = {
  north: { model: "finch", agents: (model) => [model.agent({ name: "reader", user: facts, think })] },
  west: { model: "finch", agents: (model) => [model.agent({ name: "critic", think })] },
  south: { model: "finch", agents: (model) => [model.agent({ name: "solver", generate })] },
};
/** Another model, beside the solver: it can use texts alone. */
const other = { host: "south", model: "wren", agent: "stranger" };

async function join(name: string): Promise<Bus> {
  const { LATENTWIRE_BUS: address = "", LATENTWIRE_TOKEN: token } = process.env;
  return await connect(address, { name, ...(token !== undefined && { token }) });
}

async function serveHost(name: string): Promise<void> {
  const host = hosts[name];
  if (host === undefined) throw new Error(`no host ${name}`);
  await using bus = await join(name);
  await using model = await loadModel(bundledModel(host.model));
  await using _served = await bus.serve(host.agents(model), { notes: "message" });
  await using stranger = await loadModel(bundledModel(other.model));
  if (name === other.host) await bus.serve([stranger.agent({ name: other.agent, generate })], { notes: "message" });
  // until whoever started it ends it, or itself
  process.stdin.resume();
  await Promise.race([once(process, "SIGTERM"), once(process.stdin, "end")]);
}

async function serveHub(address: string): Promise<void> {
  const { LATENTWIRE_TOKEN: token } = process.env;
  await using hub = await listen(address, token === undefined ? {} : { token });
  console.log(hub.url);
  await Promise.race([once(process, "SIGTERM"), once(process, "SIGINT")]);
}

/** Starts a host, by the command that runs programs there. */
function start(name: string): ChildProcess {
  const line = (process.env.LATENTWIRE_HOSTS ?? "").split("\n")[Object.keys(hosts).indexOf(name)] ?? "";
  const [command, ...args] = [...line.split(" ").filter(Boolean), process.execPath];
  // a group of its own, with what the command starts
  const options: SpawnOptions = { stdio: ["pipe", "inherit", "inherit"], detached: true };
  const child = spawn(command, [...args, fileURLToPath(import.meta.url), "host", name], options);
  process.once("exit", () => {
    signal(child, "SIGKILL");
  });
  return child;
}

function signal({ pid, exitCode, signalCode }: ChildProcess, name: "SIGSTOP" | "SIGKILL"): void {
  if (pid !== undefined && exitCode === null && signalCode === null) process.kill(-pid, name);
}

interface Crossing {
  readonly hop: string;
  readonly form: Medium;
  readonly way: string;
  readonly why: string;
  readonly positions: number;
  readonly bytes: number;
  readonly ms: number;
}

/** How long a call waits for an agent: hosts start, and come back. */
const waitMs = 60_000;

async function converse(bus: Bus, medium: Medium, solver: string, beforeCritic: () => void): Promise<{ text: string; hops: Crossing[] }> {
  using read = (await bus.agent("reader").think(question, { medium, waitMs })).content;
  beforeCritic();
  const criticised = await bus.agent("critic").think(question, { medium, received: [read], waitMs });
  using thought = criticised.content;
  // cells hold what their maker has read; a thought by latents or text is all that comes of it
  const received = medium === "kv" ? [thought] : [read, thought];
  const said = await bus.agent(solver).say(question, { received, waitMs }).answer;
  const hops = [
    ...crossings(medium, ["reader"], "critic", [read], criticised.hop),
    ...crossings(medium, medium === "kv" ? ["critic"] : ["reader", "critic"], solver, received, said.hop),
  ];
  return { text: said.text.trim(), hops };
}

/** What was given on one call, with how large it is and how long the call took. */
function crossings(medium: Medium, from: string[], to: string, parcels: Parcel[], { given, roundTripMs }: BusHop): Crossing[] {
  return given.map(({ form, way, why }, i) => ({
    hop: `${medium}: ${from[i]} to ${to}`,
    form,
    way,
    why,
    positions: form === "text" ? 0 : (parcels[i]?.positions ?? 0),
    bytes: form === "text" ? Buffer.byteLength(parcels[i]?.text ?? "") : (parcels[i]?.bytes ?? 0),
    ms: Math.round(roundTripMs),
  }));
}

/** Kills a host when its agent has a request, and starts it again. It is stopped meanwhile, so that it cannot have answered. */
async function killWhenAsked(
  events: AsyncIterable<TapEvent>,
  agent: string,
  host: string,
  running: Map<string, ChildProcess>,
): Promise<void> {
  for await (const { channel, envelope } of events) if (channel === `agent.${agent}` && envelope.kind === "request") break;
  const child = running.get(host);
  if (child === undefined) return;
  const gone = once(child, "exit");
  signal(child, "SIGKILL");
  await gone;
  console.log(`${host} was killed with a question to ${agent} before it; it is started again`);
  running.set(host, start(host));
}

async function runConversations(): Promise<boolean> {
  // hosts are ended when this exits, which it does not do by itself on a signal
  for (const name of ["SIGINT", "SIGTERM"] as const) process.once(name, () => process.exit(1));
  await using bus = await join("caller");
  const running = new Map(Object.keys(hosts).map((name) => [name, start(name)]));
  const hops: Crossing[] = [];
  const answers: { by: string; from: string; answer: string; right: boolean }[] = [];
  try {
    for (const medium of ["kv", "latent", "text"] as const) {
      // latents are nothing to the other model: it gets the words that came with them, and the table says so
      for (const solver of medium === "kv" ? ["solver"] : ["solver", other.agent]) {
        const west = medium === "latent" && solver === "solver" ? running.get("west") : undefined;
        const killed = west === undefined ? undefined : killWhenAsked(bus.tap(), "critic", "west", running);
        const said = await converse(bus, medium, solver, () => {
          if (west !== undefined) signal(west, "SIGSTOP");
        });
        await killed;
        hops.push(...said.hops);
        answers.push({ by: medium, from: solver, answer: said.text, right: said.text === answer });
      }
    }
    console.log(`\n${facts}\n${question}`);
    console.table(answers);
    console.table(hops);
    return answers.every(({ right }) => right);
  } finally {
    await Promise.all(
      [...running.values()].map(async (child) => {
        if (child.exitCode !== null || child.signalCode !== null) return;
        const gone = once(child, "exit");
        child.stdin?.end();
        await gone;
      }),
    );
  }
}

const [role, argument = ""] = process.argv.slice(2);
if (role === "host") await serveHost(argument);
else if (role === "hub") await serveHub(argument);
else process.exitCode = (await runConversations()) ? 0 : 1;
