// The Hopper products of f16.
#include "product_wgmma.cuh"

namespace latentwire::cuda {

cudaError_t product_wgmma_f16(const Product& p, Tile tile, cudaStream_t stream) noexcept {
  return hopper::launch_of<__half>(p, tile, stream);
}

}  // namespace latentwire::cuda
