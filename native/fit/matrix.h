// The plain f64 matrix in which fits take small inputs and hand out results, so that their headers do not ask for Eigen.
#pragma once

#include <cstdint>
#include <vector>

#include "core/large_pages.h"

namespace latentwire {

struct DenseMatrix {
  int64_t rows = 0;
  int64_t columns = 0;
  std::vector<double> values;  // row-major

  DenseMatrix() = default;
  DenseMatrix(int64_t n, int64_t m) : rows(n), columns(m) {
    values.reserve(static_cast<size_t>(n * m));
    prefer_large_pages(values.data(), static_cast<size_t>(n * m) * sizeof(double));
    values.resize(static_cast<size_t>(n * m));
  }

  double* row(int64_t i) noexcept { return values.data() + i * columns; }
  const double* row(int64_t i) const noexcept { return values.data() + i * columns; }
};

// Rows of f32 in memory, [rows, columns], one after the other.
struct FloatRows {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
};

}  // namespace latentwire
