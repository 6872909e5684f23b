#!/usr/bin/env node
// The command line: one file a command. Data goes to stdout, progress and messages to stderr.
// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 no usable alignment, 130 interrupted.
import { readFileSync } from "node:fs";
import path from "node:path";
import { Command, CommanderError, InvalidArgumentError } from "commander";
import { LatentError } from "../errors.js";
import { kvCodecNames } from "../kv/codec.js";
import { kvFormats, type KvFormat } from "../kv/handle.js";
import { packageRoot } from "../native.js";
import { translatorMethods } from "../spaces/methods.js";
import { align } from "./align.js";
import { demo } from "./demo.js";
import { doctor } from "./doctor.js";
import { evalCommand } from "./eval.js";
import { inspect } from "./inspect.js";
import { quality } from "./kv-quality.js";
import { run } from "./run.js";
import { send } from "./send.js";
import { serve } from "./serve.js";
import { similarity } from "./similarity.js";
import { tap } from "./tap.js";
import { Output, type GlobalOptions } from "./output.js";

const interrupted = new AbortController();
process.once("SIGINT", () => {
  interrupted.abort(new DOMException("interrupted", "AbortError"));
});

type Action<Options> = (output: Output, options: Options, signal: AbortSignal) => Promise<void>;

function command<Options extends object>(
  program: Command,
  name: string,
  description: string,
  action: Action<Options & { argument?: string; operands: readonly string[] }>,
): Command {
  return program
    .command(name)
    .description(description)
    .action(async (...args: unknown[]) => {
      const self = args.at(-1) as Command;
      const options = self.optsWithGlobals<Options & GlobalOptions>();
      const operands = self.args;
      const [argument] = operands;
      await action(new Output(options), { ...options, operands, ...(argument !== undefined && { argument }) }, interrupted.signal);
    });
}

function oneOf<const T extends string>(...known: readonly T[]): (value: string) => T {
  return (value) => {
    const found = known.find((one) => one === value);
    if (found === undefined) throw new InvalidArgumentError(`It is ${known.slice(0, -1).join(", ")} or ${known.at(-1) ?? ""}.`);
    return found;
  };
}

function count(value: string): number {
  if (!/^\d{1,15}$/.test(value)) throw new InvalidArgumentError("It is an integer of 0 or more.");
  return Number(value);
}

function list(value: string): readonly string[] {
  return value.split(",");
}

function positive(value: string): number {
  const number = Number(value);
  if (value.trim() === "" || !Number.isFinite(number) || number < 0) throw new InvalidArgumentError("It is a number of 0 or more.");
  return number;
}

function formats(value: string): readonly KvFormat[] {
  return value.split(",").map((name) => {
    const format = kvFormats.find((known) => known === name);
    if (format === undefined) throw new InvalidArgumentError(`It is a list of ${kvFormats.join(", ")}.`);
    return format;
  });
}

function codecs(value: string): readonly string[] {
  const names = value.split(",");
  if (!names.every((name) => kvCodecNames.some((known) => known === name) || name.startsWith("kvtc:")))
    throw new InvalidArgumentError(`It is a list of ${kvCodecNames.join(", ")}, kvtc:BITS and kvtc:FILE.`);
  return names;
}

/** The token itself is no option: arguments can be seen by others on the machine. */
function withBusAccess(given: Command): Command {
  return given
    .option("--token-file <file>", "holds the token of the bus (default: the variable LATENTWIRE_BUS_TOKEN)")
    .option("--tls-ca <file>", "for https: and tls:, PEM: who signed the certificates of the other side")
    .option("--tls-cert <file>", "PEM: own certificate")
    .option("--tls-key <file>", "PEM: its key");
}

function withModels(given: Command): Command {
  return given.option("--gpu-layers <count>", "layers that llama.cpp computes on a GPU, 1000 for all", count, 0);
}

function collected(value: string, before: readonly string[] = []): readonly string[] {
  return [...before, value];
}

function packageVersion(): string {
  const { version } = JSON.parse(readFileSync(path.join(packageRoot, "package.json"), "utf8")) as { readonly version: string };
  return version;
}

