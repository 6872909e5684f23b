// Passes over rows before and behind products, for what those cannot do on the way.
#include "plan.h"

namespace latentwire::cuda {
namespace {

constexpr int threads = 128;

template <class In, class Out>
__global__ void __launch_bounds__(threads) treat(const Treatment a, const int64_t leading) {
  __shared__ float room[32];
  const In* x = static_cast<const In*>(a.x.data) + static_cast<int64_t>(blockIdx.x) * a.x.stride;
  Out* out = static_cast<Out*>(a.out) + static_cast<int64_t>(blockIdx.x) * leading;
  const auto at = [&](int64_t k) {
    float v = to_float(x[k]);
    if (a.shift != nullptr) v -= a.shift[k];
    if (a.scale != nullptr) v *= a.scale[k];
    return v;
  };
  float mean = 0;
  float factor = 1;
  if (a.layer) {
    const auto depth = static_cast<float>(a.depth);
    float sum = 0;
    for (int64_t k = threadIdx.x; k < a.depth; k += threads) sum += at(k);
    mean = block_sum(sum, room) / depth;
    float deviation = 0;
    for (int64_t k = threadIdx.x; k < a.depth; k += threads) {
      const float d = at(k) - mean;
      deviation = fmaf(d, d, deviation);
    }
    const float variance = block_sum(deviation, room) / depth;
    // a variance that is not finite makes the row so, which is reported where its product ends
    factor = variance > 0 ? 1 / sqrtf(variance + a.epsilon) : 0.0F;
    if (!isfinite(variance)) factor = NAN;
  }
  for (int64_t k = threadIdx.x; k < leading; k += threads) out[k] = from_float<Out>(k < a.depth ? (at(k) - mean) * factor : 0.0F);
}

template <class In, class Out>
__global__ void __launch_bounds__(threads) polish(const Polish a) {
  __shared__ float room[32];
  __shared__ double wide_room[32];
  const In* in = static_cast<const In*>(a.in) + static_cast<int64_t>(blockIdx.x) * a.in_stride;
  Out* out = static_cast<Out*>(a.out) + static_cast<int64_t>(blockIdx.x) * a.out_stride;
  const auto at = [&](int64_t k) {
    const float v = to_float(in[k]);
    if (a.angle) return acosf(fminf(fmaxf(v, -1.0F), 1.0F)) * 0.31830988618379067F;
    if (a.activation == Activation::silu) return v / (1 + expf(-v));
    return a.activation == Activation::tanh ? tanhf(v) : v;
  };
  const int64_t of_residual = static_cast<int64_t>(blockIdx.x) * a.residual.stride;
  double factor = 1;
  if (a.to_norm) {
    float sum = 0;
    for (int64_t k = threadIdx.x; k < a.columns; k += threads) {
      const float v = at(k);
      sum = fmaf(v, v, sum);
    }
    double square = block_sum(sum, room);
    if (!(square >= 1e-30 && square <= 1e30)) {
      double wide = 0;
      for (int64_t k = threadIdx.x; k < a.columns; k += threads) {
        const double v = at(k);
        wide += v * v;
      }
      square = block_sum(wide, wide_room);
    }
    factor = square > 0 ? a.target_norm / sqrt(square) : 1.0;
  }
  const auto narrow = static_cast<float>(factor);
  for (int64_t k = threadIdx.x; k < a.columns; k += threads) {
    float v = at(k);
    if (a.residual.data != nullptr) v += load_float(a.residual.dtype, a.residual.data, of_residual + k);
    out[k] = from_float<Out>(!a.to_norm ? v : factor <= 1e38 ? v * narrow : static_cast<float>(v * factor));
  }
}

constexpr int split_columns = 8;

// A thread for eight neighbouring columns.
template <class In>
__global__ void __launch_bounds__(threads)
    split(const Rows x, const int64_t depth, const int64_t leading, const float* shift, const bool matrix, __nv_bfloat16* out) {
  const In* from = static_cast<const In*>(x.data) + static_cast<int64_t>(blockIdx.x) * x.stride;
  __nv_bfloat16* to = out + static_cast<int64_t>(blockIdx.x) * 3 * leading;
  const bool vector = reinterpret_cast<uintptr_t>(from) % 16 == 0;
  for (int64_t k = threadIdx.x * split_columns; k < leading; k += threads * split_columns) {
    float v[split_columns];
    if (vector && k + split_columns <= depth) {
      if constexpr (sizeof(In) == 2) {
        unpack(*reinterpret_cast<const uint4*>(from + k), v, In{});
      } else {
#pragma unroll
        for (int i = 0; i < split_columns; i += 4) {
          const float4 four = *reinterpret_cast<const float4*>(from + k + i);
          v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < split_columns; i++) v[i] = k + i < depth ? to_float(from[k + i]) : 0.0F;
    }
    float rest[split_columns];
#pragma unroll
    for (int i = 0; i < split_columns; i++) {
      if (shift != nullptr && k + i < depth) v[i] -= shift[k + i];
      rest[i] = v[i] - to_float(__float2bfloat16_rn(v[i]));
    }
    const uint4 big = pack(v, __nv_bfloat16{});
    const uint4 small = pack(rest, __nv_bfloat16{});
    *reinterpret_cast<uint4*>(to + k) = big;
    *reinterpret_cast<uint4*>(to + leading + k) = matrix ? big : small;
    *reinterpret_cast<uint4*>(to + 2 * leading + k) = matrix ? small : big;
  }
}

}  // namespace

cudaError_t split_rows(const Rows& x, int64_t depth, const float* shift, bool matrix, void* out, cudaStream_t stream) noexcept {
  if (x.count == 0) return cudaSuccess;
  return for_dtype(x.dtype, [&](auto element) {
    split<decltype(element)><<<static_cast<unsigned>(x.count), threads, 0, stream>>>(x, depth, packed_leading(Dtype::bf16, depth), shift,
                                                                                     matrix, static_cast<__nv_bfloat16*>(out));
    return cudaGetLastError();
  });
}

cudaError_t treat_rows(const Treatment& treatment, cudaStream_t stream) noexcept {
  if (treatment.x.count == 0) return cudaSuccess;
  const int64_t leading = packed_leading(treatment.dtype, treatment.depth);
  return for_dtype(treatment.x.dtype, [&](auto in) {
    return for_dtype(treatment.dtype, [&](auto out) {
      treat<decltype(in), decltype(out)><<<static_cast<unsigned>(treatment.x.count), threads, 0, stream>>>(treatment, leading);
      return cudaGetLastError();
    });
  });
}

cudaError_t polish_rows(const Polish& args, cudaStream_t stream) noexcept {
  if (args.n == 0 || args.columns == 0) return cudaSuccess;
  return for_dtype(args.in_dtype, [&](auto in) {
    return for_dtype(args.out_dtype, [&](auto out) {
      polish<decltype(in), decltype(out)><<<static_cast<unsigned>(args.n), threads, 0, stream>>>(args);
      return cudaGetLastError();
    });
  });
}

}  // namespace latentwire::cuda
