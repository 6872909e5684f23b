// XXH3 of 128 bits over long tiles (github.com/Cyan4973/xxHash, doc/xxhash_spec.md). Blocks of 1024 bytes are a chain, so a warp follows
// one tile: within a block each lane takes two pairs of numbers, and the lanes' sums meet by shuffles. Blocks ahead are on their way
// meanwhile.
#include "memory.h"

namespace latentwire::cuda {
namespace {

constexpr int64_t block_bytes = 1024;
constexpr int64_t stripe_bytes = 64;
constexpr int ahead = 8;

constexpr uint64_t prime32_1 = 0x9E3779B1U;
constexpr uint64_t prime32_2 = 0x85EBCA77U;
constexpr uint64_t prime32_3 = 0xC2B2AE3DU;
constexpr uint64_t prime64_1 = 0x9E3779B185EBCA87U;
constexpr uint64_t prime64_2 = 0xC2B2AE3D27D4EB4FU;
constexpr uint64_t prime64_3 = 0x165667B19E3779F9U;
constexpr uint64_t prime64_4 = 0x85EBCA77C2B2AE63U;
constexpr uint64_t prime64_5 = 0x27D4EB2F165667C5U;

__constant__ const uint8_t secret[192] = {
    0xB8, 0xFE, 0x6C, 0x39, 0x23, 0xA4, 0x4B, 0xBE, 0x7C, 0x01, 0x81, 0x2C, 0xF7, 0x21, 0xAD, 0x1C, 0xDE, 0xD4, 0x6D, 0xE9, 0x83, 0x90,
    0x97, 0xDB, 0x72, 0x40, 0xA4, 0xA4, 0xB7, 0xB3, 0x67, 0x1F, 0xCB, 0x79, 0xE6, 0x4E, 0xCC, 0xC0, 0xE5, 0x78, 0x82, 0x5A, 0xD0, 0x7D,
    0xCC, 0xFF, 0x72, 0x21, 0xB8, 0x08, 0x46, 0x74, 0xF7, 0x43, 0x24, 0x8E, 0xE0, 0x35, 0x90, 0xE6, 0x81, 0x3A, 0x26, 0x4C, 0x3C, 0x28,
    0x52, 0xBB, 0x91, 0xC3, 0x00, 0xCB, 0x88, 0xD0, 0x65, 0x8B, 0x1B, 0x53, 0x2E, 0xA3, 0x71, 0x64, 0x48, 0x97, 0xA2, 0x0D, 0xF9, 0x4E,
    0x38, 0x19, 0xEF, 0x46, 0xA9, 0xDE, 0xAC, 0xD8, 0xA8, 0xFA, 0x76, 0x3F, 0xE3, 0x9C, 0x34, 0x3F, 0xF9, 0xDC, 0xBB, 0xC7, 0xC7, 0x0B,
    0x4F, 0x1D, 0x8A, 0x51, 0xE0, 0x4B, 0xCD, 0xB4, 0x59, 0x31, 0xC8, 0x9F, 0x7E, 0xC9, 0xD9, 0x78, 0x73, 0x64, 0xEA, 0xC5, 0xAC, 0x83,
    0x34, 0xD3, 0xEB, 0xC3, 0xC5, 0x81, 0xA0, 0xFF, 0xFA, 0x13, 0x63, 0xEB, 0x17, 0x0D, 0xDD, 0x51, 0xB7, 0xF0, 0xDA, 0x49, 0xD3, 0x16,
    0x55, 0x26, 0x29, 0xD4, 0x68, 0x9E, 0x2B, 0x16, 0xBE, 0x58, 0x7D, 0x47, 0xA1, 0xFC, 0x8F, 0xF8, 0xB8, 0xD1, 0x7A, 0xD0, 0x31, 0xCE,
    0x45, 0xCB, 0x3A, 0x8F, 0x95, 0x16, 0x04, 0x28, 0xAF, 0xD7, 0xFB, 0xCA, 0xBB, 0x4B, 0x40, 0x7E,
};

__device__ inline uint64_t secret_at(int at) noexcept {
  uint64_t word = 0;
#pragma unroll
  for (int i = 0; i < 8; i++) word |= uint64_t{secret[at + i]} << (8 * i);
  return word;
}

struct Pair {
  uint64_t first;
  uint64_t second;
};

__device__ inline Pair secrets_at(int at) noexcept { return {secret_at(at), secret_at(at + 8)}; }

// Two neighbouring numbers of a stripe.
__device__ inline void accumulate(Pair& sums, uint4 data, Pair key) noexcept {
  const uint64_t a = (uint64_t{data.y} << 32) | data.x;
  const uint64_t b = (uint64_t{data.w} << 32) | data.z;
  const uint64_t keyed_a = a ^ key.first;
  const uint64_t keyed_b = b ^ key.second;
  sums.first += b + (keyed_a & 0xFFFF'FFFFU) * (keyed_a >> 32);
  sums.second += a + (keyed_b & 0xFFFF'FFFFU) * (keyed_b >> 32);
}

// Of the lanes that hold the same pair, every fourth; of several sums at once, so that one does not wait for another.
template <int n>
__device__ inline void together(Pair (&sums)[n]) noexcept {
#pragma unroll
  for (int distance = 4; distance < 32; distance *= 2) {
#pragma unroll
    for (Pair& sum : sums) {
      sum.first += __shfl_xor_sync(all_lanes, sum.first, distance);
      sum.second += __shfl_xor_sync(all_lanes, sum.second, distance);
    }
  }
}

__device__ inline uint64_t scrambled(uint64_t x, uint64_t key) noexcept { return (x ^ (x >> 47) ^ key) * prime32_1; }

__device__ inline uint64_t folded(uint64_t a, uint64_t b) noexcept { return (a * b) ^ __umul64hi(a, b); }

// Of the accumulators in lanes 0 to 3.
__device__ inline uint64_t merged(Pair accumulators, int key, uint64_t start) noexcept {
  uint64_t sum = folded(accumulators.first ^ secret_at(key), accumulators.second ^ secret_at(key + 8));
  sum += __shfl_xor_sync(all_lanes, sum, 1);
  sum += __shfl_xor_sync(all_lanes, sum, 2);
  sum += start;
  sum = (sum ^ (sum >> 37)) * 0x165667919E3779F9U;
  return sum ^ (sum >> 32);
}

__global__ void __launch_bounds__(32) digest_kernel(const __grid_constant__ DigestArgs args) {
  const int lane = static_cast<int>(threadIdx.x);
  const int pair = lane % 4;
  const int stripe = lane / 4;  // and the eighth after it
  const auto* tile = static_cast<const uint8_t*>(args.data) + blockIdx.x * args.stride;
  const auto* data = reinterpret_cast<const uint4*>(tile) + lane;
  const Pair keys[2] = {secrets_at(stripe * 8 + pair * 16), secrets_at((stripe + 8) * 8 + pair * 16)};
  const Pair scramble = secrets_at(128 + pair * 16);
  const uint64_t starts[8] = {prime32_3, prime64_1, prime64_2, prime64_3, prime64_4, prime32_2, prime64_5, prime32_1};
  Pair accumulators = {};
#pragma unroll
  for (int i = 0; i < 4; i++) {
    if (pair == i) accumulators = {starts[2 * i], starts[2 * i + 1]};
  }
  const int64_t blocks = (args.bytes - 1) / block_bytes;
  constexpr int64_t block_units = block_bytes / 16;
  const auto load_block = [&](int64_t block, uint4(&units)[2]) {
#pragma unroll
    for (int j = 0; j < 2; j++) units[j] = load_once(data + block * block_units + j * 32);
  };
  const auto sum_of = [&](const uint4(&units)[2]) {
    Pair sum = {};
#pragma unroll
    for (int j = 0; j < 2; j++) accumulate(sum, units[j], keys[j]);
    return sum;
  };
  const auto chain = [&](const Pair& sums) {
    accumulators.first = scrambled(accumulators.first + sums.first, scramble.first);
    accumulators.second = scrambled(accumulators.second + sums.second, scramble.second);
  };
  // What a block adds does not depend on those before it: the sums of several are made side by side, and only then follow one another.
  uint4 coming[ahead][2];
  const int64_t whole = blocks - blocks % ahead;
#pragma unroll
  for (int i = 0; i < ahead; i++) {
    if (whole > 0) load_block(i, coming[i]);
  }
  for (int64_t first = 0; first < whole; first += ahead) {
    Pair sums[ahead];
    // the last round reads its own blocks again
    const int64_t next = min(first + ahead, whole - ahead);
#pragma unroll
    for (int i = 0; i < ahead; i++) {
      sums[i] = sum_of(coming[i]);
      load_block(next + i, coming[i]);
    }
    together(sums);
#pragma unroll
    for (int i = 0; i < ahead; i++) chain(sums[i]);
  }
  for (int64_t block = whole; block < blocks; block++) {
    load_block(block, coming[0]);
    Pair sum[1] = {sum_of(coming[0])};
    together(sum);
    chain(sum[0]);
  }
  // what is left of the last block, and the last 64 bytes once more
  const int64_t stripes = (args.bytes - 1 - blocks * block_bytes) / stripe_bytes;
  Pair sums[1] = {};
#pragma unroll
  for (int j = 0; j < 2; j++) {
    if (stripe + 8 * j < stripes) accumulate(sums[0], load_once(data + blocks * block_units + j * 32), keys[j]);
  }
  if (stripe == 0) {
    const auto* last = reinterpret_cast<const uint4*>(tile + args.bytes - stripe_bytes);
    accumulate(sums[0], load_once(last + pair), secrets_at(121 + pair * 16));
  }
  together(sums);
  accumulators.first += sums[0].first;
  accumulators.second += sums[0].second;
  const auto bytes = static_cast<uint64_t>(args.bytes);
  const uint64_t low = merged(accumulators, 11 + pair * 16, bytes * prime64_1);
  const uint64_t high = merged(accumulators, 117 + pair * 16, ~(bytes * prime64_2));
  if (lane == 0) args.digests[blockIdx.x] = {low, high};
}

}  // namespace

cudaError_t digest_tiles(const DigestArgs& a, cudaStream_t stream) noexcept {
  if (a.count < 0 || a.count >= (int64_t{1} << 31) || a.bytes <= 240 || a.bytes % 16 != 0 || a.stride % 16 != 0 || !aligned(a.data, 16))
    return cudaErrorInvalidValue;
  if (a.count == 0) return cudaSuccess;
  digest_kernel<<<static_cast<uint32_t>(a.count), 32, 0, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace latentwire::cuda
