// What the choice between kernels rests on: the same products, RMSNorm to bf16, by every tile of the Hopper kernel and by the one for few
// rows.
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
};
struct Memory {
  std::vector<Buffer> matrices;
  Buffer x, y;
};

void bench_product(const Size& s, const std::string& how, const std::function<cudaError_t(const Product&, cudaStream_t)>& launch) {
  const auto size = static_cast<int64_t>(sizeof(__nv_bfloat16));
  const int sets = sets_of(static_cast<size_t>(s.inputs * s.outputs * size));
  const auto memory = std::make_shared<Memory>(
      Memory{{}, Buffer(s.rows * s.inputs, Dtype::bf16, 1, 1), Buffer(static_cast<size_t>(s.rows * s.outputs * size))});
  for (int i = 0; i < sets; i++) memory->matrices.emplace_back(s.inputs * s.outputs, Dtype::bf16, 0.02F, 10 + static_cast<uint64_t>(i));
  Product p;
  p.dtype = p.out_dtype = Dtype::bf16;
  p.x = memory->x.data();
  p.n = s.rows;
  p.x_stride = p.w_stride = p.depth = s.inputs;
  p.outputs = p.out_stride = s.outputs;
  p.scale = RowScale::rms;
  p.epsilon = 1e-6F;
  p.out = memory->y.data();
  Entry entry;
  entry.op = "tiles";
  entry.shape = std::to_string(s.rows) + " x " + std::to_string(s.inputs) + " x " + std::to_string(s.outputs) + " bf16, " + how;
  const auto rows = static_cast<double>(s.rows), inputs = static_cast<double>(s.inputs), outputs = static_cast<double>(s.outputs);
  entry.bytes = 2 * (inputs * outputs + rows * inputs + rows * outputs);
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
  for (const Size& s : {Size{16, 2560, 2560},
                        {32, 2560, 2560},
                        {64, 2560, 2560},
                        {64, 4096, 4096},
                        {128, 4096, 4096},
                        {512, 2560, 2560},
                        {512, 4096, 4096},
                        {1000, 1024, 1000},
                        {4096, 896, 896},
                        {4096, 2560, 2560},
                        {8192, 4096, 512},
                        {100000, 384, 64}}) {
    if (s.rows <= 64) bench_product(s, "few", [](const Product& p, cudaStream_t stream) { return product_few(p, stream); });
    for (const int columns : {64, 128, 256}) {
      for (const int blocks : {1, 2}) {
        if ((s.rows <= 128 && (blocks == 2 || columns == 256)) || columns > 2 * s.outputs) continue;
        const Tile tile{columns, blocks};
        bench_product(s, std::to_string(columns) + " outputs, " + std::to_string(blocks) + (blocks == 1 ? " block" : " blocks"),
                      [tile](const Product& p, cudaStream_t stream) { return product_wgmma_bf16(p, tile, stream); });
      }
    }
  }
}

}  // namespace
