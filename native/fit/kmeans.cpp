// Assignment runs on the product kernels; distances to a single row, which seeding needs, on those of rows. Sums are f64, by cluster or by
// fixed blocks of rows.
#include "fit/kmeans.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "fit/eigen.h"
#include "fit/random.h"
#include "kernels/cosine.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

constexpr int64_t block_rows = 256;

size_t at(int64_t i) noexcept { return static_cast<size_t>(i); }

Status check(const FloatRows& x, int64_t wanted) {
  if (x.columns < 1) return Status::fail(Code::invalid_argument, "rows need at least one column");
  if (wanted < 1 || wanted > x.rows)
    return Status::fail(Code::invalid_argument,
                        "between 1 and " + std::to_string(x.rows) + " representatives can be chosen from these rows");
  for (int64_t i = 0; i < x.rows; i++) {
    if (!kernels().rows.all_finite(x.data + i * x.columns, x.columns))
      return Status::fail(Code::non_finite, "row " + std::to_string(i) + " holds NaN or an infinity");
  }
  return {};
}

// Brings a row to unit length; false if it has none.
bool normalise(float* row, int64_t n) noexcept {
  double squares = 0;
  for (int64_t k = 0; k < n; k++) squares += static_cast<double>(row[k]) * static_cast<double>(row[k]);
  if (!(squares > 0)) return false;
  const double factor = 1 / std::sqrt(squares);
  for (int64_t k = 0; k < n; k++) row[k] = static_cast<float>(static_cast<double>(row[k]) * factor);
  return true;
}

// For cosine, `x` becomes unit rows in `copy`.
Status prepare(RowDistance distance, FloatRows* x, std::vector<float>* copy) {
  if (distance == RowDistance::euclidean) return {};
  copy->assign(x->data, x->data + x->rows * x->columns);
  x->data = copy->data();
  for (int64_t i = 0; i < x->rows; i++) {
    if (!normalise(copy->data() + i * x->columns, x->columns))
      return Status::fail(Code::invalid_argument, "row " + std::to_string(i) + " is zero and has no direction");
  }
  return {};
}

// The squared distance of every row to the nearest row that was added.
class NearestSquares {
 public:
  explicit NearestSquares(const FloatRows& x)
      : x_(x), squares_(at(x.rows), std::numeric_limits<double>::infinity()), sums_(at((x.rows + block_rows - 1) / block_rows)) {}

  void add(int64_t row) {
    const RowKernels& row_kernels = kernels().rows;
    std::vector<float> negative(x_.data + row * x_.columns, x_.data + (row + 1) * x_.columns);
    for (float& value : negative) value = -value;
    for_blocks(x_.rows, block_rows, [&](int64_t begin, int64_t end) {
      std::vector<float> difference(negative.size());
      double sum = 0;
      for (int64_t i = begin; i < end; i++) {
        row_kernels.add(x_.data + i * x_.columns, negative.data(), x_.columns, difference.data());
        squares_[at(i)] = std::min(squares_[at(i)], static_cast<double>(row_kernels.sum_of_squares(difference.data(), x_.columns)));
        sum += squares_[at(i)];
      }
      sums_[at(begin / block_rows)] = sum;
    });
  }

  double total() const noexcept {
    double sum = 0;
    for (const double block : sums_) sum += block;
    return sum;
  }

  // The row at which the running sum exceeds `share` of the total, which must not be 0.
  int64_t row_at(double share) const noexcept {
    double left = share * total();
    size_t block = 0;
    while (block + 1 < sums_.size() && left >= sums_[block]) left -= sums_[block++];
    int64_t found = -1;
    for (int64_t i = static_cast<int64_t>(block) * block_rows; i < x_.rows; i++) {
      if (squares_[at(i)] <= 0) continue;
      found = i;
      left -= squares_[at(i)];
      if (left < 0) return i;
    }
    // rounding left a rest behind the last block
    for (int64_t i = x_.rows - 1; found < 0; i--) {
      if (squares_[at(i)] > 0) found = i;
    }
    return found;
  }

  // The lowest index among equals.
  int64_t farthest() const noexcept { return std::max_element(squares_.begin(), squares_.end()) - squares_.begin(); }

 private:
  const FloatRows& x_;
  std::vector<double> squares_;
  std::vector<double> sums_;  // of the blocks
};

Status too_large() { return Status::fail(Code::non_finite, "distances between the rows are beyond f32"); }

