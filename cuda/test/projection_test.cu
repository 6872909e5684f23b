// The fused projection, and the packing of its matrices, against float64.
#include <algorithm>
#include <memory>
#include <optional>

#include "../product.cuh"
#include "products.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

double activated(Activation activation, double x) {
  switch (activation) {
    case Activation::gelu:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    case Activation::identity:
      break;
  }
  return x;
}

struct Layer {
  int64_t inputs;
  int64_t outputs;
  Matrix weights;  // [inputs, outputs]
  std::vector<float> bias;

  Layer(Random& random, Dtype dtype, int64_t inputs_, int64_t outputs_)
      : inputs(inputs_),
        outputs(outputs_),
        weights(dtype, inputs_, outputs_, scaled(random, inputs_ * outputs_, inputs_)),
        bias(random.chance(0.7) ? numbers(random, outputs_) : std::vector<float>()) {}
  static std::vector<float> scaled(Random& random, int64_t count, int64_t inputs) {
    std::vector<float> w = numbers(random, count);
    for (float& v : w) v /= std::sqrt(static_cast<float>(std::max<int64_t>(inputs, 1)));
    return w;
  }
  PackArgs pack_args() const {
    PackArgs args;
    args.dtype = weights.dtype;
    args.source = weights.buffer.data();
    args.outputs = outputs;
    args.depth = inputs;
    args.output_stride = 1;
    args.depth_stride = outputs;
    return args;
  }
  // [outputs, inputs]
  std::vector<double> wide_weights() const {
    std::vector<double> w(static_cast<size_t>(inputs * outputs));
    for (int64_t k = 0; k < inputs; k++) {
      for (int64_t j = 0; j < outputs; j++) w[static_cast<size_t>(j * inputs + k)] = weights.values[static_cast<size_t>(k * outputs + j)];
    }
    return w;
  }
};

struct Plan {
  int64_t n = 0, inputs = 0, hidden = 0, outputs = 0;  // hidden 0: one layer
  Dtype dtype = Dtype::f32;                            // of rows and matrices
  Dtype y_dtype = Dtype::f32;
  Norm norm = Norm::none;
  bool weighted = false;  // the norm has a weight and a bias
  Activation activation = Activation::identity;
  Rescale rescale = Rescale::none;
  int64_t gap = 0, y_gap = 0, offset = 0, y_offset = 0;
  float mean = 0;  // of the rows' elements
};

std::string describe(const Plan& s) {
  const char* norms[] = {"", ", l2", ", rms", ", layer"};
  const char* activations[] = {"", ", gelu", ", silu", ", tanh"};
  const char* rescales[] = {"", ", to norm", ", residual"};
  return std::string(name_of(s.dtype)) + " to " + name_of(s.y_dtype) + " " + std::to_string(s.n) + " x " + std::to_string(s.inputs) +
         " -> " + (s.hidden > 0 ? std::to_string(s.hidden) + " -> " : "") + std::to_string(s.outputs) + norms[static_cast<int>(s.norm)] +
         (s.weighted ? " with weight and bias" : "") + activations[static_cast<int>(s.activation)] + rescales[static_cast<int>(s.rescale)] +
         ", gaps " + std::to_string(s.gap) + " " + std::to_string(s.y_gap) + ", offsets " + std::to_string(s.offset) + " " +
         std::to_string(s.y_offset);
}

