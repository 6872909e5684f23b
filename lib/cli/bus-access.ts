// How commands get in at a bus: its token, which is never an argument that other users of the machine could see, and certificates.
import { readFile } from "node:fs/promises";
import { LatentError } from "../errors.js";
import { connect } from "../bus/connect.js";
import type { Bus } from "../bus/bus.js";

/** The options that all commands with a bus have. */
export interface BusAccessOptions {
  readonly tokenFile?: string;
  readonly tlsKey?: string;
  readonly tlsCert?: string;
  readonly tlsCa?: string;
}

export interface BusAccess {
  readonly token?: string;
  readonly tls?: { readonly key?: string; readonly cert?: string; readonly ca?: string };
}

export const tokenVariable = "LATENTWIRE_BUS_TOKEN";

export async function readAccess({ tokenFile, tlsKey, tlsCert, tlsCa }: BusAccessOptions): Promise<BusAccess> {
  const token = tokenFile === undefined ? process.env[tokenVariable] : (await read("--token-file", tokenFile)).trim();
  if (tokenFile !== undefined && token === "")
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `--token-file: ${tokenFile} holds no token`);
  const key = tlsKey === undefined ? undefined : await read("--tls-key", tlsKey);
  const cert = tlsCert === undefined ? undefined : await read("--tls-cert", tlsCert);
  const ca = tlsCa === undefined ? undefined : await read("--tls-ca", tlsCa);
  const tls = { ...(key !== undefined && { key }), ...(cert !== undefined && { cert }), ...(ca !== undefined && { ca }) };
  return { ...(token !== undefined && token !== "" && { token }), ...(Object.keys(tls).length > 0 && { tls }) };
}

/** `name`: who this side is to others. */
export async function connectTo(address: string, options: BusAccessOptions, name: string | undefined, signal: AbortSignal): Promise<Bus> {
  return await connect(address, { ...(await readAccess(options)), ...(name !== undefined && { name }), signal });
}

async function read(option: string, file: string): Promise<string> {
  try {
    return await readFile(file, "utf8");
  } catch (cause) {
    const code = cause instanceof Error ? String(Reflect.get(cause, "code")) : "";
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${option}: ${file} cannot be read: ${code}`, { cause });
  }
}
