#include "harness.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

namespace latentwire::cuda::bench {

void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(3);
}

namespace {

__device__ uint64_t mixed(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31);
}

template <class T>
__global__ void fill(T* x, int64_t n, float scale, uint64_t seed) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += int64_t{gridDim.x} * blockDim.x) {
    const uint64_t word = mixed(seed * 0x9E3779B97F4A7C15U + static_cast<uint64_t>(i));
    const float u = (static_cast<float>(word >> 40) + 0.5F) * 0x1p-24F;
    const float v = static_cast<float>(word & 0xFF'FFFFU) * 0x1p-24F;
    x[i] = from_float<T>(sqrtf(-2 * logf(u)) * cospif(2 * v) * scale);
  }
}

size_t cache_bytes() {
  int bytes = 0;
  LATENT_MUST(device_attribute(cudaDevAttrL2CacheSize, &bytes));
  return static_cast<size_t>(bytes);
}

class Events {
 public:
  Events() {
    LATENT_MUST(cudaEventCreate(&start_));
    LATENT_MUST(cudaEventCreate(&stop_));
    LATENT_MUST(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  }
  ~Events() {
    cudaEventDestroy(start_);
    cudaEventDestroy(stop_);
    cudaStreamDestroy(stream_);
  }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;

  cudaStream_t stream() const { return stream_; }
  // Milliseconds of a graph.
  float time(cudaGraphExec_t graph) const {
    LATENT_MUST(cudaEventRecord(start_, stream_));
    LATENT_MUST(cudaGraphLaunch(graph, stream_));
    LATENT_MUST(cudaEventRecord(stop_, stream_));
    LATENT_MUST(cudaEventSynchronize(stop_));
    float ms = 0;
    LATENT_MUST(cudaEventElapsedTime(&ms, start_, stop_));
    return ms;
  }

 private:
  cudaEvent_t start_ = nullptr;
  cudaEvent_t stop_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

struct Timing {
  double us = 0;      // median
  double spread = 0;  // (90th - 10th percentile) / median
  cudaError_t error = cudaSuccess;
};

// Graphs of several launches, each on the next set, so that what a graph costs to start is shared and caches are cold.
Timing time_of(const Entry& entry) {
  constexpr double wanted_ms = 2;    // of a graph
  constexpr double budget_ms = 120;  // of all graphs
  const Events events;
  Timing timing;
  const auto capture = [&](int launches, cudaGraphExec_t* executable) {
    cudaGraph_t graph = nullptr;
    LATENT_MUST(cudaStreamBeginCapture(events.stream(), cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < launches && timing.error == cudaSuccess; i++) timing.error = entry.launch(i % entry.sets, events.stream());
    const cudaError_t ended = cudaStreamEndCapture(events.stream(), &graph);
    if (timing.error == cudaSuccess) timing.error = ended;
    if (timing.error == cudaSuccess) timing.error = cudaGraphInstantiate(executable, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    return timing.error == cudaSuccess;
  };
  cudaGraphExec_t graph = nullptr;
  const int trial = std::max(entry.sets, 4);
  if (!capture(trial, &graph)) return timing;
  events.time(graph);
  const double once = std::max(1e-3, static_cast<double>(events.time(graph)) / trial);
  LATENT_MUST(cudaGraphExecDestroy(graph));
  const int launches = std::clamp(static_cast<int>(wanted_ms / once), 1, 400);
  if (!capture(launches, &graph)) return timing;
  const int repeats = std::clamp(static_cast<int>(budget_ms / (once * launches)), 7, 60);
  std::vector<double> times;
  for (int i = 0; i < 3; i++) events.time(graph);
  for (int i = 0; i < repeats; i++) times.push_back(static_cast<double>(events.time(graph)) * 1000 / launches);
  LATENT_MUST(cudaGraphExecDestroy(graph));
  std::sort(times.begin(), times.end());
  timing.us = times[times.size() / 2];
  timing.spread = (times[times.size() * 9 / 10] - times[times.size() / 10]) / timing.us;
  return timing;
}

// The value of "key": number in the first line with "op": op; 0 where there is none.
double peer_number(const char* op, const char* key) {
  const char* path = std::getenv("LATENTWIRE_PEERS");
  if (path == nullptr) return 0;
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    if (line.find(std::string("\"op\": \"") + op + "\"") == std::string::npos) continue;
    const std::string name = std::string("\"") + key + "\": ";
    const size_t at = line.find(name);
    if (at != std::string::npos) return std::atof(line.c_str() + at + name.size());
  }
  return 0;
}

__global__ void copy_units(const uint4* from, uint4* to, int64_t n) {
  constexpr int depth = 4;
  const int64_t first = int64_t{blockIdx.x} * blockDim.x * depth + threadIdx.x;
  uint4 units[depth];
#pragma unroll
  for (int i = 0; i < depth; i++) units[i] = load_once(from + min(first + i * int64_t{blockDim.x}, n - 1));
#pragma unroll
  for (int i = 0; i < depth; i++) {
    if (first + i * int64_t{blockDim.x} < n) store_once(to + first + i * int64_t{blockDim.x}, units[i]);
  }
}

// The better of what the runtime copies and what a plain kernel copies.
double measured_copy_rate() {
  constexpr size_t bytes = size_t{1} << 30;
  constexpr int64_t units = bytes / 16;
  const Buffer from(static_cast<int64_t>(bytes / 4), Dtype::f32, 1, 1);
  const Buffer to(bytes);
  Entry copy;
  copy.launch = [&](int, cudaStream_t stream) { return cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream); };
  const Timing by_runtime = time_of(copy);
  must(by_runtime.error, "copy");
  copy.launch = [&](int, cudaStream_t stream) {
    copy_units<<<units / 1024, 256, 0, stream>>>(from.as<uint4>(), to.as<uint4>(), units);
    return cudaGetLastError();
  };
  const Timing by_kernel = time_of(copy);
  must(by_kernel.error, "copy");
  return 2 * static_cast<double>(bytes) / std::min(by_runtime.us, by_kernel.us) / 1000;
}

}  // namespace

Buffer::Buffer(size_t bytes) : bytes_(bytes) {
  LATENT_MUST(cudaMalloc(&data_, bytes + 1));
  LATENT_MUST(cudaMemset(data_, 0, bytes));
}
Buffer::Buffer(int64_t count, Dtype dtype, float scale, uint64_t seed) : bytes_(static_cast<size_t>(count) * dtype_size(dtype)) {
  LATENT_MUST(cudaMalloc(&data_, bytes_ + 1));
  LATENT_MUST(for_dtype(dtype, [&](auto element) {
    fill<<<2048, 256>>>(static_cast<decltype(element)*>(data_), count, scale, seed);
    return cudaGetLastError();
  }));
}
Buffer::~Buffer() { cudaFree(data_); }
Buffer::Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
void Buffer::upload(const void* from, size_t bytes) const { LATENT_MUST(cudaMemcpy(data_, from, bytes, cudaMemcpyHostToDevice)); }

int sets_of(size_t bytes) {
  size_t free = 0;
  size_t total = 0;
  LATENT_MUST(cudaMemGetInfo(&free, &total));
  const size_t wanted = 3 * cache_bytes() / std::max<size_t>(bytes, 1) + 1;
  const size_t fitting = std::max<size_t>(free / 2 / std::max<size_t>(bytes, 1), 1);
  return static_cast<int>(std::min({wanted, fitting, size_t{64}}));
}

double copy_rate() {
  static const double rate = [] {
    const double told = peer_number("device", "copy_gbs");
    const double measured = measured_copy_rate();
    return std::max(told, measured);
  }();
  return rate;
}

double dense_rate() {
  static const double rate = peer_number("device", "bf16_tflops");
  return rate;
}

void measure(const Entry& entry) {
  LATENT_MUST(cudaDeviceSynchronize());
  const Timing timing = time_of(entry);
  if (timing.error != cudaSuccess) {
    std::printf("{\"op\": \"%s\", \"shape\": \"%s\", \"error\": \"%s\"}\n", entry.op.c_str(), entry.shape.c_str(),
                cudaGetErrorString(timing.error));
    cudaGetLastError();
    std::fflush(stdout);
    return;
  }
  const double by_bytes = entry.bytes / copy_rate() / 1000;
  const double by_flops = entry.flops > 0 && dense_rate() > 0 ? entry.flops / dense_rate() / 1e6 : 0;
  const bool memory = by_bytes >= by_flops;
  const double floor = memory ? by_bytes : by_flops;
  std::printf(
      "{\"op\": \"%s\", \"shape\": \"%s\", \"us\": %.3f, \"spread\": %.3f, \"floor_us\": %.3f, \"limit\": \"%s\", \"share\": %.3f, "
      "\"gbs\": %.1f, \"tflops\": %.1f}\n",
      entry.op.c_str(), entry.shape.c_str(), timing.us, timing.spread, floor, memory ? "memory" : "matrix", floor / timing.us,
      entry.bytes / timing.us / 1000, entry.flops / timing.us / 1e6);
  std::fflush(stdout);
}

}  // namespace latentwire::cuda::bench
