// What the tests of product-like kernels share: matrices of a dtype on the device, packing, float64 products over all cores, and a
// comparison that lets no single element hide in a large matrix.
#pragma once

#include <cmath>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "../gemm.h"
#include "harness.h"

namespace latentwire::cuda::test {

inline int device_version() {
  static const int version = [] {
    int major = 0, minor = 0;
    LATENT_MUST(device_attribute(cudaDevAttrComputeCapabilityMajor, &major));
    LATENT_MUST(device_attribute(cudaDevAttrComputeCapabilityMinor, &minor));
    return major * 10 + minor;
  }();
  return version;
}
inline const char* name_of(Path path) {
  switch (path) {
    case Path::few:
      return "few";
    case Path::wgmma:
      return "wgmma";
    case Path::mma:
      return "mma";
    case Path::simple:
      return "simple";
    case Path::automatic:
      break;
  }
  return "automatic";
}
inline const std::vector<Path>& paths() {
  static const std::vector<Path> all = {Path::automatic, Path::few, Path::wgmma, Path::mma, Path::simple};
  return all;
}
// Whether a path can multiply on this device.
inline bool is_possible(Path path, Dtype dtype, int64_t n, int64_t depth) {
  const bool warp_products = device_version() >= 80 || dtype == Dtype::f16;
  switch (path) {
    case Path::few:
      return n <= 64 && depth > 0 && warp_products;
    case Path::wgmma:
      return device_version() == 90 && dtype != Dtype::f32 && depth > 0;
    case Path::mma:
      return warp_products && depth > 0;
    case Path::simple:
    case Path::automatic:
      break;
  }
  return true;
}

// f(i) for i in [0, n), on all cores.
template <class F>
void parallel(int64_t n, F f) {
  const auto cores = static_cast<int64_t>(std::max(1U, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (int64_t t = 0; t < std::min(cores, n); t++) {
    threads.emplace_back([=] {
      for (int64_t i = t; i < n; i += cores) f(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Of mean 0 and variance 1, and cheaper than normal ones.
inline std::vector<float> numbers(Random& random, int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  for (float& v : x) v = static_cast<float>((random.uniform() + random.uniform() - 1) * 2.449489742783178);
  return x;
}

// [n, columns] in a dtype, on the device with rows `stride` apart, and here as what is left of the numbers.
struct Matrix {
  Dtype dtype = Dtype::f32;
  int64_t n = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  std::vector<float> values;  // [n, columns]
  Buffer<uint8_t> buffer;

  Matrix(Dtype dtype_, int64_t n_, int64_t columns_, const std::vector<float>& numbers, int64_t gap = 0, int64_t offset = 0)
      : dtype(dtype_),
        n(n_),
        columns(columns_),
        stride(columns_ + gap),
        values(rounded(numbers, dtype_)),
        buffer(n_ * (columns_ + gap) * static_cast<int64_t>(dtype_size(dtype_)), static_cast<size_t>(offset) * dtype_size(dtype_)) {
    // what lies between the rows is NaN, and must not matter
    std::vector<float> spread(static_cast<size_t>(n * stride), NAN);
    for (int64_t i = 0; i < n; i++) std::copy_n(values.begin() + i * columns, columns, spread.begin() + i * stride);
    buffer.upload(encode(spread, dtype));
  }
  Rows rows() const { return {dtype, buffer.data(), n, stride}; }
  const float* row(int64_t i) const { return values.data() + i * columns; }
};

// A packed operand and what its memory is.
struct Packed {
  Buffer<uint8_t> data;
  Buffer<float> sums, squares;
  Buffer<int32_t> bad;
  PackedMatrix matrix;

  // `args` without outputs.
  Packed(PackArgs args, Dtype storage)
      : data(static_cast<int64_t>(packed_bytes(storage, args.outputs, args.depth))),
        sums(args.outputs),
        squares(args.outputs),
        bad(std::vector<int32_t>{INT32_MAX}) {
    args.storage = storage;
    args.data = data.data();
    args.sums = sums.data();
    args.squares = squares.data();
    args.bad_output = bad.data();
    run([&](cudaStream_t stream) { return pack(args, stream); }, "pack");
    expect(bad.download()[0] == INT32_MAX, "an output of a packed matrix is not finite");
    matrix = {storage, data.data(), args.outputs, args.depth, sums.data(), squares.data()};
  }
};

// f(row, output) = sum over k of term(x[k], w[k]): [n, outputs] of float64 rows [n, depth] and [outputs, depth].
template <class Term>
std::vector<double> sums_of(const std::vector<double>& x, const std::vector<double>& w, int64_t n, int64_t outputs, int64_t depth,
                            Term term) {
  std::vector<double> out(static_cast<size_t>(n * outputs));
  parallel(n, [&](int64_t i) {
    for (int64_t j = 0; j < outputs; j++) {
      const double* a = x.data() + i * depth;
      const double* b = w.data() + j * depth;
      double sums[4] = {};
      const int64_t whole = depth / 4 * 4;
      for (int64_t k = 0; k < whole; k += 4) {
        for (int64_t e = 0; e < 4; e++) sums[e] += term(a[k + e], b[k + e]);
      }
      for (int64_t k = whole; k < depth; k++) sums[0] += term(a[k], b[k]);
      out[static_cast<size_t>(i * outputs + j)] = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }
  });
  return out;
}
inline std::vector<double> products_of(const std::vector<double>& x, const std::vector<double>& w, int64_t n, int64_t outputs,
                                       int64_t depth) {
  return sums_of(x, w, n, outputs, depth, [](double a, double b) { return a * b; });
}
inline std::vector<double> wide(const std::vector<float>& x) { return {x.begin(), x.end()}; }

// Rows of a result with gaps between them: the numbers, and a failure where a gap was written.
inline std::vector<float> rows_without_gaps(const std::vector<uint8_t>& bytes, Dtype dtype, int64_t n, int64_t columns, int64_t stride,
                                            const std::string& what) {
  const size_t size = dtype_size(dtype);
  std::vector<uint8_t> kept;
  bool untouched = true;
  for (int64_t i = 0; i < n; i++) {
    const auto begin = bytes.begin() + i * stride * static_cast<int64_t>(size);
    kept.insert(kept.end(), begin, begin + columns * static_cast<int64_t>(size));
    for (auto at = begin + columns * static_cast<int64_t>(size); at != begin + stride * static_cast<int64_t>(size); at++)
      untouched = untouched && *at == 0xFF;
  }
  expect(untouched, what + ": wrote between the rows");
  return decode(kept, dtype);
}

// The whole within `bound`, and no element further off than many roundings of its row's size.
inline void expect_matrix(const std::vector<float>& out, const std::vector<double>& reference, int64_t columns, double bound,
                          const std::string& what) {
  expect_close(out, reference, bound, what);
  if (out.size() != reference.size() || columns == 0) return;
  const auto rows = static_cast<int64_t>(out.size()) / columns;
  double whole = 0;
  for (const double v : reference) whole += v * v;
  const double mean = std::sqrt(whole / static_cast<double>(reference.size() + 1));
  for (int64_t i = 0; i < rows; i++) {
    double size = 0;
    for (int64_t j = 0; j < columns; j++) size += std::pow(reference[static_cast<size_t>(i * columns + j)], 2);
    size = std::max(std::sqrt(size / static_cast<double>(columns)), mean);
    for (int64_t j = 0; j < columns; j++) {
      const auto at = static_cast<size_t>(i * columns + j);
      const double error = std::abs(static_cast<double>(out[at]) - reference[at]);
      if (error <= 40 * bound * size + 1e-30) continue;
      char text[160];
      std::snprintf(text, sizeof(text), ": [%lld, %lld] is %.6g, not %.6g", static_cast<long long>(i), static_cast<long long>(j),
                    static_cast<double>(out[at]), reference[at]);
      fail(what + text);
      return;
    }
  }
}

// What a result may be off: f32 by its bound; 16 bits by little more where only what comes in is rounded, else by the bound of 16 bits.
inline double bound_of(Dtype dtype, bool rounds_between) { return dtype == Dtype::f32 ? 1e-5 : rounds_between ? 4e-3 : 1e-4; }

}  // namespace latentwire::cuda::test
