// Row F1: the ridge of one matrix on another, W = (X'X + lambda I)^-1 X'Y, and of a matrix on itself, which needs X'X alone. The peers are
// the formula as LatentMAS has it (two products and LU) and as it is best computed (a symmetric product, one product and Cholesky), all in
// f32 by OpenBLAS; our solve is in f64.
#include "bench_support.h"
#include "fit/gram.h"
#include "fit/ridge.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

constexpr int rounds = 3;
constexpr double lambda = 1e-5;

void measure(int64_t rows, int64_t d) {
  const std::vector<float> x = normal_numbers(rows * d, 1), y = normal_numbers(rows * d, 2);
  MomentsInput both;
  both.rows = rows;
  both.x_columns = both.y_columns = d;
  both.x = reader_of({x.data(), rows, d});
  both.y = reader_of({y.data(), rows, d});
  MomentsInput tied = both;
  tied.y_columns = 0;

  Moments moments, tied_moments;
  LinearFit fit;
  std::vector<Case> cases = {
      {"moments", [&] { require(accumulate_moments(both, nullptr, &moments)); }},
      {"solve", [&] { require(solve_ridge(moments, {.lambda = lambda, .relative = false}, nullptr, &fit)); }},
      {"tied moments", [&] { require(accumulate_moments(tied, nullptr, &tied_moments)); }},
  };
  require(accumulate_moments(both, nullptr, &moments));
#if defined(LATENTWIRE_OPENBLAS)
  std::vector<float> gram(static_cast<size_t>(d * d)), cross(gram.size()), factor(gram.size()), w(gram.size());
  std::vector<int> pivots(static_cast<size_t>(d));
  const int n = static_cast<int>(d), k = static_cast<int>(rows);
  const auto product = [&](const std::vector<float>& other, std::vector<float>& to) {
    cblas_sgemm(row_major, transposed, plain, n, n, k, 1, x.data(), n, other.data(), n, 0, to.data(), n);
  };
  const auto solved = [&](const std::function<void(int*)>& solver) {
    factor = gram;
    w = cross;
    for (size_t i = 0; i < static_cast<size_t>(d); i++) factor[i * static_cast<size_t>(d + 1)] += static_cast<float>(lambda);
    int info = 0;
    solver(&info);
    if (info != 0) std::fprintf(stderr, "OpenBLAS could not solve: %d\n", info);
  };
  product(x, gram);
  product(y, cross);
  cases.push_back({"syrk", [&] { cblas_ssyrk(row_major, lower, transposed, n, k, 1, x.data(), n, 0, factor.data(), n); }});
  cases.push_back({"gemm X'X", [&] { product(x, gram); }});
  cases.push_back({"gemm X'Y", [&] { product(y, cross); }});
  cases.push_back({"cholesky", [&] {
                     solved([&](int* info) {
                       spotrf_("L", &n, factor.data(), &n, info);
                       spotrs_("L", &n, &n, factor.data(), &n, w.data(), &n, info);
                     });
                   }});
  cases.push_back({"lu", [&] { solved([&](int* info) { sgesv_(&n, &n, factor.data(), &n, pivots.data(), w.data(), &n, info); }); }});
#endif
  Samples samples = interleave(cases, rounds, true);
  const std::vector<std::string> peers = {"OpenBLAS, two products and LU", "OpenBLAS, syrk, product and Cholesky", "OpenBLAS syrk",
                                          "OpenBLAS Cholesky in f32"};
  if (samples.has("lu")) {
    samples.sum(peers[0], {"gemm X'X", "gemm X'Y", "lu"});
    samples.sum(peers[1], {"syrk", "gemm X'Y", "cholesky"});
    samples.sum(peers[2], {"syrk"});
    samples.sum(peers[3], {"cholesky"});
  }
  samples.sum("ridge", {"moments", "solve"});
  samples.sum("tied ridge", {"tied moments", "solve"});
  const std::string shape = std::to_string(rows) + " x " + std::to_string(d) + ", " + std::to_string(rounds) + " rounds";
  const double flops = static_cast<double>(rows) * static_cast<double>(d) * static_cast<double>(d);
  print({.name = "F1",
         .shape = "ridge " + shape,
         .dtype = "f32",
         .peers = {peers[0], peers[1]},
         .targets = {faster(1.2, peers[0])},
         .flops = 3 * flops,
         .ours = "ridge"},
        samples);
  print({.name = "F1",
         .shape = "moments X'X and X'Y " + shape,
         .dtype = "f32",
         .targets = {share(0.72)},
         .flops = 3 * flops,
         .ours = "moments"},
        samples);
  print({.name = "F1",
         .shape = "ridge on itself " + shape,
         .dtype = "f32",
         .peers = {peers[0], peers[1]},
         .targets = {faster(3, peers[0])},
         .flops = flops,
         .ours = "tied ridge"},
        samples);
  print({.name = "F1",
         .shape = "moments X'X " + shape,
         .dtype = "f32",
         .peers = {peers[2]},
         .targets = {faster(1, peers[2])},
         .flops = flops,
         .ours = "tied moments"},
        samples);
  const std::string cube = std::to_string(d) + " x " + std::to_string(d);
  print({.name = "F1", .shape = "Cholesky and solve " + cube, .dtype = "f64", .peers = {peers[3]}, .ours = "solve"}, samples);
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!wanted("F1")) return 0;
  measure(151936, 896);
  measure(32000, 2560);
}
