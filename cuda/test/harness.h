// What the tests of the kernels share: registration, random data by seed, device buffers whose content is poison until it is written,
// errors against float64, and the check that results do not depend on what else the device does. The number of rounds is
// LATENTWIRE_TEST_ROUNDS.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "../device.h"

namespace latentwire::cuda::test {

struct Test {
  const char* name;
  void (*body)();
};
inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}
struct Registration {
  Registration(const char* name, void (*body)()) { tests().push_back({name, body}); }
};

// LATENT_TEST(rope_turns_keys) { ... }
#define LATENT_TEST(name)                                                             \
  static void name();                                                                 \
  static const latentwire::cuda::test::Registration registration_##name(#name, name); \
  static void name()

// Failures of the test that runs.
inline std::vector<std::string>& failures() {
  static std::vector<std::string> all;
  return all;
}
inline void fail(std::string what) { failures().push_back(std::move(what)); }
inline void expect(bool good, const std::string& what) {
  if (!good) fail(what);
}
// An error that no later test would survive ends the run, by its name.
inline void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::printf("not ok: %s: %s\n", what, cudaGetErrorString(error));
  std::fflush(stdout);
  std::_Exit(3);
}
#define LATENT_MUST(call) latentwire::cuda::test::must((call), #call)

// Rounds of random shapes a test makes, `full` unless the environment asks for fewer.
inline int rounds(int full) {
  const char* asked = std::getenv("LATENTWIRE_TEST_ROUNDS");
  const int most = asked == nullptr ? full : std::atoi(asked);
  return most < full ? (most < 1 ? 1 : most) : full;
}
// True on the short runs of the sanitizers, which slow kernels down a hundredfold: large shapes are left out.
inline bool reduced() { return std::getenv("LATENTWIRE_TEST_ROUNDS") != nullptr; }

// splitmix64.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  // Both ends are among them.
  int64_t between(int64_t low, int64_t high) { return low + static_cast<int64_t>(next() % static_cast<uint64_t>(high - low + 1)); }
  template <class T>
  const T& of(const std::vector<T>& values) {
    return values[static_cast<size_t>(next() % values.size())];
  }
  bool chance(double p) { return uniform() < p; }
  double normal();
  std::vector<float> normals(int64_t n, float scale = 1, float shift = 0) {
    std::vector<float> x(static_cast<size_t>(n));
    for (float& v : x) v = static_cast<float>(normal()) * scale + shift;
    return x;
  }

 private:
  uint64_t state_;
};

// n elements in device memory, `offset` bytes behind a multiple of 256; NaN in every float type until something is written.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t n = 0, size_t offset = 0) : n_(static_cast<size_t>(n)), offset_(offset) {
    LATENT_MUST(cudaMalloc(reinterpret_cast<void**>(&base_), bytes() + offset_ + 1));
    poison();
  }
  explicit Buffer(const std::vector<T>& values, size_t offset = 0) : Buffer(static_cast<int64_t>(values.size()), offset) { upload(values); }
  ~Buffer() { cudaFree(base_); }
  Buffer(Buffer&& other) noexcept : base_(std::exchange(other.base_, nullptr)), n_(other.n_), offset_(other.offset_) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(n_, other.n_);
    std::swap(offset_, other.offset_);
    return *this;
  }

  T* data() const { return reinterpret_cast<T*>(base_ + offset_); }
  int64_t size() const { return static_cast<int64_t>(n_); }
  size_t bytes() const { return n_ * sizeof(T); }
  void poison() { LATENT_MUST(cudaMemset(base_, 0xFF, bytes() + offset_)); }
  void upload(const std::vector<T>& values) {
    if (!values.empty()) LATENT_MUST(cudaMemcpy(data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
  }
  std::vector<T> download() const {
    std::vector<T> values(n_);
    if (n_ > 0) LATENT_MUST(cudaMemcpy(values.data(), data(), bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  char* base_ = nullptr;
  size_t n_;
  size_t offset_;
};

// Numbers as the bytes of a dtype, and back.
std::vector<uint8_t> encode(const std::vector<float>& x, Dtype dtype);
std::vector<float> decode(const std::vector<uint8_t>& bytes, Dtype dtype);
// What is left of them in the dtype.
inline std::vector<float> rounded(const std::vector<float>& x, Dtype dtype) { return decode(encode(x, dtype), dtype); }
const char* name_of(Dtype dtype);
inline const std::vector<Dtype>& dtypes() {
  static const std::vector<Dtype> all = {Dtype::f32, Dtype::f16, Dtype::bf16};
  return all;
}

// |out - reference| / |reference|; infinite if a number is NaN, and |out| where the reference is 0.
double relative_error(const std::vector<float>& out, const std::vector<double>& reference);
// "12 x 34: error 1e-3 above 1e-5"
void expect_close(const std::vector<float>& out, const std::vector<double>& reference, double bound, const std::string& what);
void expect_same(const std::vector<uint8_t>& out, const std::vector<uint8_t>& reference, const std::string& what);
template <class T>
std::vector<uint8_t> bytes_of(const std::vector<T>& values) {
  const auto* p = reinterpret_cast<const uint8_t*>(values.data());
  return {p, p + values.size() * sizeof(T)};
}

// Launches on a stream of its own and waits.
void run(const std::function<cudaError_t(cudaStream_t)>& launch, const std::string& what);

// Work whose result must not depend on timing.
struct Case {
  std::function<void()> reset;  // poisons outputs and workspaces, uploads what is worked on in place
  std::function<cudaError_t(cudaStream_t)> launch;
  std::function<std::vector<uint8_t>()> result;
};
// Runs all cases one after another, then all at once on streams of their own, then all at once as captured graphs, twice each, and holds
// the results against each other.
void expect_independent_of_timing(const std::vector<Case>& cases, const std::string& what);

}  // namespace latentwire::cuda::test
