// Relative representations against float64: every similarity, on every path, with centre, scale and whitening, and the most similar
// anchors.
#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>
#include <set>

#include "products.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

struct Plan {
  int64_t n = 0, depth = 0, width = 0, count = 0;  // width: behind the whitening
  Dtype dtype = Dtype::f32;
  Similarity similarity = Similarity::cosine;
  bool whitens = false, centres = false, scales = false;
  int64_t gap = 0, offset = 0, r_gap = 0, r_offset = 0;
};

const char* similarity_name(Similarity similarity) {
  const char* names[] = {"cosine", "angular", "inner", "squared euclidean", "euclidean", "l1"};
  return names[static_cast<int>(similarity)];
}
std::string describe(const Plan& s) {
  return std::string(similarity_name(s.similarity)) + " " + name_of(s.dtype) + " " + std::to_string(s.n) + " x " + std::to_string(s.count) +
         " x " + std::to_string(s.depth) + (s.whitens ? " whitened to " + std::to_string(s.width) : "") + (s.centres ? " centred" : "") +
         (s.scales ? " scaled" : "") + ", gaps " + std::to_string(s.gap) + " " + std::to_string(s.r_gap) + ", offsets " +
         std::to_string(s.offset) + " " + std::to_string(s.r_offset);
}

class Job {
 public:
  Job(Random& random, const Plan& plan)
      : plan_(plan),
        x_(plan.dtype, plan.n, plan.depth, numbers(random, plan.n * plan.depth), plan.gap, plan.offset),
        // given as they are behind the whitening, which is the same for both
        anchors_(plan.dtype, plan.count, plan.width, numbers(random, plan.count * plan.width)),
        mean_(plan.whitens ? numbers(random, plan.depth) : std::vector<float>()),
        centre_(plan.centres ? numbers(random, plan.width) : std::vector<float>()),
        scale_(plan.scales ? numbers(random, plan.width) : std::vector<float>()),
        mean_buffer_(mean_),
        centre_buffer_(centre_),
        scale_buffer_(scale_),
        bad_(std::vector<int32_t>{INT32_MAX}),
        r_(plan.n * (plan.count + plan.r_gap), static_cast<size_t>(plan.r_offset) * sizeof(float)) {
    args_.x = x_.rows();
    args_.similarity = plan.similarity;
    if (plan.whitens) {
      std::vector<float> map = numbers(random, plan.width * plan.depth);
      for (float& v : map) v /= std::sqrt(static_cast<float>(plan.depth));
      map_.emplace(Dtype::f32, plan.width, plan.depth, map);
      PackArgs pack;
      pack.source = map_->buffer.data();
      pack.outputs = plan.width;
      pack.depth = plan.depth;
      pack.output_stride = plan.depth;
      packed_map_.emplace(pack, Dtype::f32);
      args_.whitening = packed_map_->matrix;
      args_.mean = mean_buffer_.data();
    }
    args_.centre = plan.centres ? centre_buffer_.data() : nullptr;
    args_.scale = plan.scales ? scale_buffer_.data() : nullptr;
    PackArgs pack;
    pack.dtype = plan.dtype;
    pack.source = anchors_.buffer.data();
    pack.outputs = plan.count;
    pack.depth = plan.width;
    pack.output_stride = plan.width;
    pack.shift = args_.centre;
    pack.depth_scale = args_.scale;
    pack.unit = plan.similarity == Similarity::cosine || plan.similarity == Similarity::angular;
    packed_.emplace(pack, plan.dtype);
    args_.anchors = packed_->matrix;
    args_.r = r_.data();
    args_.stride = plan.count + plan.r_gap;
    args_.bad_row = bad_.data();
  }

  const Plan& plan() const { return plan_; }
  CosineArgs& args() { return args_; }
  Matrix& x() { return x_; }
  Buffer<int32_t>& bad() { return bad_; }
  Buffer<float>& r() { return r_; }

  void prepare(Path path) {
    args_.path = path;
    args_.workspace_bytes = cosine_workspace(args_);
    workspace_.emplace(static_cast<int64_t>(args_.workspace_bytes));
    args_.workspace = workspace_->data();
    r_.poison();
  }
  void poison() {
    r_.poison();
    workspace_->poison();
  }
  cudaError_t launch(cudaStream_t stream) const { return cosine(args_, stream); }
  std::vector<float> result(const std::string& what) const {
    return rows_without_gaps(bytes_of(r_.download()), Dtype::f32, plan_.n, plan_.count, args_.stride, what);
  }

