// Row F1 of the performance targets: the ridge fit of one model's output rows on its input rows, against the plain formula by two matrix
// products in OpenBLAS, and X'X alone against its symmetric product. One JSON line a shape.
//
//   OPENBLAS_CORETYPE=SKYLAKEX OPENBLAS_NUM_THREADS=1 taskset -c 0 build/fit_bench [rows columns]
//
// taskset, because our pool adds its workers to the calling thread; without the core type Debian's OpenBLAS is several times slower.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "fit/gram.h"
#include "fit/random.h"
#include "fit/ridge.h"

#if defined(LATENTWIRE_OPENBLAS)
extern "C" {
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb,
                 float beta, float* c, int ldc);
void cblas_ssyrk(int order, int uplo, int trans, int n, int k, float alpha, const float* a, int lda, float beta, float* c, int ldc);
int spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
int spotrs_(const char* uplo, const int* n, const int* nrhs, const float* a, const int* lda, float* b, const int* ldb, int* info);
int openblas_get_num_threads(void);
}
#endif

namespace {

using namespace latentwire;

constexpr int rounds = 3;

template <class Body>
double milliseconds(const Body& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Multiply-adds from registers only, GFLOP/s of one thread: what the processor can do at most.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) double fma_probe_512() {
  constexpr int64_t loops = 20'000'000;
  __m512 sums[24];
  for (auto& sum : sums) sum = _mm512_set1_ps(1.0F);
  const __m512 a = _mm512_set1_ps(0.999F), b = _mm512_set1_ps(1e-3F);
  // no lambda here: it would not be compiled for AVX-512
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < loops; i++) {
#pragma GCC unroll 24
    for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, a, b);
  }
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
  volatile float sink = 0;
  for (const auto& sum : sums) sink = sink + _mm512_cvtss_f32(sum);
  return 24.0 * 32.0 * static_cast<double>(loops) / ms / 1e6;
}
#endif

double fma_probe() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return fma_probe_512();
#endif
  return 0;
}

std::vector<float> numbers(int64_t count, uint64_t seed) {
  const CounterRandom random(seed);
  std::vector<float> out(static_cast<size_t>(count));
  for (size_t i = 0; i < out.size(); i++) out[i] = static_cast<float>(random.at(i) >> 40U) * 0x1p-24F - 0.5F;
  return out;
}

void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message.c_str());
  std::exit(1);
}

void bench_ridge(int64_t rows, int64_t d) {
  const std::vector<float> x = numbers(rows * d, 1), y = numbers(rows * d, 2);
  MomentsInput both;
  both.rows = rows;
  both.x_columns = both.y_columns = d;
  both.x = reader_of({x.data(), rows, d});
  both.y = reader_of({y.data(), rows, d});
  MomentsInput tied = both;
  tied.y_columns = 0;

  std::vector<double> probe, moments_ms, solve_ms, gram_ms, gemms_ms, peer_solve_ms, syrk_ms;
  std::vector<float> gram(static_cast<size_t>(d * d)), cross(gram.size());
  for (int round = 0; round < rounds; round++) {
    probe.push_back(fma_probe());
    Moments moments;
    LinearFit fit;
    moments_ms.push_back(milliseconds([&] { require(accumulate_moments(both, nullptr, &moments)); }));
    solve_ms.push_back(milliseconds([&] { require(solve_ridge(moments, {.lambda = 1e-5, .relative = false}, nullptr, &fit)); }));
    gram_ms.push_back(milliseconds([&] { require(accumulate_moments(tied, nullptr, &moments)); }));
#if defined(LATENTWIRE_OPENBLAS)
    const int n = static_cast<int>(d), k = static_cast<int>(rows);
    constexpr int row_major = 101, plain = 111, transposed = 112, lower = 122;
    syrk_ms.push_back(milliseconds([&] { cblas_ssyrk(row_major, lower, transposed, n, k, 1, x.data(), n, 0, gram.data(), n); }));
    gemms_ms.push_back(milliseconds([&] {
      cblas_sgemm(row_major, transposed, plain, n, n, k, 1, x.data(), n, x.data(), n, 0, gram.data(), n);
      cblas_sgemm(row_major, transposed, plain, n, n, k, 1, x.data(), n, y.data(), n, 0, cross.data(), n);
    }));
    peer_solve_ms.push_back(milliseconds([&] {
      int info = 0;
      for (int i = 0; i < n; i++) gram[static_cast<size_t>(i) * static_cast<size_t>(n + 1)] += 1e-5F;
      spotrf_("L", &n, gram.data(), &n, &info);
      spotrs_("L", &n, &n, gram.data(), &n, cross.data(), &n, &info);
    }));
#endif
  }
  const double flops = 3.0 * static_cast<double>(rows) * static_cast<double>(d) * static_cast<double>(d);
  const double ours = median(moments_ms) + median(solve_ms);
  std::printf("{\"name\":\"F1\",\"rows\":%lld,\"columns\":%lld,\"ms\":%.0f,\"moments_ms\":%.0f,\"solve_ms\":%.0f,\"tied_moments_ms\":%.0f,",
              static_cast<long long>(rows), static_cast<long long>(d), ours, median(moments_ms), median(solve_ms), median(gram_ms));
  std::printf("\"gflops\":%.1f,\"fma_probe_one_thread_gflops\":%.1f,\"peers\":{", flops / median(moments_ms) / 1e6, median(probe));
#if defined(LATENTWIRE_OPENBLAS)
  const double gemms = median(gemms_ms), solve = median(peer_solve_ms);
  std::printf("\"openblas threads\":%d,\"openblas two gemms\":%.0f,\"openblas f32 cholesky\":%.0f,\"openblas syrk\":%.0f},",
              openblas_get_num_threads(), gemms, solve, median(syrk_ms));
  std::printf("\"ratios\":{\"ridge\":%.2f,\"moments\":%.2f,\"tied moments\":%.2f,\"syrk\":%.2f}}\n", (gemms + solve) / ours,
              gemms / median(moments_ms), gemms / median(gram_ms), median(syrk_ms) / median(gram_ms));
#else
  std::printf("}}\n");
#endif
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 3) {
    bench_ridge(std::atoll(arguments[1]), std::atoll(arguments[2]));
    return 0;
  }
  bench_ridge(32000, 896);
  bench_ridge(151936, 896);
}
