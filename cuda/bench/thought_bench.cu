// Thought steps of the sizes of Qwen3-4B: logits of f32, a table of bf16.
#include <memory>
#include <vector>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::bench;

struct Setting {
  const char* name;
  int64_t batch;
  int64_t top_k;
  double top_p;
};

// Buffers of one set but the table, which all share: a step reads few of its rows.
struct Set {
  Buffer logits, out, extras, stats, faults, tokens, workspace;
};

void bench_step(const Setting& setting) {
  ThoughtArgs a;
  a.table = {RowFormat::bf16, nullptr, 151936, 2560, 5120};
  a.batch = setting.batch;
  a.logit_stride = a.table.count;
  a.top_k = setting.top_k;
  a.top_p = setting.top_p;
  a.mix = 1;
  a.token = 0.5F;
  a.norm = 1;
  const bool whole = a.top_k == 0 && a.top_p >= 1;
  const Buffer table(a.table.count * a.table.width, Dtype::bf16, 0.02F, 1);
  a.table.data = table.data();
  const auto logit_bytes = static_cast<size_t>(a.batch * a.table.count) * 4;
  const int sets = whole ? 1 : sets_of(logit_bytes);
  const auto all = std::make_shared<std::vector<Set>>();
  for (int i = 0; i < sets; i++) {
    const auto batch = static_cast<size_t>(a.batch);
    const std::vector<int32_t> tokens(batch, 17 + i);
    all->push_back({Buffer(a.batch * a.table.count, Dtype::f32, 4, 10 + static_cast<uint64_t>(i)), Buffer(batch * 2560 * 4),
                    Buffer(batch * 2560 * 4), Buffer(batch * sizeof(ThoughtStats)), Buffer(batch * sizeof(ThoughtFault)), Buffer(batch * 4),
                    Buffer(thought_workspace(a))});
    all->back().tokens.upload(tokens.data(), batch * 4);
  }
  Entry entry;
  entry.op = "thought";
  entry.shape = std::string("151936 x 2560, ") + setting.name + ", batch " + std::to_string(a.batch);
  // what a step of few tokens reads of the table, about; the length of a nucleus depends on the logits
  const double rows = whole ? 151936 : a.top_k > 0 ? static_cast<double>(a.top_k) : 100;
  entry.bytes = static_cast<double>(logit_bytes) + static_cast<double>(a.batch) * (rows * 5120 + 2560 * 4);
  entry.sets = sets;
  entry.launch = [a, all](int i, cudaStream_t stream) mutable {
    const Set& set = (*all)[static_cast<size_t>(i)];
    a.logits = set.logits.data();
    a.out = set.out.as<float>();
    a.extras = set.extras.as<float>();
    a.stats = set.stats.as<ThoughtStats>();
    a.faults = set.faults.as<ThoughtFault>();
    a.tokens = set.tokens.as<int32_t>();
    a.workspace = set.workspace.data();
    return thought_steps(a, stream);
  };
  measure(entry);
}

LATENT_BENCH(thought) {
  for (const Setting& setting :
       {Setting{"k 15", 1, 15, 1}, Setting{"k 50 p 0.9", 1, 50, 0.9}, Setting{"k 1000", 1, 1000, 1}, Setting{"p 0.9", 1, 0, 0.9},
        Setting{"k 15", 8, 15, 1}, Setting{"k 15", 64, 15, 1}, Setting{"all", 1, 0, 1}})
    bench_step(setting);
}

}  // namespace
