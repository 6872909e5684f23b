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
// As in tile.cpp: what does not stay in a cache anyway.
constexpr size_t stream_from = size_t{4} << 20;

}  // namespace

Digest128 digest_of(const void* data, size_t bytes) noexcept {
  const XXH128_hash_t hash = XXH3_128bits(data, bytes);
  return {hash.low64, hash.high64};
}

Status copy_and_digest(const void* from, void* to, size_t bytes, Dtype dtype, Digest128* digest, bool* finite) {
  if (dtype != Dtype::f32 && dtype != Dtype::f16 && dtype != Dtype::bf16)
    return Status::fail(Code::dtype, "numbers must be f32, f16 or bf16");
  const size_t size = dtype_size(dtype);
  if (bytes % size != 0) return Status::fail(Code::invalid_argument, "the bytes end within a number");
  const StatsKernels& stats = kernels().stats;
  const auto is_finite = stats.finite[static_cast<size_t>(dtype)];
  const bool stream = bytes >= stream_from;
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  const auto* source = static_cast<const char*>(from);
  auto* target = static_cast<char*>(to);
  bool sound = true;
  for (size_t at = 0; at < bytes; at += block_bytes) {
    const size_t count = std::min(block_bytes, bytes - at);
    XXH3_128bits_update(&state, source + at, count);
    sound = sound && is_finite(source + at, static_cast<int64_t>(count / size));
    if (stream)
      stats.stream_copy(source + at, target + at, static_cast<int64_t>(count));
    else
      std::memcpy(target + at, source + at, count);
  }
  if (stream) stats.fence();
  const XXH128_hash_t hash = XXH3_128bits_digest(&state);
  *digest = {hash.low64, hash.high64};
  *finite = sound;
  return {};
}

}  // namespace latentwire
