// Times thought steps at the size of a public vocabulary (V 151936, d 1024) against plain C++ and, for a mix of all tokens, against reading
// the table once. Candidates take turns; medians, and the median of the ratios of a round. One JSON line a case.
//
//   thought_bench [rounds]      LATENTWIRE_ISA and LATENTWIRE_THREADS as everywhere
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "kernels/table.h"
#include "kernels/thought.h"

using namespace latentwire;

namespace {

constexpr int64_t vocabulary = 151936;
constexpr int64_t width = 1024;
volatile float sink = 0;

double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + static_cast<std::ptrdiff_t>(x.size() / 2), x.end());
  return x[x.size() / 2];
}

double microseconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
}

struct Candidate {
  std::string name;
  std::function<void()> run;
};

// The first candidate is ours; ratios say how much longer another takes.
void compare(const std::string& name, int rounds, const std::vector<Candidate>& candidates) {
  std::vector<std::vector<double>> times(candidates.size());
  for (const Candidate& c : candidates) c.run();
  for (int round = 0; round < rounds; round++) {
    for (size_t i = 0; i < candidates.size(); i++) times[i].push_back(microseconds(candidates[i].run));
  }
  std::printf("{\"name\":\"%s\",\"isa\":\"%s\"", name.c_str(), std::string(isa_name(kernels().isa)).c_str());
  for (size_t i = 0; i < candidates.size(); i++) {
    std::printf(",\"%s_us\":%.1f,\"%s_min_us\":%.1f", candidates[i].name.c_str(), median(times[i]), candidates[i].name.c_str(),
                *std::min_element(times[i].begin(), times[i].end()));
    if (i == 0) continue;
    std::vector<double> ratios;
    for (size_t round = 0; round < times[i].size(); round++) ratios.push_back(times[i][round] / times[0][round]);
    std::printf(",\"%s_ratio\":%.2f", candidates[i].name.c_str(), median(ratios));
  }
  std::printf("}\n");
  std::fflush(stdout);
}

// What anyone would write: softmax, partial sort, renormalise, mix.
void plain_step(const float* z, const std::vector<float>& e, int64_t k, float* out) {
  std::vector<float> p(static_cast<size_t>(vocabulary));
  const float largest = *std::max_element(z, z + vocabulary);
  float sum = 0;
  for (size_t i = 0; i < p.size(); i++) sum += p[i] = std::exp(z[i] - largest);
  float entropy = 0;
  for (float& x : p) {
    x /= sum;
    if (x > 0) entropy -= x * std::log2(x);
  }
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
    const float* row = e.data() + id * width;
    for (int64_t j = 0; j < width; j++) out[j] += w * row[j];
  }
  sink = entropy;
}

