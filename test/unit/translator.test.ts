// Translators: planted maps are found, the report tells good from chance, what is weak is never applied in silence, and what is saved comes back. The
// numbers in brackets are those of the conformance list.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import {
  addNoise,
  compressMaps,
  importProjector,
  Latent,
  LatentError,
  quantiseRows,
  SpaceHub,
  Tensor,
  Translator,
  writeSafetensors,
  type FitTranslatorOptions,
  type TranslatorMethod,
} from "../../lib/index.js";
import { readSafetensors } from "../../lib/files/safetensors.js";
import { writeSealed } from "../../lib/files/sealed.js";
import { pruneAnchors, translatorMethods } from "../../lib/spaces/methods.js";
import { makeSpace } from "../../lib/spaces/space.js";
import { at, codeOf, isAborted, runs } from "../helpers.js";
import {
  cosine,
  flat,
  meanRow,
  minus,
  moved,
  norm,
  orthogonal,
  randomRows,
  tensorOf,
  times,
  transposed,
  worst,
  type Rows,
} from "../plain.js";

const bad = "ERR_LATENT_INVALID_ARGUMENT";
const weak = "ERR_LATENT_TRANSLATOR_WEAK";
const ill = "ERR_LATENT_ILL_CONDITIONED";
const folder = mkdtempSync(path.join(os.tmpdir(), "latentwire-translator-"));
afterAll(() => {
  rmSync(folder, { recursive: true });
});
const file = (name: string): string => path.join(folder, name);

/** A file with `old` replaced in it: as it is, or sealed again by somebody who knows how. */
async function altered(source: string, target: string, old: string, other: string, format: string, sealed: boolean): Promise<void> {
  const whole = readFileSync(source, "latin1");
  expect(whole, old).toContain(old);
  writeFileSync(target, whole.replace(old, other), "latin1");
  if (!sealed) return;
  const { tensors, metadata } = await readSafetensors(target);
  await writeSealed(target, format, tensors, new Map([...metadata].filter(([key]) => key !== "seal" && key !== "format")));
}

const pairsOf = (from: Rows, to: Rows): FitTranslatorOptions["pairs"] => ({ from: tensorOf(from), to: tensorOf(to) });

async function translated(translator: Translator, rows: Rows): Promise<number[][]> {
  using out = await translator.apply(tensorOf(rows));
  const [n = 0, d = 0] = out.shape;
  const values = out.toFloat32();
  return Array.from({ length: n }, (_, i) => [...values.subarray(i * d, (i + 1) * d)]);
}

const size = (rows: Rows): number => Math.max(...rows.flat().map(Math.abs));

/** A planted linear map with a bias and noise: what most tests translate. */
function planted(n: number, dx: number, dy: number, seed: number, noise = 0): { from: number[][]; to: number[][]; map: number[][] } {
  const from = randomRows(n, dx, seed);
  const map = randomRows(dx, dy, seed + 1);
  const rest = randomRows(n, dy, seed + 2);
  const to = times(from, map).map((row, i) => row.map((value, j) => Math.fround(value + 3 + noise * (rest[i]?.[j] ?? 0))));
  return { from, to, map };
}

