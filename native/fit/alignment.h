// The map from a model's output space to its input space, by which a hidden state becomes an input row (LatentMAS).
// Needed once per model whose input and output matrices differ; for tied matrices it is the identity.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/gram.h"

namespace latentwire {

// Absolute, as in the reference code: not scaled by the trace of the Gram matrix.
constexpr double kAlignmentLambda = 1e-5;

// W = (Wo' Wo + lambda I)^-1 Wo' Wi, so that u = h W; Wo and Wi are [vocab, d], W is [d, d] row-major. One pass over the rows (gram.h has
// the precision), then a solve in f64. Errors: invalid_argument (sizes, or lambda not positive), cancelled, non_finite (NaN or infinity in
// a matrix, or a solution that does not satisfy the normal equations to 1e-6), out_of_memory. `w` is only written on success.
Status solve_alignment(int64_t vocab, int64_t d, const RowReader& output, const RowReader& input, double lambda,
                       const std::atomic<bool>& cancel, std::vector<float>* w);

// The mean Euclidean norm of the rows of a matrix [rows, d], in f64: the length to which a latent step rescales its
// result. 0 without rows; not finite when the matrix is not.
double mean_row_norm(int64_t rows, int64_t d, const RowReader& matrix);

}  // namespace latentwire
