// Choosing representatives of a set of rows: clusters with their centres and medoids, and points far from each other. Anchors, codebooks
// and prototypes come from here.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

// cosine compares rows by their direction; a row of zeros has none and is refused.
enum class RowDistance { euclidean, cosine };

struct KmeansOptions {
  int64_t clusters = 1;
  RowDistance distance = RowDistance::euclidean;
  uint64_t seed = 0;
  int max_iterations = 100;
  double tolerance = 1e-6;  // of the inertia's relative decrease, at which the iterations end
};

struct Kmeans {
  std::vector<float> centres;    // [clusters, columns]; unit rows for cosine
  std::vector<int32_t> labels;   // [rows]
  std::vector<int64_t> medoids;  // [clusters]: the member nearest to its centre
  // Sum of squared distances to the centres, after each iteration's assignment; for cosine a squared distance is 2 - 2 cosine.
  std::vector<double> inertia;
  bool converged = false;
};

// Seeds by k-means++, then Lloyd's iterations; a cluster that lost all members takes the row farthest from its centre, so none is ever
// empty. Random numbers are the same everywhere; distances are f32 sums, so that a choice between almost equal rows may differ between
// instruction sets, but never between numbers of threads. Fails with invalid_argument (clusters not in [1, rows], options), non_finite,
// cancelled or out_of_memory.
Status kmeans(const FloatRows& x, const KmeansOptions& options, const std::atomic<bool>* cancel, Kmeans* out);

// The first point by the seed, then always the row farthest from all points so far, the lowest index among equals: the first m of `count`
// points are those of a call for m. Fails as kmeans does.
Status farthest_points(const FloatRows& x, int64_t count, RowDistance distance, uint64_t seed, const std::atomic<bool>* cancel,
                       std::vector<int64_t>* out);

}  // namespace latentwire