// k-means++: every next seed is drawn with the square of its distance to those before. Where all that is left are copies of seeds, the
// copies are drawn alike.
Status draw_seeds(const FloatRows& x, int64_t clusters, uint64_t seed, const std::atomic<bool>* cancel, std::vector<int64_t>* seeds) {
  CounterRandom random(seed);
  NearestSquares nearest(x);
  std::vector<bool> taken(at(x.rows));
  for (int64_t c = 0; c < clusters; c++) {
    if (is_cancelled(cancel)) return cancelled_fit();
    int64_t row = 0;
    if (c > 0 && nearest.total() > 0) {
      row = nearest.row_at(random.uniform());
    } else {
      for (int64_t left = random.below(x.rows - c); taken[at(row)] || left > 0; row++) left -= taken[at(row)] ? 0 : 1;
    }
    taken[at(row)] = true;
    seeds->push_back(row);
    nearest.add(row);
    if (!std::isfinite(nearest.total())) return too_large();
  }
  return {};
}

class Lloyd {
 public:
  Lloyd(const FloatRows& x, const KmeansOptions& options, Kmeans* fit)
      : x_(x),
        options_(options),
        fit_(*fit),
        squares_(at(x.rows)),
        scores_(at(x.rows)),
        members_(at(x.rows)),
        starts_(at(options.clusters + 1)) {
    fit_.labels.resize(at(x.rows));
  }

  // Gives every row to its nearest centre, and a row to every centre.
  Status assign(const std::atomic<bool>* cancel) {
    std::shared_ptr<const PackedAnchors> centres;
    PackedAnchors::Options squared;
    squared.similarity = Similarity::squared_euclidean;
    const Rows centre_rows{Dtype::f32, fit_.centres.data(), options_.clusters, x_.columns, 0};
    if (Status status = PackedAnchors::pack(centre_rows, x_.columns, squared, &centres); !status.ok()) return status;
    const Rows rows{Dtype::f32, x_.data, x_.rows, x_.columns, 0};
    if (Status status = relative_top_k(rows, *centres, 1, fit_.labels.data(), scores_.data(), cancel); !status.ok()) return status;
    for_blocks(x_.rows, block_rows, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) squares_[at(i)] = square(i, fit_.labels[at(i)]);
    });
    repair();
    double inertia = 0;
    for (const double value : squares_) inertia += value;
    fit_.inertia.push_back(inertia);
    return std::isfinite(inertia) ? Status{} : too_large();
  }

  void move_centres() {
    sort_members();
    for_blocks(options_.clusters, 1, [&](int64_t begin, int64_t end) {
      std::vector<double> sums(at(x_.columns));
      for (int64_t c = begin; c < end; c++) {
        std::fill(sums.begin(), sums.end(), 0.0);
        for (int64_t m = starts_[at(c)]; m < starts_[at(c + 1)]; m++) {
          const float* row = x_.data + members_[at(m)] * x_.columns;
          for (size_t k = 0; k < sums.size(); k++) sums[k] += static_cast<double>(row[k]);
        }
        place_centre(c, sums, static_cast<double>(starts_[at(c + 1)] - starts_[at(c)]));
      }
    });
  }

  void find_medoids() {
    fit_.medoids.assign(at(options_.clusters), -1);
    for (int64_t i = 0; i < x_.rows; i++) {
      int64_t& medoid = fit_.medoids[at(fit_.labels[at(i)])];
      if (medoid < 0 || squares_[at(i)] < squares_[at(medoid)]) medoid = i;
    }
  }

 private:
  double square(int64_t row, int64_t centre) const noexcept {
    const float* a = x_.data + row * x_.columns;
    const float* b = fit_.centres.data() + centre * x_.columns;
    double sum = 0;
    for (int64_t k = 0; k < x_.columns; k++) {
      const double difference = static_cast<double>(a[k]) - static_cast<double>(b[k]);
      sum += difference * difference;
    }
    return sum;
  }

  // There are at least as many rows as clusters, so some cluster has a row to spare while another has none.
  void repair() {
    std::vector<int64_t> counts(at(options_.clusters));
    for (const int32_t label : fit_.labels) counts[at(label)]++;
    for (int64_t c = 0; c < options_.clusters; c++) {
      if (counts[at(c)] > 0) continue;
      int64_t moved = -1;
      for (int64_t i = 0; i < x_.rows; i++) {
        if (counts[at(fit_.labels[at(i)])] > 1 && (moved < 0 || squares_[at(i)] > squares_[at(moved)])) moved = i;
      }
      counts[at(fit_.labels[at(moved)])]--;
      counts[at(c)] = 1;
      fit_.labels[at(moved)] = static_cast<int32_t>(c);
      squares_[at(moved)] = 0;
      std::copy_n(x_.data + moved * x_.columns, x_.columns, fit_.centres.data() + c * x_.columns);
    }
  }

  // The rows by cluster, in their order.
  void sort_members() {
    std::fill(starts_.begin(), starts_.end(), 0);
    for (const int32_t label : fit_.labels) starts_[at(label) + 1]++;
    for (size_t c = 1; c < starts_.size(); c++) starts_[c] += starts_[c - 1];
    std::vector<int64_t> next(starts_.begin(), starts_.end() - 1);
    for (int64_t i = 0; i < x_.rows; i++) members_[at(next[at(fit_.labels[at(i)])]++)] = i;
  }

  void place_centre(int64_t c, std::vector<double>& sums, double count) noexcept {
    double divisor = count;
    if (options_.distance == RowDistance::cosine) {
      divisor = 0;
      for (const double sum : sums) divisor += sum * sum;
      divisor = std::sqrt(divisor);
      // rows that cancel each other have no common direction: the centre stays where it is
      if (!(divisor > 1e-9 * count)) return;
    }
    float* centre = fit_.centres.data() + c * x_.columns;
    for (size_t k = 0; k < sums.size(); k++) centre[k] = static_cast<float>(sums[k] / divisor);
  }

  const FloatRows& x_;
  const KmeansOptions& options_;
  Kmeans& fit_;
  std::vector<double> squares_;  // [rows], to the own centre
  std::vector<float> scores_;    // [rows], the same in f32, for relative_top_k
  std::vector<int64_t> members_;
  std::vector<int64_t> starts_;  // [clusters + 1], in members_
};

}  // namespace