// One softmax over the vocabulary with this library's exponentials, probabilities written.
void full_softmax(const float* z, std::vector<float>& maxima, std::vector<float>& p) {
  const ThoughtKernels& k = kernels().thought;
  k.maxima(z, vocabulary, maxima.data());
  const float largest = *std::max_element(maxima.begin(), maxima.end());
  k.exponentials(z, vocabulary, largest, 1.44269504F, 1, p.data());
  kernels().rows.affine(p.data(), vocabulary, 1 / kernels().rows.sum(p.data(), vocabulary), 0, p.data());
}

}  // namespace

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? std::atoi(argv[1]) : 51;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  constexpr int64_t most = 8;
  std::vector<float> z(static_cast<size_t>(vocabulary * most));
  for (float& x : z) x = 3 * normal(engine);
  std::vector<float> e(static_cast<size_t>(vocabulary * width));
  for (size_t i = 0; i < e.size(); i++) e[i] = static_cast<float>((i * 2654435761U) % 65521) * 1e-5F - 0.3F;
  std::vector<uint16_t> half(e.size());
  kernels().rows.to_f16(e.data(), static_cast<int64_t>(e.size()), half.data());
  std::vector<float> out(static_cast<size_t>(width * most)), other(out.size());
  std::vector<float> maxima(static_cast<size_t>((vocabulary + logit_block - 1) / logit_block)), p(static_cast<size_t>(vocabulary));
  std::vector<ThoughtStats> stats(most);

  const TokenTable f32{RowFormat::f32, e.data(), vocabulary, width};
  const TokenTable f16{RowFormat::f16, half.data(), vocabulary, width};
  const auto step = [&](const TokenTable& table, ThoughtRecipe recipe, int64_t n) {
    return [&, table, recipe, n] {
      std::vector<ThoughtInput> inputs(static_cast<size_t>(n));
      for (int64_t i = 0; i < n; i++) {
        ThoughtInput& in = inputs[static_cast<size_t>(i)];
        in.logits = z.data() + i * vocabulary;
        in.out = out.data() + i * width;
        in.stats = &stats[static_cast<size_t>(i)];
        in.token = 1;
      }
      if (const Status status = thought_steps(recipe, table, inputs); !status.ok()) std::abort();
    };
  };
  const auto plain = [&](int64_t n) {
    return [&, n] {
      for (int64_t i = 0; i < n; i++) plain_step(z.data() + i * vocabulary, e, 64, other.data() + i * width);
    };
  };
  const auto softmax = [&](int64_t n) {
    return [&, n] {
      for (int64_t i = 0; i < n; i++) full_softmax(z.data() + i * vocabulary, maxima, p);
    };
  };
  ThoughtRecipe top;
  top.token = 0;
  top.mix = 1;
  top.top_k = 64;
  compare("C1 top-64 n=1 f16", rounds, {{"ours", step(f16, top, 1)}, {"softmax", softmax(1)}});
  compare("C1 top-64 n=1 f32", rounds, {{"ours", step(f32, top, 1)}, {"softmax", softmax(1)}});
  compare("C2 top-64 n=8 f16", rounds, {{"ours", step(f16, top, 8)}, {"softmax", softmax(8)}});
  // the other sweeps the caches, so ours starts from a cold table and cold logits here
  compare("C1 top-64 n=1 f32 cold", rounds, {{"ours", step(f32, top, 1)}, {"plain", plain(1)}});
  compare("C2 top-64 n=8 f32 cold", std::max(3, rounds / 5), {{"ours", step(f32, top, 8)}, {"plain", plain(8)}});
  ThoughtRecipe nucleus = top;
  nucleus.top_k = 0;
  nucleus.top_p = 0.95F;
  nucleus.temperature = 0.6F;
  compare("top-p 0.95 T 0.6 n=1 f16", rounds, {{"ours", step(f16, nucleus, 1)}, {"softmax", softmax(1)}});
  ThoughtRecipe gumbel = top;
  gumbel.top_k = 5;
  gumbel.noise = ThoughtNoise::gumbel;
  gumbel.noise_amount = 0.5F;
  compare("gumbel top-5 n=1 f16", rounds, {{"ours", step(f16, gumbel, 1)}, {"softmax", softmax(1)}});
  ThoughtRecipe token;
  compare("token n=1 f16", rounds, {{"ours", step(f16, token, 1)}, {"softmax", softmax(1)}});

  ThoughtRecipe whole = top;
  whole.top_k = 0;
  const auto read = [&](const void* data, size_t bytes) {
    return [data, bytes] { sink = kernels().rows.sum(static_cast<const float*>(data), static_cast<int64_t>(bytes / 4)); };
  };
  const int few = std::max(3, rounds / 5);
  compare("C2 dense n=1 f16", few, {{"ours", step(f16, whole, 1)}, {"read", read(half.data(), half.size() * 2)}});
  compare("C2 dense n=1 f32", few, {{"ours", step(f32, whole, 1)}, {"read", read(e.data(), e.size() * 4)}});
  compare("C2 dense n=8 f16", few, {{"ours", step(f16, whole, 8)}, {"read", read(half.data(), half.size() * 2)}});
  // any bytes will do for blocks, once the scales, f16 at the end or the start of a block, are finite
  struct Blocks {
    RowFormat format;
    size_t scales;
    size_t at;
  };
  for (const Blocks& b :
       {Blocks{RowFormat::q8_0, 1, 0}, Blocks{RowFormat::q4_0, 1, 0}, Blocks{RowFormat::q4_K, 2, 0}, Blocks{RowFormat::q6_K, 1, 208}}) {
    const auto unit = static_cast<size_t>(row_unit_bytes(b.format));
    std::vector<uint8_t> bytes(static_cast<size_t>(vocabulary * width / row_unit_columns(b.format)) * unit);
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>((i * 2654435761U) >> 13);
    for (size_t i = 0; i < bytes.size(); i += unit) {
      for (size_t s = 0; s < b.scales; s++) bytes[i + b.at + 2 * s + 1] = 0x20;
    }
    const TokenTable table{b.format, bytes.data(), vocabulary, width};
    compare("C1 top-64 n=1 " + std::string(row_format_name(b.format)), rounds, {{"ours", step(table, top, 1)}, {"softmax", softmax(1)}});
    compare("C2 dense n=1 " + std::string(row_format_name(b.format)), few,
            {{"ours", step(table, whole, 1)}, {"read", read(bytes.data(), bytes.size() / 4 * 4)}});
  }
  return 0;
}