// A projection with all its memory.
class Job {
 public:
  Job(Random& random, const Plan& plan)
      : plan_(plan),
        x_(plan.dtype, plan.n, plan.inputs, moved(numbers(random, plan.n * plan.inputs), plan.mean), plan.gap, plan.offset),
        first_(random, plan.dtype, plan.inputs, plan.hidden > 0 ? plan.hidden : plan.outputs),
        weight_(plan.weighted ? moved(numbers(random, plan.inputs), 1) : std::vector<float>()),
        norm_bias_(plan.weighted ? numbers(random, plan.inputs) : std::vector<float>()),
        bad_(std::vector<int32_t>{INT32_MAX}),
        y_(plan.n * (plan.outputs + plan.y_gap) * static_cast<int64_t>(dtype_size(plan.y_dtype)),
           static_cast<size_t>(plan.y_offset) * dtype_size(plan.y_dtype)) {
    if (plan.hidden > 0) second_.emplace(random, plan.dtype, plan.hidden, plan.outputs);
    args_.x = x_.rows();
    args_.norm = plan.norm;
    args_.epsilon = 1e-5F;
    args_.activation = plan.activation;
    args_.rescale = plan.rescale;
    args_.target_norm = 3.5F;
    args_.y_dtype = plan.y_dtype;
    args_.y = y_.data();
    args_.stride = plan.outputs + plan.y_gap;
    args_.bad_row = bad_.data();
    PackArgs pack_first = first_.pack_args();
    weight_buffer_.emplace(weight_);
    bias_buffer_.emplace(norm_bias_);
    first_bias_.emplace(first_.bias);
    if (plan.weighted) {
      projected_.emplace(first_.outputs);
      pack_first.depth_scale = weight_buffer_->data();
      pack_first.vector = bias_buffer_->data();
      pack_first.offset = first_.bias.empty() ? nullptr : first_bias_->data();
      pack_first.projected = projected_->data();
    }
    packed_first_.emplace(pack_first, plan.dtype);
    args_.first = packed_first_->matrix;
    args_.first_bias = plan.weighted ? projected_->data() : first_.bias.empty() ? nullptr : first_bias_->data();
    if (second_) {
      packed_second_.emplace(second_->pack_args(), plan.dtype);
      second_bias_.emplace(second_->bias);
      args_.second = packed_second_->matrix;
      args_.second_bias = second_->bias.empty() ? nullptr : second_bias_->data();
    }
  }

  const Plan& plan() const { return plan_; }
  ProjectionArgs& args() { return args_; }
  Matrix& x() { return x_; }
  Buffer<int32_t>& bad() { return bad_; }
  Buffer<uint8_t>& y() { return y_; }

  void prepare(Path path) {
    args_.path = path;
    args_.workspace_bytes = projection_workspace(args_);
    workspace_.emplace(static_cast<int64_t>(args_.workspace_bytes));
    args_.workspace = workspace_->data();
    y_.poison();
  }
  void poison() {
    y_.poison();
    workspace_->poison();
  }
  cudaError_t launch(cudaStream_t stream) const { return projection(args_, stream); }

  // Rows `rows` of Y in float64.
  std::vector<double> reference(const std::vector<int64_t>& rows) const {
    const auto n = static_cast<int64_t>(rows.size());
    const int64_t d = plan_.inputs;
    std::vector<double> x(static_cast<size_t>(n * d));
    for (int64_t i = 0; i < n; i++) {
      const float* from = x_.row(rows[static_cast<size_t>(i)]);
      double mean = 0, square = 0;
      if (plan_.norm == Norm::layer) {
        for (int64_t k = 0; k < d; k++) mean += from[k] / static_cast<double>(d);
      }
      for (int64_t k = 0; k < d; k++) square += (from[k] - mean) * (from[k] - mean);
      double factor = 1;
      if (plan_.norm == Norm::l2) factor = square > 0 ? 1 / std::sqrt(square) : 0;
      if (plan_.norm == Norm::rms || plan_.norm == Norm::layer)
        factor = square > 0 ? 1 / std::sqrt(square / static_cast<double>(d) + args_.epsilon) : 0;
      for (int64_t k = 0; k < d; k++) {
        double v = (from[k] - mean) * factor;
        if (plan_.weighted) v = v * weight_[static_cast<size_t>(k)] + norm_bias_[static_cast<size_t>(k)];
        x[static_cast<size_t>(i * d + k)] = v;
      }
    }
    std::vector<double> y = apply(first_, x, n);
    for (double& v : y) v = activated(plan_.activation, v);
    if (second_) y = apply(*second_, y, n);
    const int64_t outputs = plan_.outputs;
    for (int64_t i = 0; i < n; i++) {
      double* row = y.data() + i * outputs;
      if (plan_.rescale == Rescale::residual) {
        for (int64_t j = 0; j < outputs; j++) row[j] += x_.row(rows[static_cast<size_t>(i)])[j];
      }
      if (plan_.rescale != Rescale::to_norm) continue;
      double square = 0;
      for (int64_t j = 0; j < outputs; j++) square += row[j] * row[j];
      for (int64_t j = 0; square > 0 && j < outputs; j++) row[j] *= static_cast<double>(args_.target_norm) / std::sqrt(square);
    }
    return y;
  }
  std::vector<float> result(const std::string& what) const {
    return rows_without_gaps(y_.download(), plan_.y_dtype, plan_.n, plan_.outputs, args_.stride, what);
  }
  double bound() const {
    if (plan_.dtype == Dtype::f32 && plan_.y_dtype == Dtype::f32) return 1e-5;
    const bool late = plan_.activation == Activation::silu || plan_.activation == Activation::tanh;
    const bool rounds = plan_.y_dtype != Dtype::f32 || plan_.weighted || plan_.hidden > 0 || late;
    // matrix units round towards zero, step by step
    return bound_of(Dtype::bf16, rounds) + 1e-8 * static_cast<double>(plan_.inputs);
  }

