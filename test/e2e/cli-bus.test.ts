// The commands of the bus in processes of their own: serve, send, tap and doctor, over sockets, with tokens and certificates, and how a server ends.
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import type { Bus } from "../../lib/bus/bus.js";
import { connect } from "../../lib/bus/connect.js";
import { listen } from "../../lib/bus/brokers/hub/hub.js";
import { bundledModel } from "../../lib/index.js";
import { latentwire, startLatentwire, type Running } from "./command.js";
import { folder } from "./helpers.js";

const question = "where does tom live?";
const token = "a-token-that-nobody-may-see";
const running: Running[] = [];
let made = 0;

const fileOf = (name: string, content: string): string => {
  const file = path.join(folder, name);
  writeFileSync(file, content);
  return file;
};

const agents = fileOf(
  "agents.json",
  JSON.stringify({
    agents: [
      { name: "reader", user: "mia has the red key. tom lives in oslo.", think: { policy: "hidden", steps: 8 } },
      { name: "solver", generate: { maxTokens: 16 } },
    ],
  }),
);

/** A row of thinkers that takes a while, and one that takes long. */
const thinkers = fileOf(
  "thinkers.json",
  JSON.stringify({
    agents: [
      { name: "thinker", think: { policy: "hidden", steps: 200 } },
      { name: "solver", generate: { maxTokens: 16 } },
    ],
  }),
);
const rowOf = (count: number): string => [...Array.from({ length: count }, () => "thinker"), "solver"].join(",");

interface Ready {
  readonly address: string;
  readonly addresses: readonly string[];
  readonly name: string;
  readonly agents: readonly string[];
  readonly models: readonly string[];
}