describe("messages of several rows", () => {
  const [slots, dx, dy] = [3, 4, 5];
  /** `[n · slots, dy]`: row k of every message by the k-th of three maps, or by one map of the whole message. */
  const told = (from: Rows, maps: "slot" | "flat"): number[][] => {
    const each = Array.from({ length: slots }, (_, k) => randomRows(dx, dy, 40 + k));
    const whole = randomRows(slots * dx, slots * dy, 50);
    const messages = Array.from({ length: from.length / slots }, (_, i) => from.slice(i * slots, (i + 1) * slots));
    return messages.flatMap((message) => {
      if (maps === "slot")
        return message.map((row, k) =>
          times([row], each[k] ?? [])
            .flat()
            .map((value) => Math.fround(value + k)),
        );
      const long = times([message.flat()], whole).flat();
      return Array.from({ length: slots }, (_, k) => long.slice(k * dy, (k + 1) * dy).map(Math.fround));
    });
  };
  const from = randomRows(200 * slots, dx, 3);
  const fresh = randomRows(7 * slots, dx, 4);
  const fitted = (maps: "slot" | "flat", more: Partial<FitTranslatorOptions> = {}): Promise<Translator> =>
    Translator.fit({ pairs: pairsOf(from, told(from, maps)), slots, ...more });

  it.each(["slot", "flat"] as const)("a planted map of kind %s is found by auto, and only by that kind", async (maps) => {
    using translator = await fitted(maps);
    expect(translator.card).toMatchObject({ maps, slots, dimensions: [dx, dy] });
    expect(translator.report).toMatchObject({ count: 160, heldOut: { count: 40 * slots }, verdict: "good" });
    expect(worst(flat(await translated(translator, fresh)), flat(told(fresh, maps)))).toBeLessThan(1e-2 * size(told(fresh, maps)));
    expect(new Set(translator.report?.tried.map((trial) => trial.maps))).toEqual(new Set(["shared", "slot", "flat"]));
    using shared = await fitted(maps, { method: "affine", onWeak: "warn" });
    expect(shared.card.slots).toBeUndefined();
    expect(shared.report?.heldOut.r2).toBeLessThan(0.9);
    expect(translator.report?.heldOut.r2).toBeGreaterThan(0.999);
  });

  it("whole messages are kept apart, shuffled and drawn: another row of a kept message is not fitted on", async () => {
    // every message is one row three times: were its rows split, a copy of each kept row would be fitted on, and noise would be found
    const [a, b] = [randomRows(40, 6, 1), randomRows(40, 6, 2)];
    const thrice = (rows: Rows): number[][] => rows.flatMap((row) => [[...row], [...row], [...row]]);
    using translator = await Translator.fit({
      pairs: pairsOf(thrice(a), thrice(b)),
      slots: 3,
      method: "ridge",
      maps: "flat",
      lambda: 1e-6,
      anchors: 20,
      onWeak: "warn",
    });
    expect(translator.report).toMatchObject({ count: 20, heldOut: { count: 24 }, verdict: "unusable" });
  });

  it.each(["slot", "flat"] as const)("of kind %s are saved to the bit, inverted, chained and refused where they are cut", async (maps) => {
    using translator = await fitted(maps, { maps, method: "affine" });
    const path = file(`${maps}.safetensors`);
    await translator.save(path);
    using loaded = await Translator.load(path);
    expect(loaded.card).toEqual(translator.card);
    expect(await translated(loaded, fresh)).toEqual(await translated(translator, fresh));
    using back = await translator.inverse();
    expect(back.card).toMatchObject({ maps, slots, dimensions: [dy, dx] });
    using round = await translator.compose(back);
    expect(round.card.slots).toBe(slots);
    expect(worst(flat(await translated(round, fresh)), flat(fresh))).toBeLessThan(1e-2);
    expect(await codeOf(() => translated(translator, fresh.slice(0, 4)))).toBe(bad);
    expect(await codeOf(() => translator.split())).toBe(bad);
    using other = await Translator.fit({
      pairs: pairsOf(randomRows(80, dy, 1), randomRows(80, dy, 1)),
      slots: 2,
      maps: "slot",
      method: "ridge",
    });
    expect(await codeOf(() => translator.compose(other))).toBe(bad);
    for (const [old, replaced] of [
      ['"count\\":3', '"count\\":9'],
      ['"slots\\":3', '"slots\\":9'],
      ['"kind\\":\\"slots\\"', '"kind\\":\\"spots\\"'],
    ] as const) {
      const broken = file("broken.safetensors");
      await altered(path, broken, old, replaced, "latentwire translator 1", true);
      expect(await codeOf(() => Translator.load(broken)), old).toBe("ERR_LATENT_FILE_FORMAT");
    }
  });

  it("rows get the length that is asked for, and auto goes by cosine then", async () => {
    using translator = await fitted("slot", { length: 2.5 });
    for (const row of await translated(translator, fresh)) expect(norm(row)).toBeCloseTo(2.5, 4);
    const cosines = translator.report?.tried.map((trial) => trial.cosine) ?? [];
    expect([...cosines].sort((a, b) => b - a)).toEqual(cosines);
  });

  it("a placebo is fitted on shuffled pairs, and says so", async () => {
    using placebo = await fitted("slot", { method: "affine", maps: "slot", placebo: true });
    expect(placebo.card.placebo).toBe(true);
    expect(placebo.report?.verdict).toBe("unusable");
    expect(placebo.report?.count).toBe(160);
    using back = await placebo.inverse();
    expect(back.card.placebo).toBe(true);
  });

  it("are refused where they make no sense", async () => {
    for (const more of [
      { slots: 7 },
      { slots: 0 },
      { slots: 300 },
      { maps: "all" as "flat" },
      { length: 0 },
      { placebo: 1 as unknown as boolean },
    ])
      expect(await codeOf(() => fitted("slot", more)), JSON.stringify(more)).toBe(bad);
  });
});

