// The choice between sending, reading again and text: by arithmetic that anybody can repeat, and never by a rate that nobody has measured.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { KvMeter, planHandOver, type HandOverOptions, type KvRates } from "../../lib/index.js";
import { codeOf, runs } from "../helpers.js";

// 2048 positions of Qwen3-4B in f16
const content = { positions: 2048, bytes: 302e6, format: "f16" } as const;

describe("planHandOver", () => {
  it("sends where reading is slow, reads where sending is slow, and writes a text where that is shortest", () => {
    const rates = { prefill: 200, decode: 20, transfer: 500e6, convert: 1.5e9 };
    expect(planHandOver(content, { rates })).toMatchObject({ way: "transfer", bytes: 302e6, ms: 604 });
    expect(planHandOver(content, { rates: { ...rates, transfer: 10e6 } })).toMatchObject({ way: "recompute", bytes: 0, ms: 10_240 });
    const byText = planHandOver(content, { rates: { ...rates, transfer: 10e6 }, textTokens: 40 });
    expect(byText).toMatchObject({ way: "text", ms: 2200 });
    expect(byText.costs.map(({ way }) => way)).toEqual(["text", "recompute", "transfer"]);
    expect(byText.why).toBe("text, the quickest: text 2200 ms, recompute 10200 ms, transfer 30200 ms");
  });

  it("sends fewer bits only where it may, and only where converting pays", () => {
    const rates = { prefill: 10, transfer: 100e6, convert: 1.5e9 };
    expect(planHandOver(content, { rates }).format).toBeUndefined();
    const smaller = planHandOver(content, { rates, formats: ["q8_0", "q4_0", "bf16"] });
    expect(smaller).toMatchObject({ way: "transfer", format: "q4_0", bytes: Math.round((302e6 * 4.5) / 16) });
    expect(smaller.costs).toHaveLength(4); // bf16 is no smaller
    expect(planHandOver(content, { rates: { ...rates, transfer: 10e9 }, formats: ["q8_0"] }).format).toBeUndefined();
  });

  it("can be overruled, and says so", () => {
    const rates = { prefill: 200, transfer: 500e6 };
    expect(planHandOver(content, { rates, way: "recompute" })).toMatchObject({ way: "recompute", ms: 10_240 });
    expect(planHandOver(content, { rates, way: "recompute" }).why).toContain("as asked for");
    // even without a rate
    expect(planHandOver(content, { rates: {}, way: "transfer" })).toMatchObject({ way: "transfer", ms: null });
  });

  it("never takes by itself what it cannot tell, and takes the least of what it can", async () => {
    const rate = fc.option(fc.double({ min: 1e-3, max: 1e12, noNaN: true }), { nil: undefined });
    await fc.assert(
      fc.asyncProperty(rate, rate, rate, rate, fc.nat(), async (prefill, decode, transfer, convert, textTokens) => {
        const known = { prefill, decode, transfer, convert };
        const rates = Object.fromEntries(Object.entries(known).filter(([, value]) => value !== undefined)) as KvRates;
        const options: HandOverOptions = { rates, textTokens, formats: ["q8_0", "q4_0"], latencyMs: 3 };
        if (prefill === undefined && transfer === undefined) {
          expect(await codeOf(() => planHandOver(content, options))).toBe("ERR_LATENT_INVALID_ARGUMENT");
          return;
        }
        const plan = planHandOver(content, options);
        const times = plan.costs.flatMap(({ ms }) => (ms === null ? [] : [ms]));
        expect(plan.ms).toBe(Math.min(...times));
        expect(plan.costs).toHaveLength(5);
        if (plan.way === "text") expect(decode).toBeDefined();
        if (plan.format !== undefined) expect(convert).toBeDefined();
      }),
      runs(300),
    );
  });

  it("refuses what makes no sense", async () => {
    const bad = "ERR_LATENT_INVALID_ARGUMENT";
    const rates = { prefill: 1 };
    for (const options of [
      { rates: { prefill: 0 } },
      { rates: { prefil: 1 } },
      { rates, way: "text" },
      { rates, way: "smoke" },
      { rates, latencyMs: -1 },
    ])
      expect(await codeOf(() => planHandOver(content, options as HandOverOptions))).toBe(bad);
    expect(await codeOf(() => planHandOver({ ...content, positions: -1 }, { rates }))).toBe(bad);
  });
});

describe("KvMeter", () => {
  it("knows what it has observed, and later and larger things more", async () => {
    const meter = new KvMeter();
    expect(meter.rates()).toEqual({});
    meter.observe("prefill", 100, 500);
    expect(meter.rates()).toEqual({ prefill: 200 });
    meter.observe("prefill", 0, 0); // nothing is no rate
    expect(meter.rates().prefill).toBeCloseTo(200);
    meter.observe("transfer", 1e6, 10);
    meter.observe("transfer", 9e6, 10);
    expect(meter.rates().transfer).toBeCloseTo((1000 * (0.8e6 + 9e6)) / 18);
    for (let i = 0; i < 60; i++) meter.observe("prefill", 10, 100);
    expect(meter.rates().prefill).toBeCloseTo(100, 1);
    expect(
      await codeOf(() => {
        meter.observe("speed" as "prefill", 1, 1);
      }),
    ).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(
      await codeOf(() => {
        meter.observe("prefill", -1, 1);
      }),
    ).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});
