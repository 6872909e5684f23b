// Where a bus is: by its address.
import { checkKeys } from "../check.js";
import { Bus, requireUrl } from "./bus.js";
import { busSettings, checkBusSettings, type BusSettings } from "./options.js";
import { MemoryCore } from "./memory-broker.js";
import { invalid } from "../check.js";

/** Options of {@link connect}. */
export interface ConnectOptions extends BusSettings {
  readonly signal?: AbortSignal;
}

const memories = new Map<string, MemoryCore>();

/**
 * Connects to a bus.
 * - `memory:name`: this thread of this process; handles are passed, nothing is copied.
 */
export async function connect(url: string, options: ConnectOptions = {}): Promise<Bus> {
  checkKeys("options", options, [...busSettings, "signal"]);
  const settings = checkBusSettings(options);
  const { protocol, pathname } = requireUrl(url);
  if (protocol !== "memory:") throw invalid("url", "memory:", url);
  let core = memories.get(pathname);
  if (core === undefined) memories.set(pathname, (core = new MemoryCore()));
  return await Bus.start(core.connect(url), settings);
}