describe("planted maps", () => {
  it("Procrustes finds a turn, a reflection, a scale and a move, whatever the offset (16)", async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 2, max: 24 }), fc.nat(1000), fc.constantFrom(0, 20), async (d, seed, offset) => {
        const from = randomRows(80, d, seed, offset);
        const to = moved(from, orthogonal(d, seed + 1), 2.5, -4).map((row) => row.map(Math.fround));
        using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "procrustes", seed });
        const fresh = randomRows(9, d, seed + 2, offset);
        const expected = moved(fresh, orthogonal(d, seed + 1), 2.5, -4);
        expect(worst((await translated(translator, fresh)).flat(), expected.flat())).toBeLessThan(5e-6 * size(expected));
        expect(translator.report).toMatchObject({ verdict: "good", condition: 1 });
        expect(translator.report?.heldOut.r2).toBeCloseTo(1, 6);
        // and back (17, 18)
        using back = await translator.inverse();
        expect(worst((await translated(back, expected)).flat(), fresh.flat())).toBeLessThan(1e-4);
      }),
      runs(12),
    );
  });

  it("Procrustes one way is the inverse of the other way, on noisy rows too (17)", async () => {
    const { from, to } = planted(80, 7, 7, 2, 0.5);
    const method = "procrustes-standardised";
    using there = await Translator.fit({ pairs: pairsOf(from, to), method });
    using back = await Translator.fit({ pairs: pairsOf(to, from), method });
    using inverse = await there.inverse();
    expect(worst((await translated(inverse, to)).flat(), (await translated(back, to)).flat())).toBeLessThan(2e-5);
  });

  it("rotationOnly refuses reflections, and with them a mirrored space (16)", async () => {
    const from = randomRows(60, 3, 1);
    const to = from.map(([a = 0, b = 0, c = 0]) => [-a, b, c]);
    using free = await Translator.fit({ pairs: pairsOf(from, to), method: "procrustes" });
    using rotated = await Translator.fit({ pairs: pairsOf(from, to), method: "procrustes", rotationOnly: true, onWeak: "warn" });
    expect(free.report?.heldOut.r2).toBeCloseTo(1, 6);
    expect(rotated.report?.heldOut.r2).toBeLessThan(0.9);
  });

  it("unequal dimensions: Procrustes goes into the larger space and back, and nothing of the padding is left (19)", async () => {
    const from = randomRows(60, 5, 3);
    const to = moved(from, orthogonal(8, 4).slice(0, 5), 1.5, 2).map((row) => row.map(Math.fround));
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "procrustes" });
    expect(translator.card.dimensions).toEqual([5, 8]);
    expect(translator.report?.heldOut.r2).toBeCloseTo(1, 6);
    using back = await translator.inverse();
    expect(worst((await translated(back, to)).flat(), from.flat())).toBeLessThan(1e-4);
    using other = await Translator.fit({ pairs: pairsOf(to, from), method: "procrustes" });
    expect(worst((await translated(other, to)).flat(), from.flat())).toBeLessThan(1e-4);
    // what drops dimensions cannot be undone
    expect(await codeOf(() => other.inverse())).toBe(ill);
  });

  it("least squares finds any affine map, ridge nearly, and both are undone by the pseudo-inverse (18, 22)", async () => {
    const { from, to } = planted(200, 6, 9, 5);
    using affine = await Translator.fit({ pairs: pairsOf(from, to), method: "affine" });
    expect(worst((await translated(affine, from)).flat(), to.flat())).toBeLessThan(1e-4);
    using back = await affine.inverse();
    expect(worst((await translated(back, to)).flat(), from.flat())).toBeLessThan(1e-4);
    using ridge = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge", lambda: 1e-6 });
    expect(worst((await translated(ridge, from)).flat(), to.flat())).toBeLessThan(1e-3);
    // relative to the size of x: the map does not change when x grows
    const large = from.map((row) => row.map((value) => 1000 * value));
    using grown = await Translator.fit({ pairs: pairsOf(large, to), method: "ridge", lambda: 0.1 });
    using small = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge", lambda: 0.1 });
    expect(worst((await translated(grown, large)).flat(), (await translated(small, from)).flat())).toBeLessThan(1e-3);
  });

  it("low rank finds a map of that rank, in as few numbers", async () => {
    const from = randomRows(200, 12, 6);
    const to = times(times(from, randomRows(12, 3, 7)), randomRows(3, 10, 8)).map((row) => row.map((value) => Math.fround(value + 1)));
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "low-rank", rank: 3, lambda: 0 });
    expect(worst((await translated(translator, from)).flat(), to.flat())).toBeLessThan(1e-3);
    using less = await Translator.fit({ pairs: pairsOf(from, to), method: "low-rank", rank: 2, lambda: 0 });
    expect(less.report?.heldOut.r2).toBeLessThan(0.999);
    expect(await codeOf(() => less.inverse())).toBe(ill);
  });

  it("a projector ends on the mean length of the other side's rows", async () => {
    const { from, to } = planted(200, 6, 9, 9);
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "projector", holdout: 0.1 });
    const lengths = (await translated(translator, from)).map(norm);
    expect(Math.max(...lengths) - Math.min(...lengths)).toBeLessThan(1e-4);
    expect(lengths[0]).toBeCloseTo(to.reduce((sum, row) => sum + norm(row), 0) / to.length, 0);
  });

  it("inverse relative projection of a space on itself is the direction of its rows (24)", async () => {
    const rows = randomRows(120, 10, 11);
    using translator = await Translator.fit({ pairs: pairsOf(rows, rows), method: "inverse-relative", rcond: 0, anchors: 60 });
    const mean = meanRow(rows);
    const found = await translated(translator, rows);
    rows.forEach((row, i) => {
      // about the anchors' mean, which is not quite that of all
      expect(cosine(minus(found[i] ?? [], mean), minus(row, mean))).toBeGreaterThan(0.97);
    });
    expect(translator.report).toMatchObject({ anchors: 60, verdict: "good" });
  });

  it("through Parseval frames a turned space comes back exactly, also in symbols (23)", async () => {
    const from = randomRows(150, 8, 12);
    const to = moved(from, orthogonal(8, 13), 1, 0);
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "parseval" });
    expect(translator.report?.heldOut.retrieval1).toBe(1);
    expect(translator.report?.heldOut.cosine).toBeGreaterThan(0.97);
    const { encode, decode } = await translator.split();
    expect(encode.card.dimensions).toEqual([8, 16]);
    using symbols = await encode.apply(tensorOf(from));
    using there = await decode.apply(symbols);
    expect(worst(there.toFloat32(), (await translated(translator, from)).flat())).toBeLessThan(1e-4);
    using ridge = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge" });
    expect(await codeOf(() => ridge.split())).toBe(bad);
  });

  it.each(translatorMethods)("%s beats shuffled pairs on a noisy map, and not on unrelated rows", async (method) => {
    const { from, to } = planted(300, 10, 12, 14, 0.3);
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method, seed: 3 });
    const { report } = translator;
    expect(report?.verdict).not.toBe("unusable");
    expect(report?.heldOut.mrr).toBeGreaterThan(3 * (report?.null.mrr ?? 1));
    expect(report?.count).toBe(240);
    expect(report?.heldOut.count).toBe(60);
    const unrelated = pairsOf(from, randomRows(300, 12, 99));
    expect(await codeOf(() => Translator.fit({ pairs: unrelated, method, seed: 3 }))).toBe(weak);
  });
});

