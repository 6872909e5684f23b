// What a hub answers to plain HTTP: its health, its metrics, and pieces of content, which can be fetched in ranges by anything that speaks HTTP.
import type { IncomingMessage, ServerResponse } from "node:http";
import { LatentError } from "../../../errors.js";
import { blake3 } from "../../../kernels/statistics.js";
import { pieceBytes } from "../broker.js";
import type { MemoryCore } from "../memory-broker.js";
import { metric } from "../../metrics.js";
import type { SessionCounts } from "./session.js";

export interface HttpHost {
  readonly core: MemoryCore;
  readonly counts: SessionCounts;
  readonly sessions: number;
  readonly isDraining: boolean;
  readonly isAuthorized: (request: IncomingMessage) => boolean;
  readonly routes: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
  readonly metrics: (() => string) | undefined;
  readonly ready: (() => boolean) | undefined;
}

/** How long a piece is kept that is put without saying so. */
const standardKeptMs = 3_600_000;

/** Answers one request. Never throws. */
export async function serveHttp(host: HttpHost, request: IncomingMessage, response: ServerResponse): Promise<void> {
  try {
    await route(host, request, response);
  } catch (error) {
    if (response.headersSent) {
      response.destroy();
      return;
    }
    const known = LatentError.isInstance(error) ? error : new LatentError("ERR_LATENT_BUS_PEER", "the hub failed");
    refuse(host, response, statusOf(known), known);
  }
}

async function route(host: HttpHost, request: IncomingMessage, response: ServerResponse): Promise<void> {
  // never the query, which may be long or secret
  const [path = "", query = ""] = (request.url ?? "").split("?", 2);
  const method = request.method ?? "";
  const isRead = method === "GET" || method === "HEAD";
  if (path === "/health" && isRead) {
    answerState(host, response);
    return;
  }
  if (!host.isAuthorized(request)) {
    response.setHeader("www-authenticate", "Bearer");
    refuse(host, response, 401, new LatentError("ERR_LATENT_BUS_UNAUTHORIZED", "the token is missing or wrong"));
    return;
  }
  const piece = /^\/v1\/pieces\/([0-9a-f]{64})$/.exec(path)?.[1];
  if (path === "/ready" && isRead) answerState(host, response, host.ready?.() ?? true);
  else if (path === "/metrics" && isRead)
    response.writeHead(200, { "content-type": "text/plain; version=0.0.4; charset=utf-8" }).end(metricsOf(host));
  else if (piece !== undefined && isRead) sendPiece(host, piece, request, response);
  else if (piece !== undefined && method === "PUT") await takePiece(host, piece, query, request, response);
  else if (piece !== undefined) response.writeHead(405, { allow: "GET, HEAD, PUT" }).end();
  else if (host.routes?.(request, response) !== true) response.writeHead(404).end();
}

function answerState({ isDraining }: HttpHost, response: ServerResponse, isReady = true): void {
  const status = isDraining ? "draining" : isReady ? "ok" : "starting";
  answer(response, status === "ok" ? 200 : 503, { status });
}

function sendPiece(host: HttpHost, name: string, request: IncomingMessage, response: ServerResponse): void {
  const piece = host.core.get(name);
  if (piece === undefined) {
    refuse(host, response, 404, new LatentError("ERR_LATENT_BUS_GONE", "there is no such piece"));
    return;
  }
  const etag = `"${name}"`;
  response.setHeader("etag", etag);
  response.setHeader("cache-control", "private, max-age=31536000, immutable");
  response.setHeader("accept-ranges", "bytes");
  if (
    request.headers["if-none-match"]
      ?.split(",")
      .map((one) => one.trim())
      .some((one) => one === etag || one === "*") === true
  ) {
    response.writeHead(304).end();
    return;
  }
  const condition = request.headers["if-range"];
  const range = condition === undefined || condition === etag ? rangeOf(request.headers.range, piece.length) : "all";
  if (range === "none") {
    response.writeHead(416, { "content-range": `bytes */${piece.length}` }).end();
    return;
  }
  response.setHeader("content-type", "application/octet-stream");
  let part = piece;
  if (range !== "all") {
    part = piece.subarray(range.first, range.last + 1);
    response.setHeader("content-range", `bytes ${range.first}-${range.last}/${piece.length}`);
  }
  response.writeHead(range === "all" ? 200 : 206, { "content-length": part.length });
  if (request.method === "HEAD") response.end();
  else {
    host.counts.sentBytes += part.length;
    response.end(part);
  }
}

