// Two models hold the same 500 things in coordinates of their own. A map between the two is fitted, and applied to a vector that it has not seen.
import { accumulateMoments, packProjection, Tensor } from "latentwire";

// the second space is the first one, turned, stretched and moved
const toSecond = ([x = 0, y = 0, z = 0]: number[]) => [2 * z + 1, -2 * x, 2 * y - 0.5];
const things = Array.from({ length: 500 }, (_, i) => [Math.sin(i), Math.sin(i * i), Math.sin(i * i * i)]);
using first = Tensor.fromTyped("f32", [500, 3], Float32Array.from(things.flat()));
using second = Tensor.fromTyped("f32", [500, 3], Float32Array.from(things.flatMap(toSecond)));

using moments = await accumulateMoments({ x: first, y: second }); // the one pass over the rows
const { scale, residual } = await moments.procrustes({ scaled: true });
const { weights, bias, unexplained } = await moments.ridge({ lambda: 1e-6 });
console.log(`an orthogonal map with scale ${scale.toFixed(3)} misses ${residual.toFixed(3)}, a linear one ${unexplained.toFixed(3)}`);

using translator = await packProjection({ layers: [{ weights, bias }] });
const translated = translator.applySync(Float32Array.of(3, 4, 5));
console.log(Array.from(translated, (value) => value.toFixed(2)).join(" "), "of", toSecond([3, 4, 5]).join(" "));
