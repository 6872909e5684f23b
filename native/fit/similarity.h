// How alike two sets of rows are that tell of the same n things, x [n, dx] and y [n, dy]: measures that no rotation of either side changes.
// All of it is f64. Rows that are all equal have no similarity to anything: invalid_argument.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

// Centred kernel alignment (Kornblith et al. 2019) of linear kernels, in [0, 1]: |X'Y|^2 / (|X'X| |Y'Y|), or the same from the Gram
// matrices of the rows where those are smaller. Fails with invalid_argument, non_finite, cancelled or out_of_memory, as all below.
Status linear_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out);

// The same with the unbiased estimate of HSIC (Song et al. 2012), which is about 0 for independent rows however few they are. n >= 4.
Status unbiased_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out);

// Of Gaussian kernels exp(-|a - b|^2 / (2 m)), m the lower median of the squared distances that are not 0.
Status rbf_cka(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out);

// Centred kernel nearest-neighbour alignment (Huh et al. 2024): unbiased CKA of inner products, of pairs only that are among the k
// nearest on both sides. n >= 4, 1 <= k < n. Rows are taken as they are.
Status cknna(const DenseMatrix& x, const DenseMatrix& y, int64_t k, const std::atomic<bool>* cancel, double* out);

// Orthogonal Procrustes distance of centred rows of Frobenius norm 1, 2 - 2 |X'Y|_*, in [0, 2].
Status procrustes_distance(const DenseMatrix& x, const DenseMatrix& y, const std::atomic<bool>* cancel, double* out);

// Canonical correlations, [min(dx, dy)], the largest first. Covariances are brought to a largest element of 1, columns that vary less than
// `epsilon` there are left out (their correlation is 0), and `epsilon` is added to the diagonals, as google/svcca does. n > max(dx, dy).
Status canonical_correlations(const DenseMatrix& x, const DenseMatrix& y, double epsilon, const std::atomic<bool>* cancel,
                              std::vector<double>* out);

// Singular values of the centred rows, [min(n, d)], the largest first.
Status centred_singular_values(const DenseMatrix& x, std::vector<double>* out);

}  // namespace latentwire
