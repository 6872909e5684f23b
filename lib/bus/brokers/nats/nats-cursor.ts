// How far the reader of a log is, as a record that other processes can go on with: what was acknowledged, exactly, and what may have been delivered. A log has
// a stream of its own, so its sequences are 1, 2, 3, … and a few ranges say it all.
//
// A reader that is killed must find its record true: an entry that kills its readers has to be counted. So the record runs ahead of what is delivered, by a
// few entries that no reader has had before, and by none where one had them: there, one write precedes each delivery, and the tries are exact.
import { LatentError } from "../../../errors.js";

/** How many entries that nobody has had yet may be delivered without a write in between. After a kill they count as tried once, delivered or not. */
const ahead = 8;
/** How many entries may be delivered and not acknowledged, so that a record stays small. */
export const outstandingEntries = 8192;
const rangesPerRecord = 2 * outstandingEntries;

type Range = [from: number, to: number];
/** Entries that earlier readers have had, and how often. */
type Tried = readonly [from: number, to: number, tries: number];

/** What is written, as JSON. */
interface CursorRecord {
  readonly version: 1;
  /** Of the reader that has the cursor. */
  readonly reader: string;
  /** When the stream was made: a log that was forgotten and came again begins anew. */
  readonly log: string;
  readonly floor: number;
  readonly acknowledged: readonly Readonly<Range>[];
  /** Everything up to here may have been delivered by this reader. */
  readonly claimed: number;
  readonly tried: readonly Tried[];
}

export class CursorState {
  #floor: number;
  /** Above the floor, apart from each other, growing. */
  #acknowledged: Range[] = [];
  #count = 0;
  #tried: readonly Tried[] = [];
  /** The last that an earlier reader may have had. */
  #seen = 0;
  #claimed: number;
  #wanted: number;
  #delivered: number;

  constructor(
    readonly reader: string,
    readonly log: string,
    floor: number,
  ) {
    this.#floor = this.#claimed = this.#wanted = this.#delivered = floor;
  }

  /** Goes on from the record of another reader, of whom it is not known how far it really came. */
  static after(data: Uint8Array, reader: string, log: string): CursorState {
    const record = parseCursor(data);
    if (record.log !== log) return new CursorState(reader, log, 0);
    const state = new CursorState(reader, log, record.floor);
    for (const [from, to] of record.acknowledged) state.#add(from, to);
    state.#tried = state.#countTries(record);
    state.#seen = Math.max(record.claimed, state.#tried.at(-1)?.[1] ?? 0);
    return state;
  }

  get floor(): number {
    return this.#floor;
  }

  get hasRoom(): boolean {
    return this.#delivered - this.#floor - this.#count < outstandingEntries;
  }

  /** Whether the entry must not be delivered before the record is written once more. */
  mustClaim(sequence: number): boolean {
    this.#wanted = Math.max(this.#wanted, sequence);
    return sequence > this.#claimed;
  }