  std::vector<double> reference(const std::vector<int64_t>& rows) const {
    const auto n = static_cast<int64_t>(rows.size());
    std::vector<double> x(static_cast<size_t>(n * plan_.depth));
    for (int64_t i = 0; i < n; i++) {
      for (int64_t k = 0; k < plan_.depth; k++) {
        x[static_cast<size_t>(i * plan_.depth + k)] =
            x_.row(rows[static_cast<size_t>(i)])[k] - (plan_.whitens ? static_cast<double>(mean_[static_cast<size_t>(k)]) : 0.0);
      }
    }
    if (plan_.whitens) x = products_of(x, wide(map_->values), n, plan_.width, plan_.depth);
    std::vector<double> a = wide(anchors_.values);
    treat(&x);
    treat(&a);
    const int64_t w = plan_.width;
    if (plan_.similarity == Similarity::l1) return sums_of(x, a, n, plan_.count, w, [](double p, double q) { return std::abs(p - q); });
    if (plan_.similarity == Similarity::euclidean || plan_.similarity == Similarity::squared_euclidean) {
      std::vector<double> r = sums_of(x, a, n, plan_.count, w, [](double p, double q) { return (p - q) * (p - q); });
      if (plan_.similarity == Similarity::euclidean) std::transform(r.begin(), r.end(), r.begin(), [](double v) { return std::sqrt(v); });
      return r;
    }
    std::vector<double> r = products_of(x, a, n, plan_.count, w);
    if (plan_.similarity == Similarity::inner) return r;
    const std::vector<double> sizes_x = sizes(x, n), sizes_a = sizes(a, plan_.count);
    for (int64_t i = 0; i < n; i++) {
      for (int64_t j = 0; j < plan_.count; j++) {
        double& v = r[static_cast<size_t>(i * plan_.count + j)];
        const double size = sizes_x[static_cast<size_t>(i)] * sizes_a[static_cast<size_t>(j)];
        v = size > 0 ? v / size : 0;
        if (plan_.similarity == Similarity::angular) v = std::acos(std::clamp(v, -1.0, 1.0)) / M_PI;
      }
    }
    return r;
  }
  double bound() const {
    if (plan_.dtype == Dtype::f32) {
      // distances are differences of squares, angles have an infinite slope at 0
      return is_distance(plan_.similarity) && plan_.similarity != Similarity::l1 ? 3e-5 : 1e-5;
    }
    const bool unit = plan_.similarity == Similarity::cosine || plan_.similarity == Similarity::angular;
    const bool rounds = unit || plan_.whitens || plan_.centres || plan_.scales;
    return bound_of(Dtype::bf16, rounds);
  }

 private:
  void treat(std::vector<double>* rows) const {
    const auto w = static_cast<size_t>(plan_.width);
    for (size_t i = 0; i < rows->size(); i++) {
      if (plan_.centres) (*rows)[i] -= centre_[i % w];
      if (plan_.scales) (*rows)[i] *= scale_[i % w];
    }
  }
  std::vector<double> sizes(const std::vector<double>& rows, int64_t n) const {
    std::vector<double> all;
    for (int64_t i = 0; i < n; i++) {
      double square = 0;
      for (int64_t k = 0; k < plan_.width; k++) square += std::pow(rows[static_cast<size_t>(i * plan_.width + k)], 2);
      all.push_back(std::sqrt(square));
    }
    return all;
  }

  Plan plan_;
  Matrix x_, anchors_;
  std::vector<float> mean_, centre_, scale_;
  Buffer<float> mean_buffer_, centre_buffer_, scale_buffer_;
  std::optional<Matrix> map_;
  std::optional<Packed> packed_map_, packed_;
  std::optional<Buffer<uint8_t>> workspace_;
  Buffer<int32_t> bad_;
  Buffer<float> r_;
  CosineArgs args_;
};

std::vector<int64_t> all_rows(int64_t n) {
  std::vector<int64_t> rows(static_cast<size_t>(n));
  std::iota(rows.begin(), rows.end(), int64_t{0});
  return rows;
}

