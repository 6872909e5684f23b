// Every tile of the Hopper kernel against float64: each width, and sharing of copies and of the depth, with each way that results take, and
// several tiles for each block.
#include <memory>
#include <optional>

#include "../product.cuh"
#include "products.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

struct Plan {
  int64_t n = 0, depth = 0, outputs = 0;
  Dtype dtype = Dtype::bf16;
  Dtype out_dtype = Dtype::f32;
  RowScale scale = RowScale::none;
  Finish finish = Finish::identity;
  bool biased = false, residual = false;
  int64_t gap = 0, out_gap = 0, out_offset = 0;
  float mean = 0;
};

std::string describe(const Plan& s) {
  const char* scales[] = {"", ", l2", ", rms", ", layer", ", euclidean"};
  const char* finishes[] = {"", ", gelu", ", floor", ", root"};
  return std::string(name_of(s.dtype)) + " to " + name_of(s.out_dtype) + " " + std::to_string(s.n) + " x " + std::to_string(s.depth) +
         " x " + std::to_string(s.outputs) + scales[static_cast<int>(s.scale)] + finishes[static_cast<int>(s.finish)] +
         (s.biased ? ", bias" : "") + (s.residual ? ", residual" : "") + ", gap " + std::to_string(s.out_gap) + ", offset " +
         std::to_string(s.out_offset);
}
std::string describe(const Tile& t) {
  return " [" + std::to_string(t.columns) + " outputs, " + std::to_string(t.blocks) + " rows, " + std::to_string(t.splits) +
         " splits, rest by " + std::to_string(t.rest) + "]";
}

class Job {
 public:
  Job(Random& random, const Plan& plan)
      : plan_(plan),
        x_(plan.dtype, plan.n, plan.depth, moved(numbers(random, plan.n * plan.depth), plan.mean), plan.gap),
        w_(plan.dtype, plan.outputs, plan.depth, weights(random, plan)),
        residual_(plan.dtype, plan.residual ? plan.n : 0, plan.outputs, numbers(random, plan.residual ? plan.n * plan.outputs : 0)),
        bias_(numbers(random, plan.outputs)),
        bad_(std::vector<int32_t>{INT32_MAX}),
        out_(plan.n * (plan.outputs + plan.out_gap) * static_cast<int64_t>(dtype_size(plan.out_dtype)),
             static_cast<size_t>(plan.out_offset) * dtype_size(plan.out_dtype)) {
    PackArgs args;
    args.dtype = plan.dtype;
    args.source = w_.buffer.data();
    args.outputs = plan.outputs;
    args.depth = args.output_stride = plan.depth;
    packed_.emplace(args, plan.dtype);
    bias_buffer_.emplace(bias_);
    p_.dtype = plan.dtype;
    p_.x = x_.buffer.data();
    p_.n = plan.n;
    p_.x_stride = plan.n == 1 ? packed_leading(plan.dtype, plan.depth) : x_.stride;
    p_.w = packed_->matrix.data;
    p_.outputs = plan.outputs;
    p_.w_stride = packed_leading(plan.dtype, plan.depth);
    p_.depth = plan.depth;
    p_.scale = plan.scale;
    p_.epsilon = 1e-5F;
    p_.sums = packed_->matrix.sums;
    p_.bias = plan.scale == RowScale::euclidean ? packed_->matrix.squares : plan.biased ? bias_buffer_->data() : nullptr;
    p_.finish = plan.finish;
    if (plan.residual) {
      p_.residual = residual_.buffer.data();
      p_.residual_stride = plan.outputs;
    }
    p_.out = out_.data();
    p_.out_dtype = plan.out_dtype;
    p_.out_stride = plan.outputs + plan.out_gap;
    p_.bad_row = bad_.data();
  }

  cudaError_t launch(const Tile& tile, cudaStream_t stream) const {
    return plan_.dtype == Dtype::f16 ? product_wgmma_f16(p_, tile, stream) : product_wgmma_bf16(p_, tile, stream);
  }
  void poison() { out_.poison(); }
  const Buffer<uint8_t>& out() const { return out_; }
  int32_t bad() const { return bad_.download()[0]; }
  std::vector<float> result(const std::string& what) const {
    return rows_without_gaps(out_.download(), plan_.out_dtype, plan_.n, plan_.outputs, p_.out_stride, what);
  }

