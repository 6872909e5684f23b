// Rows of bf16 against rows of f32 with the same anchors, kept as bf16, each round interleaved: what the instructions for bf16 gain, norms
// and calls included. Prints one JSON line a shape; times are medians in microseconds, the ratio is the median of the rounds' ratios. With
// a plainer LATENTWIRE_ISA, both are the same product. Set LATENTWIRE_THREADS=1 for the kernels themselves.
//
//   build/bf16_rows_bench [rounds, default 31]
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/cosine.h"
#include "kernels/table.h"

using namespace latentwire;

namespace {

struct Shape {
  int64_t rows;
  int64_t anchors;
  int64_t depth;
  int repetitions;  // in a round
};

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

std::vector<float> normals(int64_t n, uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(n));
  for (float& value : x) value = normal(engine);
  return x;
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 31;
  for (const Shape& s : std::array{Shape{1, 1000, 4096, 100}, Shape{64, 1000, 768, 20}, Shape{1000, 1000, 1024, 1}}) {
    const std::vector<float> a = normals(s.anchors * s.depth, 1), x = normals(s.rows * s.depth, 2);
    std::vector<uint16_t> half(x.size());
    for (size_t i = 0; i < x.size(); i++) half[i] = f32_to_bf16(x[i]);
    PackedAnchors::Options options;
    options.storage = Dtype::bf16;
    std::shared_ptr<const PackedAnchors> anchors;
    if (!PackedAnchors::pack({Dtype::f32, a.data(), s.anchors, s.depth}, s.depth, options, &anchors).ok()) std::abort();
    std::vector<float> out(static_cast<size_t>(s.rows * s.anchors));
    const auto microseconds = [&](Dtype dtype, const void* rows) {
      const auto begin = std::chrono::steady_clock::now();
      for (int i = 0; i < s.repetitions; i++) {
        if (!relative({dtype, rows, s.rows, s.depth}, *anchors, out.data(), s.anchors).ok()) std::abort();
      }
      return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / s.repetitions;
    };
    std::vector<double> f32, bf16, ratio;
    for (int round = 0; round < rounds; round++) {
      f32.push_back(microseconds(Dtype::f32, x.data()));
      bf16.push_back(microseconds(Dtype::bf16, half.data()));
      ratio.push_back(f32.back() / bf16.back());
    }
    std::printf(R"({"what":"cosine %lld x %lld x %lld, kept as bf16","isa":"%s","f32_us":%.1f,"bf16_us":%.1f,"ratio":%.2f})"
                "\n",
                static_cast<long long>(s.rows), static_cast<long long>(s.anchors), static_cast<long long>(s.depth),
                std::string(isa_name(kernels().isa)).c_str(), median(f32), median(bf16), median(ratio));
    std::fflush(stdout);
  }
  return 0;
}