bool can(const Plan& s, Path path) {
  if (s.similarity == Similarity::l1 && path != Path::automatic && path != Path::simple) return false;
  if (s.whitens && !is_possible(path == Path::wgmma ? Path::mma : path, Dtype::f32, s.n, s.depth)) return false;
  return s.similarity == Similarity::l1 || is_possible(path, s.dtype, s.n, s.width);
}

void check(Job& job, const std::vector<int64_t>& rows, const std::vector<Path>& over) {
  const Plan& s = job.plan();
  const std::vector<double> wanted = job.reference(rows);
  for (const Path path : over) {
    if (!can(s, path)) continue;
    const std::string what = describe(s) + " [" + test::name_of(path) + "]";
    job.prepare(path);
    run([&](cudaStream_t stream) { return job.launch(stream); }, what);
    const std::vector<float> r = job.result(what);
    std::vector<float> chosen;
    for (const int64_t row : rows) chosen.insert(chosen.end(), r.begin() + row * s.count, r.begin() + (row + 1) * s.count);
    expect_matrix(chosen, wanted, s.count, job.bound(), what);
    expect(std::none_of(r.begin(), r.end(), [](float v) { return std::isnan(v); }), what + ": left something unwritten");
    expect(job.bad().download()[0] == INT32_MAX, what + ": a good row is called bad");
  }
}

Plan some_plan(Random& random) {
  Plan s;
  s.n = random.of<int64_t>({0, 1, 2, 7, 8, 9, 17, 32, 63, 64, 65, 127, 128, 129, 257});
  s.depth = random.of<int64_t>({1, 3, 8, 15, 16, 64, 65, 96, 128, 129, 384, 500});
  s.count = random.of<int64_t>({1, 2, 5, 8, 16, 17, 64, 65, 127, 128, 130, 256, 300});
  s.dtype = random.of<Dtype>({Dtype::f32, Dtype::f16, Dtype::bf16});
  s.similarity = random.of<Similarity>({Similarity::cosine, Similarity::cosine, Similarity::angular, Similarity::inner,
                                        Similarity::squared_euclidean, Similarity::euclidean, Similarity::l1});
  // in one dimension every cosine is 1, and angles of it are the roots of rounding errors
  if (s.similarity == Similarity::angular || s.similarity == Similarity::euclidean || s.similarity == Similarity::squared_euclidean)
    s.depth = std::max<int64_t>(s.depth, 15);
  s.whitens = random.chance(0.25);
  s.width = s.whitens ? std::max<int64_t>(15, random.of<int64_t>({16, 33, 64, 100})) : s.depth;
  s.centres = random.chance(0.3);
  s.scales = random.chance(0.3);
  s.gap = random.of<int64_t>({0, 0, 0, 1, 8});
  s.offset = random.of<int64_t>({0, 0, 0, 1, 8});
  s.r_gap = random.of<int64_t>({0, 0, 1, 2});
  s.r_offset = random.of<int64_t>({0, 0, 0, 1});
  return s;
}

LATENT_TEST(cosine_of_any_shape) {
  for (int round = 0; round < rounds(90); round++) {
    Random random(20000 + static_cast<uint64_t>(round));
    Job job(random, some_plan(random));
    check(job, all_rows(job.plan().n), paths());
  }
}

LATENT_TEST(cosine_large) {
  struct Size {
    int64_t n, count, depth;
  };
  const std::vector<Size> sizes =
      reduced() ? std::vector<Size>{{200, 300, 384}} : std::vector<Size>{{1, 300, 384},      {1, 1000, 4096},   {64, 1000, 768},
                                                                         {1000, 1000, 1024}, {8192, 512, 4096}, {100000, 64, 384}};
  uint64_t seed = 21000;
  for (const Size& size : sizes) {
    for (const Dtype dtype : dtypes()) {
      if (size.n * size.depth > 10'000'000 && dtype == Dtype::f16) continue;
      Random random(seed++);
      Plan s;
      s.n = size.n;
      s.count = size.count;
      s.depth = s.width = size.depth;
      s.dtype = dtype;
      Job job(random, s);
      std::vector<int64_t> rows = {0, s.n - 1};
      for (int i = 0; i < 5; i++) rows.push_back(random.between(0, s.n - 1));
      check(job, rows, {Path::automatic, Path::mma});
    }
  }
}

