// Maps of centred rows as maps of rows as they are: (x - mean) W = x W + bias.
#pragma once

#include <cstdint>
#include <vector>

#include "fit/matrix.h"

namespace latentwire {

// -mean' W for mean [n] and W [n, m].
inline std::vector<double> centring_bias(const std::vector<double>& mean, const DenseMatrix& w) {
  std::vector<double> bias(static_cast<size_t>(w.columns));
  for (int64_t i = 0; i < w.rows; i++) {
    for (int64_t j = 0; j < w.columns; j++) bias[static_cast<size_t>(j)] -= mean[static_cast<size_t>(i)] * w.row(i)[j];
  }
  return bias;
}

}  // namespace latentwire
