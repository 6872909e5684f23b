// The tree of BLAKE3. Chunks of 1024 bytes are its leaves, a left subtree holds the largest power of two of them that leaves something
// over; pairing neighbours level by level, with the odd one carried up, makes the same tree, and a level is hashed in as many lanes as
// there are. 256 chunks at a time become one value, so nothing is allocated.
#include "kernels/blake3.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/table.h"

namespace latentwire {
namespace {

static_assert(std::endian::native == std::endian::little, "words are read as they lie");

constexpr size_t value_bytes = 32;
constexpr size_t chunk_bytes = 1024;
constexpr int64_t chunk_blocks = chunk_bytes / blake3_block;
constexpr int64_t group_chunks = 256;
constexpr size_t group_bytes = group_chunks * chunk_bytes;
// Of whole groups in 2^64 bytes there are at most 2^46, and two values may follow them.
constexpr size_t stack_values = 46 + 2;

class Tree {
 public:
  Tree(const uint32_t* key, uint32_t mode) noexcept : kernels_(kernels().blake3), key_(key), mode_(mode) {}

  Blake3Digest digest(const uint8_t* data, size_t bytes) noexcept {
    if (bytes <= chunk_bytes) {
      last_chunk(data, bytes, 0, blake3_flag::root, stack_);
      return root();
    }
    size_t depth = 0;
    uint64_t groups = 0;
    for (; bytes > group_bytes; data += group_bytes, bytes -= group_bytes) {
      reduce(leaves(data, group_bytes, groups * group_chunks), 1);
      std::memcpy(stack_ + depth++ * value_bytes, values_, value_bytes);
      // something follows, so whole subtrees of one size are never the root
      for (uint64_t pairs = ++groups; pairs % 2 == 0; pairs /= 2) pair(depth--, 0);
    }
    const int64_t left = reduce(leaves(data, bytes, groups * group_chunks), depth == 0 ? 2 : 1);
    std::memcpy(stack_ + depth * value_bytes, values_, static_cast<size_t>(left) * value_bytes);
    depth += static_cast<size_t>(left);
    for (; depth > 1; depth--) pair(depth, depth == 2 ? blake3_flag::root : 0);
    return root();
  }

 private:
  // The values of the chunks of at most group_bytes bytes, at least one, into `values_`; how many.
  int64_t leaves(const uint8_t* data, size_t bytes, uint64_t counter) noexcept {
    const auto whole = static_cast<int64_t>(bytes / chunk_bytes);
    kernels_.hash({data, whole, chunk_blocks, key_, counter, 1, mode_, blake3_flag::chunk_start, blake3_flag::chunk_end}, values_);
    const size_t rest = bytes % chunk_bytes;
    if (rest == 0) return whole;
    last_chunk(data + bytes - rest, rest, counter + static_cast<uint64_t>(whole), 0, values_ + static_cast<size_t>(whole) * value_bytes);
    return whole + 1;
  }

  // Pairs the first `count` of `values_` until at most `most` are left; how many.
  int64_t reduce(int64_t count, int64_t most) noexcept {
    while (count > most) {
      const int64_t pairs = count / 2;
      kernels_.hash({values_, pairs, 1, key_, 0, 0, mode_ | blake3_flag::parent, 0, 0}, values_);
      const auto* odd = values_ + static_cast<size_t>(count - 1) * value_bytes;
      if (count % 2 != 0) std::memmove(values_ + static_cast<size_t>(pairs) * value_bytes, odd, value_bytes);
      count = pairs + count % 2;
    }
    return count;
  }

  // A chunk that may be short or the only one.
  void last_chunk(const uint8_t* data, size_t bytes, uint64_t counter, uint32_t flags, uint8_t* out) const noexcept {
    uint32_t value[8];
    std::memcpy(value, key_, sizeof(value));
    constexpr auto block_bytes = static_cast<size_t>(blake3_block);
    for (size_t at = 0; at == 0 || at < bytes; at += block_bytes) {
      const size_t length = std::min(block_bytes, bytes - at);
      uint8_t block[block_bytes] = {};
      if (length > 0) std::memcpy(block, data + at, length);
      const uint32_t first = at == 0 ? blake3_flag::chunk_start : 0;
      const uint32_t last = at + length == bytes ? blake3_flag::chunk_end | flags : 0;
      kernels_.compress(value, block, static_cast<uint32_t>(length), counter, mode_ | first | last);
    }
    std::memcpy(out, value, sizeof(value));
  }

  // The last two of `depth` values on the stack become one.
  void pair(size_t depth, uint32_t flags) noexcept {
    uint32_t value[8];
    std::memcpy(value, key_, sizeof(value));
    uint8_t* both = stack_ + (depth - 2) * value_bytes;
    kernels_.compress(value, both, 2 * value_bytes, 0, mode_ | blake3_flag::parent | flags);
    std::memcpy(both, value, sizeof(value));
  }

  Blake3Digest root() const noexcept {
    Blake3Digest digest;
    std::memcpy(digest.data(), stack_, digest.size());
    return digest;
  }

  const Blake3Kernels& kernels_;
  const uint32_t* key_;
  uint32_t mode_;
  alignas(64) uint8_t values_[group_chunks * value_bytes];
  uint8_t stack_[stack_values * value_bytes];
};

const uint8_t* bytes_of(std::span<const std::byte> data) noexcept { return reinterpret_cast<const uint8_t*>(data.data()); }

}  // namespace

Blake3Digest blake3(std::span<const std::byte> data) noexcept { return Tree(blake3_initial, 0).digest(bytes_of(data), data.size()); }

Blake3Digest blake3(std::span<const std::byte> data, const Blake3Key& key) noexcept {
  uint32_t words[8];
  std::memcpy(words, key.data(), sizeof(words));
  return Tree(words, blake3_flag::keyed_hash).digest(bytes_of(data), data.size());
}

}  // namespace latentwire
