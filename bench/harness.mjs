// What every benchmark shares: interleaved timing, medians, one shape of row, and the line that says on what machine it ran.
import fs from "node:fs";
import os from "node:os";
import process from "node:process";

export const repetitions = 11;

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** Milliseconds that `work` takes. */
export async function time(work) {
  const start = performance.now();
  await work();
  return performance.now() - start;
}

/**
 * Runs every case once a round, each round beginning with another case, so that a slow minute of the machine hits all of them alike. A case returns
 * `{ name: number }` for what it timed itself; the result is the median of each name. One round warms up and is not counted.
 */
export async function interleave(cases, { rounds = repetitions, warmUp = 1 } = {}) {
  const samples = new Map();
  for (let round = -warmUp; round < rounds; round++) {
    for (let i = 0; i < cases.length; i++) {
      const timed = await cases[(i + round + warmUp) % cases.length]();
      if (round < 0) continue;
      for (const [name, value] of Object.entries(timed)) samples.set(name, [...(samples.get(name) ?? []), value]);
    }
  }
  return Object.fromEntries([...samples].map(([name, values]) => [name, median(values)]));
}

/** One line of results. `ratio` is what the target speaks of, or null; `met` is null where there is no target. */
export function row({ name, shape, ms, peers = {}, ratio = null, target = null }) {
  const met = target === null ? null : target.compare === ">=" ? target.value >= target.limit : target.value <= target.limit;
  return {
    name,
    shape,
    ms,
    peers,
    ratio,
    target: target === null ? null : `${target.what} ${target.compare} ${target.limit}${target.unit}`,
    met,
  };
}

/**
 * One line of a kernel. `target` is [peer, times]: ours is to be so many times as fast; `absolute` is a limit in milliseconds. `limit` is what the
 * machine needs at least, `ratio` the best peer over ours.
 */
export function kernelRow({ name, shape, dtype, threads, ms, peers, limit, target, absolute }) {
  const best = Math.min(...Object.values(peers));
  const [peer, times] = target ?? [];
  const against = peer === undefined ? undefined : peers[peer];
  return {
    name,
    shape,
    dtype,
    threads,
    ms,
    peers,
    ratio: Number.isFinite(best) ? best / ms : null,
    limitShare: limit > 0 ? limit / ms : null,
    target: absolute !== undefined ? `<= ${1e6 * absolute} ns` : peer === undefined ? null : `>= ${times}x ${peer}`,
    met: absolute !== undefined ? ms <= absolute : against === undefined ? null : against / ms >= times,
  };
}

function processorTicks() {
  try {
    const fields = fs.readFileSync("/proc/stat", "utf8").split("\n")[0].trim().split(/\s+/).slice(1).map(Number);
    return { total: fields.slice(0, 8).reduce((sum, one) => sum + one, 0), steal: fields[7] ?? 0 };
  } catch {
    return undefined;
  }
}

/** Call it at the start; what it returns describes the machine over the time since. */
export function watchHardware() {
  const before = processorTicks();
  const loadBefore = os.loadavg()[0];
  return () => {
    const after = processorTicks();
    const steal =
      before && after && after.total > before.total ? (100 * (after.steal - before.steal)) / (after.total - before.total) : undefined;
    const model = os.cpus()[0]?.model.trim() ?? "unknown processor";
    const load = `load average ${loadBefore.toFixed(1)} before, ${os.loadavg()[0].toFixed(1)} after`;
    const stolen = steal === undefined ? "steal unknown" : `steal ${steal.toFixed(1)} %`;
    return `${model}, ${os.cpus().length} cores, ${process.platform} ${process.arch}, Node ${process.version}, ${load}, ${stolen}`;
  };
}

/** Numbers that repeat: the token ids of a prompt, away from the special tokens at both ends of a vocabulary. */
export function promptTokens(model, count, seed = 1) {
  let state = seed >>> 0;
  const size = model.info.vocabularySize;
  const low = Math.min(300, size >> 1);
  return Int32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return low + Math.floor((state / 2 ** 32) * Math.max(1, size - low - 16));
  });
}

/** Normal numbers, never zeros: those run faster. */
export function random(count, seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  // a sum of four uniform numbers is near enough to normal, and fast
  return Float32Array.from({ length: count }, () => uniform() + uniform() + uniform() + uniform() - 2);
}