/** Of one range; several, or what is no range of bytes, are ignored, as HTTP allows. */
export function rangeOf(header: string | undefined, length: number): "all" | "none" | { readonly first: number; readonly last: number } {
  const [, from = "", to = ""] = /^bytes=(\d{0,15})-(\d{0,15})$/.exec(header ?? "") ?? [];
  if (from === "" && to === "") return "all";
  if (from === "") {
    const count = Math.min(Number(to), length);
    return count === 0 ? "none" : { first: length - count, last: length - 1 };
  }
  const first = Number(from);
  const last = to === "" ? length - 1 : Math.min(Number(to), length - 1);
  if (to !== "" && Number(to) < first) return "all";
  return first >= length ? "none" : { first, last };
}

async function takePiece(host: HttpHost, name: string, query: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const kept = new URLSearchParams(query).get("keptMs");
  const keptMs = kept === null ? standardKeptMs : Number(kept);
  if (!(keptMs >= 0 && keptMs <= Number.MAX_SAFE_INTEGER))
    throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", "keptMs must be a time in milliseconds");
  const piece = await bodyOf(request);
  host.counts.receivedBytes += piece.length;
  const isNew = host.core.get(name) === undefined;
  if (blake3(piece) !== name) throw new LatentError("ERR_LATENT_BUS_DIGEST", "the piece has another digest than its name says");
  host.core.put(name, piece, keptMs);
  response.writeHead(isNew ? 201 : 204, { etag: `"${name}"` }).end();
}

async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const tooLong = (): LatentError => new LatentError("ERR_LATENT_BUS_LIMIT", `a piece has at most ${pieceBytes} bytes`);
  if (Number(request.headers["content-length"] ?? 0) > pieceBytes) throw tooLong();
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    if (!Buffer.isBuffer(chunk)) continue;
    bytes += chunk.length;
    if (bytes > pieceBytes) throw tooLong();
    chunks.push(chunk);
  }
  // not from the pool, of which a short piece would keep a whole slab
  const body = Buffer.allocUnsafeSlow(bytes);
  let at = 0;
  for (const chunk of chunks) at += chunk.copy(body, at);
  return body;
}

function statusOf({ code }: LatentError): number {
  if (code === "ERR_LATENT_BUS_LIMIT") return 413;
  if (code === "ERR_LATENT_INVALID_ARGUMENT") return 400;
  return code === "ERR_LATENT_BUS_DIGEST" ? 422 : 500;
}

function refuse(host: HttpHost, response: ServerResponse, status: number, { code, message }: LatentError): void {
  host.counts.refused.set(code, (host.counts.refused.get(code) ?? 0) + 1);
  // what is left of the request is not read
  response.setHeader("connection", "close");
  answer(response, status, { code, message });
}

function answer(response: ServerResponse, status: number, value: unknown): void {
  response.writeHead(status, { "content-type": "application/json", "cache-control": "no-store" }).end(JSON.stringify(value));
}

function metricsOf({ core, counts, sessions, metrics }: HttpHost): string {
  const { logs, logBytes, pieces, pieceBytes: kept, present } = core.facts;
  return [
    metric("sessions", "gauge", "Connections that are open.", sessions),
    metric("present", "gauge", "Records of presence.", present),
    metric("logs", "gauge", "Inboxes and topics.", logs),
    metric("log_bytes", "gauge", "Bytes that they hold.", logBytes),
    metric("pieces", "gauge", "Pieces of content.", pieces),
    metric("piece_bytes", "gauge", "Bytes of pieces.", kept),
    metric("appended_total", "counter", "Entries that were confirmed.", counts.appended),
    metric("delivered_total", "counter", "Entries that were sent to readers.", counts.delivered),
    metric("signals_total", "counter", "Signals that were passed on.", counts.signalled),
    metric("received_bytes_total", "counter", "Bytes of messages and pieces that came in.", counts.receivedBytes),
    metric("sent_bytes_total", "counter", "Bytes of messages and pieces that went out.", counts.sentBytes),
    metric(
      "refused_total",
      "counter",
      "What was refused, by the code of the error.",
      [...counts.refused].map(([code, value]) => ({ labels: { code }, value })),
    ),
    metrics?.() ?? "",
  ].join("");
}
