// wren reads facts and thinks; finch, another model of another family, is asked about them. Between the two stands a translator that was fitted on what both
// make of the same texts. The placebo is fitted in the same way on pairs that do not belong together: what it answers is what finch knows without wren.
// Arguments, all optional: how many texts to fit on, how many unseen ones to ask about, and the two models.
import { bundledModel, fitTranslator, gatherPairs, loadModel, pipe, type Translator } from "latentwire";

const [count = "500", documents = "8", sender = "wren", receiver = "finch"] = process.argv.slice(2);
await using from = await loadModel(bundledModel(sender));
await using to = await loadModel(bundledModel(receiver));

// the models know a world of facts about persons; any texts do that both models can read
const words = (list: string) => list.split(" ");
const names = words("mia tom ana ben eva leo ida max zoe sam kim jon amy dan lea ron");
const places = words("oslo rome paris cairo lima delhi tokyo bern quito seoul milan dakar hanoi minsk tunis perth");
const things = words("red blue green gold pink gray black white").flatMap((c) =>
  words("key cup hat map pen bag coin ring").map((o) => `${c} ${o}`),
);
let state = 7;
const draw = (n: number) => Math.floor(((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32) * n);
const mixed = (list: readonly string[]) => list.map((one) => ({ one, key: draw(1 << 24) })).sort((a, b) => a.key - b.key);
const facts = () => {
  const [who, where, what] = [mixed(names), mixed(places), mixed(things)];
  return Array.from({ length: 4 + draw(5) }, (_, i) => {
    const [name, place, thing] = [who[i]?.one ?? "", where[i]?.one ?? "", what[i]?.one ?? ""];
    return draw(2) === 0
      ? { text: `${name} lives in ${place}.`, question: `where does ${name} live?`, answer: place }
      : { text: `${name} has the ${thing}.`, question: `who has the ${thing}?`, answer: name };
  });
};
const textOf = (document: ReturnType<typeof facts>) => document.map(({ text }) => text).join(" ");
const unseen = Array.from({ length: Number(documents) }, facts);
const texts = Array.from({ length: Number(count) }, () => textOf(facts()));

using pairs = await gatherPairs({ from, to, texts });
using translator = await fitTranslator({ pairs, method: "ridge", maps: "slot" });
using placebo = await fitTranslator({ pairs, method: "ridge", maps: "slot", placebo: true });
const { heldOut, null: chance, verdict } = translator.report ?? {};
console.log(
  `${verdict}: mean reciprocal rank ${heldOut?.mrr.toFixed(2)} on texts that were kept apart, ${chance?.mrr.toFixed(2)} by chance`,
);

const solver = to.agent({ name: "solver", generate: { maxTokens: 12 } });
async function ask(by: Translator, document: ReturnType<typeof facts>) {
  const reader = from.agent({ name: "reader", user: textOf(document), think: { policy: "hidden", steps: 8 } });
  const runs = [];
  for (const { question, answer } of document) runs.push({ question, answer, ...(await pipe(reader, by, solver).run(question)) });
  return runs.map(({ question, answer, text, hops }) => ({
    question,
    answer,
    said: text.trim(),
    right: text.trim() === answer,
    hop: hops[0],
  }));
}

const [first = []] = unseen;
const shown = await ask(translator, first);
console.log(`${sender} reads: ${textOf(first)}`);
console.table(shown.map(({ question, answer, said }) => ({ question, answer, said })));
console.log(shown[0]?.hop);
for (const [name, by] of Object.entries({ translator, placebo })) {
  const answers = (await Promise.all(unseen.map((document) => ask(by, document)))).flat();
  console.log(`${name}: ${answers.filter(({ right }) => right).length} of ${answers.length} answers are right`);
}
