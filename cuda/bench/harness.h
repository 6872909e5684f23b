// What the benches share: times by events over replayed graphs, sets of buffers that together exceed the second-level cache, and lines of
// JSON with the floor that bytes and operations set. Rates of the device come from LATENTWIRE_PEERS, a file of cuda/bench/peers.py, where
// there is one; the copy rate is measured here otherwise.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../device.h"

namespace latentwire::cuda::bench {

struct Bench {
  const char* name;
  void (*body)();
};
inline std::vector<Bench>& benches() {
  static std::vector<Bench> all;
  return all;
}
struct Registration {
  Registration(const char* name, void (*body)()) { benches().push_back({name, body}); }
};

// LATENT_BENCH(rope) { ... }
#define LATENT_BENCH(name)                                                                   \
  static void run_##name();                                                                  \
  static const latentwire::cuda::bench::Registration registration_##name(#name, run_##name); \
  static void run_##name()

// Ends the program by the name of what failed.
void must(cudaError_t error, const char* what);
#define LATENT_MUST(call) latentwire::cuda::bench::must((call), #call)

// Device memory with random numbers of a dtype, of the size of the standard normal distribution times `scale`.
class Buffer {
 public:
  explicit Buffer(size_t bytes);
  Buffer(int64_t count, Dtype dtype, float scale, uint64_t seed);
  ~Buffer();
  Buffer(Buffer&& other) noexcept;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&&) = delete;

  void* data() const { return data_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }
  void upload(const void* from, size_t bytes) const;

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// How many sets of `bytes` to go round, so that none is found in the second-level cache; at most 64, and not beyond half the device's
// memory.
int sets_of(size_t bytes);

// One shape of one kernel.
struct Entry {
  std::string op;     // as peers.py calls it: "rope", "projection"
  std::string shape;  // "4096 x 1024 f16"
  double bytes = 0;   // read once and written once
  double flops = 0;   // of the matrix units, f16 or bf16
  // Launches the work on set `i`.
  std::function<cudaError_t(int, cudaStream_t)> launch;
  int sets = 1;
};
// Times the entry and prints a line: the median time in us, the floor, what limits it, and the share of the floor. A launch that fails is a
// line with its error.
void measure(const Entry& entry);

// GB/s of a large copy, bytes read and written; TFLOP/s of a large bf16 product, 0 if nobody measured it.
double copy_rate();
double dense_rate();

}  // namespace latentwire::cuda::bench
