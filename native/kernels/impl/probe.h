// The probe of `probe_kernels.h` over a vector type V.
#pragma once

#include "kernels/probe_kernels.h"

namespace latentwire {

constexpr int probe_chains = 12;

template <class V>
float probe_multiply_add(int64_t rounds) noexcept {
  using F = typename V::F;
  F sum[probe_chains];
  for (int i = 0; i < probe_chains; i++) sum[i] = V::set(static_cast<float>(i));
  // converges: neither denormals nor infinities slow it down
  const F factor = V::set(0.5F);
  const F step = V::set(0.25F);
  for (int64_t round = 0; round < rounds; round++) {
    for (int i = 0; i < probe_chains; i++) sum[i] = V::fma(sum[i], factor, step);
  }
  F all = sum[0];
  for (int i = 1; i < probe_chains; i++) all = V::add(all, sum[i]);
  return V::reduce_add(all);
}

template <class V>
void install_probe(ProbeKernels& k) noexcept {
  k.multiply_add = probe_multiply_add<V>;
  k.flops_per_round = int64_t{2} * probe_chains * V::lanes;
}

}  // namespace latentwire
