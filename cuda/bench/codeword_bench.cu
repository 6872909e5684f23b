// The nearest codeword: a product whose sums never reach memory.
#include <memory>
#include <utility>

#include "../gemm.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::f16 ? "f16" : "bf16"; }

struct Memory {
  Buffer x, words, squares, indices, distances, workspace;
};

void bench_codeword(int64_t rows, int64_t count, int64_t depth, Dtype dtype) {
  const Buffer source(count * depth, dtype, 1, 2);
  CodewordArgs a;
  Buffer x(rows * depth, dtype, 1, 1);
  a.x = {dtype, x.data(), rows, depth};
  a.codewords = {dtype, nullptr, count, depth, nullptr, nullptr};
  const size_t needed = codeword_workspace(a);
  const auto n = static_cast<size_t>(rows);
  const auto memory =
      std::make_shared<Memory>(Memory{std::move(x), Buffer(packed_bytes(dtype, count, depth)), Buffer(static_cast<size_t>(count) * 4),
                                      Buffer(n * 4), Buffer(n * 4), Buffer(needed)});
  PackArgs p;
  p.dtype = p.storage = dtype;
  p.source = source.data();
  p.outputs = count;
  p.depth = p.output_stride = depth;
  p.data = memory->words.data();
  p.squares = memory->squares.as<float>();
  LATENT_MUST(pack(p, nullptr));
  LATENT_MUST(cudaDeviceSynchronize());
  a.codewords.data = memory->words.data();
  a.codewords.squares = memory->squares.as<float>();
  a.indices = memory->indices.as<int32_t>();
  a.distances = memory->distances.as<float>();
  a.workspace = memory->workspace.data();
  a.workspace_bytes = needed;
  Entry entry;
  entry.op = "codeword";
  entry.shape = std::to_string(rows) + " x " + std::to_string(count) + " x " + std::to_string(depth) + " " + name_of(dtype);
  const auto dn = static_cast<double>(rows), dc = static_cast<double>(count), dd = static_cast<double>(depth);
  entry.bytes = static_cast<double>(dtype_size(dtype)) * (dn + dc) * dd + 8 * dn + 4 * dc;
  entry.flops = dtype == Dtype::f32 ? 0 : 2 * dn * dc * dd;
  entry.launch = [a, memory](int, cudaStream_t stream) { return codeword(a, stream); };
  measure(entry);
}

LATENT_BENCH(codeword) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    bench_codeword(2048, 1024, 64, dtype);
    bench_codeword(4096, 8192, 256, dtype);
    bench_codeword(32, 8192, 256, dtype);
  }
}

}  // namespace
