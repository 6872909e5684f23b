// Kernels between f32 and the blocks of ggml that quantised caches are made of: 32 neighbours with one f16 scale.
#pragma once

#include <cstdint>

namespace latentwire {

// The first block that holds NaN or an infinity, or whose scale is too large for f16; `blocks` if there is none. What belongs to blocks
// from there on is unspecified. The bytes are those of ggml's reference quantiser on every instruction set; where that one overflows,
// because the inverse of the scale is no number of f32 (the scale is then 0 as f16), codes are those of zeros.
using EncodeBlocks = int64_t (*)(const float* x, int64_t blocks, uint8_t* out) noexcept;
using DecodeBlocks = void (*)(const uint8_t* in, int64_t blocks, float* x) noexcept;

struct BlockKernels {
  EncodeBlocks encode_q8_0 = nullptr;
  EncodeBlocks encode_q4_0 = nullptr;
  DecodeBlocks decode_q8_0 = nullptr;
  DecodeBlocks decode_q4_0 = nullptr;
};

}  // namespace latentwire
