// The Hopper products of bf16.
#include "product_wgmma.cuh"

namespace latentwire::cuda {

cudaError_t product_wgmma_bf16(const Product& p, Tile tile, cudaStream_t stream) noexcept {
  return hopper::launch_of<__nv_bfloat16>(p, tile, stream);
}

cudaError_t wgmma_clusters(int size, int* count) noexcept {
  hopper::Room room;
  LATENT_CUDA_TRY(hopper::room_of_device<__nv_bfloat16>(&room));
  *count = room.clusters[size];
  return cudaSuccess;
}

}  // namespace latentwire::cuda