async function serve(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<{ readonly server: Running; readonly ready: Ready }> {
  const server = startLatentwire(["serve", "--json", "--model", bundledModel(), ...args], env);
  running.push(server);
  const all = await server.said(/^\{.*\}$/m);
  return { server, ready: JSON.parse(/^\{.*\}$/m.exec(all)?.[0] ?? "") as Ready };
}

async function end(server: Running): Promise<void> {
  server.kill("SIGTERM");
  expect(await server.ended).toMatchObject({ code: 0 });
}

/** What goes before a tap has begun is not shown: so again and again. */
async function sendUntil(bus: Bus, shown: Promise<unknown>): Promise<void> {
  const watched = { isShown: false };
  const seen = shown.finally(() => (watched.isShown = true));
  seen.catch(() => undefined);
  await using inbox = await bus.inbox("box");
  await bus.send("box", "a secret");
  for await (const message of inbox) {
    await message.ack();
    if (watched.isShown) break;
    // within one process all of it happens before any socket gets its turn
    await new Promise((resolve) => setImmediate(resolve));
    await bus.send("box", "a secret");
  }
}

afterEach(async () => {
  for (const server of running.splice(0)) {
    server.kill("SIGKILL");
    await server.ended;
  }
});

describe("over a unix socket", () => {
  const socket = (): string => `unix:${path.join(folder, `hub-${made++}.sock`)}`;

  it("agents are served, asked, watched, and end with the server", async () => {
    const address = socket();
    const { server, ready } = await serve(["--agents", agents, "--listen", address, "--name", "here"]);
    expect(ready).toEqual({
      address,
      addresses: [address],
      name: "here",
      agents: ["reader", "solver"],
      models: ["reader", "solver", "team"],
    });

    const answer = await latentwire(["send", address, "solver", question, "--name", "me"]);
    expect(answer.code).toBe(0);
    expect(answer.stdout.trim()).not.toBe("");
    expect(answer.stderr).toMatch(/^me -> solver: \d+ positions prefilled, 0 latent steps, \d+ tokens decoded; /);
    const asJson = await latentwire(["send", "--json", address, "solver", question]);
    expect(JSON.parse(asJson.stdout)).toMatchObject({ text: answer.stdout.replace(/\n$/, ""), hop: { to: "solver", given: [] } });
    for (const medium of ["kv", "latent", "text"]) {
      const thought = await latentwire(["send", "--json", address, "reader", question, "--think", medium]);
      expect(JSON.parse(thought.stdout)).toMatchObject({ form: medium, hop: { latentSteps: 8 } });
    }

    const absent = await latentwire(["send", address, "nobody", question]);
    expect(absent).toMatchObject({ code: 1, stdout: "" });
    expect(absent.stderr).toContain("ERR_LATENT_BUS_UNKNOWN_AGENT");
    const late = await latentwire(["send", address, "reader", question, "--think", "kv", "--deadline-ms", "1"]);
    expect(late.code).toBe(1);
    expect(late.stderr).toContain("ERR_LATENT_BUS_DEADLINE");

    const checks = await latentwire(["doctor", "--json", "--bus", address]);
    expect(checks.code).toBe(0);
    expect(JSON.parse(checks.stdout)).toEqual(
      expect.arrayContaining([
        expect.objectContaining({ name: "bus", status: "ok" }),
        expect.objectContaining({ name: "agents", status: "ok", found: "agents: reader, solver; inboxes: none" }),
      ]),
    );
    await end(server);
    expect((await latentwire(["send", address, "solver", question])).stderr).toContain("ERR_LATENT_BUS_DISCONNECTED");
  });

  it("tap shows who sends what to whom, never what it says", async () => {
    await using hub = await listen(socket());
    await using bus = await connect(hub, { name: "me" });
    const taps = [startLatentwire(["tap", hub.url]), startLatentwire(["tap", hub.url, "--json", "--quiet"])];
    running.push(...taps);
    const shown = Promise.all([taps[0]?.said(/ message .*\n/), taps[1]?.said(/"kind":"message".*\n/)]);
    await sendUntil(bus, shown);
    const [plain, json] = await shown;
    expect(plain).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z {2}me -> inbox\.box {2}message {2}text {2}\d+ B {2}.+$/m);
    expect(JSON.parse(/^\{.*"kind":"message".*\}$/m.exec(json ?? "")?.[0] ?? "")).toMatchObject({
      from: "me",
      to: "inbox.box",
      form: "text",
      contentBytes: Buffer.byteLength("a secret"),
    });
    for (const tap of taps) {
      tap.kill("SIGINT");
      const ended = await tap.ended;
      expect(ended.code).toBe(130);
      expect(ended.stdout + ended.stderr).not.toContain("secret");
    }
  });

  it("send puts messages into inboxes, where they wait", async () => {
    await using hub = await listen(socket());
    const sent = await latentwire(["send", hub.url, "box", "hello", "--inbox", "--name", "me"]);
    expect(sent).toMatchObject({ code: 0 });
    expect(sent.stderr).toMatch(/^me -> box: text, 5 bytes, /);
    await using bus = await connect(hub);
    await using inbox = await bus.inbox("box");
    for await (const message of inbox) {
      expect([message.id, message.from, message.text]).toEqual([sent.stdout.trim(), "me", "hello"]);
      await message.ack();
      break;
    }
    expect((await latentwire(["send", hub.url, "box", "hello", "--inbox", "--think", "kv"])).code).toBe(2);
  });

  it("doctor warns of a bus where nobody is, and fails at one that is not there", async () => {
    const address = socket();
    {
      await using hub = await listen(address);
      const { code, stdout } = await latentwire(["doctor", "--json", "--bus", hub.url]);
      expect(code).toBe(0);
      expect(JSON.parse(stdout)).toContainEqual(expect.objectContaining({ name: "agents", status: "warn" }));
    }
    const gone = await latentwire(["doctor", "--bus", address]);
    expect(gone.code).toBe(1);
    expect(gone.stdout).toMatch(/^bus +fail .*cannot be reached/m);
  });

  it("a tap ends with the bus that was lost", async () => {
    const hub = await listen(socket());
    await using bus = await connect(hub.url, { reconnectMs: 0 });
    const events = bus.tap();
    await sendUntil(bus, events.next());
    const lost = expect(
      (async () => {
        for await (const event of events) expect(event).toBeDefined();
      })(),
    ).rejects.toMatchObject({ code: "ERR_LATENT_BUS_DISCONNECTED" });
    await hub.close({ drainMs: 0 });
    await lost;
  });

  it("who serves a name last has it, and the one before ends in peace", async () => {
    await using hub = await listen(socket());
    const first = await serve(["--agents", agents, "--connect", hub.url, "--name", "first"]);
    expect(first.ready).toMatchObject({ address: hub.url, models: [] });
    const second = await serve(["--agents", agents, "--connect", hub.url, "--name", "second"]);
    expect(await first.server.ended).toMatchObject({ code: 0 });
    expect((await latentwire(["send", hub.url, "solver", question])).code).toBe(0);
    await end(second.server);
  });
});

