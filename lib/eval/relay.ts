// The world of the bundled models: short documents of facts, and questions with one exact answer each. The twin of models/train/world.py: the same
// words, sentences and rule of what is held out; training never sees a document of the held-out sixteenth, and the suite is made of those alone.
import { createHash } from "node:crypto";
import { checkInteger } from "../check.js";
import { checkSeed } from "../fits/input.js";
import { range, SeededDraws } from "../spaces/random.js";
import { makeSuite, type Suite, type SuiteItem } from "./suite.js";

const names = "mia tom ana ben eva leo ida max zoe sam kim jon amy dan lea ron".split(" ");
const places = "oslo rome paris cairo lima delhi tokyo bern quito seoul milan dakar hanoi minsk tunis perth".split(" ");
const colours = "red blue green gold pink gray black white".split(" ");
const objects = "key cup hat map pen bag lamp coin ring book drum kite".split(" ");
const things = colours.flatMap((colour) => objects.map((object) => `${colour} ${object}`));

interface Fact {
  readonly kind: "has" | "lives";
  readonly name: string;
  /** A place, or a colour and an object. */
  readonly what: string;
}

interface Question {
  readonly question: string;
  readonly answer: string;
  readonly hops: 1 | 2;
  /** How many answers of its kind the world has. */
  readonly answers: number;
}

const sentence = ({ kind, name, what }: Fact): string => (kind === "has" ? `${name} has the ${what}.` : `${name} lives in ${what}.`);

/** Whether training never sees a document. */
export function isHeldOut(document: string): boolean {
  return (createHash("md5").update(document).digest()[0] ?? 0) % 16 === 0;
}

/** 4 to 8 facts in random order; names, places and things are unique, and some persons have both kinds, so that there are two-hop questions. */
function drawFacts(draws: SeededDraws): Fact[] {
  const between = (low: number, high: number): number => low + draws.below(high - low + 1);
  const count = between(4, 8);
  const both = between(count >> 2, count >> 1);
  const persons = draws.sample(names, count - both);
  const kinds = persons.flatMap((name, i): Pick<Fact, "kind" | "name">[] => {
    if (i < both)
      return [
        { kind: "has", name },
        { kind: "lives", name },
      ];
    return [{ kind: draws.below(2) === 0 ? "has" : "lives", name }];
  });
  const homes = draws.sample(places, places.length);
  const owned = draws.sample(things, count);
  return draws.sample(kinds, kinds.length).map((fact, i) => ({ ...fact, what: (fact.kind === "has" ? owned[i] : homes[i]) ?? "" }));
}

function drawDocument(draws: SeededDraws, heldOut: boolean): { facts: readonly Fact[]; text: string } {
  for (;;) {
    const facts = drawFacts(draws);
    const text = facts.map(sentence).join(" ");
    if (isHeldOut(text) === heldOut) return { facts, text };
  }
}

function oneHop({ kind, name, what }: Fact, forward: boolean): Question {
  const hops = 1;
  if (!forward) {
    const question = kind === "has" ? `who has the ${what}?` : `who lives in ${what}?`;
    return { question, answer: name, hops, answers: names.length };
  }
  return kind === "has"
    ? { question: `what does ${name} have?`, answer: what, hops, answers: things.length }
    : { question: `where does ${name} live?`, answer: what, hops, answers: places.length };
}

function twoHop(facts: readonly Fact[]): Question[] {
  return facts.flatMap((thing) => {
    const home = facts.find((other) => other.kind === "lives" && other.name === thing.name);
    if (thing.kind !== "has" || home === undefined) return [];
    return [
      { question: `what does the person in ${home.what} have?`, answer: thing.what, hops: 2 as const, answers: things.length },
      { question: `where does the person with the ${thing.what} live?`, answer: home.what, hops: 2 as const, answers: places.length },
    ];
  });
}

/**
 * The suite `relay`: `items` questions on held-out documents, for each document one of every fact and up to two that need two facts. The same for
 * the same seed everywhere.
 * @param options `items`: 1 to 1000000, default 1000. `seed`: default 0.
 * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT`
 */
export function relaySuite(options: { readonly items?: number; readonly seed?: number } = {}): Suite {
  const count = checkInteger("items", options.items ?? 1000, 1, 1_000_000);
  const draws = new SeededDraws(checkSeed(options.seed ?? 0));
  const items: SuiteItem[] = [];
  while (items.length < count) {
    const { facts, text } = drawDocument(draws, true);
    const questions = [...facts.map((fact) => oneHop(fact, draws.below(2) === 0)), ...draws.sample(twoHop(facts), 2)];
    for (const { question, answer, hops, answers } of questions.slice(0, count - items.length)) {
      const group = hops === 1 ? "one hop" : "two hops";
      items.push({ id: String(items.length + 1), facts: text, question, check: { equals: answer }, chance: 1 / answers, group });
    }
  }
  return makeSuite({
    name: "relay",
    kind: "facts",
    items,
    // as the models were trained: no system prompts, and a note is a user message of its own
    prompts: { notes: "message", noteTokens: 96, answerTokens: 12 },
  });
}

/** Documents of the world that training may see: what translators of the bundled models are fitted on. */
export function relayTexts(count: number, seed = 0): string[] {
  const draws = new SeededDraws(checkSeed(seed));
  return range(checkInteger("count", count, 0, 1_000_000)).map(() => drawDocument(draws, false).text);
}