  static std::vector<float> moved(std::vector<float> x, float by) {
    for (float& v : x) v += by;
    return x;
  }

 private:
  static std::vector<double> apply(const Layer& layer, const std::vector<double>& x, int64_t n) {
    std::vector<double> y = products_of(x, layer.wide_weights(), n, layer.outputs, layer.inputs);
    for (int64_t i = 0; !layer.bias.empty() && i < n; i++) {
      for (int64_t j = 0; j < layer.outputs; j++) y[static_cast<size_t>(i * layer.outputs + j)] += layer.bias[static_cast<size_t>(j)];
    }
    return y;
  }

  Plan plan_;
  Matrix x_;
  Layer first_;
  std::optional<Layer> second_;
  std::vector<float> weight_, norm_bias_;
  std::optional<Buffer<float>> weight_buffer_, bias_buffer_, first_bias_, second_bias_, projected_;
  std::optional<Packed> packed_first_, packed_second_;
  std::optional<Buffer<uint8_t>> workspace_;
  Buffer<int32_t> bad_;
  Buffer<uint8_t> y_;
  ProjectionArgs args_;
};

std::vector<int64_t> all_rows(int64_t n) {
  std::vector<int64_t> rows(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) rows[static_cast<size_t>(i)] = i;
  return rows;
}

// On every path that is possible; a path that is not must say so.
void check(Job& job, const std::vector<int64_t>& rows, const std::vector<Path>& over) {
  const Plan& s = job.plan();
  const std::vector<double> wanted = job.reference(rows);
  for (const Path path : over) {
    const std::string what = describe(s) + " [" + name_of(path) + "]";
    job.prepare(path);
    const bool possible = is_possible(path, s.dtype, s.n, s.inputs) && (s.hidden == 0 || is_possible(path, s.dtype, s.n, s.hidden));
    if (!possible && s.n > 0 && s.outputs > 0) {
      expect(job.launch(nullptr) == cudaErrorNotSupported, what + ": is not refused");
      LATENT_MUST(cudaDeviceSynchronize());
      continue;
    }
    run([&](cudaStream_t stream) { return job.launch(stream); }, what);
    const std::vector<float> y = job.result(what);
    std::vector<float> chosen;
    for (const int64_t row : rows) chosen.insert(chosen.end(), y.begin() + row * s.outputs, y.begin() + (row + 1) * s.outputs);
    expect_matrix(chosen, wanted, s.outputs, job.bound(), what);
    expect(std::none_of(y.begin(), y.end(), [](float v) { return std::isnan(v); }), what + ": left something unwritten");
    expect(job.bad().download()[0] == INT32_MAX, what + ": a good row is called bad");
  }
}