describe("over http", () => {
  it("a token is wanted, and shown nowhere", async () => {
    const env = { LATENTWIRE_BUS_TOKEN: token };
    const { server, ready } = await serve(["--agents", agents, "--listen", "http://127.0.0.1:0"], env);
    const { address } = ready;
    expect(address).toMatch(/^http:\/\/127\.0\.0\.1:\d+$/);

    const wrong = await latentwire(["send", address, "solver", question], { env: { LATENTWIRE_BUS_TOKEN: "another-token" } });
    expect(wrong).toMatchObject({ code: 1, stdout: "" });
    expect(wrong.stderr).toContain("ERR_LATENT_BUS_UNAUTHORIZED");
    expect(wrong.stderr).not.toContain("another-token");
    const unwell = await latentwire(["doctor", "--json", "--bus", address], { env: { LATENTWIRE_BUS_TOKEN: "" } });
    expect(unwell.code).toBe(1);
    expect(JSON.parse(unwell.stdout)).toContainEqual(expect.objectContaining({ name: "bus", status: "fail" }));
    const file = fileOf("token", `${token}\n`);
    const right = await latentwire(["send", address, "solver", question, "--token-file", file], {
      env: { LATENTWIRE_BUS_TOKEN: "another-token" },
    });
    expect(right.code).toBe(0);
    const empty = await latentwire(["send", address, "solver", question, "--token-file", fileOf("empty", "\n")]);
    expect(empty.code).toBe(2);

    const headers = { authorization: `Bearer ${token}`, "content-type": "application/json" };
    expect(await (await fetch(`${address}/health`)).json()).toEqual({ status: "ok" });
    expect((await fetch(`${address}/ready`)).status).toBe(401);
    expect(await (await fetch(`${address}/ready`, { headers })).json()).toEqual({ status: "ok" });
    const body = JSON.stringify({ model: "team", messages: [{ role: "user", content: question }] });
    const chat = await fetch(`${address}/v1/chat/completions`, { method: "POST", headers, body });
    expect(await chat.json()).toMatchObject({ choices: [{ finish_reason: "stop" }], latentwire: { hops: [{ medium: "kv" }] } });
    const metrics = await (await fetch(`${address}/metrics`, { headers })).text();
    expect(metrics).toContain(`latentwire_agent_requests_answered_total{agent="solver",address="${address}"} 1\n`);
    expect(metrics).toContain('latentwire_chat_requests_total{end="answered"} 1\n');
    expect(metrics).toMatch(/^latentwire_sessions \d+$/m);

    server.kill("SIGINT");
    const { code, stdout, stderr } = await server.ended;
    expect(code).toBe(0);
    expect(stdout + stderr).not.toContain(token);
  });

  it("certificates are shown", async () => {
    const [key, cert] = [path.join(folder, "key.pem"), path.join(folder, "cert.pem")];
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    const subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
    execFileSync("openssl", ["req", "-x509", ...curve, "-keyout", key, "-out", cert, ...subject], { stdio: "pipe" });
    const { server, ready } = await serve(["--agents", agents, "--listen", "https://127.0.0.1:0", "--tls-key", key, "--tls-cert", cert]);
    expect((await latentwire(["send", ready.address, "solver", question, "--tls-ca", cert])).code).toBe(0);
    expect((await latentwire(["send", ready.address, "solver", question])).stderr).toContain("ERR_LATENT_BUS_UNAUTHORIZED");
    await end(server);
  });
});

