// Temporary: how many blocks share the depth of few rows, and by which kernel.
#include <memory>
#include <vector>

#include "../gemm.h"
#include "../product.cuh"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

struct Size {
  int64_t rows, inputs, outputs;
  Dtype dtype;
};
struct Memory {
  std::vector<Buffer> matrices;
  Buffer x, y;
};

void bench_few(const Size& s, const std::vector<Few>& variants) {
  const auto size = static_cast<int64_t>(dtype_size(s.dtype));
  const int sets = sets_of(static_cast<size_t>(s.inputs * s.outputs * size));
  const auto memory = std::make_shared<Memory>(
      Memory{{}, Buffer(s.rows * s.inputs, s.dtype, 1, 1), Buffer(static_cast<size_t>(s.rows * s.outputs * size))});
  for (int i = 0; i < sets; i++) memory->matrices.emplace_back(s.inputs * s.outputs, s.dtype, 0.02F, 10 + static_cast<uint64_t>(i));
  for (const Few& few : variants) {
    Product p;
    p.dtype = p.out_dtype = s.dtype;
    p.x = memory->x.data();
    p.n = s.rows;
    p.x_stride = p.w_stride = p.depth = s.inputs;
    p.outputs = p.out_stride = s.outputs;
    p.scale = RowScale::rms;
    p.epsilon = 1e-6F;
    p.out = memory->y.data();
    Entry entry;
    entry.op = "few";
    entry.shape = std::to_string(s.rows) + " x " + std::to_string(s.inputs) + " x " + std::to_string(s.outputs) +
                  (s.dtype == Dtype::f32 ? " f32, " : " bf16, ") + (few.warps ? "warps, " : "") + (few.early ? "early, " : "") +
                  std::to_string(few.blocks) + " blocks";
    const auto rows = static_cast<double>(s.rows), inputs = static_cast<double>(s.inputs), outputs = static_cast<double>(s.outputs);
    entry.bytes = static_cast<double>(size) * (inputs * outputs + rows * inputs + rows * outputs);
    entry.sets = sets;
    entry.launch = [p, memory, few](int i, cudaStream_t stream) mutable {
      p.w = memory->matrices[static_cast<size_t>(i)].data();
      return product_few(p, stream, few);
    };
    measure(entry);
  }
}

LATENT_BENCH(few) {
  bench_few({1, 384, 300, Dtype::bf16}, {{1, true}, {1}, {2}, {4}});
  for (const int64_t rows : {1, 16, 64}) {
    bench_few({rows, 896, 896, Dtype::bf16}, {{1, true}, {4, true}, {1}, {2}, {4}, {8}});
    bench_few({rows, 2560, 2560, Dtype::bf16}, {{1, true}, {1}, {2}, {2, false, true}, {3}, {3, false, true}, {4}});
    bench_few({rows, 4096, 4096, Dtype::bf16}, {{1, true}, {1}, {2}, {2, false, true}, {4}});
  }
  bench_few({1, 896, 4096, Dtype::bf16}, {{1, true}, {1}, {2}, {4}});
  bench_few({64, 768, 1000, Dtype::bf16}, {{1}, {2}, {4}, {8}});
  bench_few({1, 384, 300, Dtype::f32}, {{1}, {2}, {4}});
  for (const int64_t rows : {1, 16, 64}) bench_few({rows, 2560, 2560, Dtype::f32}, {{1}, {1, false, true}, {2}});
  bench_few({1, 4096, 1000, Dtype::f32}, {{1}, {2}, {4}});
  bench_few({64, 768, 1000, Dtype::f32}, {{1}, {2}, {4}});
}

}  // namespace
