// Second moments of rows that are delivered block by block, in one pass: X'X, X'Y, the means. Ridge regression, PCA, whitening, Procrustes
// and the hubs are all computed from them, so none of these ever holds the rows.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

// Writes rows [first, first + count) of a matrix [rows, columns] to `out` as f32, [count, columns]. Called in order and never twice at a
// time, but from any thread; what it throws reaches the caller of the fit.
using RowReader = std::function<void(int64_t first, int64_t count, float* out)>;

RowReader reader_of(const FloatRows& rows);

struct MomentsInput {
  int64_t rows = 0;
  int64_t x_columns = 0;
  RowReader x;
  int64_t y_columns = 0;  // 0 without Y
  RowReader y;
  const float* weights = nullptr;  // [rows], none negative; nullptr counts every row once
  bool centred = false;            // moments about the means rather than about 0
};

struct Moments {
  double weight = 0;           // sum of the rows' weights
  std::vector<double> x_mean;  // [x_columns]; 0 unless centred
  std::vector<double> y_mean;  // [y_columns]; 0 unless centred
  DenseMatrix gram;            // X'X, [x_columns, x_columns], exactly symmetric
  DenseMatrix cross;           // X'Y, [x_columns, y_columns]
  double y_squares = 0;        // sum of |y|^2
  // The rounding of an element of gram, relative to sum |x_i| |x_j|: what is smaller is none of the rows' own.
  double precision = 0;
};

constexpr int64_t max_fit_columns = int64_t{1} << 16;

// Products are f32 within blocks of some thousand rows and f64 between them: relative to sum |x_i| |x_j| an element is right to about 1e-7.
// Where rows are few enough for X'X to be nearly singular, or the work is small, everything is f64. Centred moments lose nothing to a large
// mean. Bit-identical at any number of threads. Fails with invalid_argument (sizes, weights, no weight at all), non_finite (in X or Y, or
// squares beyond f32), cancelled or out_of_memory; `out` is only written on success.
Status accumulate_moments(const MomentsInput& input, const std::atomic<bool>* cancel, Moments* out);

}  // namespace latentwire
