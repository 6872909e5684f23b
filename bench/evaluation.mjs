// What `latentwire eval --suite relay --json` says of the bundled pair: each model alone, and both ways through a translator. With --save the answers of
// the command go into bench/results/relay-*.json as they are.
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { fail, root, say } from "../scripts/common.mjs";
import { row } from "./harness.mjs";
import { bundledModel } from "../dist/index.js";

const items = 1000;
const runs = [
  { name: "finch", models: ["finch"] },
  { name: "wren", models: ["wren"] },
  { name: "wren to finch", models: ["wren", "finch"] },
  { name: "finch to wren", models: ["finch", "wren"] },
];
/** Shares that are asked for, in percent; `latent` between two models one way. */
const wanted = { single: 95, text: 95, kv: 95, latent: 85 };
const wantedTranslated = { latent: 60 };

function evaluate(models) {
  const files = models.map((model) => bundledModel(model));
  const which = files.length === 1 ? ["--model", ...files] : ["--models", ...files];
  const command = [
    path.join(root, "dist", "cli", "main.js"),
    "eval",
    ...which,
    "--suite",
    "relay",
    "--n",
    String(items),
    "--json",
    "--quiet",
  ];
  const { status, stdout, stderr } = spawnSync(process.execPath, command, { encoding: "utf8", maxBuffer: 1 << 28 });
  if (status !== 0) fail(`latentwire eval failed: ${stderr}`);
  return JSON.parse(stdout);
}

function targetOf({ arm, accuracy, placebo }, chance, translated) {
  if (placebo) return { what: "off chance", compare: "<=", limit: 5, unit: " points", value: 100 * Math.abs(accuracy - chance) };
  const limit = (translated ? wantedTranslated : wanted)[arm];
  return limit === undefined ? null : { what: "right", compare: ">=", limit, unit: " %", value: 100 * accuracy };
}

function rowOf(one, { n, chance, arms }, name, translated) {
  const text = arms.find(({ arm }) => arm === "text");
  return {
    ...row({
      name: `${one.arm}${one.placebo ? " (placebo)" : ""}`,
      shape: `${name}, ${n} items`,
      ms: one.ms,
      peers: one === text ? {} : { text: text.ms },
      ratio: one === text ? null : text.ms / one.ms,
      target: targetOf(one, chance, translated),
    }),
    right: one.accuracy,
    interval: one.interval,
    prefillTokens: one.prefillTokens,
    latentSteps: one.latentSteps,
    decodedTokens: one.decodedTokens,
    bytes: one.bytes,
  };
}

export function run(want, { save }) {
  const rows = [];
  for (const { name, models } of runs.filter((one) => want(`evaluation of ${one.name}`))) {
    say(`relay: ${name}`);
    const result = evaluate(models);
    const file = path.join(root, "bench", "results", `relay-${models.join("-")}.json`);
    if (save) fs.writeFileSync(file, `${JSON.stringify(result, null, 2)}\n`);
    rows.push(...result.arms.map((one) => rowOf(one, result, name, models.length > 1)));
  }
  return rows;
}
