// What the machine can do at most, measured with the instructions that the kernels use: the benchmarks' yardstick.
#pragma once

#include <cstdint>

namespace latentwire {

struct ProbeKernels {
  // Runs `rounds` times a dozen independent fused multiply-adds; returns a number that depends on them all.
  float (*multiply_add)(int64_t rounds) noexcept = nullptr;
  // Floating-point operations of one such round.
  int64_t flops_per_round = 0;
};

}  // namespace latentwire
