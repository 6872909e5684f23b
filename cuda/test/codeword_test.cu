// The nearest codeword against float64: the one that is found must be as near as any but for rounding, and the lowest among equals.
#include <algorithm>
#include <memory>
#include <optional>

#include "products.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

class Job {
 public:
  Job(Dtype dtype, int64_t n, int64_t count, int64_t depth, const std::vector<float>& x, const std::vector<float>& words, int64_t gap = 0,
      int64_t offset = 0)
      : x_(dtype, n, depth, x, gap, offset),
        words_(dtype, count, depth, words),
        indices_(n),
        distances_(n),
        bad_(std::vector<int32_t>{INT32_MAX}) {
    PackArgs pack;
    pack.dtype = dtype;
    pack.source = words_.buffer.data();
    pack.outputs = count;
    pack.depth = depth;
    pack.output_stride = depth;
    packed_.emplace(pack, dtype);
    args_.x = x_.rows();
    args_.codewords = packed_->matrix;
    args_.indices = indices_.data();
    args_.distances = distances_.data();
    args_.bad_row = bad_.data();
  }

  CodewordArgs& args() { return args_; }
  const Matrix& x() const { return x_; }
  const Matrix& words() const { return words_; }
  std::vector<int32_t> indices() const { return indices_.download(); }
  std::vector<float> distances() const { return distances_.download(); }
  int32_t bad() const { return bad_.download()[0]; }

  void prepare(Path path) {
    args_.path = path;
    args_.workspace_bytes = codeword_workspace(args_);
    workspace_.emplace(static_cast<int64_t>(args_.workspace_bytes));
    args_.workspace = workspace_->data();
    poison();
  }
  void poison() {
    indices_.poison();
    distances_.poison();
    workspace_->poison();
  }
  cudaError_t launch(cudaStream_t stream) const { return codeword(args_, stream); }

 private:
  Matrix x_, words_;
  std::optional<Packed> packed_;
  std::optional<Buffer<uint8_t>> workspace_;
  Buffer<int32_t> indices_;
  Buffer<float> distances_;
  Buffer<int32_t> bad_;
  CodewordArgs args_;
};

void check(Job& job, const std::string& name, int64_t most_rows) {
  const Matrix& x = job.x();
  const Matrix& words = job.words();
  const int64_t n = std::min(x.n, most_rows);
  std::vector<float> last(x.values.end() - n * x.columns, x.values.end());
  const std::vector<double> squares =
      sums_of(wide(last), wide(words.values), n, words.n, x.columns, [](double a, double b) { return (a - b) * (a - b); });
  for (const Path path : paths()) {
    const std::string what = name + " [" + name_of(path) + "]";
    job.prepare(path);
    if (!is_possible(path, x.dtype, x.n, x.columns) && x.n > 0) {
      expect(job.launch(nullptr) == cudaErrorNotSupported, what + ": is not refused");
      LATENT_MUST(cudaDeviceSynchronize());
      continue;
    }
    run([&](cudaStream_t stream) { return job.launch(stream); }, what);
    const std::vector<int32_t> indices = job.indices();
    const std::vector<float> distances = job.distances();
    expect(job.bad() == INT32_MAX, what + ": a good row is called bad");
    for (int64_t i = 0; i < n; i++) {
      const auto at = static_cast<size_t>(x.n - n + i);
      const double* of_row = squares.data() + i * words.n;
      double size = 0;
      for (int64_t k = 0; k < x.columns; k++) size += std::pow(last[static_cast<size_t>(i * x.columns + k)], 2);
      const double least = *std::min_element(of_row, of_row + words.n);
      const double slack = 2e-5 * (size + least + 1e-6);
      const int32_t index = indices[at];
      if (index < 0 || index >= words.n || of_row[index] > least + slack || std::abs(static_cast<double>(distances[at]) - least) > slack) {
        fail(what + ": row " + std::to_string(at) + " has codeword " + std::to_string(index) + " at " + std::to_string(distances[at]) +
             ", the nearest is at " + std::to_string(least));
        break;
      }
    }
  }
}

LATENT_TEST(codeword_of_any_shape) {
  for (int round = 0; round < rounds(45); round++) {
    Random random(30000 + static_cast<uint64_t>(round));
    const auto n = random.of<int64_t>({0, 1, 3, 8, 9, 33, 64, 65, 128, 129, 300});
    const auto count = random.of<int64_t>({1, 2, 15, 16, 17, 64, 65, 128, 129, 256, 257, 700});
    const auto depth = random.of<int64_t>({1, 3, 8, 16, 63, 64, 65, 128, 200, 256});
    const Dtype dtype = dtypes()[static_cast<size_t>(round) % 3];
    const auto gap = random.of<int64_t>({0, 0, 1, 8});
    const auto offset = random.of<int64_t>({0, 0, 1, 8});
    Job job(dtype, n, count, depth, numbers(random, n * depth), numbers(random, count * depth), gap, offset);
    check(job, std::string(name_of(dtype)) + " " + std::to_string(n) + " x " + std::to_string(count) + " x " + std::to_string(depth), n);
  }
}

