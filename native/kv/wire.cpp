#include "kv/wire.h"

#include <algorithm>
#include <cstring>

namespace latentwire {

Status check_codecs(const PartCodecs& codecs, const CacheLayout& layout) {
  if (!codecs.empty() && codecs.size() != layout.parts.size())
    return Status::fail(Code::invalid_argument, "another number of codecs than keys and values of layers");
  for (size_t part = 0; part < codecs.size(); part++) {
    if (codecs[part] == nullptr) continue;
    // codecs that were fitted know parts by their places in the model
    if (!layout.numbers.empty()) return Status::fail(Code::invalid_argument, "content of some layers only travels without a codec");
    if (Status status = codecs[part]->fits(layout, static_cast<int64_t>(part)); !status.ok()) return status;
  }
  return {};
}

Digest128 root_of(std::vector<Digest128> leaves) {
  if (leaves.empty()) return {};
  while (leaves.size() > 1) {
    size_t parents = 0;
    for (size_t i = 0; i < leaves.size(); i += 2) {
      const bool alone = i + 1 == leaves.size();
      const uint64_t children[4] = {leaves[i].low, leaves[i].high, alone ? 0 : leaves[i + 1].low, alone ? 0 : leaves[i + 1].high};
      leaves[parents++] = alone ? leaves[i] : digest_of(children, sizeof children);
    }
    leaves.resize(parents);
  }
  return leaves.front();
}

namespace wire {
namespace {

Blake3Digest blake3_of(const void* bytes, size_t size) { return blake3({static_cast<const std::byte*>(bytes), size}); }

}  // namespace

uint64_t check_of(const uint8_t* bytes, size_t size) { return digest_of(bytes, size).low; }

Blake3Digest sealed_leaf_of(const uint8_t* header, const uint8_t* payload, size_t bytes) {
  const Blake3Digest digest = blake3_of(payload, bytes);
  uint8_t both[sealed_bytes + sizeof digest];
  std::memcpy(both, header, sealed_bytes);
  std::memcpy(both + sealed_bytes, digest.data(), sizeof digest);
  return blake3_of(both, sizeof both);
}

Blake3Digest seal_of(const std::vector<Blake3Digest>& leaves) { return blake3_of(leaves.data(), leaves.size() * sizeof(Blake3Digest)); }

int64_t latents_in(const int32_t* tokens, int64_t count) { return std::count(tokens, tokens + count, row_entry); }

}  // namespace wire
}  // namespace latentwire
