// The peer for saved states: node-llama-cpp's public API, in a process of its own so that two copies of llama.cpp never meet. It is no dependency:
// where it is not installed it is left out. LATENTWIRE_BENCH_NODE_LLAMA_CPP may name the file to import instead.
import { fork } from "node:child_process";
import process from "node:process";
import { fileURLToPath, pathToFileURL } from "node:url";

const self = fileURLToPath(import.meta.url);

/** `undefined` where the package is not installed; otherwise `prepare(tokens)`, `handOff()` in milliseconds and `stop()`. */
export async function startNodeLlamaCpp(modelPath, contextLength, threads, stateFile) {
  const child = fork(self, [], { stdio: ["ignore", 2, 2, "ipc"] });
  const ended = new Promise((resolve) => child.once("exit", resolve));
  const ask = (question) =>
    new Promise((resolve, reject) => {
      const gone = () => reject(new Error("the node-llama-cpp process ended"));
      child.once("exit", gone);
      child.once("message", (answer) => {
        child.off("exit", gone);
        if (answer.error === undefined) resolve(answer.value);
        else reject(new Error(`node-llama-cpp: ${answer.error}`));
      });
      child.send(question);
    });
  const stop = async () => {
    child.disconnect();
    await ended;
  };
  if (!(await ask({ what: "open", modelPath, contextLength, threads, stateFile }))) {
    await stop();
    return undefined;
  }
  return { prepare: (tokens) => ask({ what: "prepare", tokens: Array.from(tokens) }), handOff: () => ask({ what: "handOff" }), stop };
}

async function importPackage() {
  const given = process.env.LATENTWIRE_BENCH_NODE_LLAMA_CPP;
  if (given !== undefined && given !== "") return import(pathToFileURL(given).href);
  try {
    return await import("node-llama-cpp");
  } catch (error) {
    if (error?.code === "ERR_MODULE_NOT_FOUND") return undefined;
    throw error;
  }
}

function serve() {
  let context;
  let sender;
  let file;
  const answers = {
    async open({ modelPath, contextLength, threads, stateFile }) {
      const api = await importPackage();
      if (api === undefined) return false;
      const llama = await api.getLlama({ gpu: false, build: "never", logLevel: "error" });
      const model = await llama.loadModel({ modelPath });
      context = await model.createContext({ contextSize: contextLength, sequences: 2, threads, batchSize: 512 });
      file = stateFile;
      return true;
    },
    async prepare({ tokens }) {
      await sender?.dispose();
      sender = context.getSequence();
      await sender.evaluateWithoutGeneratingNewTokens(tokens);
    },
    async handOff() {
      const receiver = context.getSequence();
      const start = performance.now();
      await sender.saveStateToFile(file);
      await receiver.loadStateFromFile(file, { acceptRisk: true });
      const elapsed = performance.now() - start;
      await receiver.dispose();
      return elapsed;
    },
  };
  process.on("message", (question) => {
    answers[question.what](question).then(
      (value) => process.send({ value }),
      (error) => process.send({ error: String(error?.message ?? error) }),
    );
  });
  process.on("disconnect", () => process.exit(0));
}

if (process.argv[1] === self && process.send !== undefined) serve();
