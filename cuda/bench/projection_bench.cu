// Projections with RMSNorm and bias: of few rows over rotating matrices, which must come from memory, and of many.
#include <memory>
#include <vector>

#include "../gemm.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::f16 ? "f16" : "bf16"; }

struct Size {
  int64_t rows, inputs, outputs;
  Dtype dtype;
  Norm norm = Norm::rms;
  Activation activation = Activation::identity;
  const char* suffix = "";
};

// Packed matrices of random numbers, and what a projection through one needs.
struct Memory {
  std::vector<Buffer> matrices, sums;
  Buffer bias, x, y, workspace;
};

void bench_projection(const Size& s) {
  ProjectionArgs a;
  a.x = {s.dtype, nullptr, s.rows, s.inputs};
  a.norm = s.norm;
  a.activation = s.activation;
  a.first = {s.dtype, nullptr, s.outputs, s.inputs, nullptr, nullptr};
  a.y_dtype = s.dtype;
  a.stride = s.outputs;
  const auto size = static_cast<double>(dtype_size(s.dtype));
  const size_t matrix_bytes = packed_bytes(s.dtype, s.outputs, s.inputs);
  const int sets = sets_of(matrix_bytes);
  Buffer x(s.rows * s.inputs, s.dtype, 1, 1);
  a.x.data = x.data();  // its alignment decides about the workspace
  const auto memory = std::make_shared<Memory>(Memory{{},
                                                      {},
                                                      Buffer(s.outputs, Dtype::f32, 1, 2),
                                                      std::move(x),
                                                      Buffer(static_cast<size_t>(s.rows * s.outputs) * dtype_size(s.dtype)),
                                                      Buffer([&] {
                                                        a.first.sums =
                                                            static_cast<const float*>(a.x.data);  // any: only its presence counts
                                                        return projection_workspace(a);
                                                      }())});
  for (int i = 0; i < sets; i++) {
    const Buffer source(s.inputs * s.outputs, s.dtype, 0.02F, 10 + static_cast<uint64_t>(i));
    memory->matrices.emplace_back(matrix_bytes);
    memory->sums.emplace_back(static_cast<size_t>(s.outputs) * sizeof(float));
    PackArgs pack_args;
    pack_args.dtype = pack_args.storage = s.dtype;
    pack_args.source = source.data();
    pack_args.outputs = s.outputs;
    pack_args.depth = s.inputs;
    pack_args.output_stride = 1;
    pack_args.depth_stride = s.outputs;
    pack_args.data = memory->matrices.back().data();
    pack_args.sums = memory->sums.back().as<float>();
    LATENT_MUST(pack(pack_args, nullptr));
    LATENT_MUST(cudaDeviceSynchronize());
  }
  a.first_bias = memory->bias.as<float>();
  a.y = memory->y.data();
  a.workspace = memory->workspace.data();
  a.workspace_bytes = memory->workspace.bytes();
  Entry entry;
  entry.op = "projection";
  entry.shape =
      std::to_string(s.rows) + " x " + std::to_string(s.inputs) + " x " + std::to_string(s.outputs) + " " + name_of(s.dtype) + s.suffix;
  const auto rows = static_cast<double>(s.rows), inputs = static_cast<double>(s.inputs), outputs = static_cast<double>(s.outputs);
  entry.bytes = size * (inputs * outputs + rows * inputs + rows * outputs) + 4 * outputs;
  entry.flops = s.dtype == Dtype::f32 ? 0 : 2 * rows * inputs * outputs;
  entry.sets = sets;
  entry.launch = [a, memory](int i, cudaStream_t stream) mutable {
    a.first.data = memory->matrices[static_cast<size_t>(i)].data();
    a.first.sums = memory->sums[static_cast<size_t>(i)].as<float>();
    return projection(a, stream);
  };
  measure(entry);
}

LATENT_BENCH(projection) {
  for (const auto& [inputs, outputs] : {std::pair<int64_t, int64_t>{896, 896}, {2560, 2560}, {4096, 4096}}) {
    for (const int64_t rows : {1, 16, 64, 512, 4096}) bench_projection({rows, inputs, outputs, Dtype::bf16});
  }
  bench_projection({1, 384, 300, Dtype::bf16});
  bench_projection({1, 896, 4096, Dtype::bf16});
  bench_projection({32, 2560, 2560, Dtype::bf16});
  bench_projection({64, 768, 1000, Dtype::bf16});
  bench_projection({8, 2560, 2560, Dtype::bf16});
  bench_projection({4096, 896, 4096, Dtype::bf16});
  bench_projection({8192, 4096, 4096, Dtype::bf16});
  bench_projection({4096, 2560, 2560, Dtype::f16});
  bench_projection({4096, 2560, 2560, Dtype::bf16, Norm::layer, Activation::identity, ", layer norm"});
  bench_projection({4096, 2560, 2560, Dtype::bf16, Norm::rms, Activation::gelu, ", gelu"});
  bench_projection({4096, 2560, 2560, Dtype::bf16, Norm::none, Activation::identity, ", no norm"});
  for (const int64_t rows : {1, 16, 64, 512, 4096}) bench_projection({rows, 2560, 2560, Dtype::f32});
  bench_projection({1, 384, 300, Dtype::f32});
  bench_projection({1, 4096, 1000, Dtype::f32});
  bench_projection({64, 768, 1000, Dtype::f32});
}

}  // namespace