  // Rows `rows` in float64.
  std::vector<double> reference(const std::vector<int64_t>& rows) const {
    const auto n = static_cast<int64_t>(rows.size());
    const int64_t d = plan_.depth;
    std::vector<double> x(static_cast<size_t>(n * d)), squares(rows.size());
    for (int64_t i = 0; i < n; i++) {
      const float* from = x_.row(rows[static_cast<size_t>(i)]);
      double mean = 0, square = 0;
      for (int64_t k = 0; k < d && plan_.scale == RowScale::layer; k++) mean += from[k] / static_cast<double>(d);
      for (int64_t k = 0; k < d; k++) square += (from[k] - mean) * (from[k] - mean);
      squares[static_cast<size_t>(i)] = square;
      double factor = 1;
      if (plan_.scale == RowScale::l2) factor = 1 / std::sqrt(square);
      if (plan_.scale == RowScale::rms || plan_.scale == RowScale::layer)
        factor = 1 / std::sqrt(square / static_cast<double>(d) + static_cast<double>(p_.epsilon));
      for (int64_t k = 0; k < d; k++) x[static_cast<size_t>(i * d + k)] = (from[k] - mean) * factor;
    }
    std::vector<double> y = products_of(x, wide(w_.values), n, plan_.outputs, d);
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = 0; j < plan_.outputs; j++) {
        double& v = y[static_cast<size_t>(i * plan_.outputs + j)];
        if (plan_.scale == RowScale::euclidean) {
          double square = 0;
          for (int64_t k = 0; k < d; k++) square += std::pow(static_cast<double>(w_.row(j)[k]), 2);
          v = squares[static_cast<size_t>(i)] + square - 2 * v;
        } else if (plan_.biased) {
          v += bias_[static_cast<size_t>(j)];
        }
        if (plan_.finish == Finish::gelu) v = 0.5 * v * (1 + std::erf(v / std::sqrt(2.0)));
        if (plan_.finish == Finish::floor) v = std::max(v, 0.0);
        if (plan_.finish == Finish::root) v = std::sqrt(std::max(v, 0.0));
        if (plan_.residual) v += residual_.row(rows[static_cast<size_t>(i)])[j];
      }
    }
    return y;
  }
  double bound() const { return bound_of(Dtype::bf16, plan_.out_dtype != Dtype::f32) + 1e-8 * static_cast<double>(plan_.depth); }

 private:
  static std::vector<float> moved(std::vector<float> x, float by) {
    for (float& v : x) v += by;
    return x;
  }
  static std::vector<float> weights(Random& random, const Plan& plan) {
    std::vector<float> w = numbers(random, plan.outputs * plan.depth);
    for (float& v : w) v /= std::sqrt(static_cast<float>(plan.depth));
    return w;
  }

  Plan plan_;
  Matrix x_, w_, residual_;
  std::vector<float> bias_;
  std::optional<Packed> packed_;
  std::optional<Buffer<float>> bias_buffer_;
  Buffer<int32_t> bad_;
  Buffer<uint8_t> out_;
  Product p_;
};

std::vector<Tile> all_tiles(int64_t depth) {
  std::vector<Tile> tiles = {{}};
  for (const int columns : {64, 128, 192, 256}) {
    for (const int blocks : {1, 2}) {
      for (const int splits : {1, 2, 4, 8}) {
        if (blocks * splits > 8 || (splits > 1 && splits * 64 > depth)) continue;
        tiles.push_back({columns, blocks, splits, 1});
      }
    }
  }
  return tiles;
}

void check(Job& job, const Plan& s, const std::vector<int64_t>& rows, const Tile& tile, const std::vector<double>& wanted) {
  const std::string what = describe(s) + describe(tile);
  job.poison();
  run([&](cudaStream_t stream) { return job.launch(tile, stream); }, what);
  const std::vector<float> y = job.result(what);
  std::vector<float> chosen;
  for (const int64_t row : rows) chosen.insert(chosen.end(), y.begin() + row * s.outputs, y.begin() + (row + 1) * s.outputs);
  expect_matrix(chosen, wanted, s.outputs, job.bound(), what);
  expect(std::none_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }), what + ": left something unwritten");
  expect(job.bad() == INT32_MAX, what + ": a good row is called bad");
}

