// Two models hold the same 600 things in coordinates of their own. They find each other's things by what they say relative to shared anchors, and a
// translator is fitted, held against pairs that it has not seen, and saved.
import { RelativeSpace, relativeMismatch, selectAnchors, Tensor, Translator } from "latentwire";

// the second space is the first one, turned, stretched and moved
const toSecond = ([x = 0, y = 0, z = 0]: number[]) => [2 * z + 1, -2 * x, 2 * y - 0.5];
const things = Array.from({ length: 600 }, (_, i) => [Math.sin(i), Math.sin(i * i), Math.sin(i * i * i)]);
using first = Tensor.fromTyped("f32", [600, 3], Float32Array.from(things.flat()));
using second = Tensor.fromTyped("f32", [600, 3], Float32Array.from(things.flatMap(toSecond)));

const anchors = await selectAnchors(first, { count: 20, seed: 1, corpus: "600 things" }); // numbers of things, which both sides know
using mine = await RelativeSpace.fit(first, anchors, { transforms: ["centre"] });
using theirs = await RelativeSpace.fit(second, anchors, { transforms: ["centre"] });
using a = await mine.encode(first);
using b = await theirs.encode(second);
console.log(`relative to ${anchors.count} anchors they differ by ${(await relativeMismatch(a, b)).toFixed(5)}`);

using translator = await Translator.fit({ pairs: { from: first, to: second } });
const { heldOut, null: chance, verdict } = translator.report ?? {};
console.log(`${verdict}: ${heldOut?.retrieval1} of ${heldOut?.count} unseen things found, by chance ${chance?.retrieval1.toFixed(2)}`);
await translator.save("first-to-second.safetensors");
