// Packs the fixed operand of a product: the depth of each output contiguous and filled up to 128 bytes, changed on the way as asked, with
// sums over each output. Done once for a matrix, so sums are in f64.
#include "gemm.h"

namespace latentwire::cuda {
namespace {

constexpr int side = 32;  // of the tile through which a matrix is transposed
constexpr int ty_count = 8;
constexpr int of_thread = side / ty_count;

// Values of 32 outputs by 32 of depth, read along whichever lies contiguous.
template <class In>
__device__ inline void read_tile(const PackArgs& a, int64_t output0, int64_t depth0, float (&tile)[side][side + 1]) noexcept {
  const In* source = static_cast<const In*>(a.source);
  const bool along_depth = a.depth_stride == 1;
  for (int i = static_cast<int>(threadIdx.y); i < side; i += ty_count) {
    const int lane = static_cast<int>(threadIdx.x);
    const int o = along_depth ? i : lane;
    const int d = along_depth ? lane : i;
    const int64_t output = output0 + o;
    const int64_t depth = depth0 + d;
    tile[o][d] = output < a.outputs && depth < a.depth ? to_float(source[output * a.output_stride + depth * a.depth_stride]) : 0.0F;
  }
}

template <class In, class Out>
__global__ void __launch_bounds__(side* ty_count) pack_matrix(const PackArgs a, const int64_t leading) {
  __shared__ float tile[side][side + 1];
  const int64_t output0 = static_cast<int64_t>(blockIdx.x) * side;
  const int lane = static_cast<int>(threadIdx.x);
  const auto changed = [&](float v, int64_t k) {
    if (a.shift != nullptr) v -= a.shift[k];
    if (a.depth_scale != nullptr) v *= a.depth_scale[k];
    return v;
  };
  const auto output_of = [&](int i) { return output0 + i * ty_count + threadIdx.y; };

  double norms[of_thread] = {}, products[of_thread] = {};
  if (a.unit || a.projected != nullptr) {
    for (int64_t k0 = 0; k0 < a.depth; k0 += side) {
      read_tile<In>(a, output0, k0, tile);
      __syncthreads();
      if (k0 + lane < a.depth) {
        const double with = a.projected != nullptr && a.vector != nullptr ? a.vector[k0 + lane] : 0.0F;
#pragma unroll
        for (int i = 0; i < of_thread; i++) {
          const float raw = tile[i * ty_count + threadIdx.y][lane];
          const double v = changed(raw, k0 + lane);
          norms[i] += v * v;
          products[i] += with * raw;
        }
      }
      __syncthreads();
    }
  }
  float factors[of_thread];
#pragma unroll
  for (int i = 0; i < of_thread; i++) {
    const double square = warp_sum(norms[i]);
    factors[i] = !a.unit ? 1.0F : square > 0 ? static_cast<float>(1 / sqrt(square)) : square == 0 ? 0.0F : NAN;
    const double product = warp_sum(products[i]);
    const int64_t output = output_of(i);
    if (lane == 0 && a.projected != nullptr && output < a.outputs)
      a.projected[output] = static_cast<float>(product + (a.offset != nullptr ? a.offset[output] : 0.0F));
  }
  if (a.data == nullptr) return;

  double sums[of_thread] = {}, squares[of_thread] = {};
  for (int64_t k0 = 0; k0 < leading; k0 += side) {
    read_tile<In>(a, output0, k0, tile);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < of_thread; i++) {
      const int64_t output = output_of(i);
      const int64_t k = k0 + lane;
      if (output < a.outputs && k < leading) {
        const float v = k < a.depth ? changed(tile[i * ty_count + threadIdx.y][lane], k) * factors[i] : 0.0F;
        const Out kept = from_float<Out>(v);
        static_cast<Out*>(a.data)[output * leading + k] = kept;
        const float back = to_float(kept);
        if (!isfinite(back) && a.bad_output != nullptr) atomicMin(a.bad_output, static_cast<int32_t>(output));
        sums[i] += back;
        squares[i] += static_cast<double>(back) * back;
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < of_thread; i++) {
    const double sum = warp_sum(sums[i]), square = warp_sum(squares[i]);
    const int64_t output = output_of(i);
    if (lane != 0 || output >= a.outputs) continue;
    if (a.sums != nullptr) a.sums[output] = static_cast<float>(sum);
    if (a.squares != nullptr) a.squares[output] = static_cast<float>(square);
  }
}

}  // namespace

cudaError_t pack(const PackArgs& args, cudaStream_t stream) noexcept {
  if (args.outputs < 0 || args.depth < 0 || args.outputs > INT32_MAX || !aligned(args.data, 128)) return cudaErrorInvalidValue;
  if (args.outputs == 0) return cudaSuccess;
  const int64_t leading = packed_leading(args.storage, args.depth);
  const dim3 block(side, ty_count);
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(args.outputs, side));
  return for_dtype(args.dtype, [&](auto in) {
    return for_dtype(args.storage, [&](auto out) {
      pack_matrix<decltype(in), decltype(out)><<<blocks, block, 0, stream>>>(args, leading);
      return cudaGetLastError();
    });
  });
}

}  // namespace latentwire::cuda
