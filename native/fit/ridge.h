// Linear maps by least squares: ridge regression from second moments, and the minimum-norm solution where the rows are at hand.
#pragma once

#include <atomic>
#include <vector>

#include "core/status.h"
#include "fit/gram.h"
#include "fit/matrix.h"

namespace latentwire {

struct LinearFit {
  DenseMatrix w;             // [x columns, y columns]; y is about x W + bias
  std::vector<double> bias;  // [y columns]; 0 for uncentred moments
  double lambda = 0;         // as it was added to the diagonal
  double condition = 0;      // of the matrix that was solved with, an estimate in the 1-norm; infinite when it was singular
  double unexplained = 0;    // |Y - X W - bias|^2 / |Y - mean|^2, on the rows of the fit
};

struct RidgeOptions {
  double lambda = 0;
  bool relative = true;  // to the mean of the Gram matrix's diagonal, so that the fit does not depend on the scale of X
};

// (G + lambda I) W = C by Cholesky in f64. Fails with invalid_argument (lambda, or moments without Y), non_finite (a solution that does not
// satisfy the equations to 1e-6: the matrix is singular, lambda is needed), cancelled or out_of_memory.
Status solve_ridge(const Moments& moments, const RidgeOptions& options, const std::atomic<bool>* cancel, LinearFit* out);

struct LeastSquaresOptions {
  double rcond = 1e-12;  // singular values of X below rcond times the largest count as 0
  bool centred = false;  // fit a bias
};

// The W of least |X W - Y|, and among those of least |W|, by the SVD of x [n, d] for y [n, m], or of R of x = QR
// where x is tall; `condition` is that of the singular values
// that were kept. Fails with invalid_argument (shapes, rcond), non_finite, cancelled or out_of_memory.
Status solve_least_squares(const DenseMatrix& x, const DenseMatrix& y, const LeastSquaresOptions& options, const std::atomic<bool>* cancel,
                           LinearFit* out);

}  // namespace latentwire