describe("a server that is told to end", () => {
  const slow = (count: number): readonly string[] => [
    ...["--agents", thinkers, "--listen", "http://127.0.0.1:0", "--medium", "latent", "--drain-ms", "600000"],
    ...["--team", `slow=${rowOf(count)}`],
  ];
  const ask = async (address: string): Promise<Response> =>
    fetch(`${address}/v1/chat/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "slow", messages: [{ role: "user", content: question }], stream: true }),
    });

  it("answers what runs, and lets nobody in", async () => {
    const { server, ready } = await serve(slow(10));
    expect(ready.models).toEqual(["thinker", "solver", "slow"]);
    await using bus = await connect(ready.address, { name: "me" });
    // the first part comes when the first agent begins
    const streamed = await ask(ready.address);
    const thought = bus.agent("thinker").think(question, { medium: "text" });
    for await (const { channel, envelope } of bus.tap()) if (channel === "agent.thinker" || envelope.kind === "reply") break;
    server.kill("SIGTERM");
    await server.said(/ending/);
    const late = await ask(ready.address).catch(() => undefined);
    if (late !== undefined) expect(late.status).toBe(503);
    expect(await streamed.text()).toMatch(/"finish_reason":"stop".*\n\ndata: \[DONE\]\n\n$/s);
    expect((await thought).hop).toMatchObject({ latentSteps: 200 });
    expect(await server.ended).toMatchObject({ code: 0 });
  });

  it("ends at once when it is told so again", async () => {
    const { server, ready } = await serve(slow(400));
    const streamed = await ask(ready.address);
    server.kill("SIGTERM");
    await server.said(/ending/);
    server.kill("SIGTERM");
    expect(await server.ended).toMatchObject({ code: 130 });
    expect(await streamed.text()).toContain("the server is ending");
  });
});

describe("wrong usage", () => {
  const serveWith = (...args: string[]) => latentwire(["serve", "--model", bundledModel(), "--agents", agents, ...args]);

  it("is told by the name of the option, with 2", async () => {
    const cases: readonly (readonly [readonly string[], string])[] = [
      [[], "--listen"],
      [["--listen", "ftp://x"], "url"],
      [["--listen", "http://0.0.0.0:0"], "token"],
      [["--listen", "https://127.0.0.1:0"], "--tls-key"],
      [["--listen", "http://127.0.0.1:0", "--tls-ca", agents], "https:"],
      [["--listen", "http://127.0.0.1:0", "--tls-ca", path.join(folder, "absent")], "--tls-ca"],
      [["--listen", "http://127.0.0.1:0", "--team", "both"], "--team"],
      [["--listen", "http://127.0.0.1:0", "--team", "both=reader,nobody"], "nobody"],
      [["--listen", "http://127.0.0.1:0", "--team", "reader=reader,solver"], "reader"],
      [["--listen", "http://127.0.0.1:0", "--medium", "smoke"], "kv, latent or text"],
      [["--listen", "http://127.0.0.1:0", "--concurrency", "0"], "concurrency"],
    ];
    for (const [args, named] of cases) {
      const { code, stdout, stderr } = await serveWith(...args);
      expect([code, stdout], `${args.join(" ")}: ${stderr}`).toEqual([2, ""]);
      expect(stderr).toContain(named);
    }
    const noModel = await latentwire(["serve", "--agents", agents, "--listen", "http://127.0.0.1:0"]);
    expect(noModel.code).toBe(2);
    expect(noModel.stderr).toContain("--model");
    expect((await latentwire(["tap"])).code).toBe(2);
    expect((await latentwire(["send", "nowhere", "a", "b"])).code).toBe(2);
  });
});

it("an agent may name a model of its own, beside the file", async () => {
  const own = path.relative(folder, bundledModel("wren"));
  const file = fileOf(
    "two.json",
    JSON.stringify({ agents: [{ name: "finch" }, { name: "wren", model: own, generate: { maxTokens: 4 } }] }),
  );
  const { server, ready } = await serve(["--agents", file, "--listen", "http://127.0.0.1:0"]);
  const hop = JSON.parse((await latentwire(["send", "--json", ready.address, "wren", question])).stdout) as object;
  expect(hop).toMatchObject({ hop: { to: "wren" } });
  await end(server);
});
