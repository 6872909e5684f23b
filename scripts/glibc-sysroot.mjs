// Prepares the sysroot that the portable Linux binary is linked against: the C library of Debian 11 (glibc 2.31), of which our code
// needs only symbols up to 2.28, the floor of official Node binaries. Prints the folder on stdout. The packages come from a Debian
// mirror (LATENTWIRE_DEBIAN_MIRROR overrides it); the ones already unpacked are not fetched again.
import fs from "node:fs";
import path from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { capture, fail, root, run, say } from "./common.mjs";

const PACKAGES = ["libc6", "libc6-dev", "linux-libc-dev", "libcrypt1", "libcrypt-dev"];
const SUITE = "bullseye";

/** Where apt looks for packages on this machine, so that a mirror somebody has set up is used; Debian's own otherwise. */
function mirror() {
  if (process.env.LATENTWIRE_DEBIAN_MIRROR) return process.env.LATENTWIRE_DEBIAN_MIRROR;
  return "http://deb.debian.org/debian";
}

/** Makes links with absolute targets relative to the sysroot; the linker would otherwise follow them into the host. */
function rewriteLinks(sysroot) {
  for (const entry of fs.readdirSync(sysroot, { recursive: true, withFileTypes: true })) {
    if (!entry.isSymbolicLink()) continue;
    const link = path.join(entry.parentPath, entry.name);
    const target = fs.readlinkSync(link);
    if (!path.isAbsolute(target)) continue;
    fs.rmSync(link);
    fs.symlinkSync(path.relative(path.dirname(link), path.join(sysroot, target)), link);
  }
}

/** Returns the sysroot folder for `architecture` (Debian's name: amd64, arm64), preparing it when needed. */
export function glibcSysroot(architecture = "amd64") {
  const sysroot = path.join(root, "build-sysroot", `${SUITE}-${architecture}`);
  if (fs.existsSync(path.join(sysroot, ".complete"))) return sysroot;
  say(`preparing the ${SUITE} ${architecture} sysroot`);
  fs.rmSync(sysroot, { recursive: true, force: true });
  const apt = path.join(root, "build-sysroot", `apt-${architecture}`);
  fs.rmSync(apt, { recursive: true, force: true });
  for (const folder of ["lists/partial", "cache/archives/partial", "status"]) fs.mkdirSync(path.join(apt, folder), { recursive: true });
  fs.mkdirSync(sysroot, { recursive: true });
  fs.writeFileSync(path.join(apt, "status", "status"), "");
  const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
  if (!fs.existsSync(keyring)) fail(`${keyring} not found (apt-get install debian-archive-keyring)`);
  fs.writeFileSync(path.join(apt, "sources.list"), `deb [signed-by=${keyring}] ${mirror()} ${SUITE} main\n`);
  const options = [
    `Dir::Etc::SourceList=${path.join(apt, "sources.list")}`,
    "Dir::Etc::SourceParts=/dev/null",
    `Dir::State::Lists=${path.join(apt, "lists")}`,
    `Dir::State::status=${path.join(apt, "status", "status")}`,
    `Dir::Cache=${path.join(apt, "cache")}`,
    `APT::Architecture=${architecture}`,
    `APT::Architectures::=${architecture}`,
    "APT::Sandbox::User=root",
    // A suite past its support keeps its last release file.
    "Acquire::Check-Valid-Until=false",
  ].flatMap((option) => ["-o", option]);
  run("apt-get", [...options, "update"], { quiet: true });
  run("apt-get", [...options, "download", ...PACKAGES.map((name) => `${name}:${architecture}`)], {
    cwd: path.join(apt, "cache"),
    quiet: true,
  });
  for (const file of fs.readdirSync(path.join(apt, "cache")).filter((name) => name.endsWith(".deb"))) {
    capture("dpkg-deb", ["-x", path.join(apt, "cache", file), sysroot]);
  }
  rewriteLinks(sysroot);
  fs.rmSync(apt, { recursive: true, force: true });
  fs.writeFileSync(path.join(sysroot, ".complete"), "");
  return sysroot;
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) console.log(glibcSysroot());
