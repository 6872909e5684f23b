// Eigenvalues, singular values and what follows from them: principal components and whitening. The sign of a vector is fixed (its largest
// component is positive), so a decomposition with distinct values is the same everywhere.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/gram.h"
#include "fit/matrix.h"

namespace latentwire {

// A = V diag(values) V'.
struct SymmetricEigen {
  std::vector<double> values;  // [n], the largest first
  DenseMatrix vectors;         // [n, n], one a column
};

// Only the lower half of a [n, n] is read. Fails with invalid_argument (not square), non_finite or out_of_memory.
Status symmetric_eigen(const DenseMatrix& a, SymmetricEigen* out);

// A = U diag(values) V', about.
struct Svd {
  DenseMatrix u;               // [n, k]
  std::vector<double> values;  // [k], the largest first
  DenseMatrix v;               // [d, k]; the largest component of each column is positive
};

// k = min(n, d). Fails with invalid_argument (an empty matrix), non_finite or out_of_memory.
Status thin_svd(const DenseMatrix& a, Svd* out);

// The values alone, [k]; as thin_svd.
Status singular_values(const DenseMatrix& a, std::vector<double>* out);

// The k largest, 1 <= k <= min(n, d). Exact unless the matrix is large and k is small against it: then by a seeded random projection with
// power iterations (Halko et al. 2011), whose values fall short by a share that the gap in the spectrum decides.
Status truncated_svd(const DenseMatrix& a, int64_t k, uint64_t seed, const std::atomic<bool>* cancel, Svd* out);

struct Pca {
  std::vector<double> mean;       // [d]
  std::vector<double> variances;  // [k], along the components; the divisor is weight - 1
  DenseMatrix components;         // [d, k], orthonormal columns
  double total_variance = 0;      // of all d
};

// The k leading components of centred moments, 1 <= k <= d.
Status pca(const Moments& moments, int64_t k, Pca* out);

struct Whitening {
  std::vector<double> mean;  // [d]
  DenseMatrix whiten;        // [d, d], symmetric: S^(-1/2)
  DenseMatrix colour;        // S^(1/2), its inverse
};

// S = (1 - shrinkage) covariance + shrinkage mean variance I, shrinkage in [0, 1]. Fails with invalid_argument when S is singular (its
// condition is beyond 1e12, or a direction varies less than the moments are precise), which enough shrinkage prevents unless nothing varies
// at all.
Status whitening(const Moments& moments, double shrinkage, Whitening* out);

}  // namespace latentwire
