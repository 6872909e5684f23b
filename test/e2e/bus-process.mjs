// The other end of a bus in a process of its own, which the test kills. Arguments: the package's folder, the address, what to do, and its options in JSON.
// Says what it does in lines of JSON.
import { writeSync } from "node:fs";
import { setInterval } from "node:timers";

const [built, address, what, json] = process.argv.slice(2);
const options = JSON.parse(json);
const { connect } = await import(`${built}/bus/connect.js`);
const { bundledModel, loadModel } = await import(`${built}/index.js`);
const say = (value) => writeSync(1, `${JSON.stringify(value)}\n`);
const bus = await connect(address, options.connect ?? {});

const tasks = {
  /** Reads until "last"; up to four messages are under way at once. */
  async read({ box }) {
    const taken = [];
    for await (const message of await bus.inbox(box, { window: 4, maxTries: 100 })) {
      const { text, tries, sequence } = message;
      say({ what: "take", text, tries, sequence });
      taken.push(message);
      if (taken.length < 4 && text !== "last") continue;
      await Promise.all(
        taken.splice(0).map(async (one) => {
          await one.ack();
          say({ what: "done", text: one.text });
        }),
      );
      if (text === "last") break;
    }
  },

  /** An agent, until the process is killed. */
  async serve({ name, steps }) {
    const model = await loadModel(bundledModel());
    const served = await bus.serve([model.agent({ name, think: { policy: "hidden", steps }, generate: { maxTokens: 8 } })], {
      concurrency: 1,
    });
    say({ what: "serving" });
    let running = 0;
    const watch = () => {
      const now = served.counts.running;
      if (now > running) say({ what: "running" });
      running = now;
    };
    setInterval(watch, 1);
    await new Promise(() => undefined);
  },

  /** Sends messages that are of use for a while, signed or not, and says whether they were acknowledged. */
  async send({ box, count, validForMs }) {
    for (let i = 0; i < count; i++) {
      const sent = await bus.send(box, `m${i}`, validForMs === undefined ? {} : { validForMs });
      say({
        what: "sent",
        end: await sent.acknowledged().then(
          () => "acknowledged",
          (error) => error.details?.code ?? error.code,
        ),
      });
    }
  },

  /** Sends content to a receiver that is slow, and says how much memory that takes. */
  async flood({ box, count, bytes }) {
    const { Latent, Tensor } = await import(`${built}/index.js`);
    const model = await loadModel(bundledModel());
    const d = model.info.embeddingLength;
    const rows = Math.ceil(bytes / 4 / d);
    globalThis.gc();
    const before = process.memoryUsage().rss;
    let [kept, rss] = [0, 0];
    const measure = () => {
      kept = Math.max(kept, bus.keptBytes);
      rss = Math.max(rss, process.memoryUsage().rss - before);
    };
    const timer = setInterval(measure, 5);
    const sending = new Set();
    for (let i = 0; i < count; i++) {
      const latent = new Latent(model.space, "embeds", Tensor.fromTyped("f32", [rows, d], new Float32Array(rows * d).fill(i)));
      const one = bus.send(box, latent).then(() => latent.dispose());
      sending.add(one);
      void one.finally(() => sending.delete(one));
      if (sending.size >= 4) await Promise.race(sending);
    }
    await Promise.all(sending);
    clearInterval(timer);
    measure();
    say({ what: "flooded", kept, rss });
  },

  /** Everybody sends to everybody's inbox: nothing is lost, nothing comes twice, all is in order; and what memory it takes, half by half. */
  async soak({ count, inboxes }) {
    const readers = await Promise.all(
      Array.from({ length: inboxes }, async (_, i) => {
        const own = await connect(address, options.connect ?? {});
        return { own, inbox: await own.inbox(`soak-${i}`, { window: 64 }) };
      }),
    );
    const heaps = [];
    let [received, wrong] = [0, 0];
    const measure = () => {
      globalThis.gc();
      heaps.push(process.memoryUsage().heapUsed);
    };
    const reading = readers.map(async ({ inbox }) => {
      let next = 0;
      for await (const message of inbox) {
        if (message.text !== String(next)) wrong++;
        next++;
        received++;
        await message.ack();
        if (next === count) break;
      }
    });
    const measureEach = Math.max(1, Math.floor(count / 20));
    const sending = readers.map(async ({ own }, i) => {
      const to = `soak-${(i + 1) % inboxes}`;
      const going = new Set();
      for (let n = 0; n < count; n++) {
        const one = own.send(to, String(n));
        going.add(one);
        void one.finally(() => going.delete(one)).catch(() => undefined);
        if (going.size >= 32) await Promise.race(going);
        if (i === 0 && n % measureEach === 0) measure();
      }
      await Promise.all(going);
    });
    await Promise.all([...sending, ...reading]);
    say({ what: "soaked", received, wrong, heaps });
    await Promise.all(readers.map(({ own }) => own.close()));
  },
};

await tasks[what](options);
await bus.close();