Plan some_plan(Random& random) {
  Plan s;
  s.n = random.of<int64_t>({0, 1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 65, 127, 128, 129, 200, 300});
  s.inputs = random.of<int64_t>({1, 2, 3, 7, 8, 16, 24, 63, 64, 65, 72, 128, 200, 257, 512, 896});
  s.outputs = random.of<int64_t>({1, 2, 3, 8, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 300, 500});
  s.dtype = random.of<Dtype>({Dtype::f32, Dtype::f16, Dtype::bf16});
  s.y_dtype = random.chance(0.6) ? Dtype::f32 : s.dtype;
  s.norm = random.of<Norm>({Norm::none, Norm::l2, Norm::rms, Norm::layer});
  s.weighted = (s.norm == Norm::rms || s.norm == Norm::layer) && random.chance(0.5);
  s.activation = random.of<Activation>({Activation::identity, Activation::identity, Activation::gelu, Activation::silu, Activation::tanh});
  s.rescale = random.of<Rescale>({Rescale::none, Rescale::none, Rescale::to_norm, Rescale::residual});
  if (random.chance(0.3)) s.hidden = random.of<int64_t>({1, 5, 8, 64, 100, 130, 256});
  if (s.rescale == Rescale::residual) s.outputs = s.inputs;
  s.gap = random.of<int64_t>({0, 0, 0, 1, 8, 16});
  s.y_gap = random.of<int64_t>({0, 0, 1, 2});
  s.offset = random.of<int64_t>({0, 0, 0, 0, 1, 8});
  s.y_offset = random.of<int64_t>({0, 0, 0, 1});
  // a single element, or few, that are normalised have a variance near 0, which float64 sees otherwise
  if (s.norm == Norm::layer && s.inputs < 8) s.norm = Norm::rms;
  // the tails of GELU and SiLU are inexact, which a few of them alone would show when brought to a norm
  if (s.rescale == Rescale::to_norm && s.outputs < 15) s.rescale = Rescale::none;
  if (s.norm == Norm::layer) s.mean = random.of<float>({0, 0, 3});
  return s;
}

LATENT_TEST(projection_plain_products) {
  // the shapes of tiles and those beside them, nothing else
  for (int round = 0; round < rounds(36); round++) {
    Random random(1000 + static_cast<uint64_t>(round));
    Plan s;
    s.n = random.of<int64_t>({1, 8, 9, 64, 65, 128, 129, 256, 257, 400});
    s.inputs = random.of<int64_t>({8, 16, 32, 64, 72, 96, 128, 136, 512, 1024});
    s.outputs = random.of<int64_t>({1, 8, 16, 64, 65, 128, 129, 192, 256, 257, 512, 600});
    s.dtype = dtypes()[static_cast<size_t>(round) % 3];
    Job job(random, s);
    check(job, all_rows(s.n), paths());
  }
}

LATENT_TEST(projection_fused_products) {
  for (int round = 0; round < rounds(90); round++) {
    Random random(2000 + static_cast<uint64_t>(round));
    Job job(random, some_plan(random));
    check(job, all_rows(job.plan().n), paths());
  }
}

LATENT_TEST(projection_of_nothing) {
  Random random(3000);
  for (const Dtype dtype : dtypes()) {
    for (const auto& [n, inputs, outputs] : {std::tuple<int64_t, int64_t, int64_t>{0, 5, 6}, {3, 0, 6}, {70, 0, 9}, {3, 5, 0}}) {
      Plan s;
      s.n = n;
      s.inputs = inputs;
      s.outputs = outputs;
      s.dtype = dtype;
      Job job(random, s);
      check(job, all_rows(n), {Path::automatic, Path::simple});
    }
  }
}

std::vector<int64_t> some_rows(Random& random, int64_t n, int64_t count) {
  std::vector<int64_t> rows = {0, n - 1, n / 2};
  for (int64_t i = 0; i < count; i++) rows.push_back(random.between(0, n - 1));
  return rows;
}

