// The only file that includes xxHash, and it is compiled for the plainest processor.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstring>

#include "kernels/stats.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// A block stays in the first-level cache from the hash to the copy.
constexpr size_t block_bytes = size_t{16} << 10;
static_assert(block_bytes % 1024 == 0);
// As in tile.cpp: what does not stay in a cache anyway.
constexpr size_t stream_from = size_t{4} << 20;

// XXH3-128 of bytes that come block by block. All blocks but the last go through the table's loop where there is one; xxHash gets the sums
// and goes on from there, with the 64 bytes before the rest where it expects them.
class Xxh3 {
 public:
  Xxh3() noexcept : loop_(kernels().stats.xxh3_blocks) { XXH3_128bits_reset(&state_); }

  void add(const void* data, size_t bytes, bool last) noexcept {
    const auto* p = static_cast<const uint8_t*>(data);
    if (loop_ == nullptr || last) {
      XXH3_128bits_update(&state_, p, bytes);
      return;
    }
    loop_(reinterpret_cast<uint64_t*>(state_.acc), p, static_cast<int64_t>(bytes / 1024), state_.extSecret);
    state_.totalLen += bytes;
    std::memcpy(state_.buffer + sizeof(state_.buffer) - 64, p + bytes - 64, 64);
  }

  Digest128 digest() const noexcept {
    const XXH128_hash_t hash = XXH3_128bits_digest(&state_);
    return {hash.low64, hash.high64};
  }

 private:
  void (*loop_)(uint64_t*, const void*, int64_t, const uint8_t*) noexcept;
  XXH3_state_t state_;
};
static_assert(sizeof(XXH64_hash_t) == sizeof(uint64_t) && XXH3_SECRET_DEFAULT_SIZE == 192);

}  // namespace

Digest128 digest_of(const void* data, size_t bytes) noexcept {
  Xxh3 hash;
  for (size_t at = 0; at < bytes; at += block_bytes)
    hash.add(static_cast<const char*>(data) + at, std::min(block_bytes, bytes - at), bytes - at <= block_bytes);
  return hash.digest();
}

Status copy_and_digest(const void* from, void* to, size_t bytes, Dtype dtype, Digest128* digest, bool* finite) {
  if (!is_float(dtype)) return Status::fail(Code::dtype, "numbers must be f32, f16 or bf16");
  const size_t size = dtype_size(dtype);
  if (bytes % size != 0) return Status::fail(Code::invalid_argument, "the bytes end within a number");
  const StatsKernels& stats = kernels().stats;
  const auto is_finite = stats.finite[static_cast<size_t>(dtype)];
  const bool stream = bytes >= stream_from;
  Xxh3 hash;
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  bool sound = true;
  for (size_t at = 0; at < bytes; at += block_bytes) {
    const size_t count = std::min(block_bytes, bytes - at);
    hash.add(source + at, count, at + count == bytes);
    sound = sound && is_finite(source + at, static_cast<int64_t>(count / size));
    if (stream)
      stats.stream_copy(source + at, target + at, static_cast<int64_t>(count));
    else
      std::memcpy(target + at, source + at, count);
  }
  if (stream) stats.fence();
  *digest = hash.digest();
  *finite = sound;
  return {};
}

}  // namespace latentwire
