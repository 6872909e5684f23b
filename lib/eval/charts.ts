// Charts as SVG text: shares with their intervals, and bars of parts. Colours are classes, so that the page decides them; every number that a chart
// shows stands in a table as well.

const width = 720;
const labelWidth = 150;
const valueWidth = 110;
const rowHeight = 26;
const plot = { from: labelWidth, to: width - valueWidth };

/** Text for HTML and SVG. */
export function escapeHtml(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&#39;");
}

const short = (x: number): string => String(Number(x.toFixed(2)));

function figure(title: string, description: string, height: number, body: readonly string[]): string {
  return (
    `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escapeHtml(`${title}: ${description}`)}">` +
    `<title>${escapeHtml(title)}</title>${body.join("")}</svg>`
  );
}

function text(x: number, y: number, content: string, more = ""): string {
  return `<text x="${short(x)}" y="${short(y)}"${more}>${escapeHtml(content)}</text>`;
}

function line(x1: number, y1: number, x2: number, y2: number, kind: string): string {
  return `<line x1="${short(x1)}" y1="${short(y1)}" x2="${short(x2)}" y2="${short(y2)}" class="${kind}"/>`;
}

export interface ShareRow {
  readonly label: string;
  readonly share: number;
  readonly low: number;
  readonly high: number;
  /** Drawn hollow. */
  readonly placebo: boolean;
}

/** Shares from 0 to 100 % with their intervals; `chance` is a line across. */
export function shareChart(title: string, rows: readonly ShareRow[], chance: number | null): string {
  const top = 22;
  const bottom = top + rows.length * rowHeight;
  const at = (share: number): number => plot.from + share * (plot.to - plot.from);
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    line(at(share), top, at(share), bottom, "grid"),
    text(at(share), bottom + 16, `${100 * share} %`, ' text-anchor="middle" class="axis"'),
  ]);
  const guess =
    chance === null
      ? []
      : [
          line(at(chance), top - 4, at(chance), bottom, "chance"),
          text(at(chance), top - 9, "chance", ' text-anchor="middle" class="axis"'),
        ];
  const marks = rows.flatMap(({ label, share, low, high, placebo }, i) => {
    const y = top + (i + 0.5) * rowHeight;
    const kind = placebo ? "placebo" : "real";
    return [
      text(plot.from - 12, y + 4, label, ' text-anchor="end"'),
      line(at(low), y, at(high), y, `interval ${kind}`),
      `<circle cx="${short(at(share))}" cy="${short(y)}" r="5" class="dot ${kind}"/>`,
      text(plot.to + 12, y + 4, `${(100 * share).toFixed(1)} %`, ' class="number"'),
    ];
  });
  const description = rows.map(({ label, share }) => `${label} ${(100 * share).toFixed(1)} %`).join(", ");
  return figure(title, description, bottom + 24, [...grid, ...guess, ...marks]);
}

export interface BarRow {
  readonly label: string;
  /** One for each of the parts' names. */
  readonly parts: readonly number[];
}

/** Bars of parts that add up; `show` writes a number. */
export function barChart(title: string, names: readonly string[], rows: readonly BarRow[], show: (value: number) => string): string {
  const top = 30;
  const bottom = top + rows.length * rowHeight;
  const sum = (parts: readonly number[]): number => parts.reduce((total, part) => total + part, 0);
  const most = Math.max(...rows.map(({ parts }) => sum(parts)), Number.MIN_VALUE);
  const scale = (plot.to - plot.from) / most;
  let x = plot.from;
  const legend = names.flatMap((name, i) => {
    const made = [`<rect x="${short(x)}" y="6" width="12" height="12" rx="2" class="part${i}"/>`, text(x + 18, 16, name, ' class="axis"')];
    x += 42 + 7 * name.length;
    return made;
  });
  const bars = rows.flatMap(({ label, parts }, i) => {
    const y = top + i * rowHeight;
    let from = plot.from;
    const rectangles = parts.map((part, j) => {
      const made = `<rect x="${short(from)}" y="${short(y + 4)}" width="${short(part * scale)}" height="${rowHeight - 9}" class="part${j}"/>`;
      from += part * scale;
      return part > 0 ? made : "";
    });
    return [
      text(plot.from - 12, y + 17, label, ' text-anchor="end"'),
      ...rectangles,
      text(from + 8, y + 17, show(sum(parts)), ' class="number"'),
    ];
  });
  const axis = line(plot.from, top, plot.from, bottom, "grid");
  const description = rows.map(({ label, parts }) => `${label} ${show(sum(parts))}`).join(", ");
  return figure(title, description, bottom + 6, [...legend, axis, ...bars]);
}
