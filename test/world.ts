// Documents of the closed world that the bundled models know, and questions with one exact answer each: the twin of models/train/world.py, seeded.
const names = "mia tom ana ben eva leo ida max zoe sam kim jon amy dan lea ron".split(" ");
const places = "oslo rome paris cairo lima delhi tokyo bern quito seoul milan dakar hanoi minsk tunis perth".split(" ");
const colours = "red blue green gold pink gray black white".split(" ");
const objects = "key cup hat map pen bag lamp coin ring book drum kite".split(" ");

export interface WorldDocument {
  readonly text: string;
  readonly questions: readonly { readonly text: string; readonly answer: string }[];
}

/** Different documents of 4 to 8 facts, the same for a seed. */
export function worldDocuments(count: number, seed: number): WorldDocument[] {
  let state = seed >>> 0;
  const below = (n: number): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
  const shuffled = <T>(list: readonly T[]): T[] => {
    const left = [...list];
    return list.map(() => left.splice(below(left.length), 1)[0] as T);
  };
  const documents = new Map<string, WorldDocument>();
  while (documents.size < count) {
    const [who, where, what] = [shuffled(names), shuffled(places), shuffled(colours.flatMap((c) => objects.map((o) => `${c} ${o}`)))];
    const facts = Array.from({ length: 4 + below(5) }, (_, i) => {
      const [name = "", place = "", thing = ""] = [who[i], where[i], what[i]];
      if (below(2) === 0) return { text: `${name} lives in ${place}.`, question: { text: `where does ${name} live?`, answer: place } };
      return { text: `${name} has the ${thing}.`, question: { text: `who has the ${thing}?`, answer: name } };
    });
    const text = facts.map((fact) => fact.text).join(" ");
    documents.set(text, { text, questions: facts.map((fact) => fact.question) });
  }
  return [...documents.values()];
}