LATENT_TEST(projection_large) {
  struct Size {
    int64_t n, inputs, outputs;
  };
  const std::vector<Size> sizes =
      reduced() ? std::vector<Size>{{300, 512, 520}}
                : std::vector<Size>{{4096, 2560, 2560}, {512, 4096, 4096}, {1, 4096, 4096},  {8, 2560, 2560}, {33, 896, 4096},
                                    {64, 16384, 48},    {1, 65536, 20},    {10000, 384, 64}, {130, 9000, 600}};
  uint64_t seed = 4000;
  for (size_t i = 0; i < sizes.size(); i++) {
    const Size& size = sizes[i];
    for (size_t type = 0; type < 3; type++) {
      if (i > 0 && i % 3 != type) continue;  // all of them at the first size, then in turn
      const Dtype dtype = dtypes()[type];
      Random random(seed++);
      Plan s;
      s.n = size.n;
      s.inputs = size.inputs;
      s.outputs = size.outputs;
      s.dtype = dtype;
      s.norm = seed % 2 == 0 ? Norm::rms : Norm::layer;
      s.activation = seed % 3 == 0 ? Activation::gelu : Activation::identity;
      Job job(random, s);
      check(job, some_rows(random, s.n, 5), {Path::automatic, Path::mma});
    }
  }
}

LATENT_TEST(projection_splits_the_depth_of_few_rows) {
  // few outputs, a long depth: blocks share it
  for (int round = 0; round < rounds(9); round++) {
    Random random(5000 + static_cast<uint64_t>(round));
    Plan s = some_plan(random);
    s.n = random.of<int64_t>({1, 3, 8, 12, 30, 64});
    s.inputs = random.of<int64_t>({4096, 8200, 12345, 20000});
    s.outputs = random.of<int64_t>({1, 16, 17, 40, 100});
    if (s.rescale == Rescale::residual) s.rescale = Rescale::none;
    s.hidden = 0;
    Job job(random, s);
    check(job, all_rows(s.n), {Path::automatic, Path::few});
  }
}

LATENT_TEST(projection_of_few_rows_by_either_kernel) {
  // both kernels for 16 bits, whichever this processor takes, and every number of blocks that may share the depth
  for (int round = 0; round < rounds(48); round++) {
    Random random(5500 + static_cast<uint64_t>(round));
    Plan s;
    s.n = random.of<int64_t>({1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64});
    s.inputs = random.of<int64_t>({8, 16, 56, 64, 72, 128, 136, 520, 640, 1024, 2056, 5000});
    s.outputs = random.of<int64_t>({1, 3, 15, 16, 17, 32, 33, 63, 64, 65, 127, 130, 300});
    s.dtype = dtypes()[static_cast<size_t>(round) % 3];
    s.norm = random.of<Norm>({Norm::none, Norm::rms, s.dtype == Dtype::f32 ? Norm::rms : Norm::layer});
    s.gap = random.of<int64_t>({0, 8, 16});
    s.y_gap = random.of<int64_t>({0, 1, 4});
    Job job(random, s);
    const ProjectionArgs& a = job.args();
    const std::vector<double> wanted = job.reference(all_rows(s.n));
    for (const bool by_warps : {false, true}) {
      for (const int blocks : {0, 1, 2, 3, 4, 8}) {
        job.prepare(Path::automatic);
        Product p;
        p.dtype = s.dtype;
        p.x = a.x.data;
        p.n = s.n;
        p.x_stride = a.x.stride;
        p.w = a.first.data;
        p.outputs = s.outputs;
        p.w_stride = packed_leading(s.dtype, s.inputs);
        p.depth = s.inputs;
        p.scale = s.norm == Norm::rms ? RowScale::rms : s.norm == Norm::layer ? RowScale::layer : RowScale::none;
        p.epsilon = a.epsilon;
        p.sums = a.first.sums;
        p.bias = a.first_bias;
        p.out = a.y;
        p.out_stride = a.stride;
        const std::string what =
            describe(s) + (by_warps ? ", by warps, " : ", ") + std::to_string(blocks) + (blocks == 1 ? " block" : " blocks");
        run([&](cudaStream_t stream) { return product_few(p, stream, {blocks, by_warps}); }, what);
        expect_matrix(job.result(what), wanted, s.outputs, job.bound(), what);
      }
    }
  }
}

LATENT_TEST(projection_over_slabs) {
  Random random(6000);
  Plan s;
  s.n = reduced() ? 100 : 16384 + 5;
  s.inputs = 40;
  s.hidden = 24;
  s.outputs = 33;
  s.activation = Activation::gelu;
  s.rescale = Rescale::to_norm;
  for (const Dtype dtype : dtypes()) {
    s.dtype = dtype;
    s.y_dtype = dtype;
    Job job(random, s);
    check(job, some_rows(random, s.n, 60), {Path::automatic});
  }
}

