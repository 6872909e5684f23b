// Fuzz target of the KV stream and its manifest. The first byte chooses the size of the pieces; what is accepted has sizes within the
// local context, and comes out of a writer as the same content.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "../native/kv_support.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace latentwire;
  KvManifest manifest;
  if (read_manifest(bytes, size, &manifest).ok()) {
    const std::vector<uint8_t> written = write_manifest(manifest);
    if (written.size() != size || std::memcmp(written.data(), bytes, size) != 0) std::abort();
  }
  if (size == 0) return 0;
  CacheLayout layout = test::layout_of(2, RowFormat::f16, 32);
  layout.parts[3].channels = 64;
  KvReader reader(test::expectation_of(layout, 512));
  const size_t piece = bytes[0] == 'L' ? size : bytes[0] + size_t{1};
  for (size_t at = 0; at < size; at += piece) {
    if (!reader.feed(bytes + at, std::min(piece, size - at)).ok()) reader.restart();
  }
  std::shared_ptr<const KvContent> content;
  if (!reader.finish(&content, &manifest).ok()) return 0;
  if (content->size() > 512 || content->positions.size() != content->tokens.size()) std::abort();
  for (int64_t part = 0; part < 4; part++) {
    if (static_cast<int64_t>(test::rows_of(*content, part).size()) !=
        content->size() * content->layout.parts[static_cast<size_t>(part)].row_bytes())
      std::abort();
  }
  return 0;
}
