#!/usr/bin/env node
// Stands in for node-gyp under prebuildify (`--node-gyp`), so that what is shipped is the CMake build that the tests ran on. prebuildify
// passes node-gyp's arguments (`rebuild --target=... --arch=... --release`); a Node-API addon needs none of them but the architecture.
// Environment: LATENTWIRE_GLIBC_SYSROOT (see prebuild.mjs), LATENTWIRE_TOOLCHAIN (CMake toolchain file for a cross build).
import path from "node:path";
import process from "node:process";
import { cmake, say } from "./common.mjs";

const build = path.join(process.cwd(), "build");
const sysroot = process.env.LATENTWIRE_GLIBC_SYSROOT;
const toolchain = process.env.LATENTWIRE_TOOLCHAIN;
say(`building the addon (CMake)${sysroot ? " against an older glibc" : ""}`);
cmake(build, {
  definitions: {
    CMAKE_BUILD_TYPE: "Release",
    LATENTWIRE_GLIBC_SYSROOT: sysroot ?? "",
    ...(toolchain && { CMAKE_TOOLCHAIN_FILE: path.resolve(toolchain) }),
  },
  targets: ["latentwire"],
});
