/**
 * For tests of programs that hand over keys and values: what can go wrong on the way, on purpose and repeatable.
 * @packageDocumentation
 */
export { faultyStream, type Fault, type FaultyStream, type FaultyStreamOptions } from "./faulty-stream.js";
