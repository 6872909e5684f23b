// The addon's functions for spaces, called as the library never calls them: none of it may reach memory that is not there.
import { describe, expect, it } from "vitest";
import { toLatentError } from "../../lib/errors.js";
import { native, type NativeJob } from "../../lib/native.js";
import { codeOf } from "../helpers.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";

describe("native functions for spaces", () => {
  const addon = native();
  const rows = new addon.Tensor("f32", [3, 2], Float32Array.of(1, 2, 3, 4, 5, 7));
  const wide = new addon.Tensor("f32", [3, 4]);
  const short = new addon.Tensor("f32", [2, 2]);
  const integers = new addon.Tensor("i32", [3, 2]);
  const codes = new addon.Tensor("i8", [2, 8]);
  const empty = new addon.Tensor("f32", [0, 2]);
  const wait = (call: () => NativeJob<unknown>): Promise<string> =>
    codeOf(async () => {
      try {
        await call().promise;
      } catch (error) {
        throw toLatentError(error);
      }
    });

  it.each<[string, () => NativeJob<unknown>]>([
    ["statistics of nothing", () => addon.columnStatistics(empty)],
    ["statistics of a number", () => addon.columnStatistics(7 as never)],
    ["a map with too short a vector", () => addon.mapRows(rows, { subtract: new Float32Array(1), unit: false })],
    ["a map with an array of doubles", () => addon.mapRows(rows, { add: new Float64Array(2) as never, unit: false })],
    ["a map without its flag", () => addon.mapRows(rows, {} as never)],
    ["a map without options", () => addon.mapRows(rows, undefined as never)],
    ["means of rows that are not there", () => addon.averageRows(rows, Int32Array.of(0, 3), 2)],
    ["means of a row below zero", () => addon.averageRows(rows, Int32Array.of(-1), 1)],
    ["means of no rows each", () => addon.averageRows(rows, Int32Array.of(0), 0)],
    ["means of half of what they need", () => addon.averageRows(rows, Int32Array.of(0, 1, 2), 2)],
    ["nothing to combine", () => addon.combineRows([], { how: "concat" })],
    ["no list to combine", () => addon.combineRows(rows as never, { how: "concat" })],
    ["a product", () => addon.combineRows([rows], { how: "product" })],
    ["a sum of different widths", () => addon.combineRows([rows, wide], { how: "sum" })],
    ["rows of different numbers side by side", () => addon.combineRows([rows, short], { how: "concat" })],
    ["noise of no number", () => addon.addNoise(rows, { snr: "1" as never, seed: 0 })],
    ["noise of NaN", () => addon.addNoise(rows, { snr: Number.NaN, seed: 0 })],
    ["noise of a seed below zero", () => addon.addNoise(rows, { snr: 1, seed: -1 })],
    ["no bits", () => addon.quantiseRows(rows, 0)],
    ["too many bits", () => addon.quantiseRows(rows, 64)],
    ["codes of more numbers than there are", () => addon.decodeCodes(codes, 17, 4)],
    ["distances of a power below 1", () => addon.lpDistances(rows, rows, 0.5)],
    ["distances of an infinite power", () => addon.lpDistances(rows, rows, Infinity)],
    ["distances to anchors of another dimension", () => addon.lpDistances(rows, wide, 2)],
    ["codes of 3 bits", () => addon.decodeCodes(codes, 21, 3)],
    ["codes of no numbers", () => addon.decodeCodes(codes, 0, 8)],
    ["attention to rows of another width", () => addon.attend(rows, wide, wide, 1)],
    ["attention to keys without their values", () => addon.attend(rows, rows, short, 1)],
    ["attention in heads that do not divide its width", () => addon.attend(wide, wide, wide, 3)],
    ["attention in no heads", () => addon.attend(rows, rows, rows, 0)],
    ["attention in more heads than there are columns", () => addon.attend(rows, rows, rows, 3)],
    ["errors of different shapes", () => addon.pairedErrors(rows, wide)],
    ["errors of different numbers", () => addon.pairedErrors(rows, short)],
    ["ranks of different shapes", () => addon.pairedRanks(rows, wide)],
    ["alignment of different numbers", () => addon.linearCka(rows, short)],
    ["neighbours of none", () => addon.cknna(wide, wide, 0)],
    ["neighbours of more than there are", () => addon.cknna(wide, wide, 2 ** 30)],
    ["correlations without an epsilon", () => addon.canonicalCorrelations(rows, rows, undefined as never)],
    ["correlations with an epsilon of 0", () => addon.canonicalCorrelations(rows, rows, 0)],
    ["singular values of nothing", () => addon.centredSingularValues(empty)],
  ])("refuse %s", async (_, call) => {
    expect(await wait(call)).toBe(bad);
  });

  it("refuse integers, and what is gone", async () => {
    expect(await wait(() => addon.columnStatistics(integers))).toBe("ERR_LATENT_DTYPE");
    const gone = new addon.Tensor("f32", [3, 2]);
    gone.dispose();
    expect(await wait(() => addon.pairedRanks(gone, rows))).toBe("ERR_LATENT_DISPOSED");
  });

  it("keep their rows when they are disposed meanwhile, and stop when they are cancelled", async () => {
    const large = new addon.Tensor(
      "f32",
      [3000, 64],
      Float32Array.from({ length: 192_000 }, (_, i) => Math.sin(i)),
    );
    const job = addon.pairedRanks(large, large);
    large.dispose();
    expect(new Set(await job.promise)).toEqual(new Set([1]));
    const other = new addon.Tensor(
      "f32",
      [1500, 300],
      Float32Array.from({ length: 450_000 }, (_, i) => Math.sin(i * i)),
    );
    const long = addon.unbiasedCka(other, other);
    addon.cancelJob(long.id);
    expect(await wait(() => long)).toContain("AbortError");
  });
});
