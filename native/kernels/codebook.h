// Vectors as symbols: the nearest codeword of one codebook (VQ) or of several in turn (residual VQ), a grid without a codebook (FSQ), and
// how many bits each component of a PCA should get (reverse water-filling).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"

namespace latentwire {

// Codewords, prepared once. Immutable.
class Codebook {
 public:
  // `codewords` are rows of `depth`, at least one; `storage` is what they are compared in: f32, f16 or bf16. Fails as PackedMatrix::pack.
  static Status pack(const Rows& codewords, int64_t depth, Dtype storage, std::shared_ptr<const Codebook>* out);

  int64_t count() const noexcept { return matrix_->outputs(); }
  int64_t depth() const noexcept { return matrix_->depth(); }
  size_t bytes() const noexcept { return matrix_->bytes() + (half_squares_.size() + words_.size()) * sizeof(float); }
  // As it was given, in f32: [depth].
  const float* word(int64_t index) const noexcept { return words_.data() + index * depth(); }

  // The codeword of least |x - c|^2 for each row, the lowest index among equals: indices [x.count], and those distances, [x.count] or
  // nullptr. The product never leaves the cache. Distances are |x|^2 + (|c|^2 - 2 <x, c>) in f32, so those much smaller than |x|^2 are
  // inexact. Fails as `multiply` does, and with non_finite where a distance is beyond f32.
  Status nearest(const Rows& x, int32_t* indices, float* distances, const std::atomic<bool>* cancel = nullptr) const;

 private:
  Codebook() = default;

  std::shared_ptr<const PackedMatrix> matrix_;
  std::vector<float> half_squares_;  // |c|^2 / 2, of the codewords as they are compared
  std::vector<float> words_;
};

// Residual VQ. Each codebook in turn codes what those before it have left: indices [x.count, stages]. `residual` is what is left at the
// end, [x.count, depth] f32, or nullptr. Fails with invalid_argument for no codebook or different depths, and as Codebook::nearest.
Status residual_encode(const Rows& x, const std::vector<std::shared_ptr<const Codebook>>& stages, int32_t* indices, float* residual,
                       const std::atomic<bool>* cancel = nullptr);
// The sum of the codewords: y [rows, depth] f32, rows `stride` elements apart. Fails with invalid_argument for an index out of range. With
// one codebook this is the decoding of VQ.
Status residual_decode(const std::vector<std::shared_ptr<const Codebook>>& stages, const int32_t* indices, int64_t rows, float* y,
                       int64_t stride);

// Finite scalar quantisation (Mentzer et al. 2023): component j of z is bounded by tanh and rounded to one of `levels[j]` values, code /
// half with half = levels / 2 (rounded down): -1 .. 1 for an odd count, -1 .. 1 - 1 / half for an even one.
class Fsq {
 public:
  // At least one component, 2 to 65536 levels each, and at most 2^62 symbols in all; else invalid_argument.
  static Status make(std::vector<int32_t> levels, Fsq* out);

  int64_t depth() const noexcept { return static_cast<int64_t>(levels_.size()); }
  int64_t symbols() const noexcept { return symbols_; }
  // The symbols of rows, sum_j (code_j + half_j) prod_{i<j} levels_i: [x.count]. Fails with dtype or non_finite.
  Status encode(const Rows& x, int64_t* symbols) const;
  // The values that symbols stand for: [rows, depth], rows `stride` elements apart. Fails with invalid_argument for a symbol out of range.
  Status decode(const int64_t* symbols, int64_t rows, float* y, int64_t stride) const;

 private:
  std::vector<int32_t> levels_;
  int64_t symbols_ = 0;
};

// Reverse water-filling: the split of `total_bits` over Gaussian components with the least squared error. Component i gets
// max(0, log2(variance_i / level) / 2) bits and keeps the error min(level, variance_i).
struct WaterFilling {
  double level = 0;
  double distortion = 0;     // the sum of the errors
  std::vector<double> bits;  // of each component; they add up to total_bits
};
// Fails with invalid_argument for a negative or infinite variance or number of bits, or when nothing varies and there are bits to spend.
Status water_filling(const std::vector<double>& variances, double total_bits, WaterFilling* out);
// The same in whole bits, `most` at most each: bit by bit to the component with the largest error, which it quarters; the lowest index
// among equals. Adds up to total_bits, or to less when no component may have more or none has an error left. Fails likewise.
Status whole_bits(const std::vector<double>& variances, int64_t total_bits, int most, std::vector<int>* bits, double* distortion);

}  // namespace latentwire
