// One latent step's arithmetic: the hidden state of the last position becomes the next input row (LatentMAS, equation 3
// with the norm rescale of its reference code).
#pragma once

#include <cstdint>

namespace latentwire {

// e = alpha * u / max(|u|, 1e-6) with u = h W, or u = h when `w` is nullptr.
//   h: [d]   w: [d, d] row-major   e: [d], must not overlap h
// A zero h gives a zero e. Returns false, with e unspecified, when h or the product holds NaN or an infinity.
bool latent_step(const float* h, const float* w, int64_t d, float alpha, float* e) noexcept;

}  // namespace latentwire
