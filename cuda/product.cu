// Which kernels carry a product out.
#include "plan.h"

namespace latentwire::cuda {
namespace {

constexpr int64_t most_few = 64;

bool supports(const Device& device, Path path, Dtype dtype, int64_t n, int64_t depth) noexcept {
  const bool warp_products = device.version >= 80 || dtype == Dtype::f16;
  switch (path) {
    case Path::few:
      return n <= most_few && depth > 0 && warp_products;
    case Path::wgmma:
      return device.version == 90 && dtype != Dtype::f32 && depth > 0;
    case Path::mma:
      return warp_products && depth > 0;
    case Path::simple:
      return true;
    case Path::automatic:
      break;
  }
  return false;
}

Path fastest(const Device& device, Dtype dtype, int64_t n, int64_t depth) noexcept {
  for (const Path path : {Path::few, Path::wgmma, Path::mma}) {
    if (supports(device, path, dtype, n, depth)) return path;
  }
  return Path::simple;
}

// Blocks that share the depth of few rows' products. They cost a second launch, so each must have something to do: 64 KB of the matrix.
int few_splits(const Device& device, Dtype dtype, int64_t n, int64_t outputs, int64_t depth) noexcept {
  const int64_t blocks = ceil_div<int64_t>(outputs, few_outputs(n));
  const int64_t bytes = few_outputs(n) * packed_leading(dtype, depth) * static_cast<int64_t>(dtype_size(dtype));
  const int64_t idle = device.processors / (blocks > 0 ? blocks : 1);
  return static_cast<int>(std::clamp<int64_t>(std::min(idle, bytes / (64 << 10)), 1, 64));
}

constexpr int64_t stats_floats = 3;

size_t few_bytes(const Device& device, Dtype dtype, int64_t n, int64_t outputs, int64_t depth) noexcept {
  const int splits = few_splits(device, dtype, n, outputs, depth);
  return splits == 1 ? 0 : static_cast<size_t>(splits * n * (outputs + stats_floats)) * sizeof(float);
}

}  // namespace

size_t product_workspace(Dtype dtype, int64_t n, int64_t slab, int64_t outputs, int64_t depth, Path path) noexcept {
  Device device;
  if (n < 1 || slab < 1 || this_device(&device) != cudaSuccess) return 0;
  const auto bytes = [&](int64_t rows) {
    const Path taken = path == Path::automatic ? fastest(device, dtype, rows, depth) : path;
    return rows > 0 && taken == Path::few && rows <= most_few ? few_bytes(device, dtype, rows, outputs, depth) : size_t{0};
  };
  return std::max(bytes(std::min(n, slab)), bytes(n % slab));
}

cudaError_t product(Product p, Path path, void* workspace, cudaStream_t stream) noexcept {
  if (p.n == 0 || p.outputs == 0) return cudaSuccess;
  Device device;
  LATENT_CUDA_TRY(this_device(&device));
  if (p.n == 1) p.x_stride = packed_leading(p.dtype, p.depth);  // of one row it means nothing, but copies want it to be sound
  if (path == Path::automatic) path = fastest(device, p.dtype, p.n, p.depth);
  if (!supports(device, path, p.dtype, p.n, p.depth)) return cudaErrorNotSupported;
  switch (path) {
    case Path::few:
      p.splits = few_splits(device, p.dtype, p.n, p.outputs, p.depth);
      if (p.splits > 1) {
        p.partial = static_cast<float*>(workspace);
        p.partial_stats = p.partial + p.splits * p.n * p.outputs;
      }
      return product_few(p, stream);
    case Path::wgmma:
      return p.dtype == Dtype::f16 ? product_wgmma_f16(p, {}, stream) : product_wgmma_bf16(p, {}, stream);
    case Path::mma: {
      const int64_t wide_tiles = ceil_div<int64_t>(p.n, 128) * ceil_div<int64_t>(p.outputs, 128);
      const bool wide = device.version >= 80 && p.outputs > 64 && 4 * wide_tiles >= 3 * device.processors;
      return product_mma(p, wide, stream);
    }
    case Path::simple:
    case Path::automatic:
      break;
  }
  return product_simple(p, false, stream);
}

}  // namespace latentwire::cuda
