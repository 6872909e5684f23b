// The Hopper products of bf16, and what the runtime says of clusters.
#include <atomic>

#include "product_wgmma.cuh"

namespace latentwire::cuda {
namespace hopper {

cudaError_t room_of_device(Room* room) noexcept {
  constexpr int devices = 16;                               // that are remembered
  static std::atomic<int> known[devices][most_blocks + 1];  // one more than there is room for
  int device = 0;
  LATENT_CUDA_TRY(cudaGetDevice(&device));
  LATENT_CUDA_TRY(device_attribute(cudaDevAttrMultiProcessorCount, &room->clusters[1]));
  for (int size = 2; size <= most_blocks; size *= 2) {
    int found = device < devices ? known[device][size].load(std::memory_order_relaxed) - 1 : -1;
    if (found < 0) {
      const auto kernel = wgmma_product<__nv_bfloat16, 256, Stats::none, false>;
      LATENT_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Ring<256>::bytes));
      cudaLaunchAttribute attribute{};
      attribute.id = cudaLaunchAttributeClusterDimension;
      attribute.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
      cudaLaunchConfig_t config{};
      config.gridDim = dim3(static_cast<unsigned>(size));
      config.blockDim = dim3(block_threads);
      config.dynamicSmemBytes = Ring<256>::bytes;
      config.attrs = &attribute;
      config.numAttrs = 1;
      if (cudaOccupancyMaxActiveClusters(&found, kernel, &config) != cudaSuccess) {
        found = 0;  // products do without such clusters
        cudaGetLastError();
      } else if (device < devices) {
        known[device][size].store(found + 1, std::memory_order_relaxed);
      }
    }
    room->clusters[size] = found;
  }
  return cudaSuccess;
}

}  // namespace hopper

cudaError_t product_wgmma_bf16(const Product& p, Tile tile, cudaStream_t stream) noexcept {
  return hopper::launch_of<__nv_bfloat16>(p, tile, stream);
}

cudaError_t wgmma_clusters(int size, int* count) noexcept {
  hopper::Room room;
  LATENT_CUDA_TRY(hopper::room_of_device(&room));
  *count = room.clusters[size];
  return cudaSuccess;
}

}  // namespace latentwire::cuda
