// Holds native/engine/llama_abi.h against the headers of the llama.cpp release that the pinned node-llama-cpp was built from: compiles one
// C++ file that includes both and asserts, at compile time, that every struct, enumerator and function of ours is theirs.
//
//   node scripts/check-llama-headers.mjs [--package <folder of an unpacked node-llama-cpp>]
//
// Without --package the package is fetched by `npm pack`. Needs git, tar and a C++20 compiler (CXX, else c++).
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { commandLine, root } from "./common.mjs";

const abiHeader = join(root, "native/engine/llama_abi.h");

function fetchPackage(folder) {
  const { optionalDependencies = {} } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const version = optionalDependencies["@node-llama-cpp/linux-x64"];
  if (version === undefined) throw new Error("package.json pins no @node-llama-cpp/linux-x64");
  execFileSync("npm", ["pack", `node-llama-cpp@${version}`, "--silent", "--pack-destination", folder], {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const archive = readdirSync(folder).find((name) => name.endsWith(".tgz"));
  if (archive === undefined) throw new Error("npm pack wrote no archive");
  execFileSync("tar", ["-xzf", join(folder, archive), "-C", folder]);
  return join(folder, "package");
}

function extractHeaders(packageFolder, folder) {
  const repository = join(folder, "release.git");
  execFileSync("git", ["clone", "--quiet", "--bare", join(packageFolder, "llama/gitRelease.bundle"), repository]);
  const git = (...args) => execFileSync("git", ["--git-dir", repository, ...args], { encoding: "utf8", maxBuffer: 1 << 26 });
  const include = join(folder, "include");
  mkdirSync(include);
  const listed = git("ls-tree", "--name-only", "HEAD", "ggml/include/").split("\n");
  for (const path of ["include/llama.h", ...listed.filter((name) => name.endsWith(".h"))]) {
    writeFileSync(join(include, path.split("/").at(-1)), git("show", `HEAD:${path}`));
  }
  return include;
}

/** The structs with a body and the enumerators of our header, by its own plain form: one field or enumerator a line or a comma. */
function declarations(source) {
  const text = source.replace(/\/\/.*$/gm, "");
  const structs = [...text.matchAll(/^struct (\w+) \{([^}]*)\};/gm)].flatMap(([, name, body]) =>
    body.includes("#") ? [] : [{ name, fields: [...body.matchAll(/(\w+)(?:\[\d+\])?;/g)].map(([, field]) => field) }],
  );
  const enumerators = [...text.matchAll(/^enum \w+ : int \{([^}]*)\};/gm)].flatMap(([, body]) =>
    [...body.matchAll(/(\w+) = /g)].map(([, name]) => name),
  );
  return { structs, enumerators };
}

