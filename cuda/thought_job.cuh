// What the two launches of a thought step over a selection (thought.cu) share: what is known of a position between them, and where it lies.
#pragma once

#include "memory.h"
#include "team.cuh"
#include "thought.cuh"

namespace latentwire::cuda::thought {

// Rows of the table that one block sums at least, and what their sums pass through where there are more.
constexpr int64_t least_split_rows = 16;
constexpr int64_t most_splits = 256;
constexpr int64_t split_group = 16;

// Of one position, between the launches.
struct Head {
  TeamRoom team;
  int64_t count;   // rows to be summed
  int32_t merged;  // E[token] is among them
  // of a mix of all rows: what weighs a row is exp((logit - max) / temperature) * factor
  float max;
  double factor;
  ThoughtFault fault;
  uint32_t done[most_splits / split_group + 1];  // of the splits in each group, and of the groups
};

struct Layout {
  int64_t splits = 1;
  size_t ids = 0;
  size_t weights = 0;
  size_t partials = 0;  // [splits + groups, width]
  size_t row_bytes = 0;
};

inline int64_t room_of(const ThoughtArgs& a) noexcept { return a.top_k > 0 && a.top_k < a.table.count ? a.top_k : a.table.count; }

inline Layout layout_of(const ThoughtArgs& a) noexcept {
  Layout l;
  const int64_t room = room_of(a);
  const int64_t wanted = ceil_div(room, least_split_rows);
  l.splits = wanted < most_splits ? wanted : most_splits;
  const auto place = [&](size_t bytes) {
    const size_t at = l.row_bytes;
    l.row_bytes += round_up<size_t>(bytes, 256);
    return at;
  };
  place(sizeof(Head));
  l.ids = place(static_cast<size_t>(room) * sizeof(int32_t));
  l.weights = place(static_cast<size_t>(room) * sizeof(float));
  const int64_t partials = l.splits == 1 ? 0 : l.splits + ceil_div(l.splits, split_group);
  l.partials = place(static_cast<size_t>(partials * a.table.width) * sizeof(float));
  return l;
}

struct Job {
  ThoughtArgs args;
  Layout layout;
  int64_t first_row;
  uint32_t team;
  float scale;      // log2(e) / temperature
  uint32_t chunks;  // of a warp
  bool kept;        // a block's logits stay in its shared memory
  bool vector;
  bool whole;  // all rows are mixed by their probabilities
};

struct Position {
  Head* head;
  int32_t* ids;
  float* weights;
  float* partials;

  __device__ Position(const Job& job, int64_t row) noexcept {
    char* at = static_cast<char*>(job.args.workspace) + static_cast<size_t>(row) * job.layout.row_bytes;
    head = reinterpret_cast<Head*>(at);
    ids = reinterpret_cast<int32_t*>(at + job.layout.ids);
    weights = reinterpret_cast<float*>(at + job.layout.weights);
    partials = reinterpret_cast<float*>(at + job.layout.partials);
  }
};

// Of logits of `job`'s type, and of rows of its table's format.
cudaError_t launch_select(const Job& job, cudaStream_t stream) noexcept;
cudaError_t launch_sum(const Job& job, cudaStream_t stream) noexcept;

}  // namespace latentwire::cuda::thought
