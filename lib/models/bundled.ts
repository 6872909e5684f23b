// The tiny models that ship with the package; their digests are in models/manifest.json.
import { readFileSync } from "node:fs";
import path from "node:path";
import { LatentError } from "../errors.js";
import { packageRoot } from "../native.js";

interface BundledModel {
  readonly name: string;
  readonly file: string;
  readonly sha256: string;
}

function manifest(): readonly BundledModel[] {
  return JSON.parse(readFileSync(path.join(packageRoot, "models", "manifest.json"), "utf8")) as BundledModel[];
}

/**
 * Path of a bundled model.
 * @param name `finch` (default) or `wren`
 * @throws {@link LatentError} `ERR_LATENT_MODEL_NOT_FOUND`
 */
export function bundledModel(name = "finch"): string {
  const models = manifest();
  const found = models.find((model) => model.name === name);
  if (found === undefined) {
    throw new LatentError("ERR_LATENT_MODEL_NOT_FOUND", `no bundled model '${name}'; there are ${models.map((model) => model.name).join(" and ")}`);
  }
  return path.join(packageRoot, "models", found.file);
}

/** The digest that a bundled file must have; undefined for any other file. */
export function bundledDigest(file: string): string | undefined {
  const folder = path.join(packageRoot, "models");
  if (path.dirname(path.resolve(file)) !== folder) return undefined;
  return manifest().find((model) => model.file === path.basename(file))?.sha256;
}
