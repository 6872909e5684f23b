// The libraries that a TypeScript user would call instead of our kernels. They live in bench/node_modules (npm run bench:peers); one that is missing is
// left out of the rows.
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);

function optional(name) {
  try {
    return require(name);
  } catch {
    return undefined;
  }
}

export const ort = optional("onnxruntime-node");
export const simsimd = optional("simsimd");
export const usearch = optional("usearch");

// ---- a model of one product for onnxruntime: the few fields of its protobuf that it takes ----

function varint(value) {
  const bytes = [];
  for (let rest = BigInt(value); ; rest >>= 7n) {
    const low = Number(rest & 127n);
    if (rest < 128n) return Buffer.from([...bytes, low]);
    bytes.push(low | 128);
  }
}

const field = (number, value) =>
  typeof value === "number"
    ? Buffer.concat([varint(number << 3), varint(value)])
    : Buffer.concat([varint((number << 3) | 2), varint(value.length), value]);
const text = (number, value) => field(number, Buffer.from(value));
const message = (number, ...fields) => field(number, Buffer.concat(fields));

const float = 1;
const int64 = 7;

function tensor(name, dims, data) {
  const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  const type = data instanceof BigInt64Array ? int64 : float;
  return message(5, ...dims.map((extent) => field(1, extent)), field(2, type), text(8, name), field(9, raw));
}

function value(number, name, dims, type = float) {
  const shape = message(2, ...dims.map((extent) => message(1, typeof extent === "string" ? text(2, extent) : field(1, extent))));
  return message(number, text(1, name), message(2, message(1, field(1, type), shape)));
}

function node(operator, inputs, outputs, attributes = {}) {
  const integers = Object.entries(attributes).map(([name, i]) => message(5, text(1, name), field(3, i), field(20, 2)));
  return message(
    1,
    ...inputs.map((name) => text(1, name)),
    ...[outputs].flat().map((name) => text(2, name)),
    text(4, operator),
    ...integers,
  );
}

function model(graph) {
  return Buffer.concat([field(1, 9), message(8, field(2, 20)), message(7, text(2, "graph"), ...graph)]);
}

async function session(graph, threads) {
  const options = { intraOpNumThreads: threads, interOpNumThreads: 1, executionMode: "sequential", graphOptimizationLevel: "all" };
  return ort.InferenceSession.create(model(graph), options);
}

/** onnxruntime's way to relative cosines: LpNormalization of the rows, then MatMul with anchors that are normalised already, [d, m]. */
export async function ortCosine(unitAnchors, m, d, threads) {
  const graph = [
    node("LpNormalization", ["x"], "unit", { axis: 1, p: 2 }),
    node("MatMul", ["unit", "anchors"], "r"),
    tensor("anchors", [d, m], transpose(unitAnchors, m, d)),
    value(11, "x", ["n", d]),
    value(12, "r", ["n", m]),
  ];
  return session(graph, threads);
}

/** y = gelu(x W + b). */
export async function ortProjection(weights, bias, inputs, outputs, threads) {
  const graph = [
    node("MatMul", ["x", "w"], "xw"),
    node("Add", ["xw", "b"], "xwb"),
    node("Gelu", ["xwb"], "y"),
    tensor("w", [inputs, outputs], weights),
    tensor("b", [outputs], bias),
    value(11, "x", ["n", inputs]),
    value(12, "y", ["n", outputs]),
  ];
  return session(graph, threads);
}

/** Softmax of logits and the k likeliest: what onnxruntime has of a thought step, which is not all of it. */
export async function ortTopK(vocabulary, k, threads) {
  const graph = [
    node("Softmax", ["z"], "p", { axis: 1 }),
    node("TopK", ["p", "k"], ["values", "ids"], { axis: 1 }),
    tensor("k", [1], BigInt64Array.of(BigInt(k))),
    value(11, "z", ["n", vocabulary]),
    value(12, "values", ["n", k]),
    value(12, "ids", ["n", k], int64),
  ];
  return session(graph, threads);
}

export function transpose(x, rows, columns) {
  const out = new Float32Array(x.length);
  for (let i = 0; i < rows; i++) for (let k = 0; k < columns; k++) out[k * rows + i] = x[i * columns + k];
  return out;
}