describe("auto", () => {
  it("takes a turn for what it is where pairs are few, and a linear map where they are many", async () => {
    const from = randomRows(40, 24, 15);
    const turned = moved(from, orthogonal(24, 16), 2).map((row, i) =>
      row.map((value, j) => Math.fround(value + 0.3 * Math.sin(i * 24 + j))),
    );
    using few = await Translator.fit({ pairs: pairsOf(from, turned) });
    expect(few.card.method).toMatch(/^procrustes|parseval/);
    const { from: x, to: y } = planted(400, 8, 20, 17, 0.2);
    using many = await Translator.fit({ pairs: pairsOf(x, y) });
    expect(["affine", "ridge"]).toContain(many.card.method);
    const tried = many.report?.tried ?? [];
    expect(tried.length).toBeGreaterThan(4);
    expect(tried[0]?.method).toBe(many.card.method);
  });

  it("is the same for the same seed, to the byte, and tells how far it is", async () => {
    const { from, to } = planted(100, 8, 8, 18, 0.2);
    const stages: number[] = [];
    for (const name of ["a", "b"]) {
      using translator = await Translator.fit({ pairs: pairsOf(from, to), seed: 5, onProgress: ({ ratio }) => stages.push(ratio) });
      await translator.save(file(name));
    }
    expect(readFileSync(file("a"))).toEqual(readFileSync(file("b")));
    const half = stages.slice(0, stages.length / 2);
    expect(half).toEqual([...half].sort((a, b) => a - b));
    expect(half.at(-1)).toBe(1);
  });

  it("leaves the pairs as they were, and does not look at those that are kept apart", async () => {
    const { from, to } = planted(60, 4, 4, 19, 0.1);
    const pairs = pairsOf(from, to);
    using translator = await Translator.fit({ pairs, method: "affine", seed: 1 });
    expect(pairs.from.toFloat32()).toEqual(flat(from));
    // the same split with the kept pairs replaced by others: the map is the same
    const held = translator.report?.heldOut.count ?? 0;
    expect(held).toBe(12);
    const { splitPairs } = await import("../../lib/spaces/fit.js");
    const { heldOut } = splitPairs(60, 0.2, undefined, 1);
    const other = to.map((row, i) => (heldOut.includes(i) ? row.map((value) => value + 100 * Math.sin(i)) : row));
    using again = await Translator.fit({ pairs: pairsOf(from, other), method: "affine", seed: 1, onWeak: "warn" });
    expect(await translated(again, from)).toEqual(await translated(translator, from));
  });
});

