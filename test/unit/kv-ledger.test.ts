// The bookkeeping of a store's tiers against a model that does everything the slow way, in memory and in a real lmdb environment.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import fc from "fast-check";
import { open } from "lmdb";
import { describe, expect, it } from "vitest";
import { Ledger, type Admission, type ChunkOffer, type LedgerLimits, type LedgerTable } from "../../lib/kv/ledger.js";
import { LmdbTable, type PieceList } from "../../lib/kv/lmdb-table.js";
import { MemoryTable } from "../../lib/kv/memory-table.js";
import { runs } from "../helpers.js";

const name = (chunk: number): string => chunk.toString(16).padStart(64, "0");
const tenants = ["00000000000000aa", "00000000000000bb"];

interface Known {
  readonly parent: string | null;
  readonly tenant: string;
  readonly bytes: number;
  readonly ms: number;
  uses: number;
  value: number;
  expires: number | null;
  there: boolean;
}

/** What a ledger promises, told as a list: children are counted, and the least value is searched, anew each time. */
class Model {
  readonly known = new Map<string, Known>();
  inflation = 0;

  constructor(readonly limits: LedgerLimits) {}

  bytes(tenant?: string): number {
    return [...this.known.values()]
      .filter((one) => one.there && (tenant === undefined || one.tenant === tenant))
      .reduce((total, one) => total + one.bytes, 0);
  }

  children(key: string): number {
    return [...this.known.values()].filter((one) => one.parent === key).length;
  }

  remove(key: string): void {
    const one = this.known.get(key);
    if (one?.there !== true) return;
    one.there = false;
    this.forget(key);
  }

  forget(key: string | null): void {
    const one = key === null ? undefined : this.known.get(key);
    if (key === null || one === undefined || one.there || this.children(key) > 0) return;
    this.known.delete(key);
    this.forget(one.parent);
  }

  admit(key: string, offer: ChunkOffer<PieceList>, kept: ReadonlySet<string>): Admission {
    const there = this.known.get(key);
    if (there?.there === true) {
      if (there.expires !== null && (offer.expires === null || offer.expires > there.expires)) there.expires = offer.expires;
      return "held";
    }
    if (offer.parent !== null && this.known.get(offer.parent)?.there !== true) return "orphan";
    const keptBytes = (tenant?: string): number =>
      [...kept]
        .map((one) => this.known.get(one))
        .reduce(
          (total, one) => total + (one?.there === true && (tenant === undefined || one.tenant === tenant) ? one.bytes : 0),
          offer.bytes,
        );
    if (keptBytes() > this.limits.bytes || keptBytes(offer.tenant) > this.limits.tenantBytes) return "full";
    for (const [limit, tenant] of [
      [this.limits.tenantBytes, offer.tenant],
      [this.limits.bytes, undefined],
    ] as const) {
      if (this.bytes(tenant) + offer.bytes <= limit) continue;
      while (this.bytes(tenant) + offer.bytes > 0.95 * limit) {
        const leaves = [...this.known]
          .filter(([leaf, one]) => one.there && !kept.has(leaf) && this.children(leaf) === 0)
          .filter(([, one]) => tenant === undefined || one.tenant === tenant)
          .sort(([, a], [, b]) => a.value - b.value);
        const [first] = leaves;
        if (first === undefined) break;
        this.inflation = Math.max(this.inflation, first[1].value);
        this.remove(first[0]);
      }
    }
    const { parent, tenant, bytes, ms, expires } = offer;
    this.known.set(key, { parent, tenant, bytes, ms, expires, uses: 1, value: this.inflation + ms / bytes, there: true });
    return "added";
  }

  touch(key: string): void {
    const one = this.known.get(key);
    if (one?.there !== true) return;
    one.uses++;
    one.value = this.inflation + (one.uses * one.ms) / one.bytes;
  }

  expire(now: number): void {
    for (const [key, one] of [...this.known]) if (one.there && one.expires !== null && one.expires <= now) this.remove(key);
  }
}

type Command =
  | { readonly do: "put"; readonly chunk: number; readonly bytes: number; readonly ms: number; readonly ttl: number | null }
  | { readonly do: "touch" | "remove" | "lease" | "release"; readonly chunk: number }
  | { readonly do: "wait"; readonly ms: number };

// chunk n builds on chunk n / 3 - 1: a few chains that branch, each of one tenant
const parentOf = (chunk: number): number | null => (chunk < 4 ? null : Math.floor(chunk / 3) - 1);
const rootOf = (chunk: number): number => {
  const parent = parentOf(chunk);
  return parent === null ? chunk : rootOf(parent);
};
const chain = (chunk: number): string[] => {
  const parent = parentOf(chunk);
  return [...(parent === null ? [] : chain(parent)), name(chunk)];
};