// ---- what people write ----

/** Cosines as a loop over rows and anchors that normalises nothing ahead. */
export function plainCosine(x, anchors, n, m, d, out) {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let dot = 0;
      let xx = 0;
      let aa = 0;
      for (let k = 0; k < d; k++) {
        const u = x[i * d + k];
        const v = anchors[j * d + k];
        dot += u * v;
        xx += u * u;
        aa += v * v;
      }
      out[i * m + j] = dot / Math.sqrt(xx * aa);
    }
  }
}

/** L1 distances as the same loop. */
export function plainL1(x, anchors, n, m, d, out) {
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < m; j++) {
      let sum = 0;
      for (let k = 0; k < d; k++) sum += Math.abs(x[i * d + k] - anchors[j * d + k]);
      out[i * m + j] = sum;
    }
  }
}

/** The same with unit anchors and four sums at a time: about what JavaScript can do. */
export function tunedCosine(x, unitAnchors, n, m, d, out) {
  for (let i = 0; i < n; i++) {
    const row = x.subarray(i * d, (i + 1) * d);
    let xx = 0;
    for (let k = 0; k < d; k++) xx += row[k] * row[k];
    const factor = 1 / Math.sqrt(xx);
    for (let j = 0; j < m; j++) {
      const a = unitAnchors.subarray(j * d, (j + 1) * d);
      let s0 = 0;
      let s1 = 0;
      let s2 = 0;
      let s3 = 0;
      for (let k = 0; k < d; k += 4) {
        s0 += row[k] * a[k];
        s1 += row[k + 1] * a[k + 1];
        s2 += row[k + 2] * a[k + 2];
        s3 += row[k + 3] * a[k + 3];
      }
      out[i * m + j] = (s0 + s1 + s2 + s3) * factor;
    }
  }
}

export function unitRows(x, rows, d) {
  const out = new Float32Array(x.length);
  for (let i = 0; i < rows; i++) {
    let square = 0;
    for (let k = 0; k < d; k++) square += x[i * d + k] ** 2;
    for (let k = 0; k < d; k++) out[i * d + k] = x[i * d + k] / Math.sqrt(square);
  }
  return out;
}

/** All halves as numbers: the only way to f16 that is fast in JavaScript. */
export function halfTable() {
  return Float32Array.from({ length: 65536 }, (_, bits) => {
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    const size =
      exponent === 31 ? (fraction === 0 ? Infinity : NaN) : exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25);
    return bits & 0x8000 ? -size : size;
  });
}

/** The mix of the k likeliest embeddings: exponentials, a sort of the likeliest, rows of f16 through a table. */
export function plainThought(logits, embeddings, halves, k, d, out) {
  let top = -Infinity;
  for (let i = 0; i < logits.length; i++) top = Math.max(top, logits[i]);
  const p = new Float32Array(logits.length);
  let sum = 0;
  for (let i = 0; i < logits.length; i++) sum += p[i] = Math.exp(logits[i] - top);
  // kept in order: most probabilities are below the last one
  const ids = [];
  for (let i = 0; i < p.length; i++) {
    if (ids.length === k && p[i] <= p[ids[k - 1]]) continue;
    let at = ids.length;
    while (at > 0 && p[ids[at - 1]] < p[i]) at--;
    ids.splice(at, 0, i);
    if (ids.length > k) ids.pop();
  }
  const kept = ids.reduce((total, id) => total + p[id], 0);
  out.fill(0);
  for (const id of ids) {
    const weight = p[id] / kept;
    for (let j = 0; j < d; j++) out[j] += weight * halves[embeddings[id * d + j]];
  }
  return sum;
}

/** int8 codes and a scale for each group of f16 numbers. */
export function plainQuantise(x, halves, group, codes, scales) {
  for (let first = 0; first < x.length; first += group) {
    let largest = 0;
    for (let i = first; i < first + group; i++) largest = Math.max(largest, Math.abs(halves[x[i]]));
    scales[first / group] = largest / 127;
    const inverse = largest > 0 ? 127 / largest : 0;
    for (let i = first; i < first + group; i++) codes[i] = Math.round(halves[x[i]] * inverse);
  }
}
