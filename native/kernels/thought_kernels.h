// The passes of a thought step: over a vocabulary of logits, and over rows of an embedding table as it is stored.
#pragma once

#include <cstdint>

namespace latentwire {

// Logits whose maximum is kept together. The threshold of a top-k comes from these maxima.
constexpr int64_t logit_block = 512;

// How a row of a table is stored: plain numbers, or the blocks of ggml (32 columns each for q8_0 and q4_0, 256 for q4_K and q6_K).
enum class RowFormat { f32, f16, bf16, q8_0, q4_0, q4_K, q6_K };

struct RowSum {
  RowFormat format;
  const uint8_t* rows;
  int64_t row_bytes;   // from row to row
  int64_t width;       // columns
  const int32_t* ids;  // [count], or nullptr for the rows from `first` on
  int64_t first;
  int64_t count;
  const float* weights;  // [batch, count]
  int64_t weight_stride;
  int64_t batch;
  float* out;  // [batch, width]
  int64_t out_stride;
};

struct ThoughtKernels {
  // The maximum of each block of `logit_block`, the last of which may be shorter. False if there is a NaN or +infinity.
  bool (*maxima)(const float* z, int64_t n, float* out) noexcept = nullptr;
  // Adds the sums of q and of q y, where y = (z - max) scale and q = 2^y. Blocks whose maximum lies below `floor` count as nothing.
  void (*exp_sums)(const float* z, int64_t n, const float* maxima, float floor, float max, float scale, double* sum,
                   double* weighted) noexcept = nullptr;
  // Writes first + i for each z[i] >= threshold, which is above -infinity, in order; blocks are skipped by their maxima. Returns how many.
  int64_t (*collect)(const float* z, int64_t n, const float* maxima, float threshold, int64_t first, int32_t* ids) noexcept = nullptr;
  // out[i] = 2^((z[i] - max) scale) factor, where results below 2^-126 factor are 0.
  void (*exponentials)(const float* z, int64_t n, float max, float scale, float factor, float* out) noexcept = nullptr;
  // out[b] += sum of weights[b, i] * row i, in order of i: what a row of the batch gets does not depend on the others.
  void (*sum_rows)(const RowSum& sum) noexcept = nullptr;
};

}  // namespace latentwire
