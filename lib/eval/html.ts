// A result as one page that needs nothing but itself: charts, tables, what the data says, and some items whole.
import { barChart, escapeHtml, shareChart } from "./charts.js";
import type { EvalExample, EvalResult } from "./evaluate.js";
import { page } from "./page.js";
import { percent, rightTable, timeTable, titleOf, tokenTable, type Table } from "./table.js";

/** One section for each result. */
export function toHtml(results: readonly EvalResult[]): string {
  const title = results.map(titleOf).join("; ");
  return page(escapeHtml(title === "" ? "latentwire" : `latentwire: ${title}`), results.map(section).join("\n"));
}

function section(result: EvalResult): string {
  const { verdict, arms, chance } = result;
  const shares = arms.map(({ arm, accuracy, interval: [low, high], placebo }) => ({ label: arm, share: accuracy, low, high, placebo }));
  const times = arms.map(({ arm, stages }) => ({ label: arm, parts: [stages.reader, stages.handOver, stages.solver] }));
  const tokens = arms.map((one) => ({ label: one.arm, parts: [one.prefillTokens, one.latentSteps, one.decodedTokens] }));
  return [
    "<section>",
    `<h1>${escapeHtml(titleOf(result))}</h1>`,
    `<p class="about">${escapeHtml(aboutOf(result))}</p>`,
    `<p class="verdict">${escapeHtml(verdict)}</p>`,
    "<h2>Right answers</h2>",
    figure(shareChart("Right answers", shares, chance), "Share of right answers with Wilson's 95 % interval. Hollow: placebos."),
    table(rightTable(result), result),
    "<h2>Time of an item</h2>",
    figure(
      barChart("Milliseconds an item", ["reader", "hand-over", "solver"], times, (ms) => `${ms.toPrecision(3)} ms`),
      "As if the reader had read for this question alone.",
    ),
    table(timeTable(result), result),
    "<h2>Tokens of an item</h2>",
    figure(
      barChart("Tokens and steps an item", ["prefilled", "latent steps", "decoded"], tokens, (count) => count.toFixed(1)),
      "Positions that both agents processed. A prefilled one costs much less than a step or a decoded one.",
    ),
    table(tokenTable(result), result),
    "<h2>What the data says</h2>",
    claims(result),
    "<h2>Every arm beside every other</h2>",
    pairs(result),
    "<h2>Some items</h2>",
    ...result.examples.map(example),
    "</section>",
  ].join("\n");
}

function aboutOf({ n, chance, seed, parallel, translator, stopped, reader, solver, hardware }: EvalResult): string {
  const models = reader.fingerprint === solver.fingerprint ? [reader] : [reader, solver];
  const early = { all: "", separated: ", stopped when the intervals had separated", time: ", stopped by the clock" }[stopped];
  const parts = [
    `${n} items${early}`,
    ...(chance === null ? [] : [`chance ${percent(chance)}`]),
    `seed ${seed}`,
    parallel === 1 ? "one at a time" : `${parallel} at a time`,
    ...(translator === null ? [] : [`translator: ${translator}`]),
    ...models.map(
      ({ name, architecture, parameters, fingerprint }) =>
        `${name}: ${architecture}, ${(parameters / 1e6).toPrecision(2)} M parameters, SHA-256 ${fingerprint.slice(0, 12)}…`,
    ),
    hardware,
  ];
  return parts.join(" · ");
}

function figure(svg: string, caption: string): string {
  return `<figure>${svg}<figcaption>${escapeHtml(caption)}</figcaption></figure>`;
}

/** Rows in the order of the arms. */
function table({ head, rows }: Table, { arms }: EvalResult): string {
  const kind = (i: number): string => (i === 0 ? "" : ' class="number"');
  const titles = head.map((title, i) => `<th${kind(i)} scope="col">${escapeHtml(title)}</th>`).join("");
  const lines = rows.map((row, i) => {
    const cells = row.map((value, j) => `<td${kind(j)}>${escapeHtml(String(value))}</td>`).join("");
    return `<tr${arms[i]?.placebo === true ? ' class="placebo"' : ""}>${cells}</tr>`;
  });
  return `<div class="scroll"><table><thead><tr>${titles}</tr></thead><tbody>\n${lines.join("\n")}\n</tbody></table></div>`;
}

function claims({ claims: all }: EvalResult): string {
  const rows = all.map(
    ({ claim, verdict, evidence }) =>
      `<tr><td>${escapeHtml(claim)}</td><td><span class="${verdict}">${verdict}</span></td><td>${escapeHtml(evidence)}</td></tr>`,
  );
  const head = '<tr><th scope="col">claim</th><th scope="col">by the data</th><th scope="col">evidence</th></tr>';
  return `<div class="scroll"><table class="claims"><thead>${head}</thead><tbody>\n${rows.join("\n")}\n</tbody></table></div>`;
}

/** Row minus column in points, with McNemar's p by Holm's correction below. */
function pairs({ arms, comparisons }: EvalResult): string {
  const names = arms.map(({ arm }) => arm);
  const cell = (row: string, column: string): string => {
    const found = comparisons.find(({ a, b }) => (a === row && b === column) || (a === column && b === row));
    if (found === undefined) return "<td></td>";
    const points = 100 * (found.a === row ? found.difference : -found.difference);
    const p = found.pAdjusted < 0.001 ? "p &lt; 0.001" : `p = ${found.pAdjusted.toFixed(3)}`;
    const known = found.pAdjusted < 0.05 ? ' class="known"' : "";
    return `<td${known}>${points > 0 ? "+" : ""}${points.toFixed(1)}<small>${p}</small></td>`;
  };
  const head = `<tr><th></th>${names.map((name) => `<th scope="col">${escapeHtml(name)}</th>`).join("")}</tr>`;
  const rows = names.map((row) => `<tr><th scope="row">${escapeHtml(row)}</th>${names.map((column) => cell(row, column)).join("")}</tr>`);
  const note =
    "Row minus column in points. p: McNemar's test on the same items, corrected by Holm over all pairs; bold below 0.05. Items of one document share a " +
    "message, so that intervals and p are a little narrow where the design effect in the JSON is above 1.";
  return `<div class="scroll"><table class="pairs"><thead>${head}</thead><tbody>\n${rows.join("\n")}\n</tbody></table></div><p class="about">${note}</p>`;
}

/** Arms that said the same stand together. */
function example({ id, facts, question, answers }: EvalExample): string {
  const byAnswer = new Map<string, { right: boolean; arms: string[] }>();
  for (const { arm, answer, right } of answers) {
    const found = byAnswer.get(answer);
    if (found === undefined) byAnswer.set(answer, { right, arms: [arm] });
    else found.arms.push(arm);
  }
  const said = [...byAnswer].map(([answer, { right, arms }]) => {
    const kind = right ? "supported" : "contradicted";
    const mark = `<span class="${kind}">${right ? "right" : "wrong"}</span>`;
    return `<tr><td>${mark}</td><td>${escapeHtml(answer)}</td><td>${escapeHtml(arms.join(", "))}</td></tr>`;
  });
  const given = facts === question ? "" : `<blockquote>${escapeHtml(facts)}</blockquote>`;
  return (
    `<div class="example">${given}<p><strong>${escapeHtml(question)}</strong> <span class="about">(item ${escapeHtml(id)})</span></p>` +
    `<div class="scroll"><table><tbody>${said.join("")}</tbody></table></div></div>`
  );
}
