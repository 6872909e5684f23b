// The world of the bundled models in TypeScript: what models/train/world.py makes, it makes.
import { readFileSync } from "node:fs";
import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { relaySuite, relayTexts, type SuiteItem } from "../../lib/index.js";
import { isHeldOut } from "../../lib/eval/relay.js";
import { codeOf } from "../helpers.js";

/** Answers a question from the sentences alone, as a person would. */
function answerOf({ facts, question }: Pick<SuiteItem, "facts" | "question">): string {
  const has = [...facts.matchAll(/(\w+) has the (\w+ \w+)\./g)].map(([, name = "", thing = ""]) => ({ name, thing }));
  const lives = [...facts.matchAll(/(\w+) lives in (\w+)\./g)].map(([, name = "", place = ""]) => ({ name, place }));
  const one = (values: readonly (string | undefined)[]): string => {
    const found = values.filter((value) => value !== undefined);
    expect(found).toHaveLength(1);
    return found[0] ?? "";
  };
  const thingOf = (name: string): string => one(has.filter((fact) => fact.name === name).map(({ thing }) => thing));
  const placeOf = (name: string): string => one(lives.filter((fact) => fact.name === name).map(({ place }) => place));
  const ownerOf = (thing: string): string => one(has.filter((fact) => fact.thing === thing).map(({ name }) => name));
  const inhabitantOf = (place: string): string => one(lives.filter((fact) => fact.place === place).map(({ name }) => name));
  const read = (pattern: RegExp): string | undefined => pattern.exec(question)?.[1];
  const forms: readonly [RegExp, (word: string) => string][] = [
    [/^what does (\w+) have\?$/, thingOf],
    [/^who has the (\w+ \w+)\?$/, ownerOf],
    [/^where does (\w+) live\?$/, placeOf],
    [/^who lives in (\w+)\?$/, inhabitantOf],
    [/^what does the person in (\w+) have\?$/, (place) => thingOf(inhabitantOf(place))],
    [/^where does the person with the (\w+ \w+) live\?$/, (thing) => placeOf(ownerOf(thing))],
  ];
  for (const [pattern, find] of forms) {
    const word = read(pattern);
    if (word !== undefined) return find(word);
  }
  throw new Error(`no form of a question: ${question}`);
}

