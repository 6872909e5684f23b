// Rows A8: rows of bf16 against rows of f32 with the same anchors, kept as bf16: what the instructions for bf16 gain, norms included. With
// a plainer LATENTWIRE_ISA both are the same product.
#include "bench_support.h"
#include "core/dtype.h"
#include "kernels/cosine.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

void measure(int64_t rows, int64_t count, int64_t depth) {
  const std::vector<float> a = normal_numbers(count * depth, 1), x = normal_numbers(rows * depth, 2);
  std::vector<uint16_t> half(x.size());
  f32_to_bf16(x.data(), half.data(), x.size());
  PackedAnchors::Options storage;
  storage.storage = Dtype::bf16;
  std::shared_ptr<const PackedAnchors> anchors;
  require(PackedAnchors::pack({Dtype::f32, a.data(), count, depth}, depth, storage, &anchors));
  std::vector<float> out(static_cast<size_t>(rows * count));
  const auto product = [&](Dtype dtype, const void* data) {
    return [&, dtype, data] { require(relative({dtype, data, rows, depth}, *anchors, out.data(), count)); };
  };
  const Samples samples = interleave({{"ours", product(Dtype::bf16, half.data())}, {"rows of f32", product(Dtype::f32, x.data())}});
  print({.name = "A8",
         .shape = "cosine of bf16 rows " + std::to_string(rows) + " x " + std::to_string(count) + " x " + std::to_string(depth),
         .dtype = "bf16",
         .peers = {"rows of f32"}},
        samples);
}

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!wanted("A8")) return 0;
  measure(1, 1000, 4096);
  measure(64, 1000, 768);
  measure(1000, 1000, 1024);
}