const chunk = fc.integer({ min: 0, max: 40 });
const command: fc.Arbitrary<Command> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constant("put" as const),
      chunk,
      bytes: fc.integer({ min: 1, max: 40 }),
      ms: fc.double({ min: 1, max: 100, noNaN: true }),
      ttl: fc.option(fc.integer({ min: 1, max: 50 })),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ do: fc.constantFrom("touch" as const, "remove" as const, "lease" as const, "release" as const), chunk }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.integer({ min: 1, max: 30 }) }) },
);

/** Runs the commands on a ledger and on the model; `inside` is where a step of the ledger runs. */
function compare(table: LedgerTable<PieceList>, commands: readonly Command[], inside: (step: () => void) => void): void {
  const limits = { bytes: 150, tenantBytes: 100 };
  const contents = new Set<string>();
  const ledger = new Ledger(table, limits, ({ id }) => {
    expect(contents.delete(id)).toBe(true);
  });
  const model = new Model(limits);
  const leases = new Map<string, number>();
  let now = 0;
  let serial = 0;
  const step = (one: Command): void => {
    if (one.do === "wait") {
      now += one.ms;
      ledger.expire(now);
      model.expire(now);
      return;
    }
    const keys = chain(one.chunk);
    const key = name(one.chunk);
    if (one.do === "put") {
      const id = `${serial++}`;
      const parent = keys.at(-2) ?? null;
      const tenant = tenants[rootOf(one.chunk) % 2] ?? "";
      // a chunk ends no earlier than those that build on it: whoever puts one puts all before it
      const expires = one.ttl === null ? null : now + one.ttl;
      for (const before of keys.slice(0, -1)) {
        ledger.extend(before, expires);
        const known = model.known.get(before);
        if (known?.there === true && known.expires !== null && (expires === null || expires > known.expires)) known.expires = expires;
      }
      const offer = { parent, tenant, bytes: one.bytes, ms: one.ms, expires, payload: { id, count: 1 } };
      const kept = new Set([...leases.keys(), ...keys]);
      contents.add(id);
      const outcome = ledger.admit(key, offer, kept, () => undefined);
      if (outcome !== "added") contents.delete(id);
      expect(outcome).toBe(model.admit(key, offer, kept));
    } else if (one.do === "touch") {
      ledger.touch(key);
      model.touch(key);
    } else if (one.do === "remove") {
      ledger.remove(key);
      model.remove(key);
    } else if (one.do === "lease") {
      if (ledger.live(key, now) !== undefined) for (const each of keys) leases.set(each, (leases.get(each) ?? 0) + 1);
    } else if (leases.has(key)) {
      for (const each of keys) {
        const count = (leases.get(each) ?? 0) - 1;
        if (count > 0) leases.set(each, count);
        else leases.delete(each);
      }
    }
  };
  for (const one of commands) {
    inside(() => {
      step(one);
    });
    for (let each = 0; each <= 40; each++) {
      const known = model.known.get(name(each));
      expect(ledger.live(name(each), now) !== undefined, `chunk ${each}`).toBe(known?.there === true);
      expect(table.get(name(each))?.value).toBe(known?.value);
    }
    expect(table.bytes()).toBe(model.bytes());
    expect(table.bytes()).toBeLessThanOrEqual(limits.bytes);
    for (const tenant of tenants) {
      expect(table.bytes(tenant)).toBe(model.bytes(tenant));
      expect(table.bytes(tenant)).toBeLessThanOrEqual(limits.tenantBytes);
    }
    expect(contents.size).toBe([...model.known.values()].filter(({ there }) => there).length);
  }
}

describe("the ledger of a tier does what the model does", () => {
  it("in memory", () => {
    fc.assert(
      fc.property(fc.array(command, { maxLength: 80 }), (commands) => {
        compare(new MemoryTable<PieceList>(), commands, (step) => {
          step();
        });
      }),
      runs(120),
    );
  });

  it("in lmdb, each step a transaction", async () => {
    const folder = mkdtempSync(path.join(tmpdir(), "latentwire-ledger-"));
    const root = open<unknown, string>({ path: folder, noSubdir: false, maxDbs: 8, noSync: true });
    try {
      const table = new LmdbTable(root);
      fc.assert(
        fc.property(fc.array(command, { maxLength: 40 }), (commands) => {
          root.transactionSync(() => {
            for (const tenant of tenants) for (const key of table.keysOf(tenant)) table.delete(key);
            table.inflation = 0;
          });
          compare(table, commands, (step) => {
            root.transactionSync(step);
          });
        }),
        runs(40),
      );
    } finally {
      await root.close();
      rmSync(folder, { recursive: true });
    }
  });
});
