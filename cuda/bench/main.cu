// Runs all benches, or those whose names contain one of the arguments. Lines of JSON: the device first, of Hopper with how many clusters of
// blocks it holds at once, then a line for each shape.
#include <cstdio>
#include <cstring>

#include "../product.cuh"
#include "harness.h"

int main(int count, char** arguments) {
  using namespace latentwire::cuda;
  using namespace latentwire::cuda::bench;
  cudaDeviceProp device;
  if (const cudaError_t error = cudaGetDeviceProperties(&device, 0); error != cudaSuccess) {
    std::fprintf(stderr, "no device: %s\n", cudaGetErrorString(error));
    return 2;
  }
  std::printf(
      "{\"op\": \"device\", \"name\": \"%s\", \"multiprocessors\": %d, \"cache_bytes\": %d, \"copy_gbs\": %.1f, \"bf16_tflops\": %.1f",
      device.name, device.multiProcessorCount, device.l2CacheSize, copy_rate(), dense_rate());
  if (device.major == 9) {
    for (const int size : {1, 2, 4, 8}) {
      int clusters = 0;
      LATENT_MUST(wgmma_clusters(size, &clusters));
      std::printf(", \"clusters_of_%d\": %d", size, clusters);
    }
  }
  std::printf("}\n");
  std::fflush(stdout);
  for (const Bench& bench : benches()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted = wanted || std::strstr(bench.name, arguments[i]) != nullptr;
    if (!wanted) continue;
    bench.body();
    LATENT_MUST(cudaDeviceSynchronize());
  }
  return 0;
}