describe("conditioning (22)", () => {
  it("about as many pairs as dimensions, or fewer, are refused, or regularised with a warning", async () => {
    for (const fitted of [10, 20, 21]) {
      const { from, to } = planted(60, 20, 6, 20, 0.1);
      const pairs = pairsOf(from, to);
      for (const method of ["affine", "linear"] as const) {
        if (method === "linear" && fitted === 21) continue;
        const refusal = await Translator.fit({ pairs, method, anchors: fitted }).catch((error: unknown) => error);
        expect(refusal).toMatchObject({ code: ill });
        using regular = await Translator.fit({ pairs, method, anchors: fitted, rcond: 0.1, onWeak: "warn" });
        expect(regular.report?.warnings).toHaveLength(1);
      }
      using ridge = await Translator.fit({ pairs, method: "ridge", anchors: fitted, onWeak: "warn" });
      expect(ridge.report?.count).toBe(fitted);
    }
  });

  it("decoders stand as many anchors as dimensions", async () => {
    const from = randomRows(200, 20, 21);
    const to = moved(from, orthogonal(20, 22)).map((row, i) => row.map((value, j) => Math.fround(value + 0.1 * Math.sin(i * 20 + j))));
    for (const method of ["inverse-relative", "equaliser", "parseval"] as const) {
      using translator = await Translator.fit({ pairs: pairsOf(from, to), method, anchors: 20 });
      expect(translator.report?.heldOut.retrieval1).toBeGreaterThan(0.9);
      expect(translator.report?.condition).toBeLessThan(11);
    }
  });

  it("pruned anchors are no nearer than 0.7 by 1 - |cosine| (24)", () => {
    const rows = randomRows(40, 4, 23);
    const cosines = Float32Array.from(rows.flatMap((row) => rows.map((other) => cosine(row, other))));
    const ids = pruneAnchors(cosines, 40, 7);
    expect(ids).toContain(7);
    for (const i of ids) for (const j of ids) if (i !== j) expect(1 - Math.abs(at(cosines, i * 40 + j))).toBeGreaterThanOrEqual(0.7);
    expect(pruneAnchors(cosines, 40, 7)).toEqual(ids);
    expect(pruneAnchors(Float32Array.of(1, 0, 0, 1), 2, 0)).toEqual([0, 1]);
  });
});

describe("what is weak", () => {
  const pairs = pairsOf(randomRows(60, 6, 30), randomRows(60, 6, 31));

  it("is thrown with its report", async () => {
    const error: unknown = await Translator.fit({ pairs }).catch((reason: unknown) => reason);
    expect(LatentError.isInstance(error) && error.code).toBe(weak);
    expect(error).toMatchObject({ details: { report: { verdict: "unusable", heldOut: { count: 12 }, null: { count: 12 } } } });
  });

  it("goes as text where the caller said so: it is there, refuses to be applied, and so does what is made of it, also from a file", async () => {
    using translator = await Translator.fit({ pairs, method: "procrustes", onWeak: "text" });
    expect(translator.card.onWeak).toBe("text");
    const x = tensorOf(randomRows(2, 6, 1));
    expect(await codeOf(() => translator.apply(x))).toBe(weak);
    using back = await translator.inverse();
    expect(await codeOf(() => back.apply(x))).toBe(weak);
    expect(await codeOf(() => translator.compose(translator))).toBe(weak);
    await translator.save(file("weak"));
    using again = await Translator.load(file("weak"));
    expect(await codeOf(() => again.apply(x))).toBe(weak);
  });

  it("is applied where the caller said so, and says what it is", async () => {
    using translator = await Translator.fit({ pairs, method: "procrustes", onWeak: "warn" });
    expect(translator.report?.verdict).toBe("unusable");
    expect((await translated(translator, randomRows(2, 6, 1))).length).toBe(2);
  });
});