Plan some_plan(Random& random) {
  Plan s;
  s.n = random.of<int64_t>({1, 17, 63, 64, 65, 127, 128, 129, 200, 257, 600});
  s.depth = random.of<int64_t>({8, 24, 32, 40, 64, 72, 96, 104, 128, 136, 512, 520, 600, 1000});
  s.outputs = random.of<int64_t>({1, 7, 8, 33, 63, 64, 65, 100, 128, 159, 160, 161, 192, 255, 256, 257, 320, 500});
  s.dtype = random.chance(0.5) ? Dtype::bf16 : Dtype::f16;
  s.out_dtype = random.of<Dtype>({Dtype::f32, Dtype::f32, s.dtype, s.dtype, Dtype::f16, Dtype::bf16});
  s.scale = random.of<RowScale>({RowScale::none, RowScale::l2, RowScale::rms, RowScale::layer, RowScale::layer, RowScale::euclidean});
  s.finish = s.scale == RowScale::euclidean ? random.of<Finish>({Finish::floor, Finish::root})
                                            : random.of<Finish>({Finish::identity, Finish::identity, Finish::gelu});
  s.biased = random.chance(0.6);
  s.residual = random.chance(0.25);
  s.gap = random.of<int64_t>({0, 0, 8, 24});
  // results leave in bulk where rows and memory are at multiples of 16 bytes
  s.out_gap =
      random.chance(0.5) ? round_up<int64_t>(s.outputs, 8) - s.outputs + random.of<int64_t>({0, 8}) : random.of<int64_t>({0, 1, 2, 4});
  s.out_offset = random.of<int64_t>({0, 0, 0, 1, 2, 4});
  if (s.scale == RowScale::layer) s.mean = random.of<float>({0, 3});
  return s;
}

bool is_hopper() { return device_version() == 90; }

LATENT_TEST(tiles_of_any_shape) {
  if (!is_hopper()) return;
  for (int round = 0; round < rounds(30); round++) {
    Random random(50000 + static_cast<uint64_t>(round));
    const Plan s = some_plan(random);
    Job job(random, s);
    std::vector<int64_t> rows;
    for (int64_t i = 0; i < s.n; i++) rows.push_back(i);
    const std::vector<double> wanted = job.reference(rows);
    for (const Tile& tile : all_tiles(s.depth)) {
      if (reduced() && random.chance(0.8)) continue;
      check(job, s, rows, tile, wanted);
    }
  }
}

LATENT_TEST(tiles_one_after_another) {
  // many for each block, so that the warpgroups run apart and stores overlap; fewer steps than the ring has stages, as many, and more
  if (!is_hopper()) return;
  uint64_t seed = 51000;
  for (const int64_t depth : {40, 64, 200, 264, 520, 1000}) {
    if (reduced() && depth != 264) continue;
    for (const Dtype out_dtype : {Dtype::f32, Dtype::bf16}) {
      Random random(seed++);
      Plan s;
      s.n = reduced() ? 300 : 2100;
      s.depth = depth;
      s.outputs = reduced() ? 520 : 2600;
      s.out_dtype = out_dtype;
      s.scale = random.of<RowScale>({RowScale::none, RowScale::rms, RowScale::layer});
      s.finish = random.of<Finish>({Finish::identity, Finish::gelu});
      s.biased = true;
      s.out_gap = seed % 3 == 0 ? 1 : 0;
      Job job(random, s);
      std::vector<int64_t> rows = {0, s.n - 1, s.n / 2};
      for (int i = 0; i < 12; i++) rows.push_back(random.between(0, s.n - 1));
      const std::vector<double> wanted = job.reference(rows);
      for (const int columns : {64, 128, 192, 256}) {
        for (const int rest : {1, 2}) {
          if (depth > 64 * (rest - 1)) check(job, s, rows, {columns, random.of<int>({1, 2}), 1, rest}, wanted);
        }
      }
    }
  }
}

LATENT_TEST(tiles_are_independent_of_timing) {
  if (!is_hopper()) return;
  std::vector<Case> cases;
  uint64_t seed = 52000;
  for (const Tile& tile : {Tile{128, 1, 4, 1}, Tile{256, 2, 2, 1}, Tile{64, 1, 8, 1}, Tile{192, 2, 1, 1}, Tile{128, 2, 1, 2},
                           Tile{192, 2, 4, 1}, Tile{256, 2, 1, 1}}) {
    Random random(seed++);
    Plan s;
    s.n = tile.splits > 1 ? 130 : reduced() ? 300 : 2000;
    s.depth = 776;
    s.outputs = tile.splits > 1 ? 300 : 1500;
    s.out_dtype = tile.columns == 128 ? Dtype::f32 : Dtype::bf16;
    s.scale = RowScale::layer;
    s.finish = Finish::gelu;
    s.biased = true;
    const auto job = std::make_shared<Job>(random, s);
    cases.push_back({[job] { job->poison(); }, [job, tile](cudaStream_t stream) { return job->launch(tile, stream); },
                     [job] { return job->out().download(); }});
  }
  expect_independent_of_timing(cases, "tiles");
}

}  // namespace
