// The record that says how far a reader is: against a plain model of it, over the lives of many readers that close or are killed.
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CursorState, parseCursor } from "../../lib/bus/brokers/nats/nats-cursor.js";
import { codeOf } from "../helpers.js";

const bytesOf = (data: string): Uint8Array => new TextEncoder().encode(data);

/** What a reader does with the next entry, or with those that it has. */
type Step = "take" | "save" | { readonly acknowledge: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.constant<Step>("take") },
  { weight: 1, arbitrary: fc.constant<Step>("save") },
  { weight: 4, arbitrary: fc.record({ acknowledge: fc.nat(60) }) },
);

interface Life {
  readonly steps: readonly Step[];
  readonly killed: boolean;
}

const life: fc.Arbitrary<Life> = fc.record({ steps: fc.array(step, { maxLength: 60 }), killed: fc.boolean() });

describe("cursor", () => {
  it("is exact over the lives of readers", () => {
    fc.assert(
      fc.property(fc.array(life, { maxLength: 8 }), (lives) => {
        const acknowledged = new Set<number>();
        const delivered = new Map<number, number>();
        /** How often it may have been counted though it was not delivered. */
        const extra = new Map<number, number>();
        let written: string | undefined;
        for (const [i, { steps, killed }] of lives.entries()) {
          const state = written === undefined ? new CursorState(`r${i}`, "log", 0) : CursorState.after(bytesOf(written), `r${i}`, "log");
          // what this reader has acknowledged and not written is forgotten if it is killed
          const pending = new Set<number>();
          const save = (exact = false): void => {
            const writing = state.write(exact);
            written = writing.data;
            writing.written();
            for (const one of pending) acknowledged.add(one);
            pending.clear();
          };
          save();
          let next = 1;
          const own: number[] = [];
          for (const one of steps) {
            if (one === "save") save();
            else if (one === "take") {
              while (state.isAcknowledged(next)) next++;
              expect(acknowledged.has(next) || pending.has(next)).toBe(false);
              if (state.mustClaim(next)) save();
              expect(state.mustClaim(next)).toBe(false);
              const tries = state.deliver(next);
              const true_ = (delivered.get(next) ?? 0) + 1;
              delivered.set(next, true_);
              expect(tries).toBeGreaterThanOrEqual(true_);
              expect(tries - true_).toBeLessThanOrEqual(1);
              // once it was counted in vain, it never is again
              const before = extra.get(next);
              if (before !== undefined) expect(tries - true_).toBe(before);
              extra.set(next, tries - true_);
              own.push(next++);
            } else {
              const sequence = own[one.acknowledge];
              // neither what was not delivered nor what is acknowledged already changes anything
              state.acknowledge(sequence ?? next + one.acknowledge);
              if (sequence !== undefined && !acknowledged.has(sequence)) pending.add(sequence);
            }
          }
          if (!killed) save(true);
          const floor = parseCursor(bytesOf(written ?? "")).floor;
          for (let sequence = 1; sequence <= floor; sequence++) expect(acknowledged.has(sequence)).toBe(true);
          expect(acknowledged.has(floor + 1)).toBe(false);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("skips what does not exist any more, beside what is acknowledged", () => {
    fc.assert(
      fc.property(fc.uniqueArray(fc.integer({ min: 1, max: 30 })), fc.integer({ min: 1, max: 30 }), fc.nat(15), (some, from, length) => {
        const state = new CursorState("r", "log", 0);
        for (let i = 1; i <= 30; i++) state.deliver(i);
        for (const one of some) state.acknowledge(one);
        state.skip(from, from + length);
        for (let i = 1; i <= 50; i++) expect(state.isAcknowledged(i)).toBe(some.includes(i) || (i >= from && i <= from + length));
        expect(() => parseCursor(bytesOf(state.write(false).data))).not.toThrow();
      }),
    );
  });

  it("skips a gap of any length at once", () => {
    const state = new CursorState("r", "log", 0);
    state.skip(1, 2 ** 40);
    expect(state.floor).toBe(2 ** 40);
  });

  it("begins anew in a log that was made anew", () => {
    const state = new CursorState("a", "old", 7);
    expect(CursorState.after(bytesOf(state.write(true).data), "b", "old").floor).toBe(7);
    expect(CursorState.after(bytesOf(state.write(true).data), "b", "new").floor).toBe(0);
  });

  it("refuses a record that is none", async () => {
    const good = JSON.parse(new CursorState("r", "log", 3).write(true).data) as object;
    expect(() => parseCursor(bytesOf(JSON.stringify(good)))).not.toThrow();
    const wrong: readonly unknown[] = [
      "",
      null,
      [],
      { ...good, version: 2 },
      { ...good, reader: 1 },
      { ...good, floor: -1 },
      { ...good, floor: 1.5 },
      { ...good, claimed: "3" },
      { ...good, acknowledged: [[4, 5]] },
      { ...good, acknowledged: [[7, 6]] },
      {
        ...good,
        acknowledged: [
          [6, 7],
          [8, 9],
        ],
      },
      { ...good, acknowledged: [[6, 7, 8]] },
      { ...good, tried: [[6, 7]] },
      { ...good, tried: [[6, 7, -1]] },
      { ...good, tried: Array.from({ length: 20_000 }, (_, i) => [3 * i + 1, 3 * i + 1, 1]) },
    ];
    for (const one of wrong)
      expect(await codeOf(() => parseCursor(bytesOf(JSON.stringify(one)))), JSON.stringify(one)).toBe("ERR_LATENT_BUS_ENVELOPE");
    expect(await codeOf(() => parseCursor(bytesOf("{")))).toBe("ERR_LATENT_BUS_ENVELOPE");
  });
});