describe("a translator", () => {
  const { from, to } = planted(100, 6, 9, 40, 0.1);
  const facts = { weights: "w", positions: "none", normalisation: "none" } as const;
  const a = makeSpace({ ...facts, layer: "hidden", dimension: 6 });
  const b = makeSpace({ ...facts, layer: "embeds", dimension: 9 });

  it("makes latents of the other space of those of its own, and of no others", async () => {
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge", from: a, to: b });
    using latent = new Latent(a, "hidden", tensorOf(from));
    using there = await translator.translate(latent);
    expect(there).toMatchObject({ space: b, kind: "embeds", shape: [100, 9] });
    using stranger = new Latent(makeSpace({ ...facts, weights: "other", layer: "hidden", dimension: 6 }), "hidden", tensorOf(from));
    expect(await codeOf(() => translator.translate(stranger))).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(await codeOf(() => translator.translate(tensorOf(from) as never))).toBe(bad);
    using untold = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge" });
    expect(await codeOf(() => untold.translate(latent))).toBe(bad);
    // composed with its inverse it is about the identity, in the space it came from
    using back = await translator.inverse();
    using round = await translator.compose(back);
    expect(round.card).toMatchObject({ dimensions: [6, 6], from: a, to: a });
    expect(worst((await translated(round, from)).flat(), from.flat())).toBeLessThan(1e-4);
    expect(await codeOf(() => translator.compose(translator))).toBe("ERR_LATENT_SPACE_MISMATCH");
    expect(await codeOf(() => untold.compose(untold))).toBe(bad);
  });

  it.each(translatorMethods)("by %s comes back from a file and translates by the same bits (30)", async (method) => {
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method, from: a, to: b, onWeak: "warn", storage: "f16" });
    await translator.save(file("t"));
    using again = await Translator.load(file("t"));
    expect(again.card).toEqual(translator.card);
    expect(JSON.parse(JSON.stringify(again))).toEqual(JSON.parse(JSON.stringify(translator.card)));
    expect(await translated(again, from)).toEqual(await translated(translator, from));
    await again.save(file("u"));
    expect(readFileSync(file("u"))).toEqual(readFileSync(file("t")));
    if (method === "parseval") expect((await again.split()).encode.card.dimensions[0]).toBe(6);
  });

  it("of a file that was changed is refused, also where the seal was made anew", async () => {
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge" });
    await translator.save(file("v"));
    for (const [old, other] of [
      ["[6,9]", "[9,6]"],
      ["stage.1.weights", "stage.2.weights"],
      ['\\"kind\\":\\"rows\\"', '\\"kind\\":\\"rowz\\"'],
      ['\\"activation\\":\\"identity\\"', '\\"activation\\":\\"idemtity\\"'],
      ['\\"dimensions\\":[6,9]', '\\"dimensions\\":[6,8]'],
      ['\\"verdict\\":\\"good\\"', '\\"verdict\\":\\"best\\"'],
      ['\\"onWeak\\":\\"apply\\"', '\\"onWeak\\":\\"apple\\"'],
    ] as const) {
      for (const sealed of [false, true]) {
        await altered(file("v"), file("w"), old, other, "latentwire translator 1", sealed);
        expect(await codeOf(() => Translator.load(file("w"))), old).toBe("ERR_LATENT_FILE_FORMAT");
      }
    }
    await altered(file("v"), file("w"), "translator 1", "translator 2", "", false);
    expect(await codeOf(() => Translator.load(file("w")))).toBe("ERR_LATENT_FILE_FORMAT");
    const whole = readFileSync(file("v"));
    for (let length = 0; length < whole.length; length += 97) {
      writeFileSync(file("w"), whole.subarray(0, length));
      expect(await codeOf(() => Translator.load(file("w")))).toBe("ERR_LATENT_FILE_FORMAT");
    }
    // one bit of the numbers at the end
    for (let back = 1; back < 200; back += 3) {
      const flipped = Buffer.from(whole);
      flipped[whole.length - back] = (flipped[whole.length - back] ?? 0) ^ 1;
      writeFileSync(file("w"), flipped);
      expect(await codeOf(() => Translator.load(file("w")))).toBe("ERR_LATENT_FILE_FORMAT");
    }
    expect(await codeOf(() => Translator.load(file("nowhere")))).toBe(bad);
  });

  it("that is gone says so", async () => {
    const translator = await Translator.fit({ pairs: pairsOf(from, to), method: "ridge" });
    translator.dispose();
    translator.dispose();
    const gone = "ERR_LATENT_DISPOSED";
    for (const call of [
      () => translator.apply(tensorOf(from)),
      () => translator.inverse(),
      () => translator.save(file("x")),
      () => translator.split(),
    ])
      expect(await codeOf(call)).toBe(gone);
  });

  it("is not fitted on what is not pairs, or with options that are none", async () => {
    const pairs = pairsOf(from, to);
    for (const options of [
      {},
      { pairs: { from: pairs.from } },
      { pairs: { from: pairs.from, to: tensorOf(to.slice(1)) } },
      { pairs: { from: tensorOf(from.slice(0, 7)), to: tensorOf(to.slice(0, 7)) } },
      { pairs, method: "magic" },
      { pairs, anchors: 81 },
      { pairs, anchors: 9 },
      { pairs, holdout: 0 },
      { pairs, holdout: 1 },
      { pairs, onWeak: "ignore" },
      { pairs, lambda: -1 },
      { pairs, rcond: 1 },
      { pairs, rank: 10 },
      { pairs, rotationOnly: true },
      { pairs, seed: 0.5 },
      { pairs, from: b },
      { pairs, colour: "red" },
    ])
      expect(await codeOf(() => Translator.fit(options as never)), JSON.stringify(Object.keys(options))).toBe(bad);
    const broken = Float32Array.from(flat(from));
    broken[200] = Number.NaN;
    expect(await codeOf(() => Translator.fit({ pairs: { ...pairs, from: Tensor.fromTyped("f32", [100, 6], broken) } }))).toBe(
      "ERR_LATENT_NON_FINITE",
    );
    using translator = await Translator.fit({ pairs, method: "ridge" });
    expect(await codeOf(() => translator.apply(tensorOf(to)))).toBe(bad);
    expect(await isAborted((options) => Translator.fit({ pairs, ...options }), new Error("enough"))).toBe(true);
  });
});

