// The style of report pages: light and dark by the reader's setting, light on paper, nothing from the network.

export const pageStyle = `
:root { color-scheme: light dark; --ground: #ffffff; --raised: #f4f6f8; --ink: #1b2430; --soft: #5a6675; --line: #d8dee5; --real: #0b62b0;
  --placebo: #8a94a0; --part0: #0b62b0; --part1: #d98a00; --part2: #1f9d75; --good: #17734f; --bad: #b3261e; --open: #8a5a00; }
@media (prefers-color-scheme: dark) { :root { --ground: #12171d; --raised: #1b222b; --ink: #e6ebf1; --soft: #9aa7b5; --line: #2f3945; --real: #6db3f2;
  --placebo: #7c8896; --part0: #5aa4e8; --part1: #f0ad3d; --part2: #4cc79b; --good: #5fd3a5; --bad: #ff8a80; --open: #f0ad3d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 4px; } h2 { font-size: 1.15rem; margin: 36px 0 8px; }
section + section { margin-top: 64px; padding-top: 32px; border-top: 2px solid var(--line); }
p { margin: 8px 0; max-width: 78ch; } .about { color: var(--soft); font-size: 0.9rem; }
.verdict { background: var(--raised); border-left: 4px solid var(--real); padding: 14px 18px; margin: 18px 0; font-size: 1.05rem; max-width: none; border-radius: 0 6px 6px 0; }
figure { margin: 12px 0 0; } figcaption { color: var(--soft); font-size: 0.85rem; margin-top: 4px; }
svg { display: block; width: 100%; height: auto; max-width: 820px; }
svg text { fill: var(--ink); font-size: 13px; } svg text.axis { fill: var(--soft); font-size: 11px; } svg text.number, td.number { font-variant-numeric: tabular-nums; }
.grid { stroke: var(--line); stroke-width: 1; } .chance { stroke: var(--open); stroke-width: 1.5; stroke-dasharray: 4 3; }
.interval { stroke-width: 3; stroke-linecap: round; } .interval.real { stroke: var(--real); opacity: 0.45; } .interval.placebo { stroke: var(--placebo); opacity: 0.5; }
.dot.real { fill: var(--real); } .dot.placebo { fill: var(--ground); stroke: var(--placebo); stroke-width: 2; }
.part0 { fill: var(--part0); } .part1 { fill: var(--part1); } .part2 { fill: var(--part2); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; margin: 8px 0; min-width: 60%; }
th, td { padding: 5px 10px; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; color: var(--soft); white-space: nowrap; } td.number, th.number { text-align: right; white-space: nowrap; }
tr.placebo td { color: var(--soft); } td:first-child { white-space: nowrap; }
table.claims td:first-child { white-space: normal; min-width: 15em; } table.claims td:last-child { min-width: 18em; }
.supported { color: var(--good); } .contradicted { color: var(--bad); } .open { color: var(--open); }
.supported, .contradicted, .open { font-weight: 600; white-space: nowrap; }
.pairs td { text-align: center; white-space: nowrap; } .pairs td small { display: block; color: var(--soft); } .pairs .known { font-weight: 600; }
.example { margin: 20px 0; } .example td:nth-child(2) { min-width: 10em; overflow-wrap: anywhere; }
blockquote { margin: 6px 0; padding-left: 12px; border-left: 3px solid var(--line); color: var(--soft); white-space: pre-wrap; }
@media print {
  :root { color-scheme: light; --ground: #ffffff; --raised: #f4f6f8; --ink: #000000; --soft: #444c56; --line: #c5ccd3; --real: #0b62b0;
    --placebo: #6f7984; --part0: #0b62b0; --part1: #d98a00; --part2: #1f9d75; --good: #17734f; --bad: #b3261e; --open: #8a5a00; }
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; } main { max-width: none; padding: 0; }
  table { font-size: 8pt; } th, td { padding: 3px 6px; } th { white-space: normal; } .scroll { overflow: visible; }
  figure, tr, .verdict, .example { break-inside: avoid; } h2 { break-after: avoid; } section + section { break-before: page; border: 0; padding: 0; margin: 0; }
}
`;

/** A whole document. The policy forbids what the page must not do: scripts, and anything from elsewhere. */
export function page(title: string, body: string): string {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>${pageStyle}</style>
</head>
<body>
<main>
${body}
</main>
</body>
</html>
`;
}
