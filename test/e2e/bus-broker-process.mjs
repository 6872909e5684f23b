// The reader of a log in a process of its own, which the test kills. Arguments: the module that has the function which connects, the name of that function, its
// arguments, the log and the cursor in JSON. Says what it takes and what it has acknowledged, in lines of JSON. Dies of an entry whose head is "poison".
import { writeSync } from "node:fs";

const [module, connect, args, log, cursor] = process.argv.slice(2);
const { [connect]: connectTo } = await import(module);
const broker = await connectTo(...JSON.parse(args));
const say = (what, entry) => writeSync(1, `${JSON.stringify({ what, head: JSON.parse(entry.head), tries: entry.tries })}\n`);
const inFlight = 4;
const taken = [];

await broker.announce(log, "{}");
const reader = await broker.open(log, cursor, { windowBytes: 1 << 20, signal: new AbortController().signal });
for await (const entry of reader) {
  say("take", entry);
  if (entry.head === '"poison"') process.kill(process.pid, "SIGKILL");
  taken.push(entry);
  if (taken.length < inFlight && entry.head !== '"last"') continue;
  // all of them are under way at once
  await Promise.all(
    taken.splice(0).map(async (one) => {
      await reader.acknowledge(one.sequence);
      say("done", one);
    }),
  );
  if (entry.head === '"last"') break;
}
await broker.close();