describe("symbols through a channel (29)", () => {
  it("survive noise and few bits", async () => {
    const from = randomRows(300, 16, 50);
    const to = moved(from, orthogonal(16, 51));
    using translator = await Translator.fit({ pairs: pairsOf(from, to), method: "parseval" });
    const { encode, decode } = await translator.split();
    using symbols = await encode.apply(tensorOf(from));
    const { rows, deviation } = await addNoise(symbols, { snr: 20, seed: 4 });
    expect(deviation).toBeGreaterThan(0);
    using sent = await quantiseRows(rows, { bits: 4 });
    using received = await decode.apply(sent);
    const values = received.toFloat32();
    to.forEach((row, i) => {
      expect(cosine([...values.subarray(i * 16, i * 16 + 16)], row)).toBeGreaterThan(0.8);
    });
    const clean = await addNoise(symbols, { snr: Infinity });
    expect(clean.rows.toFloat32()).toEqual(symbols.toFloat32());
    for (const snr of [Number.NaN, -Infinity, "20"]) expect(await codeOf(() => addNoise(symbols, { snr: snr as never }))).toBe(bad);
    for (const bits of [0, 17, 1.5]) expect(await codeOf(() => quantiseRows(symbols, { bits }))).toBe(bad);
  });
});

describe("imported projectors", () => {
  const w1 = randomRows(7, 4, 60); // [outputs, inputs], as PyTorch has it
  const w2 = randomRows(3, 7, 61);
  const [b1, b2] = [randomRows(1, 7, 62)[0] ?? [], randomRows(1, 3, 63)[0] ?? []];
  const vector = (values: readonly number[]): Tensor => Tensor.fromTyped("f32", [values.length], Float32Array.from(values));

  it("are the network that they were trained as", async () => {
    const tensors = new Map([
      ["0.weight", tensorOf(w1)],
      ["0.bias", vector(b1)],
      ["2.weight", tensorOf(w2)],
      ["2.bias", vector(b2)],
    ]);
    await writeSafetensors(file("p"), tensors);
    const x = randomRows(5, 4, 64);
    const silu = (value: number): number => value / (1 + Math.exp(-value));
    const hidden = times(x, transposed(w1)).map((row) => row.map((value, j) => silu(value + at(b1, j))));
    const expected = times(hidden, transposed(w2)).map((row) => row.map((value, j) => value + at(b2, j)));
    const layers = [
      { weight: "0.weight", bias: "0.bias" },
      { weight: "2.weight", bias: "2.bias" },
    ] as const;
    using projector = await importProjector(file("p"), { layers, activation: "silu" });
    expect(worst((await translated(projector, x)).flat(), expected.flat())).toBeLessThan(1e-5);
    await projector.save(file("q"));
    using again = await Translator.load(file("q"));
    expect(await translated(again, x)).toEqual(await translated(projector, x));
    expect(await codeOf(() => projector.inverse())).toBe(ill);
    using scaled = await importProjector(file("p"), { layers: [{ weight: "0.weight" }], rescale: 2 });
    expect((await translated(scaled, x)).map(norm).every((length) => Math.abs(length - 2) < 1e-5)).toBe(true);
    const format = "ERR_LATENT_FILE_FORMAT";
    expect(await codeOf(() => importProjector(file("p"), { layers: [{ weight: "1.weight" }] }))).toBe(format);
    expect(await codeOf(() => importProjector(file("p"), { layers: [{ weight: "0.bias" }] }))).toBe(format);
    expect(await codeOf(() => importProjector(file("p"), { layers: [{ weight: "0.weight", bias: "2.bias" }] }))).toBe(format);
    expect(await codeOf(() => importProjector(file("p"), { layers: [{ weight: "2.weight" }, { weight: "0.weight" }] }))).toBe(format);
    expect(await codeOf(() => importProjector(file("p"), { layers: [] as never }))).toBe(bad);
  });
});

