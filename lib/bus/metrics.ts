// Counts in the text format of Prometheus.

/** One metric with one value, or several that labels tell apart. */
export function metric(
  name: string,
  type: "counter" | "gauge",
  help: string,
  values: number | readonly { readonly labels: Readonly<Record<string, string>>; readonly value: number }[],
): string {
  const full = `latentwire_${name}`;
  const lines =
    typeof values === "number"
      ? [`${full} ${values}`]
      : values.map(({ labels, value }) => {
          const shown = Object.entries(labels).map(([label, text]) => `${label}="${text.replace(/[\\"]/g, "\\$&").replace(/\n/g, "\\n")}"`);
          return `${full}{${shown.join(",")}} ${value}`;
        });
  return [`# HELP ${full} ${help}`, `# TYPE ${full} ${type}`, ...lines].map((line) => `${line}\n`).join("");
}
