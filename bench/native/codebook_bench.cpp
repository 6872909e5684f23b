// The nearest codeword (E1 of the performance targets) against a plain loop and against Eigen's product with a scan behind it, interleaved,
// on one thread: LATENTWIRE_THREADS=1 is set here. Prints one JSON line a shape; times are medians in ms, ratios how many times slower the
// peer is, as medians of the rounds' ratios.
//
//   build/codebook_bench [rounds, default 9]
#include <Eigen/Core>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/codebook.h"
#include "kernels/table.h"

using namespace latentwire;

namespace {

double milliseconds(const std::function<void()>& job) {
  const auto begin = std::chrono::steady_clock::now();
  job();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

}  // namespace

int main(int argc, char** argv) {
  setenv("LATENTWIRE_THREADS", "1", 1);
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 9;
  struct Shape {
    int64_t rows, words, depth;
    bool loop;
  };
  for (const Shape& s : {Shape{2048, 1024, 64, true}, Shape{4096, 8192, 256, false}, Shape{256, 512, 896, true}}) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    Matrix x(s.rows, s.depth), c(s.words, s.depth), product(s.rows, s.words);
    for (float& v : x.reshaped()) v = normal(engine);
    for (float& v : c.reshaped()) v = normal(engine);
    std::shared_ptr<const Codebook> book;
    if (!Codebook::pack({Dtype::f32, c.data(), s.words, s.depth, 0}, s.depth, Dtype::f32, &book).ok()) return 1;
    const Eigen::VectorXf half = c.rowwise().squaredNorm() / 2;
    std::vector<int32_t> ours(static_cast<size_t>(s.rows)), eigens = ours, loops = ours;
    const auto fused = [&] {
      if (!book->nearest({Dtype::f32, x.data(), s.rows, s.depth, 0}, ours.data(), nullptr).ok()) std::abort();
    };
    const auto eigen = [&] {
      product.noalias() = x * c.transpose();
      for (int64_t i = 0; i < s.rows; i++) {
        Eigen::Index at = 0;
        (half.transpose() - product.row(i)).minCoeff(&at);
        eigens[static_cast<size_t>(i)] = static_cast<int32_t>(at);
      }
    };
    const auto loop = [&] {
      for (int64_t i = 0; i < s.rows; i++) {
        float best = std::numeric_limits<float>::infinity();
        for (int64_t j = 0; j < s.words; j++) {
          float sum = 0;
          for (int64_t k = 0; k < s.depth; k++) {
            const float d = x(i, k) - c(j, k);
            sum += d * d;
          }
          if (sum < best) {
            best = sum;
            loops[static_cast<size_t>(i)] = static_cast<int32_t>(j);
          }
        }
      }
    };
    std::vector<double> a, b, l, by_eigen, by_loop;
    fused();
    for (int round = 0; round < rounds; round++) {
      a.push_back(milliseconds(fused));
      b.push_back(milliseconds(eigen));
      by_eigen.push_back(b.back() / a.back());
      if (!s.loop) continue;
      l.push_back(milliseconds(loop));
      by_loop.push_back(l.back() / a.back());
    }
    int64_t differ = 0;
    for (size_t i = 0; i < ours.size(); i++) differ += ours[i] != eigens[i] ? 1 : 0;
    std::printf(R"({"name":"E1","what":"%lld x %lld x %lld","isa":"%s","ms":%.3f,"gflops":%.1f,"differ":%lld,"peers":{"eigen":%.3f)",
                static_cast<long long>(s.rows), static_cast<long long>(s.words), static_cast<long long>(s.depth),
                std::string(isa_name(kernels().isa)).c_str(), median(a), 2e-6 * static_cast<double>(s.rows * s.words * s.depth) / median(a),
                static_cast<long long>(differ), median(b));
    if (s.loop) std::printf(R"(,"loop":%.3f)", median(l));
    std::printf(R"(},"times":{"eigen":%.2f)", median(by_eigen));
    if (s.loop) std::printf(R"(,"loop":%.2f)", median(by_loop));
    std::printf("}}\n");
    std::fflush(stdout);
  }
  return 0;
}
