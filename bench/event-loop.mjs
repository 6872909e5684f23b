// What a busy pool does to the event loop of the service: the delay of a 1 ms timer, with eight sequences generating and with none.
import { monitorEventLoopDelay } from "node:perf_hooks";
import { setTimeout as sleep } from "node:timers/promises";
import { interleave, promptTokens, row } from "./harness.mjs";
import { smallModels } from "./models.mjs";

const agents = 8;
const atLeastMs = 500;
const maxTokens = 32;

async function p99During(work) {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  await work();
  delay.disable();
  return delay.percentile(99) / 1e6;
}

export async function run(want) {
  const name = "event loop delay p99";
  if (!want(name)) return [];
  const rows = [];
  for (const { model, label } of await smallModels()) {
    const pool = await model.createPool({ contextLength: 4096, maxSequences: agents });
    const prompts = Array.from({ length: agents }, (_, i) => promptTokens(model, 16, i + 1));
    // A sequence that ends early starts again, so all eight are busy to the end.
    const keepBusy = async (prompt, until) => {
      while (performance.now() < until) {
        const sequence = pool.sequence();
        await sequence.prefill(prompt);
        await sequence.generate({ maxTokens }).result;
        await sequence.dispose();
      }
    };
    const busy = async () => ({
      busy: await p99During(() => {
        const until = performance.now() + atLeastMs;
        return Promise.all(prompts.map((prompt) => keepBusy(prompt, until)));
      }),
    });
    const idle = async () => ({ idle: await p99During(() => sleep(atLeastMs)) });
    const times = await interleave([busy, idle]);
    await pool.dispose();
    rows.push(
      row({
        name,
        shape: `${agents} sequences generating; ${label}`,
        ms: times.busy,
        peers: { idle: times.idle },
        ratio: times.busy / times.idle,
        target: { what: "p99", compare: "<=", limit: 5, unit: " ms", value: times.busy },
      }),
    );
  }
  return rows;
}