  /** Counts the entry as delivered. @returns how often it has been, this time included */
  deliver(sequence: number): number {
    this.#delivered = Math.max(this.#delivered, sequence);
    return 1 + (this.#tried.find(([from, to]) => from <= sequence && sequence <= to)?.[2] ?? 0);
  }

  isAcknowledged(sequence: number): boolean {
    return sequence <= this.#floor || this.#acknowledged.some(([from, to]) => from <= sequence && sequence <= to);
  }

  /** Nothing if the entry was never delivered. */
  acknowledge(sequence: number): void {
    if (sequence <= this.#delivered && !this.isAcknowledged(sequence)) this.#add(sequence, sequence);
  }

  /** These entries do not exist any more. */
  skip(from: number, to: number): void {
    let next = Math.max(from, this.#floor + 1);
    while (next <= to) {
      const range = this.#acknowledged.find(([, end]) => end >= next);
      const end = Math.min(to, range === undefined ? to : range[0] - 1);
      // the range may end far beyond, and may be merged with what is added
      const beyond = range === undefined ? to : range[1];
      if (end >= next) this.#add(next, end);
      next = beyond + 1;
    }
    this.#delivered = Math.max(this.#delivered, to);
  }

  /** What to write. `exact`: nothing more will be delivered. @returns with what to call once it is written */
  write(exact: boolean): { readonly data: string; readonly written: () => void } {
    const wanted = exact ? this.#delivered : Math.max(this.#wanted, this.#delivered);
    const claimed = exact || wanted < this.#seen ? wanted : wanted + ahead;
    const record: CursorRecord = {
      version: 1,
      reader: this.reader,
      log: this.log,
      floor: this.#floor,
      acknowledged: this.#acknowledged,
      claimed,
      tried: this.#tried.filter(([, to]) => to > this.#floor),
    };
    return {
      data: JSON.stringify(record),
      written: () => {
        this.#claimed = claimed;
      },
    };
  }

  // Whatever was claimed and not acknowledged has been tried once more than before.
  #countTries({ claimed, tried }: CursorRecord): readonly Tried[] {
    const counted: Tried[] = [];
    const put = (from: number, to: number, tries: number): void => {
      const last = counted.at(-1);
      if (last?.[2] === tries && last[1] === from - 1) counted[counted.length - 1] = [last[0], to, tries];
      else counted.push([from, to, tries]);
    };
    const cuts = new Set([this.#floor + 1, claimed + 1]);
    for (const [from, to] of [...this.#acknowledged, ...tried]) cuts.add(from).add(to + 1);
    const starts = [...cuts].filter((cut) => cut > this.#floor).sort((a, b) => a - b);
    for (const [i, from] of starts.entries()) {
      const next = starts[i + 1];
      if (next === undefined || this.isAcknowledged(from)) continue;
      const before = tried.find(([low, high]) => low <= from && from <= high)?.[2] ?? 0;
      const tries = before + (from <= claimed ? 1 : 0);
      if (tries > 0) put(from, next - 1, tries);
    }
    return counted;
  }

  // None of them is acknowledged yet.
  #add(from: number, to: number): void {
    let at = this.#acknowledged.findIndex(([start]) => start > to);
    if (at < 0) at = this.#acknowledged.length;
    const [before, after] = [this.#acknowledged[at - 1], this.#acknowledged[at]];
    this.#count += to - from + 1;
    if (before?.[1] === from - 1) {
      before[1] = after?.[0] === to + 1 ? after[1] : to;
      if (after?.[0] === to + 1) this.#acknowledged.splice(at, 1);
    } else if (after?.[0] === to + 1) {
      after[0] = from;
    } else {
      this.#acknowledged.splice(at, 0, [from, to]);
    }
    const first = this.#acknowledged[0];
    if (first?.[0] !== this.#floor + 1) return;
    this.#acknowledged.shift();
    this.#count -= first[1] - first[0] + 1;
    this.#floor = first[1];
  }
}

/** @throws LatentError `ERR_LATENT_BUS_ENVELOPE` if it is no record of a cursor */
export function parseCursor(data: Uint8Array): CursorRecord {
  let record: unknown;
  try {
    record = JSON.parse(Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString());
  } catch {
    record = undefined;
  }
  if (!isRecord(record)) throw new LatentError("ERR_LATENT_BUS_ENVELOPE", "the record of a cursor is not one of this version");
  return record;
}

function isRecord(value: unknown): value is CursorRecord {
  if (typeof value !== "object" || value === null) return false;
  const { version, reader, log, floor, acknowledged, claimed, tried } = value as Readonly<Record<keyof CursorRecord, unknown>>;
  if (version !== 1 || typeof reader !== "string" || typeof log !== "string" || !isCount(floor) || !isCount(claimed)) return false;
  return areRanges(acknowledged, 2, floor + 1) && areRanges(tried, 3, 0);
}

/** Whether they grow from above `floor` on and do not touch what comes before. */
function areRanges(value: unknown, length: number, floor: number): boolean {
  if (!Array.isArray(value) || value.length > rangesPerRecord) return false;
  let last = floor;
  return value.every((range: unknown) => {
    if (!Array.isArray(range) || range.length !== length || !range.every(isCount)) return false;
    const [from = 0, to = 0] = range;
    const grows = from > last && to >= from;
    last = length === 2 ? to + 1 : to;
    return grows;
  });
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