const traits = `
#include <cstddef>
#include <string_view>
#include <type_traits>

#include "ggml-backend.h"
#include "ggml.h"
#include "llama.h"

#include "engine/llama_abi.h"

// The name of a type without its namespaces and the words "struct" and "enum".
template <typename T> constexpr std::string_view name_of() {
  std::string_view text = __PRETTY_FUNCTION__;
  text = text.substr(text.find("T = ") + 4);
  text = text.substr(0, text.find_first_of(";]"));
  const size_t cut = text.find_last_of(": ");
  return cut == std::string_view::npos ? text : text.substr(cut + 1);
}

template <typename Ours, typename Theirs> struct same;

template <typename Ours, typename Theirs> constexpr bool same_value() {
  if constexpr (std::is_same_v<Ours, Theirs>) return true;
  else if constexpr (std::is_array_v<Ours> && std::is_array_v<Theirs>)
    return std::extent_v<Ours> == std::extent_v<Theirs> && same<std::remove_extent_t<Ours>, std::remove_extent_t<Theirs>>::value;
  else if constexpr (std::is_pointer_v<Ours> && std::is_pointer_v<Theirs>) return same<std::remove_pointer_t<Ours>, std::remove_pointer_t<Theirs>>::value;
  else if constexpr (std::is_class_v<Ours> && std::is_class_v<Theirs>) return name_of<Ours>() == name_of<Theirs>();
  else if constexpr (std::is_enum_v<Theirs> && (std::is_enum_v<Ours> || std::is_same_v<Ours, int>)) {
    return sizeof(Ours) == sizeof(Theirs) && (!std::is_enum_v<Ours> || name_of<Ours>() == name_of<Theirs>());
  } else return false;
}

template <typename Ours, typename Theirs> struct same {
  static constexpr bool value = std::is_const_v<Ours> == std::is_const_v<Theirs> && same_value<std::remove_cv_t<Ours>, std::remove_cv_t<Theirs>>();
};
template <typename R, typename... A, typename S, typename... B> struct same<R(A...), S(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) != sizeof...(B)) return false;
    else return same<R, S>::value && (same<A, B>::value && ...);
  }();
};

// How many initialisers an aggregate takes; the elements of arrays count each.
struct anything {
  template <typename T> operator T() const;
};
template <typename T, typename... Fields> constexpr size_t field_count() {
  if constexpr (requires { T{Fields{}..., anything{}}; }) return field_count<T, Fields..., anything>();
  else return sizeof...(Fields);
}

template <typename T> constexpr size_t elements_of = std::is_array_v<T> ? std::extent_v<T> : 1;

// Fields may hide what we never touch behind void*.
template <typename Ours, typename Theirs> constexpr bool same_field() {
  if constexpr (std::is_pointer_v<Ours> && std::is_void_v<std::remove_pointer_t<Ours>>) return std::is_pointer_v<Theirs>;
  else return same<Ours, Theirs>::value;
}
`;

function generate({ structs, enumerators }) {
  const lines = [traits];
  for (const { name, fields } of structs) {
    lines.push(
      `static_assert(sizeof(latentwire::abi::${name}) == sizeof(::${name}) && alignof(latentwire::abi::${name}) == alignof(::${name}), "size of ${name}");`,
    );
    for (const field of fields) {
      lines.push(
        `static_assert(offsetof(latentwire::abi::${name}, ${field}) == offsetof(::${name}, ${field}), "offset of ${name}.${field}");`,
      );
      lines.push(
        `static_assert(same_field<decltype(latentwire::abi::${name}::${field}), decltype(::${name}::${field})>(), "type of ${name}.${field}");`,
      );
    }
    const elements = fields.map((field) => `elements_of<decltype(::${name}::${field})>`).join(" + ");
    lines.push(`static_assert(field_count<::${name}>() == ${elements}, "fields of ${name}");`);
  }
  for (const name of enumerators)
    lines.push(`static_assert(static_cast<int>(latentwire::abi::${name}) == static_cast<int>(::${name}), "value of ${name}");`);
  lines.push(
    "#define CHECK_FUNCTION(name, result, arguments) \\",
    '  static_assert(same<decltype(latentwire::abi::Functions::name), decltype(&::name)>::value, "signature of " #name);',
    "LATENTWIRE_LLAMA_FUNCTIONS(CHECK_FUNCTION)",
  );
  return lines.join("\n") + "\n";
}

const { values } = commandLine("[--package=FOLDER]", { options: { package: { type: "string" } } });
const folder = mkdtempSync(join(tmpdir(), "latentwire-headers-"));
try {
  const include = extractHeaders(values.package ?? fetchPackage(folder), folder);
  const source = readFileSync(abiHeader, "utf8");
  const found = declarations(source);
  const functions = source.match(/^ {2}X\(/gm)?.length ?? 0;
  if (found.structs.length === 0 || found.enumerators.length === 0 || functions === 0)
    throw new Error("native/engine/llama_abi.h has another form than this script reads");
  const generated = join(folder, "check.cpp");
  writeFileSync(generated, generate(found));
  execFileSync(process.env.CXX ?? "c++", ["-std=c++20", "-fsyntax-only", "-I", include, "-I", join(root, "native"), generated], {
    stdio: "inherit",
  });
  console.log(`llama_abi.h matches: ${found.structs.length} structs, ${found.enumerators.length} enumerators, ${functions} functions`);
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