describe("a hub", () => {
  const base = randomRows(120, 8, 70);
  const spaces = {
    a: tensorOf(base),
    b: tensorOf(moved(base, orthogonal(8, 71), 3, 5)),
    c: tensorOf(moved(base, orthogonal(12, 72).slice(0, 8), 0.2, -1)),
  };

  it.each(["procrustes", "gcca"] as const)("by %s leads from every space to every other", async (method) => {
    using hub = await SpaceHub.fit({ spaces, method, ridge: 1e-6 });
    expect(hub.names).toEqual(["a", "b", "c"]);
    for (const from of ["a", "b", "c"] as const) {
      for (const to of ["a", "b", "c"] as const) {
        using translator = await hub.translator(from, to);
        using found = await translator.apply(spaces[from]);
        const expected = spaces[to].toFloat32();
        expect(worst(found.toFloat32(), expected)).toBeLessThan(2e-2 * Math.max(...expected.map(Math.abs)));
      }
    }
  });

  it.each(["procrustes", "gcca"] as const)("by %s takes another space, and the others stay as they are, to the byte", async (method) => {
    using hub = await SpaceHub.fit({ spaces, method, ridge: 1e-6 });
    const save = async (): Promise<Buffer[]> => {
      const files: Buffer[] = [];
      for (const name of ["a", "b", "c"]) {
        await hub.into(name).save(file("leaf"));
        files.push(readFileSync(file("leaf")));
        await hub.outOf(name).save(file("leaf"));
        files.push(readFileSync(file("leaf")));
      }
      return files;
    };
    const before = await save();
    const late = tensorOf(moved(base, orthogonal(8, 73), 7, 1));
    await hub.add("late", late, { through: "b", rows: spaces.b });
    expect(await save()).toEqual(before);
    using translator = await hub.translator("late", "a");
    using found = await translator.apply(late);
    expect(worst(found.toFloat32(), flat(base))).toBeLessThan(0.1);
    using back = await hub.translator("c", "late");
    using there = await back.apply(spaces.c);
    expect(worst(there.toFloat32(), late.toFloat32())).toBeLessThan(0.6);
    expect(await codeOf(() => hub.add("a", late, { through: "b", rows: spaces.b }))).toBe(bad);
    expect(await codeOf(() => hub.add("x", late, { through: "y", rows: spaces.b }))).toBe(bad);
    expect(await codeOf(() => hub.add("x", late, { through: "b", rows: tensorOf(base.slice(1)) }))).toBe(bad);
    expect(hub.names).toEqual(["a", "b", "c", "late"]);
  });

  it("is put together again from maps that were saved", async () => {
    using hub = await SpaceHub.fit({ spaces });
    const load = async (name: string): Promise<{ into: Translator; outOf: Translator }> => {
      await hub.into(name).save(file("into"));
      await hub.outOf(name).save(file("out"));
      return { into: await Translator.load(file("into")), outOf: await Translator.load(file("out")) };
    };
    const leaves = { a: await load("a"), c: await load("c") };
    using again = SpaceHub.of(leaves);
    expect(again).toMatchObject({ dimension: hub.dimension, names: ["a", "c"] });
    using before = await hub.translator("a", "c");
    using after = await again.translator("a", "c");
    expect(await translated(after, base)).toEqual(await translated(before, base));
    expect(await codeOf(() => SpaceHub.of({}))).toBe(bad);
    expect(await codeOf(() => SpaceHub.of({ a: { into: leaves.a.into, outOf: leaves.c.outOf } }))).toBe(bad);
    expect(await codeOf(() => SpaceHub.of({ a: { into: leaves.a.into } } as never))).toBe(bad);
  });

  it("is not fitted on one space, or rows of other things", async () => {
    expect(await codeOf(() => SpaceHub.fit({ spaces: { a: spaces.a } }))).toBe(bad);
    expect(await codeOf(() => SpaceHub.fit({ spaces: { a: spaces.a, b: tensorOf(base.slice(1)) } }))).toBe(bad);
    expect(await codeOf(() => SpaceHub.fit({ spaces, method: "mean" as never }))).toBe(bad);
    expect(await codeOf(() => SpaceHub.fit({ spaces: undefined as never }))).toBe(bad);
    using hub = await SpaceHub.fit({ spaces });
    expect(await codeOf(() => hub.into("z"))).toBe(bad);
  });

  it("maps that share their rows are compressed without loss at that rank", async () => {
    const shared = randomRows(3, 10, 80);
    const maps = [0, 1, 2].map((i) => times(randomRows(6 + i, 3, 81 + i), shared));
    const { shared: rows, own, error } = await compressMaps(maps.map(tensorOf), 3);
    expect(rows.shape).toEqual([3, 10]);
    expect(error).toBeLessThan(1e-10);
    for (const [i, one] of own.entries()) {
      const left = Array.from({ length: 6 + i }, (_, r) => [...one.toFloat32().subarray(3 * r, 3 * r + 3)]);
      const right = Array.from({ length: 3 }, (_, r) => [...rows.toFloat32().subarray(10 * r, 10 * r + 10)]);
      expect(worst(times(left, right).flat(), (maps[i] ?? []).flat())).toBeLessThan(1e-5);
    }
    expect((await compressMaps(maps.map(tensorOf), 2)).error).toBeGreaterThan(0.01);
    for (const call of [
      () => compressMaps([], 1),
      () => compressMaps([tensorOf(shared)], 4),
      () => compressMaps([tensorOf(shared), tensorOf(base)], 1),
    ])
      expect(await codeOf(call)).toBe(bad);
  });
});

// every method has a name that the type knows
const names: readonly TranslatorMethod[] = translatorMethods;
it("methods have different names", () => {
  expect(new Set(names).size).toBe(names.length);
});
