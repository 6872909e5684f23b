// Row C2: thought steps over a vocabulary of 151936 tokens of width 1024. A mix of the 64 most likely for 8 positions, against what anyone
// would write; and a mix of all tokens, with the table in f16, against a softmax and a product with the table in f32.
#include <numeric>

#include "bench_support.h"
#include "kernels/thought.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

constexpr int64_t vocabulary = 151936;
constexpr int64_t width = 1024;
constexpr int64_t most = 8;

// Softmax, the largest k, renormalised, mixed.
void plain_step(const float* z, const std::vector<float>& e, int64_t k, std::vector<float>& p, float* out) {
  const float largest = *std::max_element(z, z + vocabulary);
  float sum = 0;
  for (size_t i = 0; i < p.size(); i++) sum += p[i] = std::exp(z[i] - largest);
  for (float& x : p) x /= sum;
  std::vector<int32_t> ids(p.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::partial_sort(ids.begin(), ids.begin() + k, ids.end(),
                    [&](int32_t a, int32_t b) { return p[static_cast<size_t>(a)] > p[static_cast<size_t>(b)]; });
  float kept = 0;
  for (int64_t i = 0; i < k; i++) kept += p[static_cast<size_t>(ids[static_cast<size_t>(i)])];
  std::fill_n(out, width, 0.0F);
  for (int64_t i = 0; i < k; i++) {
    const auto id = static_cast<size_t>(ids[static_cast<size_t>(i)]);
    const float w = p[id] / kept;
    for (int64_t j = 0; j < width; j++) out[j] += w * e[id * width + static_cast<size_t>(j)];
  }
}

// With this library's exponentials, probabilities written.
void softmax(const float* z, float* p) {
  const float largest = *std::max_element(z, z + vocabulary);
  kernels().thought.exponentials(z, vocabulary, largest, 1.44269504F, 1, p);
  kernels().rows.affine(p, vocabulary, 1 / kernels().rows.sum(p, vocabulary), 0, p);
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!wanted("C2")) return 0;
  const std::vector<float> z = normal_numbers(vocabulary * most, 1, 3);
  std::vector<float> e(static_cast<size_t>(vocabulary * width));
  for (size_t i = 0; i < e.size(); i++) e[i] = static_cast<float>((i * 2654435761U) % 65521) * 1e-5F - 0.3F;
  std::vector<uint16_t> half(e.size());
  kernels().rows.to_f16(e.data(), static_cast<int64_t>(e.size()), half.data());
  std::vector<float> out(static_cast<size_t>(width * most)), other(out.size()), p(static_cast<size_t>(vocabulary)),
      all(static_cast<size_t>(vocabulary * most));

  const TokenTable table{RowFormat::f16, half.data(), vocabulary, width};
  ThoughtRecipe recipe;
  recipe.token = 0;
  recipe.mix = 1;
  const auto step = [&](int64_t top_k, int64_t n) {
    return [&, top_k, n] {
      recipe.top_k = top_k;
      std::vector<ThoughtInput> inputs(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; i++) {
        inputs[static_cast<size_t>(i)].logits = z.data() + i * vocabulary;
        inputs[static_cast<size_t>(i)].out = out.data() + i * width;
      }
      require(thought_steps(recipe, table, inputs));
    };
  };
  const auto bytes_of = [](int64_t n) { return static_cast<double>(vocabulary * width * 2 + n * vocabulary * 4); };
  const auto row = [&](const std::string& what, int64_t n) {
    return Row{.name = "C2", .shape = what + " for " + std::to_string(n) + " positions, 151936 x 1024", .dtype = "f16"};
  };

  Row sparse = row("mix of 64", most);
  sparse.peers = {"plain C++", "softmax alone"};
  print(sparse, interleave({{"ours", step(64, most)},
                            {"plain C++",
                             [&] {
                               for (int64_t i = 0; i < most; i++) plain_step(z.data() + i * vocabulary, e, 64, p, other.data() + i * width);
                             }},
                            {"softmax alone", [&] {
                               for (int64_t i = 0; i < most; i++) softmax(z.data() + i * vocabulary, p.data());
                             }}}));

  for (const int64_t n : {int64_t{1}, most}) {
    std::vector<Case> cases = {{"ours", step(0, n)}};
#if defined(LATENTWIRE_OPENBLAS)
    cases.push_back({"softmax + OpenBLAS, f32 table", [&, n] {
                       for (int64_t i = 0; i < n; i++) softmax(z.data() + i * vocabulary, all.data() + i * vocabulary);
                       constexpr auto v = static_cast<int>(vocabulary), d = static_cast<int>(width);
                       if (n == 1)
                         cblas_sgemv(row_major, transposed, v, d, 1, e.data(), d, all.data(), 1, 0, other.data(), 1);
                       else
                         cblas_sgemm(row_major, plain, plain, static_cast<int>(n), d, v, 1, all.data(), v, e.data(), d, 0, other.data(), d);
                     }});
#endif
    Row dense = row("mix of all", n);
    dense.peers = {"softmax + OpenBLAS, f32 table"};
    if (n == 1) dense.targets = {share(0.8)};
    dense.flops = 2.0 * static_cast<double>(n * vocabulary * width);
    dense.bytes = bytes_of(n);
    print(dense, interleave(cases));
  }
}