LATENT_TEST(projection_of_converted_rows) {
  // rows of one dtype, matrices of another
  for (const Dtype rows : dtypes()) {
    for (const Dtype matrix : dtypes()) {
      Random random(7000);
      Plan s;
      s.n = 70;
      s.inputs = 96;
      s.outputs = 50;
      s.norm = Norm::rms;
      s.dtype = matrix;
      Job job(random, s);
      const Matrix x(rows, s.n, s.inputs, job.x().values);
      job.args().x = x.rows();
      job.prepare(Path::automatic);
      const std::string what = std::string(name_of(rows)) + " rows, " + name_of(matrix) + " matrix";
      run([&](cudaStream_t stream) { return job.launch(stream); }, what);
      const double bound = rows == Dtype::f32 && matrix == Dtype::f32 ? 1e-5 : 4e-3;
      expect_matrix(job.result(what), job.reference(all_rows(s.n)), s.outputs, bound, what);
    }
  }
}

LATENT_TEST(projection_rows_of_extreme_size) {
  // a norm makes them the same as others, whatever f32 thinks of their squares
  for (const Norm norm : {Norm::l2, Norm::rms}) {
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      for (const float size : reduced() ? std::vector<float>{1e-24F} : std::vector<float>{1e-24F, 1e-18F, 1e17F, 1e25F}) {
        for (const Path path : paths()) {
          Random random(8000);
          Plan s;
          s.n = 20;
          s.inputs = 64;
          s.outputs = 24;
          s.dtype = dtype;
          s.norm = norm;
          if (!is_possible(path, dtype, s.n, s.inputs)) continue;
          Job job(random, s);
          job.args().epsilon = 0;
          job.args().first_bias = nullptr;
          std::vector<float> values = job.x().values;
          for (float& v : values) v *= size;
          for (int64_t k = 0; k < s.inputs; k++) values[static_cast<size_t>(s.inputs + k)] = 0;  // and one row of zeros
          const Matrix x(dtype, s.n, s.inputs, values);
          job.args().x = x.rows();
          job.prepare(path);
          char text[32];
          std::snprintf(text, sizeof(text), " of size %g", static_cast<double>(size));
          const std::string what = describe(s) + text + " [" + name_of(path) + "]";
          run([&](cudaStream_t stream) { return job.launch(stream); }, what);
          const std::vector<float> y = job.result(what);
          // the same product of rows of ordinary size
          ProjectionArgs args = job.args();
          const Matrix same(Dtype::f32, s.n, s.inputs, [&] {
            std::vector<float> back = x.values;
            for (float& v : back) v = static_cast<float>(static_cast<double>(v) / static_cast<double>(size));
            return back;
          }());
          const Matrix as_dtype(dtype, s.n, s.inputs, same.values);
          args.x = as_dtype.rows();
          args.path = Path::simple;
          args.workspace_bytes = projection_workspace(args);
          const Buffer<uint8_t> workspace(static_cast<int64_t>(args.workspace_bytes));
          args.workspace = workspace.data();
          const Buffer<float> wanted(s.n * s.outputs);
          args.y = wanted.data();
          args.stride = s.outputs;
          run([&](cudaStream_t stream) { return projection(args, stream); }, what);
          expect_matrix(y, wide(wanted.download()), s.outputs, bound_of(dtype, true), what);
          expect(job.bad().download()[0] == INT32_MAX, what + ": called bad");
        }
      }
    }
  }
}

