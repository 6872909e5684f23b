// The price of the border between JavaScript and native code: a call that does nothing, and a job that does nothing on another thread.
import { randomBytes } from "node:crypto";
import { interleave, row, time } from "./harness.mjs";
import { native } from "../dist/native.js";

const calls = 200_000;
const jobs = 500;

export async function run(want) {
  const rows = [];
  const { diagnostics } = native();
  if (want("sync call")) {
    const noop = () => {
      const start = performance.now();
      for (let i = 0; i < calls; i++) diagnostics.noop();
      return { call: (performance.now() - start) / calls };
    };
    const { call } = await interleave([noop]);
    const us = 1000 * call;
    rows.push(
      row({
        name: "sync call",
        shape: `noop(), mean of ${calls}`,
        ms: call,
        target: { what: "time", compare: "<=", limit: 0.5, unit: " us", value: us },
      }),
    );
  }
  if (want("async round trip")) {
    const ours = async () => {
      const ms = await time(async () => {
        for (let i = 0; i < jobs; i++) await diagnostics.sleepJob(0).promise;
      });
      return { ours: ms / jobs };
    };
    const libuv = async () => {
      const ms = await time(async () => {
        for (let i = 0; i < jobs; i++) await new Promise((resolve) => randomBytes(1, resolve));
      });
      return { libuv: ms / jobs };
    };
    const times = await interleave([ours, libuv]);
    rows.push(
      row({
        name: "async round trip",
        shape: `sleepJob(0), mean of ${jobs} in turn`,
        ms: times.ours,
        peers: { "node:crypto randomBytes on libuv's pool": times.libuv },
        ratio: times.libuv / times.ours,
        target: { what: "time", compare: "<=", limit: 15, unit: " us", value: 1000 * times.ours },
      }),
    );
  }
  return rows;
}