LATENT_TEST(cosine_of_zeros_is_zero) {
  for (const Path path : paths()) {
    for (const Dtype dtype : dtypes()) {
      Random random(22000);
      Plan s;
      s.n = 10;
      s.count = 20;
      s.depth = s.width = 48;
      s.dtype = dtype;
      if (!can(s, path)) continue;
      Job job(random, s);
      const Matrix zeros(dtype, s.n, s.depth, std::vector<float>(static_cast<size_t>(s.n * s.depth)));
      job.args().x = zeros.rows();
      job.prepare(path);
      run([&](cudaStream_t stream) { return job.launch(stream); }, "zeros");
      const std::vector<float> r = job.result("zeros");
      expect(std::all_of(r.begin(), r.end(), [](float v) { return v == 0; }),
             std::string("zeros of ") + test::name_of(dtype) + " [" + test::name_of(path) + "]");
      expect(job.bad().download()[0] == INT32_MAX, "zeros are called bad");
    }
  }
}

// The order of values that the device has: exact, ties by index.
void check_best(Job& job, int64_t k, Path path) {
  const Plan& s = job.plan();
  const std::string what = describe(s) + ", best " + std::to_string(k) + " [" + test::name_of(path) + "]";
  job.prepare(path);
  run([&](cudaStream_t stream) { return job.launch(stream); }, what);
  const std::vector<float> r = job.result(what);
  Buffer<int32_t> indices(s.n * k);
  Buffer<float> values(s.n * k);
  CosineArgs args = job.args();
  args.k = k;
  args.r = nullptr;
  args.indices = indices.data();
  args.values = values.data();
  args.workspace_bytes = cosine_workspace(args);
  const Buffer<uint8_t> workspace(static_cast<int64_t>(args.workspace_bytes));
  args.workspace = workspace.data();
  run([&](cudaStream_t stream) { return cosine(args, stream); }, what);
  const std::vector<int32_t> got = indices.download();
  const std::vector<float> got_values = values.download();
  const bool smallest = is_distance(s.similarity);
  for (int64_t i = 0; i < s.n; i++) {
    std::vector<int32_t> order(static_cast<size_t>(s.count));
    std::iota(order.begin(), order.end(), 0);
    const float* row = r.data() + i * s.count;
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return smallest ? row[a] < row[b] : row[a] > row[b]; });
    for (int64_t j = 0; j < k; j++) {
      const auto at = static_cast<size_t>(i * k + j);
      if (got[at] == order[static_cast<size_t>(j)] && got_values[at] == row[order[static_cast<size_t>(j)]]) continue;
      fail(what + ": row " + std::to_string(i) + ", place " + std::to_string(j) + " is anchor " + std::to_string(got[at]) + ", not " +
           std::to_string(order[static_cast<size_t>(j)]));
      return;
    }
  }
}

LATENT_TEST(cosine_selects_the_most_similar) {
  for (int round = 0; round < rounds(30); round++) {
    Random random(23000 + static_cast<uint64_t>(round));
    Plan s = some_plan(random);
    s.n = random.of<int64_t>({1, 2, 5, 64, 70});
    s.r_gap = s.r_offset = 0;
    Job job(random, s);
    const int64_t k = std::min(s.count, random.of<int64_t>({1, 2, 10, 31, 32, 33, 64, 100, 300}));
    check_best(job, k, Path::automatic);
  }
  // over slabs, and with many equal values
  Random random(24000);
  Plan s;
  s.n = reduced() ? 300 : 9000;
  s.count = 200;
  s.depth = s.width = 16;
  s.dtype = Dtype::bf16;
  Job job(random, s);
  check_best(job, 20, Path::automatic);
  std::vector<float> few(static_cast<size_t>(s.n * s.depth));
  for (float& v : few) v = static_cast<float>(random.between(0, 1));
  const Matrix equal(Dtype::bf16, s.n, s.depth, few);
  job.args().x = equal.rows();
  job.args().similarity = Similarity::inner;
  const Matrix same(Dtype::bf16, s.count, s.depth, std::vector<float>(few.begin(), few.begin() + s.count * s.depth));
  PackArgs pack;
  pack.dtype = Dtype::bf16;
  pack.source = same.buffer.data();
  pack.outputs = s.count;
  pack.depth = s.depth;
  pack.output_stride = s.depth;
  const Packed packed(pack, Dtype::bf16);
  job.args().anchors = packed.matrix;
  for (const int64_t k : {1, 40, 200}) check_best(job, k, Path::automatic);
}