LATENT_TEST(projection_names_the_first_bad_row) {
  for (const Dtype dtype : dtypes()) {
    for (const Path path : paths()) {
      for (const int64_t n : reduced() ? std::vector<int64_t>{40} : std::vector<int64_t>{3, 40, 150}) {
        for (const float poison : {NAN, INFINITY}) {
          Random random(9000 + static_cast<uint64_t>(n));
          Plan s;
          s.n = n;
          s.inputs = 64;
          s.outputs = 70;
          s.dtype = dtype;
          s.norm = random.of<Norm>({Norm::none, Norm::l2, Norm::rms, Norm::layer});
          if (!is_possible(path, dtype, n, s.inputs)) continue;
          Job job(random, s);
          std::vector<float> values = job.x().values;
          const int64_t first = random.between(0, n - 1);
          const int64_t second = random.between(first, n - 1);
          values[static_cast<size_t>(first * s.inputs + random.between(0, s.inputs - 1))] = poison;
          values[static_cast<size_t>(second * s.inputs + random.between(0, s.inputs - 1))] = -poison;
          const Matrix x(dtype, n, s.inputs, values);
          job.args().x = x.rows();
          job.prepare(path);
          run([&](cudaStream_t stream) { return job.launch(stream); }, "a bad row");
          const int32_t bad = job.bad().download()[0];
          expect(bad == first,
                 describe(s) + " [" + name_of(path) + "]: row " + std::to_string(bad) + " is called bad, not " + std::to_string(first));
        }
      }
    }
  }
}

LATENT_TEST(projection_refuses_what_does_not_fit) {
  Random random(10000);
  Plan s;
  s.n = 4;
  s.inputs = 8;
  s.hidden = 16;
  s.outputs = 8;
  s.dtype = Dtype::bf16;
  Job job(random, s);
  job.prepare(Path::automatic);
  const ProjectionArgs good = job.args();
  const auto refuses = [&](const char* what, auto change) {
    ProjectionArgs args = good;
    change(args);
    expect(projection(args, nullptr) == cudaErrorInvalidValue, std::string("not refused: ") + what);
  };
  refuses("a workspace too small", [](ProjectionArgs& a) { a.workspace_bytes -= 128; });
  refuses("layers that do not fit", [](ProjectionArgs& a) { a.second.depth = 12; });
  refuses("rows too short", [](ProjectionArgs& a) { a.x.stride = 7; });
  refuses("results too short", [](ProjectionArgs& a) { a.stride = 7; });
  refuses("a negative count", [](ProjectionArgs& a) { a.x.count = -1; });
  refuses("a residual of another width", [](ProjectionArgs& a) {
    a.second = {};
    a.rescale = Rescale::residual;
  });
  refuses("LayerNorm without sums", [](ProjectionArgs& a) {
    a.norm = Norm::layer;
    a.first.sums = nullptr;
  });
}

LATENT_TEST(projection_is_independent_of_timing) {
  std::vector<Case> cases;
  uint64_t seed = 11000;
  for (const Path path : {Path::automatic, Path::mma}) {
    for (const auto& [n, inputs, outputs] : {std::tuple<int64_t, int64_t, int64_t>{3, 8192, 40}, {reduced() ? 40 : 700, 640, 768}}) {
      Random random(seed++);
      Plan s;
      s.n = n;
      s.inputs = inputs;
      s.outputs = outputs;
      s.dtype = seed % 2 == 0 ? Dtype::bf16 : Dtype::f32;
      s.norm = Norm::rms;
      s.activation = Activation::gelu;
      s.rescale = Rescale::to_norm;
      const auto job = std::make_shared<Job>(random, s);
      job->prepare(path);
      cases.push_back(
          {[job] { job->poison(); }, [job](cudaStream_t stream) { return job->launch(stream); }, [job] { return job->y().download(); }});
    }
  }
  expect_independent_of_timing(cases, "projection");
}

