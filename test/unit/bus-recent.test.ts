// What was lately: the last ones are known, and there are never more than twice as many.
import { describe, expect, it, vi } from "vitest";
import { addNew, Recent } from "../../lib/bus/brokers/recent.js";

describe("Recent", () => {
  it("knows the last ones, and drops those before them", () => {
    const recent = new Recent<number>(100, Infinity);
    for (let i = 0; i < 1000; i++) {
      recent.set(String(i), i);
      expect(recent.size).toBeLessThanOrEqual(200);
    }
    for (let i = 900; i < 1000; i++) expect(recent.get(String(i))).toBe(i);
    expect(recent.has("700")).toBe(false);
  });

  it("knows for as long as it is asked to, and not for ever", () => {
    vi.useFakeTimers({ toFake: ["performance"] });
    try {
      const recent = new Recent<true>(100, 1000);
      expect(addNew(recent, "a")).toBe(true);
      vi.advanceTimersByTime(999);
      expect(addNew(recent, "a")).toBe(false);
      vi.advanceTimersByTime(1);
      expect(addNew(recent, "b")).toBe(true);
      expect(recent.has("a")).toBe(true);
      vi.advanceTimersByTime(1000);
      recent.age();
      expect(recent.has("a")).toBe(false);
      expect(recent.has("b")).toBe(true);
    } finally {
      vi.useRealTimers();
    }
  });

  it("forgets what it is told to", () => {
    const recent = new Recent<true>(100, 1000);
    recent.set("a", true);
    recent.delete("a");
    expect(addNew(recent, "a")).toBe(true);
    recent.clear();
    expect(recent.size).toBe(0);
  });
});
