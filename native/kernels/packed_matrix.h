// The fixed operand of a matrix product (anchors, weights), laid out once for the inner loop: panels of 16 outputs, depth by depth, in the
// precision it is to be read in. Immutable, so it is shared between threads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"

namespace latentwire {

class PackedMatrix {
 public:
  // A matrix [outputs, depth] by strides in elements: anchors have (depth, 1), weights [depth, outputs] of x W have (1, outputs).
  struct Source {
    Dtype dtype = Dtype::f32;  // f32, f16 or bf16
    const void* data = nullptr;
    int64_t outputs = 0;
    int64_t depth = 0;
    int64_t output_stride = 0;
    int64_t depth_stride = 1;

    Source transposed() const noexcept { return {dtype, data, depth, outputs, depth_stride, output_stride}; }
  };
  // How the elements change on the way in; empty means not at all. w[j, k] becomes (w[j, k] - shift[k]) * depth_scale[k] * output_scale[j].
  struct Adjust {
    const float* shift = nullptr;         // [depth]
    const float* depth_scale = nullptr;   // [depth]
    const float* output_scale = nullptr;  // [outputs]
  };
  // int8 sums stay within 32 bits up to this depth.
  static constexpr int64_t max_i8_depth = 65536;

  // `storage` is f32, f16, bf16 or i8 (symmetric codes with a scale per output). Fails with dtype, invalid_argument, non_finite (an element
  // that is not finite, or that f16 cannot hold) or out_of_memory.
  static Status pack(const Source& source, Dtype storage, const Adjust& adjust, std::shared_ptr<const PackedMatrix>* out);

  Dtype storage() const noexcept { return storage_; }
  int64_t outputs() const noexcept { return outputs_; }
  int64_t depth() const noexcept { return depth_; }
  int64_t panel_count() const noexcept { return panel_count_; }
  int64_t panel_stride() const noexcept { return panel_stride_; }  // in elements
  size_t bytes() const noexcept;
  // From depth `k` (for i8 a multiple of 4, for bf16 of 2) of panel `p` on.
  const void* panel(int64_t p, int64_t k) const noexcept;
  // i8 only, both [panel_count * 16], 0 beyond the outputs: what a code is worth, and the sum of an output's codes.
  const float* scales() const noexcept { return scales_.data(); }
  const int32_t* code_sums() const noexcept { return code_sums_.data(); }
  // bf16 only: every output is 0, or of such a norm that its denormals count for nothing.
  bool normal() const noexcept { return normal_; }

 private:
  struct Free {
    void operator()(void* memory) const noexcept;
  };

  PackedMatrix() = default;
  bool pack_panel(const Source& source, const Adjust& adjust, int64_t panel) noexcept;

  Dtype storage_ = Dtype::f32;
  int64_t outputs_ = 0;
  int64_t depth_ = 0;
  int64_t panel_count_ = 0;
  int64_t panel_stride_ = 0;
  std::unique_ptr<void, Free> data_;
  std::vector<float> scales_;
  std::vector<int32_t> code_sums_;
  std::atomic<bool> normal_{true};
};

}  // namespace latentwire
