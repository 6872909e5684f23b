// The fused projection: Y = rescale(act(norm(X) W + b) [W2 + b2]), the shape that Planner-Executor projectors, MLP adapters and affine
// translators share.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"
#include "kernels/row_kernels.h"

namespace latentwire {

enum class Rescale { none, to_norm, residual };

// The fixed part, packed once. Immutable.
class Projection {
 public:
  struct Layer {
    Dtype dtype = Dtype::f32;       // of the weights
    const void* weights = nullptr;  // [inputs, outputs] row-major
    int64_t inputs = 0;
    int64_t outputs = 0;
    std::vector<float> bias;  // [outputs] or empty
  };
  struct Options {
    RowNorm norm = RowNorm::none;
    float epsilon = 1e-6F;
    // Of RMSNorm and LayerNorm, [inputs] or empty; they are folded into the first layer.
    std::vector<float> norm_weight;
    std::vector<float> norm_bias;
    Activation activation = Activation::identity;
    Rescale rescale = Rescale::none;
    float target_norm = 1;       // to_norm: every row of Y is brought to this norm, a zero row stays zero
    Dtype storage = Dtype::f32;  // of the packed weights: f32, f16, bf16 or i8
  };

  // `second` may be nullptr. Fails as PackedMatrix::pack does, and with invalid_argument for sizes that do not fit.
  static Status pack(const Layer& first, const Layer* second, Options options, std::shared_ptr<const Projection>* out);

  // What `pack` checks before it looks at the weights, for those who pack elsewhere.
  static Status check(const Layer& first, const Layer* second, const Options& options);

  int64_t inputs() const noexcept { return first_->depth(); }
  int64_t outputs() const noexcept { return (second_ ? second_ : first_)->outputs(); }
  // Of one row.
  int64_t multiplications() const noexcept {
    return first_->depth() * first_->outputs() + (second_ ? second_->depth() * second_->outputs() : 0);
  }
  size_t bytes() const noexcept { return first_->bytes() + (second_ ? second_->bytes() : 0); }

  // y: [x.count, outputs] f32, rows `stride` elements apart; it must not overlap x. residual adds x itself (inputs == outputs).
  Status apply(const Rows& x, float* y, int64_t stride, const std::atomic<bool>* cancel = nullptr) const;

 private:
  Projection() = default;
  void finish_row(const Rows& x, int64_t row, float* y) const noexcept;

  Options options_;
  std::shared_ptr<const PackedMatrix> first_;
  std::shared_ptr<const PackedMatrix> second_;
  std::vector<float> first_bias_;
  std::vector<float> second_bias_;
};

}  // namespace latentwire
