// Addresses of hubs, as those who listen and those who connect write them.
import { checkString, invalid } from "../../../check.js";

export type Address =
  { readonly kind: "unix"; readonly path: string } | { readonly kind: "http" | "https"; readonly host: string; readonly port: number };

/** Of a hub whose address names none. */
const standardPort = 7411;

/**
 * `unix:/path`, `http://host:port` or `https://host:port`. Without a host: 127.0.0.1; without a port: 7411.
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`, which does not show what may be secret
 */
export function parseAddress(url: string): Address {
  const given = checkString("url", url);
  const path = /^unix:(?:\/\/)?(\/[^\0]+)$/.exec(given)?.[1];
  if (path !== undefined) {
    if (Buffer.byteLength(path) > 100) throw invalid("url", "a socket whose path has at most 100 bytes", path.length);
    return { kind: "unix", path };
  }
  const [, scheme, name = "", digits] = /^(https?):\/\/([A-Za-z0-9.-]*|\[[0-9A-Fa-f:.]+\])(?::(\d{1,5}))?\/?$/.exec(given) ?? [];
  const port = digits === undefined ? standardPort : Number(digits);
  if ((scheme !== "http" && scheme !== "https") || port > 65_535)
    throw invalid("url", "'unix:/path', 'http://host:port' or 'https://host:port'", given.replace(/\/\/.*@/, "//…@"));
  return { kind: scheme, host: name === "" ? "127.0.0.1" : name.replace(/[[\]]/g, ""), port };
}

export function formatAddress(address: Address): string {
  if (address.kind === "unix") return `unix:${address.path}`;
  const { kind, host, port } = address;
  return `${kind}://${host.includes(":") ? `[${host}]` : host}:${port}`;
}

export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}