LATENT_TEST(codeword_large) {
  struct Size {
    int64_t n, count, depth;
  };
  const std::vector<Size> sizes = reduced() ? std::vector<Size>{{150, 300, 64}}
                                            : std::vector<Size>{{2048, 1024, 64},
                                                                {4096, 8192, 256},
                                                                {20001, 300, 30},
                                                                // the last of several slabs has few rows
                                                                {8203, 300, 30},
                                                                {8230, 300, 30}};
  for (const Size& size : sizes) {
    for (const Dtype dtype : dtypes()) {
      Random random(31000);
      Job job(dtype, size.n, size.count, size.depth, numbers(random, size.n * size.depth), numbers(random, size.count * size.depth));
      check(job,
            std::string(name_of(dtype)) + " " + std::to_string(size.n) + " x " + std::to_string(size.count) + " x " +
                std::to_string(size.depth),
            20);
    }
  }
}

LATENT_TEST(codeword_takes_the_lowest_of_equals) {
  // small whole numbers: all sums are exact, so equal distances are equal
  for (const Dtype dtype : dtypes()) {
    for (const Path path : paths()) {
      for (const int64_t n : reduced() ? std::vector<int64_t>{60} : std::vector<int64_t>{5, 60, 200}) {
        if (!is_possible(path, dtype, n, 8)) continue;
        Random random(32000);
        const int64_t count = 400;
        const auto whole = [&](int64_t size) {
          std::vector<float> x(static_cast<size_t>(size));
          for (float& v : x) v = static_cast<float>(random.between(-1, 1));
          return x;
        };
        Job job(dtype, n, count, 8, whole(n * 8), whole(count * 8));
        job.prepare(path);
        const std::string what = std::string("equals of ") + name_of(dtype) + " x " + std::to_string(n) + " [" + name_of(path) + "]";
        run([&](cudaStream_t stream) { return job.launch(stream); }, what);
        const std::vector<int32_t> indices = job.indices();
        const std::vector<float> distances = job.distances();
        for (int64_t i = 0; i < n; i++) {
          int32_t wanted = 0;
          double least = INFINITY;
          for (int32_t j = 0; j < count; j++) {
            double square = 0;
            for (int64_t k = 0; k < 8; k++) square += std::pow(job.x().row(i)[k] - job.words().row(j)[k], 2);
            if (square < least) {
              least = square;
              wanted = j;
            }
          }
          const auto at = static_cast<size_t>(i);
          if (indices[at] == wanted && distances[at] == static_cast<float>(least)) continue;
          fail(what + ": row " + std::to_string(i) + " has " + std::to_string(indices[at]) + ", not " + std::to_string(wanted));
          break;
        }
      }
    }
  }
}

LATENT_TEST(codeword_names_the_first_bad_row) {
  for (const Dtype dtype : dtypes()) {
    for (const Path path : paths()) {
      for (const int64_t n : {20, 100}) {
        if (!is_possible(path, dtype, n, 16)) continue;
        Random random(33000);
        std::vector<float> x = numbers(random, n * 16);
        x[11 * 16 + 2] = NAN;
        x[15 * 16 + 7] = -INFINITY;
        Job job(dtype, n, 30, 16, x, numbers(random, 30 * 16));
        job.prepare(path);
        run([&](cudaStream_t stream) { return job.launch(stream); }, "a bad row");
        expect(job.bad() == 11,
               std::string(name_of(dtype)) + " [" + name_of(path) + "]: row " + std::to_string(job.bad()) + " is called bad, not 11");
      }
    }
  }
}

LATENT_TEST(codeword_is_independent_of_timing) {
  std::vector<Case> cases;
  for (int i = 0; i < 4; i++) {
    Random random(34000 + static_cast<uint64_t>(i));
    const int64_t n = i % 2 == 0 ? 30 : reduced() ? 100 : 1500;
    const auto job =
        std::make_shared<Job>(i < 2 ? Dtype::bf16 : Dtype::f32, n, 1000, 64, numbers(random, n * 64), numbers(random, 1000 * 64));
    job->prepare(Path::automatic);
    cases.push_back({[job] { job->poison(); }, [job](cudaStream_t stream) { return job->launch(stream); },
                     [job] {
                       std::vector<uint8_t> bytes = bytes_of(job->indices());
                       const std::vector<uint8_t> distances = bytes_of(job->distances());
                       bytes.insert(bytes.end(), distances.begin(), distances.end());
                       return bytes;
                     }});
  }
  expect_independent_of_timing(cases, "codeword");
}

LATENT_TEST(codeword_refuses_what_does_not_fit) {
  Random random(35000);
  Job job(Dtype::f32, 4, 6, 8, numbers(random, 32), numbers(random, 48));
  job.prepare(Path::automatic);
  const auto refuses = [&](const char* what, auto change) {
    CodewordArgs args = job.args();
    change(args);
    expect(codeword(args, nullptr) == cudaErrorInvalidValue, std::string("not refused: ") + what);
  };
  refuses("a workspace too small", [](CodewordArgs& a) { a.workspace_bytes -= 128; });
  refuses("no squares", [](CodewordArgs& a) { a.codewords.squares = nullptr; });
  refuses("no codewords", [](CodewordArgs& a) { a.codewords.outputs = 0; });
  refuses("rows too short", [](CodewordArgs& a) { a.x.stride = 7; });
}

}  // namespace
