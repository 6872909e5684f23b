// A hub in a process of its own, which the test kills. Arguments: the package's folder, the address.
import { writeSync } from "node:fs";

const [built, address] = process.argv.slice(2);
const { listen } = await import(`${built}/bus/hub.js`);
await listen(address);
writeSync(1, '{"what":"listening"}\n');