// The options of all commands may stand before the command or after it.
function build(): Command {
  const program = new Command("latentwire")
    .description("LLM agents that hand over KV caches and latent vectors instead of text.")
    .version(packageVersion())
    .option("--json", "print one JSON value on stdout", false)
    .option("--quiet", "no progress on stderr", false)
    .option("--no-color", "no colours (NO_COLOR works too)")
    .configureHelp({ showGlobalOptions: true })
    .exitOverride()
    .showHelpAfterError("(latentwire --help shows the commands)");
  withModels(command(program, "demo", "two agents solve a task by kv, latent and text, beside placebos; writes report.html", demo))
    .option("--model <file>", "a GGUF file: one question by each medium (default: the bundled pair, and many questions)")
    .option("--n <count>", "how many questions", count, 100)
    .option("--out <folder>", "where report.html goes", ".");
  withModels(command(program, "run", "run a pipe of agents", run))
    .argument("<question>", "what the agents are asked")
    .requiredOption("--model <file>", "a GGUF file")
    .requiredOption("--team <file>", 'JSON: { "agents": [{ "name", "model"?, "system"?, "user"?, "think"?, "generate"? }] }')
    .option("--medium <medium>", "kv, latent or text", oneOf("kv", "latent", "text"), "kv");
  withBusAccess(
    withModels(command(program, "serve", "serve agents to others: on a hub that is opened, on a bus that is there, or both", serve))
      .requiredOption("--agents <file>", 'JSON: { "agents": [{ "name", "model"?, "system"?, "user"?, "think"?, "generate"? }] }')
      .option("--model <file>", "a GGUF file, of the agents that name none")
      .option("--listen <address>", "open a hub: unix:/PATH, http://HOST:PORT or https://HOST:PORT (port 0: a free one)")
      .option("--connect <address>", "serve on a bus that is there: nats://HOST:PORT, tls:, unix:, http: or https:")
      .option("--name <name>", "who this side is to others (default: a random name)")
      .option("--team <name=agent,agent>", "agents in a row, as a model of chat completions (default: team, all in their order)", collected)
      .option("--medium <medium>", "of teams: kv, latent or text (default: kv, and text between models)", oneOf("kv", "latent", "text"))
      .option("--concurrency <count>", "requests of an agent, and chat completions, at a time", count, 4)
      .option("--drain-ms <ms>", "how long what runs may take after SIGTERM or SIGINT", count, 10_000),
  );
  withBusAccess(
    command(program, "send", "ask an agent on a bus, or put a message into an inbox", send)
      .argument("<address>", "of the bus: unix:/PATH, http://HOST:PORT, https:, nats: or tls:")
      .argument("<name>", "of the agent, or of the inbox")
      .argument("<text>", "the question, or the message")
      .option("--inbox", "put it into the inbox of that name")
      .option("--think <medium>", "let the agent think instead of answer, for kv, latent or text", oneOf("kv", "latent", "text"))
      .option("--deadline-ms <ms>", "how long an agent may take (default: 120000), or a message is of use (default: always)", count)
      .option("--name <name>", "who this side is to others (default: a random name)"),
  );
  withBusAccess(
    command(program, "tap", "show what goes over a bus: envelopes, never content", tap).argument(
      "<address>",
      "of the bus: unix:/PATH, http://HOST:PORT, https:, nats: or tls:",
    ),
  );
  withBusAccess(
    command(program, "doctor", "check that this machine can run latentwire", doctor).option(
      "--bus <address>",
      "check as well that this bus answers, and who is there",
    ),
  );
  const kv = program.command("kv").description("keys and values");
  withModels(command(kv, "quality", "what number formats and codecs of keys and values do to a model's predictions", quality))
    .requiredOption("--model <file>", "a GGUF file")
    .requiredOption("--text <file>", "text that the model knows to read")
    .option("--formats <list>", "comma-separated (default: q8_0,q4_0, or none with --codec)", formats)
    .option("--codec <list>", `comma-separated: ${kvCodecNames.join(", ")}, kvtc:BITS a number, kvtc:FILE`, codecs)
    .option("--calibration <file>", "text that kvtc:BITS is fitted to; take another one than --text")
    .option("--save <file>", "save what was fitted, for kvtc:FILE and Kvtc.load");
  withModels(
    command(program, "align", "fit a translator between two spaces, and what it is worth against chance; exits with 3 if nothing", align),
  )
    .option("--pairs <files...>", "two files of rows, .npy or .safetensors[#tensor], that tell the same things in two spaces")
    .option("--from <file>", "instead of --pairs: a GGUF file, whose latents are to be translated")
    .option("--to <file>", "a GGUF file, whose input rows they become")
    .option("--texts <file>", "what both models read: one text a line, or a .json file with an array of strings")
    .option(
      "--gather <what>",
      "what stands for a text: slots (latent steps), last or mean (default: slots)",
      oneOf("slots", "last", "mean"),
    )
    .option("--steps <count>", "latent steps of slots (default: 8)", count)
    .option(
      "--maps <maps>",
      "of slots: auto, shared, slot or flat (default: auto, or shared with a --method)",
      oneOf("auto", "shared", "slot", "flat"),
    )
    .option("--method <method>", `auto, all, ${translatorMethods.join(", ")}`, oneOf("auto", "all", ...translatorMethods), "auto")
    .option("--anchors <count>", "how many pairs to fit on (default: all that are not kept apart)", count)
    .option("--seed <seed>", "of the split and the draws", count, 0)
    .option("--out <file>", "write the translator there, as safetensors");
  command(program, "similarity", "every measure of how alike two spaces are", similarity)
    .argument("<a>", "rows of A, .npy or .safetensors[#tensor]")
    .argument("<b>", "rows of B, the same things");
  withModels(command(program, "eval", "what media and policies are worth on a task, against text and placebos", evalCommand))
    .option("--model <file>", "a GGUF file for reader and solver (default: the bundled finch)")
    .option("--models <files...>", "two GGUF files: the reader's and the solver's")
    .option("--suite <suite>", "relay, or a file of lines of JSON", "relay")
    .option("--arms <list>", "comma-separated, such as kv,latent,kv/hidden8,latent/hidden16,text/hidden8,kv/tokens,shuffled:kv", list)
    .option("--steps <count>", "latent steps of the arm latent (default: 8)", count)
    .option("--n <count>", "how many items (default: 1000 of relay, all of a file)", count)
    .option("--seed <seed>", "of the order of the items, of relay's items and of the noise", count, 0)
    .option("--parallel <count>", "items answered side by side", count, 1)
    .option("--budget [seconds]", "stop when the intervals have separated, at the latest after so many seconds", positive)
    .option("--out <folder>", "keep what is done there, go on from it, and write result.json, report.md and report.html")
    .option(
      "--texts <file>",
      "what a translator between two models is fitted on, one text a line or a .json file (relay: texts of its world)",
    )
    .option("--fit-texts <count>", "how many texts of relay's world", count, 2000)
    .option("--maps <maps>", "of the translator: auto, shared, slot or flat", oneOf("auto", "shared", "slot", "flat"), "slot")
    .option("--method <method>", `of the translator: auto, ${translatorMethods.join(", ")}`, oneOf("auto", ...translatorMethods), "ridge")
    .option("--reader-prompt <text>", "what the reader is told, above what it reads")
    .option("--solver-prompt <text>", "what the solver is told, above the question")
    .option("--note-tokens <count>", "the longest note of the reader", count)
    .option("--answer-tokens <count>", "the longest answer", count);
  command(program, "inspect", "facts of a model file", inspect).argument("<model>", "a GGUF file");
  return program;
}

try {
  await build().parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else if (interrupted.signal.aborted || (error instanceof DOMException && error.name === "AbortError")) process.exitCode = 130;
  else {
    const text = LatentError.isInstance(error)
      ? `${error.code}: ${error.message}\n  ${error.hint}`
      : error instanceof Error
        ? error.message
        : String(error);
    process.stderr.write(`latentwire: ${text}\n`);
    process.exitCode = LatentError.isInstance(error) && error.code === "ERR_LATENT_INVALID_ARGUMENT" ? 2 : 1;
  }
}
