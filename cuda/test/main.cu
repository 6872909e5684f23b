// Runs all tests, or those whose names contain one of the arguments; of these, --shard=i/n runs every n-th from the i-th on. The last line
// is "N passed, N failed"; exits with 1 if one failed, 2 if there is no device, 3 after an error that ended the run.
#include <chrono>
#include <cstring>

#include "harness.h"

int main(int count, char** arguments) {
  using namespace latentwire::cuda::test;
  cudaDeviceProp device;
  if (const cudaError_t error = cudaGetDeviceProperties(&device, 0); error != cudaSuccess) {
    std::fprintf(stderr, "no device: %s\n", cudaGetErrorString(error));
    return 2;
  }
  std::printf("%s, compute capability %d.%d\n", device.name, device.major, device.minor);
  int shard = 0;
  int shards = 1;
  if (count > 1 && std::sscanf(arguments[1], "--shard=%d/%d", &shard, &shards) == 2) {
    count--;
    arguments++;
  }
  int passed = 0;
  int failed = 0;
  int of_shard = 0;
  for (const Test& test : tests()) {
    bool wanted = count == 1;
    for (int i = 1; i < count; i++) wanted = wanted || std::strstr(test.name, arguments[i]) != nullptr;
    if (!wanted || of_shard++ % shards != shard) continue;
    failures().clear();
    const auto start = std::chrono::steady_clock::now();
    test.body();
    must(cudaDeviceSynchronize(), test.name);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const bool good = failures().empty();
    std::printf("%s: %s (%.2f s)\n", good ? "ok" : "not ok", test.name, seconds);
    constexpr size_t shown = 12;
    for (size_t i = 0; i < failures().size() && i < shown; i++) std::printf("  %s\n", failures()[i].c_str());
    if (failures().size() > shown) std::printf("  and %zu more\n", failures().size() - shown);
    std::fflush(stdout);
    (good ? passed : failed)++;
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
