// Row E1: the nearest codeword against a product by a library with the same scan behind it as ours, which writes and reads all
// similarities.
#include <Eigen/Core>

#include "bench_support.h"
#include "kernels/codebook.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Shape {
  int64_t rows, words, depth;
  double times, share;
};

void measure(const Shape& s) {
  const std::vector<float> numbers = normal_numbers(s.rows * s.depth, 1), words = normal_numbers(s.words * s.depth, 2);
  const Eigen::Map<const Matrix> x(numbers.data(), s.rows, s.depth), c(words.data(), s.words, s.depth);
  Matrix product(s.rows, s.words);
  std::shared_ptr<const Codebook> book;
  require(Codebook::pack({Dtype::f32, words.data(), s.words, s.depth, 0}, s.depth, Dtype::f32, &book));
  const Eigen::VectorXf half = c.rowwise().squaredNorm() / 2;
  std::vector<int32_t> ours(static_cast<size_t>(s.rows)), theirs(ours.size());
  std::vector<Case> cases = {
      {"ours",
       [&] {
         require(book->nearest({Dtype::f32, numbers.data(), s.rows, s.depth, 0}, ours.data(), nullptr));
       }},
      {"scan",
       [&] {
         for (int64_t i = 0; i < s.rows; i++) {
           float best = std::numeric_limits<float>::infinity();
           kernels().codebook.least(product.row(i).data(), half.data(), s.words, 0, &best, &theirs[static_cast<size_t>(i)]);
         }
       }},
      {"Eigen's product", [&] { product.noalias() = x * c.transpose(); }},
  };
#if defined(LATENTWIRE_OPENBLAS)
  cases.push_back({"OpenBLAS's product", [&] {
                     const auto n = static_cast<int>(s.rows), m = static_cast<int>(s.words), d = static_cast<int>(s.depth);
                     cblas_sgemm(row_major, plain, transposed, n, m, d, 1, numbers.data(), d, words.data(), d, 0, product.data(), m);
                   }});
#endif
  Samples samples = interleave(cases);
  const std::vector<std::string> peers = {"OpenBLAS + scan", "Eigen + scan"};
  samples.sum(peers[1], {"Eigen's product", "scan"});
  if (samples.has("OpenBLAS's product")) samples.sum(peers[0], {"OpenBLAS's product", "scan"});
  print({.name = "E1",
         .shape = "nearest codeword " + std::to_string(s.rows) + " x " + std::to_string(s.words) + " x " + std::to_string(s.depth),
         .dtype = "f32",
         .peers = peers,
         .targets = {faster(s.times, peers[0]), share(s.share)},
         .flops = 2.0 * static_cast<double>(s.rows * s.words * s.depth)},
        samples);
  int64_t differ = 0;
  for (size_t i = 0; i < ours.size(); i++) differ += ours[i] != theirs[i] ? 1 : 0;
  // rounding decides between words that are as near as each other, and there are few of those
  if (differ * 1000 > s.rows) std::fprintf(stderr, "E1: %lld rows differ\n", static_cast<long long>(differ));
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!wanted("E1")) return 0;
  measure({2048, 1024, 64, 1.2, 0.6});
  measure({4096, 8192, 256, 1.2, 0.7});
}
