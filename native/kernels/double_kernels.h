// The one product in f64 of which a factorisation and the solves with it consist.
#pragma once

#include <cstdint>

namespace latentwire {

// Matrices of f64 lie in panels of 8 columns, row by row.
constexpr int64_t double_panel = 8;

struct PanelProduct {
  const double* a;  // [depth][8]
  const double* b;  // [panels][depth][8], panels `b_stride` numbers apart
  int64_t b_stride;
  int64_t depth;
  int64_t panels;
  double* out;  // [panels][8][8], panels `out_stride` numbers apart
  int64_t out_stride;
};

struct DoubleKernels {
  // out[p][r][c] -= sum over k of a[k][r] b[p][k][c], in order of k. What a panel gets does not depend on the others.
  void (*subtract_product)(const PanelProduct& product) noexcept = nullptr;
};

}  // namespace latentwire
