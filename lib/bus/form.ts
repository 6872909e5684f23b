// In which form content crosses: the richest one that the sender offers and the receiver can use, and why that one. A pure function, so that what a hop
// reports is what was decided.
import { checkKeys, checkOneOf, invalid } from "../check.js";
import { LatentError } from "../errors.js";
import { KvHandle } from "../kv/handle.js";
import { Latent } from "../spaces/latent.js";
import type { Translator } from "../spaces/translator.js";
import type { Medium } from "../agents/events.js";
import { identityDigest, type Announcement } from "./announcement.js";
import { checkLine, checkText } from "./envelope.js";

/** The same content in the forms that its sender has; the receiver gets the richest one that it can use. */
export interface Offer {
  readonly kv?: KvHandle;
  readonly latent?: Latent;
  /** Rides along with the other forms, for who can use neither. */
  readonly text?: string;
  /** What the sender says of where it comes from. Default: nothing. */
  readonly label?: string;
}

/** What was chosen. */
export interface Choice {
  readonly form: Medium;
  readonly why: string;
  /** Takes the latents over, at the sender. */
  readonly translator?: Translator;
}

export function checkOffer(offer: unknown): Offer {
  if (typeof offer === "string") return { text: checkText(offer) };
  if (offer instanceof Latent) return { latent: offer };
  if (offer instanceof KvHandle) return { kv: offer };
  checkKeys("content", offer, ["kv", "latent", "text", "label"]);
  const { kv, latent, text, label } = offer as Readonly<Record<keyof Offer, unknown>>;
  if (kv !== undefined && !(kv instanceof KvHandle)) throw invalid("content.kv", "a KvHandle", kv);
  if (latent !== undefined && !(latent instanceof Latent)) throw invalid("content.latent", "a Latent", latent);
  if (kv === undefined && latent === undefined && text === undefined)
    throw invalid("content", "at least one of kv, latent and text", offer);
  return {
    ...(kv !== undefined && { kv }),
    ...(latent !== undefined && { latent }),
    ...(text !== undefined && { text: checkText(text) }),
    ...(label !== undefined && { label: checkLine("label", label) }),
  };
}

const media = ["kv", "latent", "text"] as const;

/**
 * `receiver`: undefined when nobody is there yet to say what it can use, or when there are many: it gets the richest form, and text beside it.
 * @throws {@link LatentError} `ERR_LATENT_BUS_FORM`
 */
export function chooseForm(
  offer: Offer,
  receiver: Announcement | undefined,
  options: { readonly form?: Medium | undefined; readonly translators: readonly Translator[] },
): Choice {
  const wanted = options.form === undefined ? media : [checkOneOf("form", options.form, media)];
  const offered = wanted.filter((form) => offer[form] !== undefined);
  if (receiver === undefined) {
    const [richest] = offered;
    if (richest !== undefined) return { form: richest, why: "nobody has said what the receiver can use" };
  } else {
    const why: string[] = [];
    for (const form of offered) {
      const choice = usable(offer, form, receiver, options.translators);
      if (typeof choice !== "string") return why.length === 0 ? choice : { ...choice, why: `${choice.why}; ${why.join("; ")}` };
      why.push(choice);
    }
    if (why.length > 0) throw noForm(receiver.name, why.join("; "));
  }
  throw noForm(receiver?.name ?? "the receiver", `it was offered ${media.filter((form) => offer[form] !== undefined).join(", ")}`);
}

/** The choice, or why not. */
function usable({ kv, latent }: Offer, form: Medium, receiver: Announcement, translators: readonly Translator[]): Choice | string {
  const { accepts } = receiver;
  if (form === "kv" && kv !== undefined) {
    if (!accepts.kv.includes(identityDigest(kv.identity))) return "its keys and values are of another model";
    return kv.info.bytes > accepts.bytes
      ? "its keys and values are too many"
      : { form, why: "it continues from keys and values of this model" };
  }
  if (form === "latent" && latent !== undefined) {
    if (latent.bytes > accepts.bytes) return "its latents are too many";
    if (accepts.spaces.includes(latent.space.id)) return { form, why: "it reads latents of this space" };
    const translator = translators.find(({ card }) => card.from?.id === latent.space.id && accepts.spaces.includes(card.to?.id ?? ""));
    return translator === undefined ? "it reads latents of other spaces" : { form, why: "its latents were translated", translator };
  }
  return { form: "text", why: "text can always be read" };
}

function noForm(name: string, why: string): LatentError {
  return new LatentError("ERR_LATENT_BUS_FORM", `${name} can use nothing of it: ${why}`, { details: { receiver: name } });
}
