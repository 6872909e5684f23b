// Fuzz target of the manifest of a KV stream: what is accepted has one way to be written, which are the bytes that were read, and every
// part has a codec that is named or none.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kv/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace latentwire;
  KvManifest manifest;
  if (!read_manifest(bytes, size, &manifest).ok()) return 0;
  const std::vector<uint8_t> written = write_manifest(manifest);
  if (written.size() != size || std::memcmp(written.data(), bytes, size) != 0) std::abort();
  if (manifest.part_codecs.size() != (manifest.codecs.empty() ? 0 : manifest.layout.parts.size())) std::abort();
  for (const uint32_t number : manifest.part_codecs) {
    if (number > manifest.codecs.size()) std::abort();
  }
  // a model has all of its layers, content may have some
  const bool fits = check_manifest(manifest, manifest).ok();
  if (fits != manifest.layout.numbers.empty()) std::abort();
  return 0;
}
