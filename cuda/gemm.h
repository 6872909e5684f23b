// The product-like kernels on the device: relative representations, the fused projection and the nearest codeword, the same functions as
// native/kernels/{cosine,project,codebook}.h. All memory is the caller's device memory: a workspace of the size that NAME_workspace tells
// (16-byte aligned, undefined contents) and packed operands. Nothing here allocates or waits; launches are ordered by the stream, and
// results do not depend on timing.
//
// Errors: cudaErrorInvalidValue for sizes, dtypes or pointers that do not fit, cudaErrorNotSupported for a `Path` that cannot do the job.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "device.h"

namespace latentwire::cuda {

// Which kernels multiply. `automatic` takes the fastest; the others are for tests and benchmarks.
enum class Path : int32_t {
  automatic,
  few,     // at most 64 rows, bound by reading the packed matrix
  wgmma,   // sm_90a, 16 bits: TMA and warpgroup products
  mma,     // sm_80 and up, and f16 on sm_75: warp products; f32 as three TF32 products
  simple,  // any device: f32 FMA
};

struct Rows {
  Dtype dtype = Dtype::f32;
  const void* data = nullptr;
  int64_t count = 0;
  int64_t stride = 0;  // in elements
};

// A fixed operand, made by `pack`: [outputs, leading] with the depth contiguous and zeros beyond it.
struct PackedMatrix {
  Dtype dtype = Dtype::f32;
  const void* data = nullptr;  // nullptr: there is none. 128-byte aligned
  int64_t outputs = 0;
  int64_t depth = 0;
  const float* sums = nullptr;     // [outputs] the sum of an output's elements as they are kept: LayerNorm needs it
  const float* squares = nullptr;  // [outputs] and of their squares: distances need it
};
// Elements from one output to the next: the depth, filled up to 128 bytes.
constexpr int64_t packed_leading(Dtype dtype, int64_t depth) noexcept {
  return round_up<int64_t>(depth < 1 ? 1 : depth, 128 / static_cast<int64_t>(dtype_size(dtype)));
}
constexpr size_t packed_bytes(Dtype dtype, int64_t outputs, int64_t depth) noexcept {
  return static_cast<size_t>(outputs * packed_leading(dtype, depth)) * dtype_size(dtype);
}

// w[j, k] becomes (w[j, k] - shift[k]) * depth_scale[k], divided by its norm where `unit` is set (zeros stay zeros).
struct PackArgs {
  // [outputs, depth] by strides in elements: anchors have (depth, 1), weights [depth, outputs] of x W have (1, outputs).
  Dtype dtype = Dtype::f32;
  const void* source = nullptr;
  int64_t outputs = 0;
  int64_t depth = 0;
  int64_t output_stride = 0;
  int64_t depth_stride = 1;
  const float* shift = nullptr;        // [depth] or none
  const float* depth_scale = nullptr;  // [depth] or none
  bool unit = false;
  // What is written; nullptr for what is not wanted.
  Dtype storage = Dtype::f32;
  void* data = nullptr;      // packed_bytes, 128-byte aligned
  float* sums = nullptr;     // [outputs]
  float* squares = nullptr;  // [outputs]
  // projected[j] = offset[j] + sum_k vector[k] w[j, k] of the source as it is: the bias that a norm's bias becomes. `offset` may be
  // nullptr.
  const float* vector = nullptr;  // [depth]
  const float* offset = nullptr;  // [outputs]
  float* projected = nullptr;     // [outputs]
  int32_t* bad_output = nullptr;  // lowered to the first output that is not finite as it is kept; the caller sets it to INT32_MAX before
};
cudaError_t pack(const PackArgs& args, cudaStream_t stream) noexcept;

enum class Similarity : int32_t { cosine, angular, inner, squared_euclidean, euclidean, l1 };
constexpr bool is_distance(Similarity s) noexcept { return s != Similarity::cosine && s != Similarity::inner; }

// r[i, j] = similarity of row i, treated, and anchor j. Rows whose dtype is not the anchors' are converted to that first; centre, scale and
// whitening work in f32 and round to the anchors' dtype after (of many rows for 16-bit anchors, whitening takes 16 bits of each number).
// Similarities of 16-bit anchors are of the anchors as they are kept.
struct CosineArgs {
  Rows x;                // [n, d]
  PackedMatrix anchors;  // packed with `unit` for cosine and angular, with `squares` for the Euclidean ones; treated as rows are
  Similarity similarity = Similarity::cosine;
  PackedMatrix whitening;         // f32, [width, d]: x becomes (x - mean) W'
  const float* mean = nullptr;    // [d], with whitening
  const float* centre = nullptr;  // [width] or none: then x becomes (x - centre) * scale
  const float* scale = nullptr;   // [width] or none
  float* r = nullptr;             // [n, count], rows `stride` apart; unless k > 0
  int64_t stride = 0;
  // The k most similar of each row, the best first, the lower index first among equals: both [n, k].
  int64_t k = 0;
  int32_t* indices = nullptr;
  float* values = nullptr;
  int32_t* bad_row = nullptr;  // lowered to the first row with a similarity that is not finite; the caller sets it to INT32_MAX before
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  Path path = Path::automatic;
};
size_t cosine_workspace(const CosineArgs& args) noexcept;
cudaError_t cosine(const CosineArgs& args, cudaStream_t stream) noexcept;

enum class Norm : int32_t { none, l2, rms, layer };
enum class Activation : int32_t { identity, gelu, silu, tanh };
enum class Rescale : int32_t { none, to_norm, residual };

// Y = rescale(act(norm(X) W + b) [W2 + b2]). The norm's weight is folded into `first` (PackArgs::depth_scale) and its bias into the bias
// (PackArgs::projected). Rows, and the activations between the layers, are taken in the dtype of the matrix that they meet.
struct ProjectionArgs {
  Rows x;  // [n, inputs]
  Norm norm = Norm::none;
  float epsilon = 1e-6F;
  PackedMatrix first;                 // [outputs, inputs]; with `sums` for Norm::layer
  const float* first_bias = nullptr;  // [outputs] or none
  Activation activation = Activation::identity;
  PackedMatrix second;  // or none
  const float* second_bias = nullptr;
  Rescale rescale = Rescale::none;
  float target_norm = 1;
  Dtype y_dtype = Dtype::f32;
  void* y = nullptr;  // [n, outputs], rows `stride` apart
  int64_t stride = 0;
  int32_t* bad_row = nullptr;  // as CosineArgs
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  Path path = Path::automatic;
};
size_t projection_workspace(const ProjectionArgs& args) noexcept;
cudaError_t projection(const ProjectionArgs& args, cudaStream_t stream) noexcept;

// The codeword of least |x - c|^2 of each row, the lowest index among equals. Distances are |x|^2 + (|c|^2 - 2 <x, c>) in f32.
struct CodewordArgs {
  Rows x;
  PackedMatrix codewords;      // with `squares`
  int32_t* indices = nullptr;  // [n]
  float* distances = nullptr;  // [n] or none
  int32_t* bad_row = nullptr;  // as CosineArgs
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  Path path = Path::automatic;
};
size_t codeword_workspace(const CodewordArgs& args) noexcept;
cudaError_t codeword(const CodewordArgs& args, cudaStream_t stream) noexcept;

}  // namespace latentwire::cuda