Status kmeans(const FloatRows& rows, const KmeansOptions& options, const std::atomic<bool>* cancel, Kmeans* out) {
  if (Status status = check(rows, options.clusters); !status.ok()) return status;
  if (options.max_iterations < 1 || !(options.tolerance >= 0) || options.clusters > std::numeric_limits<int32_t>::max())
    return Status::fail(Code::invalid_argument, "k-means needs at least one iteration and a tolerance that is not negative");
  return guarded([&]() -> Status {
    FloatRows x = rows;
    std::vector<float> copy;
    if (Status status = prepare(options.distance, &x, &copy); !status.ok()) return status;
    std::vector<int64_t> seeds;
    if (Status status = draw_seeds(x, options.clusters, options.seed, cancel, &seeds); !status.ok()) return status;
    Kmeans fit;
    for (const int64_t row : seeds) fit.centres.insert(fit.centres.end(), x.data + row * x.columns, x.data + (row + 1) * x.columns);
    Lloyd lloyd(x, options, &fit);
    for (int i = 0; i < options.max_iterations && !fit.converged; i++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      if (i > 0) lloyd.move_centres();
      if (Status status = lloyd.assign(cancel); !status.ok()) return status;
      const double now = fit.inertia.back();
      fit.converged = i > 0 && fit.inertia[at(i - 1)] - now <= options.tolerance * now;
    }
    lloyd.find_medoids();
    *out = std::move(fit);
    return {};
  });
}

Status farthest_points(const FloatRows& rows, int64_t count, RowDistance distance, uint64_t seed, const std::atomic<bool>* cancel,
                       std::vector<int64_t>* out) {
  if (Status status = check(rows, count); !status.ok()) return status;
  return guarded([&]() -> Status {
    FloatRows x = rows;
    std::vector<float> copy;
    if (Status status = prepare(distance, &x, &copy); !status.ok()) return status;
    NearestSquares nearest(x);
    std::vector<int64_t> points = {CounterRandom(seed).below(x.rows)};
    std::vector<bool> taken(at(x.rows));
    taken[at(points[0])] = true;
    nearest.add(points[0]);
    while (static_cast<int64_t>(points.size()) < count) {
      if (is_cancelled(cancel)) return cancelled_fit();
      if (!std::isfinite(nearest.total())) return too_large();
      int64_t next = nearest.farthest();
      // only copies of points are left
      if (taken[at(next)]) next = std::find(taken.begin(), taken.end(), false) - taken.begin();
      taken[at(next)] = true;
      points.push_back(next);
      nearest.add(next);
    }
    *out = std::move(points);
    return {};
  });
}

}  // namespace latentwire
