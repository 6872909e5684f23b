// What counts of right answers allow to say: intervals of a share, and whether two arms that answered the same items differ.

/** A share and where it lies with the given confidence. */
export type Interval = readonly [low: number, high: number];

/**
 * The quantile of the standard normal distribution: Acklam's rational approximation, relative error below 1.2e-9.
 * @param p in (0, 1)
 */
export function normalQuantile(p: number): number {
  if (p > 0.5) return -normalQuantile(1 - p);
  const polynomial = (coefficients: readonly number[], x: number): number => coefficients.reduce((sum, one) => sum * x + one, 0);
  if (p < 0.02425) {
    const q = Math.sqrt(-2 * Math.log(p));
    const above = [
      -7.784894002430293e-3, -0.3223964580411365, -2.400758277161838, -2.549732539343734, 4.374664141464968, 2.938163982698783,
    ];
    return polynomial(above, q) / polynomial([7.784695709041462e-3, 0.3224671290700398, 2.445134137142996, 3.754408661907416, 1], q);
  }
  const q = p - 0.5;
  const r = q * q;
  const above = [-39.69683028665376, 220.9460984245205, -275.9285104469687, 138.357751867269, -30.66479806614716, 2.506628277459239];
  const below = [-54.47609879822406, 161.5858368580409, -155.6989798598866, 66.80131188771972, -13.28068155288572, 1];
  return (polynomial(above, r) * q) / polynomial(below, r);
}

const deviations = (confidence: number): number => -normalQuantile((1 - confidence) / 2);

/** Wilson's interval of a share (1927). Of nothing it is all of [0, 1]. */
export function wilson(right: number, n: number, confidence = 0.95): Interval {
  if (n === 0) return [0, 1];
  const z2 = deviations(confidence) ** 2;
  const p = right / n;
  const middle = p + z2 / (2 * n);
  const half = Math.sqrt(z2 * ((p * (1 - p)) / n + z2 / (4 * n * n)));
  const scale = 1 + z2 / n;
  // rounding must not exclude a share of exactly 0 or 1
  return [right === 0 ? 0 : Math.max(0, (middle - half) / scale), right === n ? 1 : Math.min(1, (middle + half) / scale)];
}

// beyond this the normal approximation differs from the exact sum in the third digit at most
const exactUpTo = 2000;

/**
 * McNemar's test of two arms on the same items, two-sided: how likely a difference as large as this is if the arms are equally good. `onlyA` and
 * `onlyB` are the items that one arm alone got right. Exact (binomial) up to 2000 of these, with a continuity correction beyond.
 */
export function mcnemar(onlyA: number, onlyB: number): number {
  const n = onlyA + onlyB;
  const fewer = Math.min(onlyA, onlyB);
  if (n === 0 || onlyA === onlyB) return 1;
  if (n > exactUpTo) return Math.min(1, 2 * upperTail((Math.abs(onlyA - onlyB) - 1) / Math.sqrt(n)));
  // sum of C(n, k) / 2^n up to the fewer, in logarithms since C(n, k) has no room in a number
  let term = -n * Math.LN2;
  let sum = Math.exp(term);
  for (let k = 1; k <= fewer; k++) {
    term += Math.log((n - k + 1) / k);
    sum += Math.exp(term);
  }
  return Math.min(1, 2 * sum);
}

/** P(Z > z) for z >= 0, by bisection of the quantile. */
function upperTail(z: number): number {
  let [low, high] = [1e-300, 0.5];
  for (let i = 0; i < 200 && high / low > 1 + 1e-12; i++) {
    const middle = Math.sqrt(low * high);
    if (-normalQuantile(middle) > z) low = middle;
    else high = middle;
  }
  return Math.sqrt(low * high);
}

/** The interval of accuracy(A) - accuracy(B) on the same n items: Bonett and Price (2012). */
export function pairedDifference(onlyA: number, onlyB: number, n: number, confidence = 0.95): Interval {
  if (n === 0) return [-1, 1];
  const a = (onlyA + 1) / (n + 2);
  const b = (onlyB + 1) / (n + 2);
  const half = deviations(confidence) * Math.sqrt((a + b - (a - b) ** 2) / (n + 2));
  return [Math.max(-1, a - b - half), Math.min(1, a - b + half)];
}

/** Holm's correction (1979): what each of several p-values is worth when all are looked at. */
export function holm(values: readonly number[]): number[] {
  const order = values.map((value, i) => ({ value, i })).sort((x, y) => x.value - y.value);
  const adjusted = values.map(() => 1);
  let largest = 0;
  order.forEach(({ value, i }, rank) => {
    largest = Math.min(1, Math.max(largest, value * (values.length - rank)));
    adjusted[i] = largest;
  });
  return adjusted;
}
