// The compression function of BLAKE3, over several inputs at once. The tree above it is in `blake3.cpp`.
#pragma once

#include <cstdint>

namespace latentwire {

// Flags of a compression, as the specification numbers them.
namespace blake3_flag {
constexpr uint32_t chunk_start = 1, chunk_end = 2, parent = 4, root = 8, keyed_hash = 16;
}

constexpr int64_t blake3_block = 64;

// The first words of SHA-256, which stand for the key where there is none.
constexpr uint32_t blake3_initial[8] = {0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};

// Inputs of whole blocks, one behind the other: chunks of 16 blocks, or pairs of chaining values, which are one.
struct Blake3Inputs {
  const uint8_t* data;
  int64_t count;
  int64_t blocks;         // of an input
  const uint32_t* key;    // [8]
  uint64_t counter;       // of the first input
  uint64_t counter_step;  // from one input to the next: 1 for chunks, 0 for pairs
  uint32_t flags;         // of every block
  uint32_t first_flags;   // of an input's first block, besides
  uint32_t last_flags;    // of its last block, besides
};

struct Blake3Kernels {
  // The chaining value of each input: out [count][32]. `out` may be `data`.
  void (*hash)(const Blake3Inputs& inputs, uint8_t* out) noexcept = nullptr;
  // value [8]: the chaining value before and after one block, of which `length` bytes count; the others must be 0.
  void (*compress)(uint32_t* value, const uint8_t* block, uint32_t length, uint64_t counter, uint32_t flags) noexcept = nullptr;
};

}  // namespace latentwire
