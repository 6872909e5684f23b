// Where the commands print: one JSON value or plain text on stdout, progress on stderr.
import { styleText } from "node:util";

export interface GlobalOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly color: boolean;
}

export class Output {
  readonly #options: GlobalOptions;

  constructor(options: GlobalOptions) {
    this.#options = options;
  }

  get json(): boolean {
    return this.#options.json;
  }

  /** The result of a command: the JSON value, or the text that `plain` makes. */
  result(value: unknown, plain: () => string): void {
    process.stdout.write(this.json ? `${JSON.stringify(value)}\n` : `${plain()}\n`);
  }

  /** A part of a text that is not complete, for people who read along; the result says it again to programs. */
  part(text: string): void {
    if (!this.json) process.stdout.write(text);
  }

  progress(line: string): void {
    if (!this.#options.quiet) process.stderr.write(`${line}\n`);
  }

  /** What others have written, on one line, without what a terminal would obey. */
  safe(text: string): string {
    return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, " ");
  }

  strong(text: string): string {
    const plain = !this.#options.color || process.env["NO_COLOR"] !== undefined || !process.stdout.isTTY;
    return plain ? text : styleText("bold", text);
  }

  /** Columns padded to their widest cell; numbers to the right. */
  table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
    const cells = rows.map((row) => row.map(String));
    const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => (row[i] ?? "").length)));
    const line = (row: readonly string[], right: readonly boolean[]): string =>
      row
        .map((cell, i) => (right[i] === true ? cell.padStart(widths[i] ?? 0) : cell.padEnd(widths[i] ?? 0)))
        .join("  ")
        .trimEnd();
    const numeric = head.map((_, i) => rows.every((row) => typeof row[i] === "number"));
    return [this.strong(line(head, numeric)), ...cells.map((row) => line(row, numeric))].join("\n");
  }
}
