// Relative representations of the sizes of shared/spec: few rows and many, few anchors and many, and the selection of the most similar.
#include <memory>

#include "../gemm.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::f16 ? "f16" : "bf16"; }

struct Size {
  int64_t rows, anchors, width;
  Dtype dtype;
  int64_t k = 0;
  bool whitens = false;
};

struct Memory {
  Buffer x, anchors, squares, map, mean, r, indices, values, workspace;
};

void bench_cosine(const Size& s) {
  const auto n = static_cast<size_t>(s.rows), k = static_cast<size_t>(s.k);
  const int64_t map = s.whitens ? s.width * s.width : 0;
  CosineArgs a;
  const Buffer source(s.anchors * s.width, s.dtype, 1, 2);
  const Buffer map_source(map, Dtype::f32, 0.02F, 3);
  Memory memory{Buffer(s.rows * s.width, s.dtype, 1, 1),
                Buffer(packed_bytes(s.dtype, s.anchors, s.width)),
                Buffer(static_cast<size_t>(s.anchors) * 4),
                Buffer(s.whitens ? packed_bytes(Dtype::f32, s.width, s.width) : 0),
                Buffer(s.width, Dtype::f32, 1, 4),
                Buffer(s.k > 0 ? 0 : n * static_cast<size_t>(s.anchors) * 4),
                Buffer(n * k * 4),
                Buffer(n * k * 4),
                Buffer(size_t{0})};
  PackArgs p;
  p.dtype = p.storage = s.dtype;
  p.source = source.data();
  p.outputs = s.anchors;
  p.depth = p.output_stride = s.width;
  p.unit = true;
  p.data = memory.anchors.data();
  p.squares = memory.squares.as<float>();
  LATENT_MUST(pack(p, nullptr));
  a.x = {s.dtype, memory.x.data(), s.rows, s.width};
  a.anchors = {s.dtype, memory.anchors.data(), s.anchors, s.width, nullptr, memory.squares.as<float>()};
  if (s.whitens) {
    p.dtype = p.storage = Dtype::f32;
    p.source = map_source.data();
    p.outputs = s.width;
    p.unit = false;
    p.data = memory.map.data();
    p.squares = nullptr;
    LATENT_MUST(pack(p, nullptr));
    a.whitening = {Dtype::f32, memory.map.data(), s.width, s.width, nullptr, nullptr};
    a.mean = memory.mean.as<float>();
  }
  a.r = memory.r.as<float>();
  a.stride = s.anchors;
  a.k = s.k;
  a.indices = memory.indices.as<int32_t>();
  a.values = memory.values.as<float>();
  Buffer workspace(cosine_workspace(a));
  a.workspace = workspace.data();
  a.workspace_bytes = workspace.bytes();
  LATENT_MUST(cudaDeviceSynchronize());
  const auto kept = std::make_shared<std::pair<Memory, Buffer>>(std::move(memory), std::move(workspace));
  Entry entry;
  entry.op = "cosine";
  entry.shape = std::to_string(s.rows) + " x " + std::to_string(s.anchors) + " x " + std::to_string(s.width) + " " + name_of(s.dtype) +
                (s.k > 0 ? ", best " + std::to_string(s.k) : "") + (s.whitens ? ", whitened" : "");
  const auto rows = static_cast<double>(s.rows), anchors = static_cast<double>(s.anchors), width = static_cast<double>(s.width);
  const auto size = static_cast<double>(dtype_size(s.dtype));
  entry.bytes =
      size * (rows + anchors) * width + (s.k > 0 ? 8 * rows * static_cast<double>(s.k) : 4 * rows * anchors) + 4 * static_cast<double>(map);
  entry.flops = s.dtype == Dtype::f32 ? 0 : 2 * rows * anchors * width;
  entry.launch = [a, kept](int, cudaStream_t stream) { return cosine(a, stream); };
  measure(entry);
}

LATENT_BENCH(cosine) {
  for (const Dtype dtype : {Dtype::bf16, Dtype::f32}) {
    bench_cosine({1, 300, 384, dtype});
    bench_cosine({1, 1000, 4096, dtype});
    bench_cosine({64, 1000, 768, dtype});
    bench_cosine({1000, 1000, 1024, dtype});
    bench_cosine({8192, 512, 4096, dtype});
    bench_cosine({100000, 64, 384, dtype});
  }
  bench_cosine({8192, 512, 4096, Dtype::f16});
  bench_cosine({8192, 4096, 4096, Dtype::bf16});
  bench_cosine({8192, 512, 4096, Dtype::bf16, 10});
  bench_cosine({1000, 1000, 1024, Dtype::bf16, 10});
  bench_cosine({4096, 512, 1024, Dtype::bf16, 0, true});
}

}  // namespace
