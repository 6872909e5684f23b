// Temporary: what the choice between tiles of the Hopper kernel rests on, of products with RMSNorm to bf16. `held` is the way of the rows.
#include <memory>
#include <string>
#include <vector>

#include "../gemm.h"
#include "../product.cuh"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

struct Size {
  int64_t rows, inputs, outputs;
  Dtype out_dtype = Dtype::bf16;
};
struct Memory {
  std::vector<Buffer> matrices;
  Buffer x, y;
};

void bench_product(const Size& s, const std::string& how, const std::function<cudaError_t(const Product&, cudaStream_t)>& launch) {
  const auto size = static_cast<int64_t>(sizeof(__nv_bfloat16));
  const int sets = sets_of(static_cast<size_t>(s.inputs * s.outputs * size));
  const auto memory = std::make_shared<Memory>(
      Memory{{}, Buffer(s.rows * s.inputs, Dtype::bf16, 1, 1), Buffer(static_cast<size_t>(s.rows * s.outputs) * dtype_size(s.out_dtype))});
  for (int i = 0; i < sets; i++) memory->matrices.emplace_back(s.inputs * s.outputs, Dtype::bf16, 0.02F, 10 + static_cast<uint64_t>(i));
  Product p;
  p.dtype = Dtype::bf16;
  p.out_dtype = s.out_dtype;
  p.x = memory->x.data();
  p.n = s.rows;
  p.x_stride = p.w_stride = p.depth = s.inputs;
  p.outputs = p.out_stride = s.outputs;
  p.scale = RowScale::rms;
  p.epsilon = 1e-6F;
  p.out = memory->y.data();
  Entry entry;
  entry.op = "tiles";
  entry.shape = std::to_string(s.rows) + " x " + std::to_string(s.inputs) + " x " + std::to_string(s.outputs) + " bf16, " +
                (s.out_dtype == Dtype::f32 ? "to f32, " : "") + how;
  const auto rows = static_cast<double>(s.rows), inputs = static_cast<double>(s.inputs), outputs = static_cast<double>(s.outputs);
  entry.bytes = 2 * (inputs * outputs + rows * inputs) + static_cast<double>(dtype_size(s.out_dtype)) * rows * outputs;
  entry.flops = 2 * rows * inputs * outputs;
  entry.sets = sets;
  entry.launch = [p, memory, launch](int i, cudaStream_t stream) mutable {
    p.w = memory->matrices[static_cast<size_t>(i)].data();
    return launch(p, stream);
  };
  measure(entry);
}

LATENT_BENCH(tiles) {
  int major = 0;
  LATENT_MUST(device_attribute(cudaDevAttrComputeCapabilityMajor, &major));
  if (major != 9) return;
  const auto tiles = [](const Size& s, std::initializer_list<Tile> all) {
    for (const Tile& tile : all) {
      const std::string how = std::to_string(tile.columns) + " outputs, " + std::to_string(tile.blocks) + " rows, " +
                              std::to_string(tile.splits) + " splits, rest by " + std::to_string(tile.rest) + (tile.held ? ", held" : "");
      bench_product(s, how, [tile](const Product& p, cudaStream_t stream) { return product_wgmma_bf16(p, tile, stream); });
    }
  };
  tiles({512, 896, 896}, {{64, 2, 1, 1}, {64, 2, 1, 1, true}, {64, 1, 1, 1, true}, {128, 2, 2, 1, true}});
  tiles({1000, 1024, 1000}, {{64, 2, 1, 1}, {64, 2, 1, 1, true}, {128, 2, 1, 1, true}, {128, 1, 2, 1, true}});
  tiles({512, 2560, 2560},
        {{192, 2, 2, 1}, {128, 2, 1, 1, true}, {192, 1, 2, 1, true}, {192, 2, 2, 1, true}, {256, 1, 3, 1, true}, {256, 2, 3, 1, true}});
  tiles({512, 4096, 4096}, {{128, 2, 1, 1}, {128, 2, 1, 1, true}, {256, 1, 2, 1}, {256, 1, 2, 1, true}});
  tiles({4096, 896, 4096}, {{256, 2, 1, 1}, {256, 2, 1, 1, true}});
  tiles({4096, 2560, 2560}, {{256, 2, 1, 1}, {256, 2, 1, 1, true}, {256, 2, 1, 2, true}, {256, 2, 1, 3, true}, {256, 1, 1, 2, true}});
  tiles({4096, 4096, 4096}, {{256, 2, 1, 1}, {256, 2, 1, 1, true}});
  tiles({8192, 4096, 512}, {{256, 2, 1, 1}, {256, 2, 1, 1, true}});
}

}  // namespace
