// Cost: 2 d^2 flops and one pass over W (4 d^2 bytes), so memory-bound from the second-level cache on. Accumulators are
// f32 per column in row order, which vectorises over the contiguous row; the norm is a sum in f64.
#include "kernels/latent_step.h"

#include <algorithm>
#include <cmath>

namespace latentwire {

bool latent_step(const float* h, const float* w, int64_t d, float alpha, float* e) noexcept {
  if (!std::all_of(h, h + d, [](float x) { return std::isfinite(x); })) return false;
  if (w == nullptr) {
    std::copy(h, h + d, e);
  } else {
    std::fill(e, e + d, 0.0f);
    for (int64_t i = 0; i < d; ++i) {
      const float hi = h[i];
      const float* row = w + i * d;
      for (int64_t j = 0; j < d; ++j) e[j] += hi * row[j];
    }
  }
  double square = 0.0;
  for (int64_t j = 0; j < d; ++j) square += static_cast<double>(e[j]) * e[j];
  if (!std::isfinite(square)) return false;
  const double scale = static_cast<double>(alpha) / std::max(std::sqrt(square), 1e-6);
  for (int64_t j = 0; j < d; ++j) e[j] = static_cast<float>(e[j] * scale);
  return true;
}

}  // namespace latentwire