LATENT_TEST(pack_keeps_what_it_should) {
  for (int round = 0; round < rounds(36); round++) {
    Random random(12000 + static_cast<uint64_t>(round));
    const Dtype from = random.of<Dtype>({Dtype::f32, Dtype::f16, Dtype::bf16});
    const Dtype storage = random.of<Dtype>({Dtype::f32, Dtype::f16, Dtype::bf16});
    const int64_t outputs = random.of<int64_t>({1, 2, 31, 32, 33, 70});
    const int64_t depth = random.of<int64_t>({0, 1, 5, 32, 33, 64, 129, 300});
    const bool transposed = random.chance(0.5);
    const bool shifts = random.chance(0.5), scales = random.chance(0.5), unit = random.chance(0.5);
    const Matrix source(from, transposed ? depth : outputs, transposed ? outputs : depth, numbers(random, outputs * depth));
    const std::vector<float> shift = numbers(random, depth), scale = numbers(random, depth), vector = numbers(random, depth);
    const std::vector<float> offset = numbers(random, outputs);
    const Buffer<float> shift_buffer(shift), scale_buffer(scale), vector_buffer(vector), offset_buffer(offset);
    const Buffer<float> projected(outputs);
    PackArgs args;
    args.dtype = from;
    args.source = source.buffer.data();
    args.outputs = outputs;
    args.depth = depth;
    args.output_stride = transposed ? 1 : depth;
    args.depth_stride = transposed ? outputs : 1;
    args.shift = shifts ? shift_buffer.data() : nullptr;
    args.depth_scale = scales ? scale_buffer.data() : nullptr;
    args.unit = unit;
    args.vector = vector_buffer.data();
    args.offset = offset_buffer.data();
    args.projected = projected.data();
    const Packed packed(args, storage);
    const std::string what = std::string("pack ") + name_of(from) + " as " + name_of(storage) + " " + std::to_string(outputs) + " x " +
                             std::to_string(depth) + (transposed ? " transposed" : "") + (unit ? " unit" : "");
    const int64_t leading = packed_leading(storage, depth);
    std::vector<double> wanted, wanted_projected;
    const std::vector<float> kept = decode(packed.data.download(), storage);
    const std::vector<float> sums = packed.sums.download(), squares = packed.squares.download();
    for (int64_t j = 0; j < outputs; j++) {
      std::vector<double> row;
      double square = 0, product = offset[static_cast<size_t>(j)];
      for (int64_t k = 0; k < depth; k++) {
        const auto at = static_cast<size_t>(k);
        const double raw = source.values[static_cast<size_t>(transposed ? k * outputs + j : j * depth + k)];
        const double v = (raw - (shifts ? shift[at] : 0)) * (scales ? scale[at] : 1);
        product += raw * vector[at];
        square += v * v;
        row.push_back(v);
      }
      wanted_projected.push_back(product);
      double sum = 0, kept_square = 0;
      for (int64_t k = 0; k < leading; k++) {
        const double v = k < depth ? row[static_cast<size_t>(k)] : 0;
        wanted.push_back(unit && square > 0 ? v / std::sqrt(square) : v);
        const double is = kept[static_cast<size_t>(j * leading + k)];
        sum += is;
        kept_square += is * is;
      }
      expect(std::abs(sums[static_cast<size_t>(j)] - sum) <= 1e-6 * (1 + std::abs(sum)), what + ": the sum of output " + std::to_string(j));
      expect(std::abs(squares[static_cast<size_t>(j)] - kept_square) <= 1e-6 * (1 + kept_square),
             what + ": the squares of output " + std::to_string(j));
    }
    expect_matrix(kept, wanted, leading, storage == Dtype::f32 ? 1e-6 : 3e-3, what);
    expect_matrix(projected.download(), wanted_projected, 1, 1e-5, what + ", projected");
  }
}

LATENT_TEST(pack_names_the_first_bad_output) {
  std::vector<float> values(3 * 40, 1.0F);
  values[1 * 40 + 39] = 1e6F;  // no f16
  values[2 * 40] = NAN;
  const Matrix source(Dtype::f32, 3, 40, values);
  for (const Dtype storage : dtypes()) {
    Buffer<uint8_t> data(static_cast<int64_t>(packed_bytes(storage, 3, 40)));
    const Buffer<int32_t> bad(std::vector<int32_t>{INT32_MAX});
    PackArgs args;
    args.source = source.buffer.data();
    args.outputs = 3;
    args.depth = 40;
    args.output_stride = 40;
    args.storage = storage;
    args.data = data.data();
    args.bad_output = bad.data();
    run([&](cudaStream_t stream) { return pack(args, stream); }, "pack");
    expect(bad.download()[0] == (storage == Dtype::f16 ? 1 : 2), std::string("the bad output of ") + name_of(storage));
  }
}

}  // namespace
