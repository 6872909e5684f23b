// One message from an inbox or a topic: what it says, its content, and what the reader does with it.
import { randomUUID } from "node:crypto";
import { checkKeys } from "../check.js";
import { LatentError } from "../errors.js";
import type { Envelope } from "./envelope.js";
import type { Parcel } from "./parcel.js";

/** @internal What a message asks of the inbox that it came from. */
export interface MessageHome {
  acknowledge(message: Message): Promise<void>;
  refuse(message: Message, why: string): Promise<void>;
}

/** Why a message lies among the dead letters. */
export interface DeadLetter {
  /** The inbox or topic that it was for. */
  readonly inbox: string;
  readonly code: string;
  readonly reason: string;
  /** How often it was delivered. */
  readonly tries: number;
}

/** Made by {@link Inbox}. */
export class Message {
  /** What came, or the text that stands for it. Goes when the message is acknowledged. */
  readonly content: Parcel;
  /** @internal A request may have several, or none but its text. */
  readonly contents: readonly Parcel[];
  /** How often it was delivered, this time included. More than 1: what was done with it before may have happened. */
  readonly tries: number;
  /** Present in the inbox of dead letters. */
  readonly dead: DeadLetter | undefined;
  readonly #envelope: Envelope;
  readonly #home: MessageHome;
  #settled = false;

  /** @internal */
  constructor(
    envelope: Envelope,
    contents: readonly [Parcel, ...Parcel[]],
    tries: number,
    dead: DeadLetter | undefined,
    home: MessageHome,
  ) {
    this.#envelope = envelope;
    this.contents = contents;
    this.content = contents[0];
    this.tries = tries;
    this.dead = dead;
    this.#home = home;
  }

  /** The same each time that the message is delivered. */
  get id(): string {
    return this.#envelope.id;
  }

  /** Name of the bus that sent it: believe it as far as {@link BusSettings.trust} goes. */
  get from(): string {
    return this.#envelope.from;
  }

  get conversation(): string {
    return this.#envelope.conversation;
  }

  /** Of the messages from this sender to this receiver in this conversation, from 1. */
  get sequence(): number {
    return this.#envelope.sequence;
  }

  /** By the sender's clock. */
  get sentAt(): Date {
    return new Date(this.#envelope.sentAt);
  }

  /** Text, or what stands for content of another form; undefined if none came. */
  get text(): string | undefined {
    return this.#envelope.text;
  }

  /** W3C trace context, if the sender gave one. */
  get traceparent(): string | undefined {
    return this.#envelope.traceparent;
  }

  /** @internal */
  get envelope(): Envelope {
    return this.#envelope;
  }

  /** Whether it was acknowledged or refused. */
  get settled(): boolean {
    return this.#settled;
  }

  /**
   * The reader has done with it: it does not come again, and its content goes. Resolves when the bus knows. Idempotent.
   * @throws {@link LatentError} `ERR_LATENT_BUS_SUPERSEDED`, `ERR_LATENT_BUS_DISCONNECTED`: it will come again
   */
  async ack(): Promise<void> {
    if (this.#settled) return;
    this.#settled = true;
    for (const content of this.contents) content.dispose();
    await this.#home.acknowledge(this);
  }

  /**
   * The reader could not use it: it comes again, before any other, and after {@link InboxOptions.maxTries} it goes to the dead letters.
   * @throws {@link LatentError} `ERR_LATENT_INVALID_ARGUMENT` (it was acknowledged)
   */
  async nack(options: { readonly reason?: string } = {}): Promise<void> {
    checkKeys("options", options, ["reason"]);
    if (this.#settled) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "the message has been acknowledged or refused");
    this.#settled = true;
    await this.#home.refuse(this, options.reason ?? "the reader refused it");
  }

  /** What to log: who, to whom, what; no content. */
  toJSON(): object {
    const { id, from, to, conversation, sequence } = this.#envelope;
    return { id, from, to, conversation, sequence, tries: this.tries, content: this.content };
  }
}

/** @internal An id for what has none. */
export const newId = (): string => randomUUID();
