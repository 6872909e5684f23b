// Texts that commands read: one a line, or a JSON array of strings where they have lines of their own.
import { readFile } from "node:fs/promises";
import { invalid } from "../check.js";
import { LatentError } from "../errors.js";

export async function readTexts(file: string): Promise<readonly string[]> {
  let texts: unknown;
  try {
    const content = await readFile(file, "utf8");
    texts = file.endsWith(".json") ? JSON.parse(content) : content.split(/\r?\n/);
  } catch (cause) {
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `cannot read the texts ${file}: ${String(cause)}`, { cause });
  }
  if (!Array.isArray(texts) || !texts.every((text) => typeof text === "string")) throw invalid(file, "an array of strings", texts);
  return texts;
}
