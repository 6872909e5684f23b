// One hub for many spaces: maps of N spaces into a common one, fitted on rows that mean the same in all of them. Both fits read nothing but
// the centred moments of the spaces' rows side by side.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/gram.h"
#include "fit/matrix.h"

namespace latentwire {

struct Hub {
  std::vector<DenseMatrix> into;           // [width, k] a space: hub = (x - mean) into
  std::vector<DenseMatrix> out_of;         // [k, width] a space: x = hub out_of + mean
  std::vector<std::vector<double>> means;  // [width] a space
  std::vector<double>
      agreement;  // GCCA, [k]: eigenvalues in [0, N], N where all spaces agree. GPA: [1], the share of the spread that is hub
  int iterations = 0;
  bool converged = false;
};

// MAXVAR generalised CCA: the hub coordinates G, orthonormal over the rows, that all spaces predict best by a ridge. `ridge` is relative to
// the mean diagonal of each space's Gram matrix. out_of is the least-squares map back. Fails with invalid_argument (widths that do not add
// up, k beyond the sum of widths, a ridge that leaves a space's Gram matrix singular), non_finite, cancelled or out_of_memory.
Status gcca(const Moments& moments, const std::vector<int64_t>& widths, int64_t k, double ridge, const std::atomic<bool>* cancel, Hub* out);

struct GpaOptions {
  int max_iterations = 100;
  double tolerance = 1e-10;  // of the change of the agreement
};

// Generalised Procrustes: orthogonal maps, and the mean of the mapped spaces as their hub, in turns until neither moves. The hub is as wide
// as the widest space. out_of is the transpose of into.
Status generalised_procrustes(const Moments& moments, const std::vector<int64_t>& widths, const GpaOptions& options,
                              const std::atomic<bool>* cancel, Hub* out);

}  // namespace latentwire
