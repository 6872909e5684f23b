// The file of a unix socket: only its owner may connect, and one that a dead process left behind is replaced.
import { chmod, lstat, mkdtemp, rename, rm } from "node:fs/promises";
import { connect } from "node:net";
import type { Server } from "node:net";
import { dirname, join } from "node:path";
import { LatentError } from "../../../errors.js";

/**
 * Listens at `path`. @returns what removes the file, if it is still this server's
 * @throws LatentError `ERR_LATENT_INVALID_ARGUMENT`: somebody listens there, or it is no socket
 */
export async function listenAtPath(server: Server, path: string, listen: (path: string) => Promise<void>): Promise<() => Promise<void>> {
  const there = await lstat(path).catch(() => undefined);
  if (there !== undefined) {
    if (!there.isSocket()) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${path} is there, and is no socket`);
    if (await answers(path)) throw new LatentError("ERR_LATENT_INVALID_ARGUMENT", `somebody listens at ${path} already`);
  }
  // made where nobody else can reach it, until it has its mode; then it takes the place of the old one at once
  const folder = await mkdtemp(join(dirname(path), ".lw"));
  try {
    const made = join(folder, "s");
    await listen(made);
    await chmod(made, 0o600);
    await rename(made, path);
  } catch (error) {
    server.close();
    throw error;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  const { ino, dev } = await lstat(path);
  return async () => {
    const now = await lstat(path).catch(() => undefined);
    if (now?.ino === ino && now.dev === dev) await rm(path, { force: true });
  };
}

async function answers(path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    socket.on("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.on("error", (error) => {
      const code: unknown = Reflect.get(error, "code");
      if (code === "ECONNREFUSED" || code === "ENOENT") resolve(false);
      else reject(new LatentError("ERR_LATENT_INVALID_ARGUMENT", `${path} cannot be used: ${String(code)}`, { cause: error }));
    });
  });
}