LATENT_TEST(cosine_whitens_many_rows_of_16_bits) {
  // as parts of bf16: one alone would be off by 2e-3
  for (int round = 0; round < rounds(9); round++) {
    Random random(24500 + static_cast<uint64_t>(round));
    Plan s;
    s.n = random.of<int64_t>({65, 128, 200});
    s.depth = random.of<int64_t>({8, 65, 129, 384, 1000});
    s.width = random.of<int64_t>({64, 100, 257});
    s.count = 100;
    s.dtype = Dtype::f16;
    s.whitens = true;
    s.gap = random.of<int64_t>({0, 1, 8});
    s.offset = random.of<int64_t>({0, 1});
    s.similarity = random.of<Similarity>({Similarity::cosine, Similarity::inner});
    Job job(random, s);
    const std::vector<double> wanted = job.reference(all_rows(s.n));
    for (const Path path : paths()) {
      if (!can(s, path)) continue;
      const std::string what = describe(s) + " [" + test::name_of(path) + "]";
      job.prepare(path);
      run([&](cudaStream_t stream) { return job.launch(stream); }, what);
      expect_matrix(job.result(what), wanted, s.count, 8e-4, what);
    }
  }
}

LATENT_TEST(cosine_names_the_first_bad_row) {
  for (const Similarity similarity : {Similarity::cosine, Similarity::euclidean, Similarity::l1}) {
    for (const bool whitens : {false, true}) {
      Random random(25000);
      Plan s;
      s.n = 90;
      s.count = 30;
      s.depth = 64;
      s.width = whitens ? 32 : 64;
      s.whitens = whitens;
      s.similarity = similarity;
      Job job(random, s);
      std::vector<float> values = job.x().values;
      values[40 * 64 + 3] = NAN;
      values[77 * 64 + 5] = INFINITY;
      const Matrix x(s.dtype, s.n, s.depth, values);
      job.args().x = x.rows();
      job.prepare(Path::automatic);
      run([&](cudaStream_t stream) { return job.launch(stream); }, "a bad row");
      expect(job.bad().download()[0] == 40, describe(s) + ": row " + std::to_string(job.bad().download()[0]) + " is called bad, not 40");
    }
  }
}

LATENT_TEST(cosine_refuses_what_does_not_fit) {
  Random random(26000);
  Plan s;
  s.n = 4;
  s.count = 6;
  s.depth = 24;
  s.width = 8;
  s.whitens = true;
  Job job(random, s);
  job.prepare(Path::automatic);
  const CosineArgs good = job.args();
  const auto refuses = [&](const char* what, auto change) {
    CosineArgs args = good;
    change(args);
    expect(cosine(args, nullptr) == cudaErrorInvalidValue, std::string("not refused: ") + what);
  };
  refuses("a workspace too small", [](CosineArgs& a) { a.workspace_bytes -= 128; });
  refuses("more than there are", [](CosineArgs& a) { a.k = 7; });
  refuses("nowhere to put the best", [](CosineArgs& a) { a.k = 2; });
  refuses("results too short", [](CosineArgs& a) { a.stride = 5; });
  refuses("rows too short", [](CosineArgs& a) { a.x.stride = 23; });
  refuses("a whitening of another width", [](CosineArgs& a) { a.whitening.outputs = 9; });
  refuses("a whitening without a mean", [](CosineArgs& a) { a.mean = nullptr; });
  refuses("distances without squares", [](CosineArgs& a) {
    a.similarity = Similarity::euclidean;
    a.anchors.squares = nullptr;
  });
}

LATENT_TEST(cosine_is_independent_of_timing) {
  std::vector<Case> cases;
  for (int i = 0; i < 4; i++) {
    Random random(27000 + static_cast<uint64_t>(i));
    Plan s;
    s.n = i % 2 == 0 ? 5 : reduced() ? 100 : 2000;
    s.count = 130;
    s.depth = i % 2 == 0 ? 9000 : 384;
    s.width = s.depth;
    s.dtype = i < 2 ? Dtype::bf16 : Dtype::f32;
    const auto job = std::make_shared<Job>(random, s);
    job->prepare(Path::automatic);
    cases.push_back({[job] { job->poison(); }, [job](cudaStream_t stream) { return job->launch(stream); },
                     [job] { return bytes_of(job->r().download()); }});
  }
  expect_independent_of_timing(cases, "cosine");
}

}  // namespace
