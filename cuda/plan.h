// How a product is carried out: which kernels, in how many parts, and what memory that takes. Host code.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gemm.h"
#include "product.cuh"

namespace latentwire::cuda {

// Hands out pieces of a workspace. Without memory it only adds up what they take.
class Arena {
 public:
  Arena() = default;
  Arena(void* memory, size_t bytes) noexcept : memory_(static_cast<char*>(memory)), bytes_(bytes) {}

  // 128-byte aligned if the workspace is; nullptr for no bytes.
  template <class T = void>
  T* take(size_t bytes) noexcept {
    const size_t at = used_;
    used_ += round_up<size_t>(bytes, 128);
    return memory_ == nullptr || bytes == 0 ? nullptr : reinterpret_cast<T*>(memory_ + at);
  }
  size_t used() const noexcept { return used_; }
  // Whether all pieces are there.
  bool complete() const noexcept { return used_ <= bytes_; }

 private:
  char* memory_ = nullptr;
  size_t bytes_ = 0;
  size_t used_ = 0;
};

// Rows that go through all steps together where there is memory between the steps.
constexpr int64_t slab_rows = 8192;

// Memory that products of `n` rows, slab by slab, need for themselves.
size_t product_workspace(Dtype dtype, int64_t n, int64_t slab, int64_t outputs, int64_t depth, Path path) noexcept;
// `p.partial`, where the plan needs it, is the start of that memory.
cudaError_t product(Product p, Path path, void* workspace, cudaStream_t stream) noexcept;

// Rows as products take them: in their dtype, 16-byte aligned, zeros behind the depth.
struct Treatment {
  Rows x;
  int64_t depth = 0;
  const float* shift = nullptr;  // subtracted first
  const float* scale = nullptr;  // multiplied in after that
  bool layer = false;            // LayerNorm, after that
  float epsilon = 0;
  Dtype dtype = Dtype::f32;
  void* out = nullptr;  // [n, packed_leading]
};
cudaError_t treat_rows(const Treatment& treatment, cudaStream_t stream) noexcept;
// Rows less `shift` as bf16 parts whose product with a matrix's adds up to one of 16 bits of each: [big, small, big] of rows, and of a
// matrix [big, big, small], each part as wide as a packed row. `out` is bf16 [n, 3 packed_leading].
cudaError_t split_rows(const Rows& x, int64_t depth, const float* shift, bool matrix, void* out, cudaStream_t stream) noexcept;
// Whether products of that dtype can take the rows as they lie.
inline bool lies_well(const Rows& x, int64_t depth, Dtype dtype) noexcept {
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  return x.dtype == dtype && aligned(x.data, 16) && depth * size % 16 == 0 && (x.stride * size % 16 == 0 || x.count <= 1);
}
// A product of rows that lie well with a packed matrix, as yet with nowhere to store.
inline Product product_of(const Rows& x, const PackedMatrix& w, const float* bias) noexcept {
  Product p;
  p.dtype = w.dtype;
  p.x = x.data;
  p.n = x.count;
  p.x_stride = x.stride;
  p.w = w.data;
  p.outputs = w.outputs;
  p.w_stride = packed_leading(w.dtype, w.depth);
  p.depth = w.depth;
  p.bias = bias;
  return p;
}
inline Rows part_of(const Rows& x, int64_t first, int64_t count) noexcept {
  return {x.dtype, static_cast<const char*>(x.data) + static_cast<size_t>(first * x.stride) * dtype_size(x.dtype), count, x.stride};
}

// Zeros behind the columns of rows [n, packed_leading] that a product has written.
inline cudaError_t clear_padding(Dtype dtype, void* rows, int64_t n, int64_t columns, cudaStream_t stream) noexcept {
  const size_t used = static_cast<size_t>(columns) * dtype_size(dtype);
  const size_t pitch = packed_bytes(dtype, 1, columns);
  if (used == pitch || n == 0) return cudaSuccess;
  return cudaMemset2DAsync(static_cast<char*>(rows) + used, pitch, 0, pitch - used, static_cast<size_t>(n), stream);
}

// What no product can do while it stores: the rarer activations, the angle of a cosine, and bringing rows to a norm.
struct Polish {
  int64_t n = 0;
  int64_t columns = 0;
  Dtype in_dtype = Dtype::f32;
  const void* in = nullptr;
  int64_t in_stride = 0;
  Dtype out_dtype = Dtype::f32;
  void* out = nullptr;  // may be `in` where the dtypes are one
  int64_t out_stride = 0;
  Activation activation = Activation::identity;  // silu or tanh
  bool angle = false;                            // arccos / pi
  Rows residual;                                 // added after the activation, or none
  bool to_norm = false;
  float target_norm = 0;
};
cudaError_t polish_rows(const Polish& polish, cudaStream_t stream) noexcept;

}  // namespace latentwire::cuda
