// Loading: which chat template is used, where the begin token stands, what an abort and a bad path end with, and that an altered bundled model is
// refused.
import { copyFileSync, cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import path from "node:path";
import { describe, expect, it } from "vitest";
import { bundledModel, loadModel, pipe, type Model } from "../../lib/index.js";
import { tinyModel as parts, writeGguf } from "../fixtures/gguf.js";
import { codeOf, folder, tinyModel } from "./helpers.js";

let made = 0;

/** A tiny model with another chat template, or none, and perhaps with a begin token. */
async function withTemplate(source: string | undefined, options: { bos?: number; load?: "model" | "plain" } = {}): Promise<Model> {
  const { metadata, tensors } = parts();
  metadata.delete("tokenizer.chat_template");
  if (source !== undefined) metadata.set("tokenizer.chat_template", { type: "string", value: source });
  if (options.bos !== undefined) {
    metadata.set("tokenizer.ggml.bos_token_id", { type: "u32", value: options.bos });
    metadata.set("tokenizer.ggml.add_bos_token", { type: "bool", value: true });
  }
  const file = path.join(folder, `template-${made++}.gguf`);
  writeGguf(file, { metadata, tensors });
  return loadModel(file, options.load === undefined ? {} : { template: options.load });
}

const hello = [{ role: "user", content: "hello" }] as const;

describe("chat templates", () => {
  it("a model without one gets plain lines, and says so; asking for its own is refused", async () => {
    await using model = await withTemplate(undefined);
    expect(model.info.template).toBe("plain");
    expect(model.renderChat(hello)).toBe("user: hello\nassistant:");
    expect(model.renderChat(hello, { addGenerationPrompt: false })).toBe("user: hello\n");
    expect(await codeOf(() => withTemplate(undefined, { load: "model" }))).toBe("ERR_LATENT_TEMPLATE");
  });

  it("one that does not parse is refused with a code, and the plain form is the way out", async () => {
    const broken = "{% for message in messages %}{{ message.content ";
    expect(await codeOf(() => withTemplate(broken))).toBe("ERR_LATENT_TEMPLATE");
    await using model = await withTemplate(broken, { load: "plain" });
    expect(model.info.template).toBe("plain");
    expect(model.renderChat(hello)).toBe("user: hello\nassistant:");
  });

  it("one that refuses the messages ends with a code before anything is fed", async () => {
    await using model = await withTemplate("{{ raise_exception('only tools here') }}");
    await using pool = await model.createPool({ contextLength: 256 });
    const sequence = pool.sequence();
    expect(await codeOf(() => sequence.prefill(hello))).toBe("ERR_LATENT_TEMPLATE");
    expect(await codeOf(() => pipe(model.agent({ name: "a" })).run("x"))).toBe("ERR_LATENT_TEMPLATE");
    expect(sequence.length).toBe(0);
  });
});

describe("the begin token", () => {
  const bos = 260;
  const count = (log: Int32Array): number => log.filter((token) => token === bos).length;

  it("is added at position 0 only, and not to tokens", async () => {
    await using model = await withTemplate("{% for m in messages %}{{ m.content }}{% endfor %}", { bos });
    await using pool = await model.createPool({ contextLength: 256 });
    const sequence = pool.sequence();
    await sequence.prefill(hello);
    await sequence.prefill(hello);
    await sequence.prefill("more");
    expect(sequence.log()[0]).toBe(bos);
    expect(count(sequence.log())).toBe(1);
    const raw = pool.sequence();
    await raw.prefill([70, 71]);
    expect([...raw.log()]).toEqual([70, 71]);
  });

  it("of a template that writes it in every prompt does not come between two agents", async () => {
    await using model = await withTemplate("{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}", { bos });
    await using pool = await model.createPool({ contextLength: 256 });
    const sequence = pool.sequence();
    await sequence.prefill(hello);
    await sequence.think({ steps: 2 });
    await sequence.prefill(hello);
    const words = [...model.tokenize("hello")];
    expect([...sequence.log()]).toEqual([bos, ...words, -1, -1, ...words]);
    // behind received rows there is none yet, so the template's stays
    const rows = pool.sequence();
    await rows.prefill(model.inputRows(words));
    await rows.prefill(hello);
    expect([...rows.log()]).toEqual([...words.map(() => -1), bos, ...words]);
  });
});

it("piece spells one token, special ones too", async () => {
  await using model = await loadModel(bundledModel());
  const [first = -1, ...rest] = model.tokenize("<|user|> mia");
  expect(model.piece(first)).toBe("<|user|>");
  expect(rest.map((token) => model.piece(token)).join("")).toBe(" mia");
});

it("an abort while the file is read or loaded ends with the signal's reason", async () => {
  for (const wait of [-1, 0, 1, 3]) {
    const abort = new AbortController();
    const reason = new Error("the user left");
    if (wait < 0) abort.abort(reason);
    else
      setTimeout(() => {
        abort.abort(reason);
      }, wait);
    const file = path.join(folder, `abort-${made++}.gguf`);
    copyFileSync(bundledModel(), file);
    const outcome = await loadModel(file, { signal: abort.signal }).then(
      async (model) => {
        await model.dispose();
        return undefined;
      },
      (error: unknown) => error,
    );
    // it may have been too late
    expect([undefined, reason]).toContain(outcome);
  }
});

it("an error in a progress listener is the error of the load", async () => {
  await expect(
    loadModel(bundledModel(), {
      onProgress() {
        throw new Error("from the listener");
      },
    }),
  ).rejects.toThrow("from the listener");
});

it("a folder is no model", async () => {
  expect(await codeOf(() => loadModel(folder))).toBe("ERR_LATENT_MODEL_NOT_FOUND");
});

it("an altered bundled model is refused by its digest", () => {
  // a copy of the package whose bundled file has one other byte
  const root = path.join(folder, "altered");
  mkdirSync(root);
  for (const name of ["dist", "models"]) cpSync(path.resolve(name), path.join(root, name), { recursive: true });
  copyFileSync("package.json", path.join(root, "package.json"));
  symlinkSync(path.resolve("node_modules"), path.join(root, "node_modules"));
  const file = path.join(root, "models", path.basename(bundledModel()));
  const bytes = readFileSync(file);
  bytes[bytes.length - 1] = (bytes[bytes.length - 1] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  const script = `
    const { loadModel, bundledModel } = await import(${JSON.stringify(path.join(root, "dist", "index.js"))});
    await loadModel(bundledModel()).then(() => console.log("loaded"), (error) => console.log(error.code));`;
  const addon = process.env["LATENTWIRE_NATIVE_PATH"] ?? path.resolve("build/Release/latentwire.node");
  const { stdout } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    env: { ...process.env, LATENTWIRE_NATIVE_PATH: addon },
    encoding: "utf8",
  });
  expect(stdout.trim()).toBe("ERR_LATENT_MODEL_DIGEST");
});

it("a disposed model says so", async () => {
  const model = await tinyModel();
  await model.dispose();
  await model.dispose();
  expect(model.disposed).toBe(true);
  expect(await codeOf(() => model.tokenize("x"))).toBe("ERR_LATENT_DISPOSED");
  expect(await codeOf(() => model.createPool())).toBe("ERR_LATENT_DISPOSED");
});
