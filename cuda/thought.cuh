// What thought steps over a selection (thought.cu) and those that mix all rows (thought_all.cu) share.
#pragma once

#include "memory.h"

namespace latentwire::cuda {

constexpr double log2_e = 1.4426950408889634;

// How rows are cut up: each block sums a run of them, which pass through a ring of stages in its shared memory.
struct RowPlan {
  uint32_t splits = 0;
  uint32_t rows = 0;        // of a split; the last one may have fewer
  uint32_t row_bytes = 0;   // that are copied of a row
  uint32_t stage_rows = 0;  // at most a warp's
  uint32_t stages = 0;
  size_t partials = 0;  // bytes from the workspace of a position to [splits, width]
  size_t position_bytes = 0;
};
// False where thought_all cannot be used: before and after Hopper, and for rows that no bulk copy takes.
bool plan_rows(const ThoughtArgs& args, RowPlan* plan) noexcept;
// Of a table of that size, wherever it lies.
size_t thought_all_workspace(const ThoughtArgs& args) noexcept;
// e of all tokens by their probabilities: neither ids nor weights, neither noise nor `unit_mix`.
cudaError_t thought_all(const ThoughtArgs& args, const RowPlan& plan, cudaStream_t stream) noexcept;

#ifdef __CUDACC__

// Greater for a larger logit; -0 counts as 0.
__device__ inline uint32_t order_of(float logit) noexcept {
  const uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0F));
  return (bits & 0x8000'0000U) != 0 ? ~bits : bits | 0x8000'0000U;
}
__device__ inline float logit_of(uint32_t order) noexcept {
  return __uint_as_float((order & 0x8000'0000U) != 0 ? order & 0x7FFF'FFFFU : ~order);
}

#endif  // __CUDACC__

}  // namespace latentwire::cuda
