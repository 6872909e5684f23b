// The kernel of `codebook_kernels.h` over a vector type V.
#pragma once

#include <cstdint>

#include "kernels/codebook_kernels.h"

namespace latentwire {

// Each lane keeps its least value and the number of the step that had it; the lanes are compared at the end.
template <class V>
void codebook_least(const float* dots, const float* offsets, int64_t n, int32_t first, float* best, int32_t* index) noexcept {
  using F = typename V::F;
  float least = *best;
  int32_t found = -1;
  const int64_t whole = n / V::lanes * V::lanes;
  if (whole > 0) {
    F value = V::set(least);
    F step = V::set(-1.0F);
    F now = V::zero();
    for (int64_t i = 0; i < whole; i += V::lanes) {
      const F v = V::sub(V::load(offsets + i), V::load(dots + i));
      const auto less = V::less(v, value);
      value = V::select(less, v, value);
      step = V::select(less, now, step);
      now = V::add(now, V::set(1.0F));
    }
    // most scans of a tile find nothing better
    if (V::reduce_max(step) >= 0) {
      float values[V::lanes];
      float steps[V::lanes];
      V::store(values, value);
      V::store(steps, step);
      for (int lane = 0; lane < V::lanes; lane++) {
        if (steps[lane] < 0) continue;
        const auto at = static_cast<int32_t>(steps[lane]) * V::lanes + lane;
        if (values[lane] < least || (values[lane] == least && found >= 0 && at < found)) {
          least = values[lane];
          found = at;
        }
      }
    }
  }
  for (int64_t i = whole; i < n; i++) {
    const float v = offsets[i] - dots[i];
    if (v < least) {
      least = v;
      found = static_cast<int32_t>(i);
    }
  }
  if (found < 0) return;
  *best = least;
  *index = first + found;
}

template <class V>
void install_codebook(CodebookKernels& k) noexcept {
  k.least = codebook_least<V>;
}

}  // namespace latentwire
