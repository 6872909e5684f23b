// Fuzz target of the KV stream and its manifest. The first byte chooses the size of the pieces; what is accepted has sizes within the local
// context. Digests and checks are made right first, for no fuzzer finds them: what lies behind them is what can be wrong.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "../native/kv_support.h"

namespace {

template <typename T>
T load(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}
void store(uint8_t* at, uint64_t value) { std::memcpy(at, &value, sizeof value); }

// Makes the checks of the preamble and of each header right, and the digests of payloads that are there as a whole.
void seal(std::vector<uint8_t>* bytes) {
  using namespace latentwire;
  if (bytes->size() < preamble_bytes) return;
  store(bytes->data() + 8, digest_of(bytes->data(), 8).low);
  for (size_t at = preamble_bytes; at + record_header_bytes <= bytes->size();) {
    uint8_t* header = bytes->data() + at;
    const auto payload = load<uint64_t>(header + 16);
    const bool whole = payload <= bytes->size() - at - record_header_bytes;
    if (whole) {
      const Digest128 digest = digest_of(header + record_header_bytes, payload);
      store(header + 24, digest.low);
      store(header + 32, digest.high);
    }
    store(header + 40, digest_of(header, 40).low);
    if (!whole) return;
    at += record_header_bytes + payload;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace latentwire;
  KvManifest manifest;
  if (read_manifest(bytes, size, &manifest).ok()) {
    const std::vector<uint8_t> written = write_manifest(manifest);
    if (written.size() != size || std::memcmp(written.data(), bytes, size) != 0) std::abort();
  }
  if (size == 0) return 0;
  std::vector<uint8_t> sealed(bytes, bytes + size);
  seal(&sealed);
  CacheLayout layout = test::layout_of(2, RowFormat::f16, 32);
  layout.parts[3].channels = 64;
  KvReader reader(test::expectation_of(layout, 512, size % 2 == 1));
  const size_t piece = bytes[0] == 'L' ? size : bytes[0] + size_t{1};
  for (size_t at = 0; at < size; at += piece) {
    if (!reader.feed(sealed.data() + at, std::min(piece, size - at)).ok()) reader.restart();
  }
  std::shared_ptr<const KvContent> content;
  if (!reader.finish(&content, &manifest).ok()) return 0;
  reader.seal();
  if (content->size() > 512 || content->positions.size() != content->tokens.size()) std::abort();
  for (int64_t part = 0; part < 4; part++) {
    if (static_cast<int64_t>(test::rows_of(*content, part).size()) !=
        content->size() * content->layout.parts[static_cast<size_t>(part)].row_bytes())
      std::abort();
  }
  return 0;
}