describe("relaySuite", () => {
  const suite = relaySuite({ items: 2000, seed: 5 });
  const documents = [...new Set(suite.items.map(({ facts }) => facts))];

  it("asks what the facts answer, in one way alone", () => {
    for (const item of suite.items) expect(item.check).toEqual({ equals: answerOf(item) });
    expect(suite.items).toHaveLength(2000);
    expect(new Set(suite.items.map(({ id }) => id)).size).toBe(2000);
  });

  it("is made of 4 to 8 facts with names, places and things that occur once", () => {
    const sizes = documents.map((facts) => facts.split(". ").length);
    expect([...new Set(sizes)].sort()).toEqual([4, 5, 6, 7, 8]);
    for (const facts of documents) {
      const places = [...facts.matchAll(/lives in (\w+)/g)].map(([, place]) => place);
      const things = [...facts.matchAll(/has the (\w+ \w+)/g)].map(([, thing]) => thing);
      expect(new Set(places).size).toBe(places.length);
      expect(new Set(things).size).toBe(things.length);
      expect(facts).toMatch(/^(?:\w+ (?:has the \w+ \w+|lives in \w+)\.(?: |$)){4,8}$/);
    }
  });

  it("asks every fact of a whole document once, and up to two questions that need two facts", () => {
    for (const facts of documents.slice(0, -1)) {
      const own = suite.items.filter((item) => item.facts === facts);
      const count = facts.split(". ").length;
      expect(own.filter(({ group }) => group === "one hop")).toHaveLength(count);
      const two = own.filter(({ group }) => group === "two hops");
      // a quarter to a half of the facts are second ones of a person
      expect(two.length).toBe(Math.min(2, two.length));
      expect(two.length).toBeGreaterThan(0);
      for (const { question } of two) expect(question).toContain("the person");
    }
  });

  it("uses all words about as often as each other", () => {
    const of = (pattern: RegExp): number[] => {
      const counts = new Map<string, number>();
      for (const facts of documents) for (const [, word = ""] of facts.matchAll(pattern)) counts.set(word, (counts.get(word) ?? 0) + 1);
      return [...counts.values()];
    };
    for (const [pattern, kinds] of [
      [/(\w+) (?:has|lives)/g, 16],
      [/lives in (\w+)/g, 16],
      [/has the (\w+)/g, 8],
      [/has the \w+ (\w+)/g, 12],
    ] as const) {
      const counts = of(pattern);
      expect(counts).toHaveLength(kinds);
      expect(Math.min(...counts)).toBeGreaterThan(0.5 * (counts.reduce((sum, one) => sum + one, 0) / kinds));
    }
  });

  it("knows what guessing gives: a name or a place of 16, a thing of 96", () => {
    for (const { question, chance } of suite.items) expect(chance).toBe(question.startsWith("what") ? 1 / 96 : 1 / 16);
  });

  it("has the words of models/train/world.py and no others", () => {
    const source = readFileSync(new URL("../../models/train/world.py", import.meta.url), "utf8");
    const words = [...source.matchAll(/^(NAMES|PLACES|COLOURS|OBJECTS) = "([^"]+)"\.split\(\)$/gm)].flatMap(([, , list = ""]) =>
      list.split(" "),
    );
    expect(words.length).toBe(16 + 16 + 8 + 12);
    const used = new Set(documents.join(" ").match(/\w+/g));
    for (const word of words) expect(used).toContain(word);
    for (const word of used) expect([...words, "has", "the", "lives", "in"]).toContain(word);
  });

  it("holds out what world.py holds out", () => {
    // printed by world.py, with what is_held_out says of them
    expect(
      isHeldOut(
        "lea lives in delhi. leo lives in dakar. ron has the green coin. tom lives in quito. leo has the pink map. lea has the gray book. tom has the pink kite.",
      ),
    ).toBe(true);
    expect(
      isHeldOut(
        "eva has the green lamp. sam has the white coin. zoe has the gold kite. dan has the red key. lea has the gold ring. kim lives in delhi. dan lives in oslo.",
      ),
    ).toBe(false);
    expect(Array.from({ length: 1600 }, (_, i) => isHeldOut(`x${i}`)).filter(Boolean)).toHaveLength(101);
    expect(documents.every(isHeldOut)).toBe(true);
    expect(relayTexts(300, 5).some(isHeldOut)).toBe(false);
  });

  it("is the same for the same seed everywhere, and another one for another", () => {
    expect(relaySuite({ items: 50, seed: 1 })).toEqual(relaySuite({ items: 50, seed: 1 }));
    expect(relaySuite({ items: 50, seed: 1 }).items.slice(0, 20)).toEqual(relaySuite({ items: 20, seed: 1 }).items);
    expect(relaySuite({ items: 50, seed: 2 }).digest).not.toBe(relaySuite({ items: 50, seed: 1 }).digest);
    const print = createHash("sha256")
      .update(
        relaySuite({ items: 20 })
          .items.map(({ facts, question }) => facts + question)
          .join("\n"),
      )
      .digest("hex");
    expect(print.slice(0, 16)).toBe("83ecf5a1ea2b6981");
  });

  it("refuses wrong arguments", async () => {
    for (const options of [{ items: 0 }, { items: 1.5 }, { seed: -1 }])
      expect(await codeOf(() => relaySuite(options))).toBe("ERR_LATENT_INVALID_ARGUMENT");
    expect(relayTexts(0)).toEqual([]);
    expect(await codeOf(() => relayTexts(-1))).toBe("ERR_LATENT_INVALID_ARGUMENT");
  });
});
