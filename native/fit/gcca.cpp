// With C_vw the blocks of the joint Gram matrix and C_vv + ridge = L_v L_v', the hub's coordinates are the leading eigenvectors of
// [L_v^-1 C_vw L_w^-T]: a problem of the size of all widths together, whatever the number of rows.
#include "fit/gcca.h"

#include <Eigen/Cholesky>
#include <algorithm>
#include <cmath>
#include <utility>

#include "fit/decompose.h"
#include "fit/eigen.h"

namespace latentwire {
namespace {

Status check(const Moments& moments, const std::vector<int64_t>& widths) {
  if (widths.empty()) return Status::fail(Code::invalid_argument, "a hub needs at least one space");
  int64_t sum = 0;
  for (const int64_t width : widths) {
    if (width < 1 || width > moments.gram.rows)
      return Status::fail(Code::invalid_argument, "every space of a hub needs at least one dimension");
    sum += width;
  }
  if (sum != moments.gram.rows) return Status::fail(Code::invalid_argument, "the widths of the spaces must add up to the moments' columns");
  if (!all_finite(moments.gram)) return Status::fail(Code::non_finite, "the moments hold NaN or an infinity");
  return {};
}

std::vector<int64_t> offsets_of(const std::vector<int64_t>& widths) {
  std::vector<int64_t> offsets;
  int64_t at = 0;
  for (const int64_t width : widths) {
    offsets.push_back(at);
    at += width;
  }
  return offsets;
}

std::vector<std::vector<double>> means_of(const Moments& moments, const std::vector<int64_t>& widths) {
  std::vector<std::vector<double>> means;
  auto from = moments.x_mean.begin();
  for (const int64_t width : widths) {
    means.emplace_back(from, from + width);
    from += width;
  }
  return means;
}

}  // namespace

Status gcca(const Moments& moments, const std::vector<int64_t>& widths, int64_t k, double ridge, const std::atomic<bool>* cancel,
            Hub* out) {
  if (Status status = check(moments, widths); !status.ok()) return status;
  if (k < 1 || k > moments.gram.rows)
    return Status::fail(Code::invalid_argument, "the hub's width must be between 1 and the sum of the spaces'");
  if (!(ridge >= 0) || !std::isfinite(ridge))
    return Status::fail(Code::invalid_argument, "the ridge must be a finite number, not negative");
  return guarded([&]() -> Status {
    const std::vector<int64_t> offsets = offsets_of(widths);
    const auto gram = view(moments.gram);
    std::vector<Eigen::LLT<EigenColumns>> factors;
    EigenColumns whitened = gram;
    for (size_t v = 0; v < widths.size(); v++) {
      if (is_cancelled(cancel)) return cancelled_fit();
      EigenColumns own = gram.block(offsets[v], offsets[v], widths[v], widths[v]);
      own.diagonal().array() += ridge * own.trace() / static_cast<double>(widths[v]);
      factors.emplace_back(own);
      // a pivot is what of a dimension's spread the ones before it leave
      const EigenVector pivots = factors.back().matrixLLT().diagonal().cwiseAbs2();
      if (factors.back().info() != Eigen::Success || !(factors.back().rcond() > 1e-14) ||
          !(pivots.array() > moments.precision * own.diagonal().array()).all())
        return Status::fail(Code::invalid_argument,
                            "space " + std::to_string(v) + " has dependent dimensions on these rows: it needs more ridge");
      auto rows = whitened.middleRows(offsets[v], widths[v]);
      factors[v].matrixL().solveInPlace(rows);
    }
    for (size_t v = 0; v < widths.size(); v++) {
      EigenColumns columns = whitened.middleCols(offsets[v], widths[v]).transpose();
      factors[v].matrixL().solveInPlace(columns);
      whitened.middleCols(offsets[v], widths[v]) = columns.transpose();
    }
    if (is_cancelled(cancel)) return cancelled_fit();
    SymmetricEigen eigen;
    if (Status status = symmetric_eigen(dense(whitened), &eigen); !status.ok()) return status;
    if (!(eigen.values[static_cast<size_t>(k - 1)] > 1e-12 * eigen.values[0]))
      return Status::fail(Code::invalid_argument, "the spaces together have fewer than " + std::to_string(k) + " dimensions on these rows");
    Hub hub;
    hub.means = means_of(moments, widths);
    hub.agreement.assign(eigen.values.begin(), eigen.values.begin() + k);
    hub.converged = true;
    const EigenVector roots = view(hub.agreement).cwiseSqrt();
    for (size_t v = 0; v < widths.size(); v++) {
      const EigenColumns vectors = view(eigen.vectors).block(offsets[v], 0, widths[v], k);
      EigenColumns into = vectors * roots.asDiagonal();
      factors[v].matrixU().solveInPlace(into);
      hub.into.push_back(dense(into));
      // G'X_v, for G'G = I: the back-map of least squares. X_v'G = L_v (L_v^-1 C_v. L^-T) E / roots = L_v E_v roots.
      const EigenColumns back = factors[v].matrixL() * (vectors * roots.asDiagonal()).eval();
      hub.out_of.push_back(dense(back.transpose()));
    }
    *out = std::move(hub);
    return {};
  });
}

Status generalised_procrustes(const Moments& moments, const std::vector<int64_t>& widths, const GpaOptions& options,
                              const std::atomic<bool>* cancel, Hub* out) {
  if (Status status = check(moments, widths); !status.ok()) return status;
  if (options.max_iterations < 1 || !(options.tolerance >= 0))
    return Status::fail(Code::invalid_argument, "generalised Procrustes needs at least one iteration and a tolerance that is not negative");
  return guarded([&]() -> Status {
    const std::vector<int64_t> offsets = offsets_of(widths);
    const auto gram = view(moments.gram);
    const auto count = static_cast<double>(widths.size());
    const size_t widest = static_cast<size_t>(std::max_element(widths.begin(), widths.end()) - widths.begin());
    const int64_t k = widths[widest];
    const double spread = gram.trace();
    // All maps, one below the other: [sum of widths, k]. At first every space is turned towards the widest.
    EigenColumns maps(gram.rows(), k);
    std::vector<Status> turned(widths.size());
    const auto turn_to = [&](const EigenColumns& target) {
      for_blocks(static_cast<int64_t>(widths.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t v = begin; v < end; v++) {
          const auto at = static_cast<size_t>(v);
          Svd svd;
          turned[at] = thin_svd(dense(target.middleRows(offsets[at], widths[at])), &svd);
          if (turned[at].ok()) maps.middleRows(offsets[at], widths[at]) = view(svd.u) * view(svd.v).transpose();
        }
      });
      const auto bad = std::find_if(turned.begin(), turned.end(), [](const Status& status) { return !status.ok(); });
      return bad == turned.end() ? Status{} : *bad;
    };
    if (Status status = turn_to(gram.middleCols(offsets[widest], k)); !status.ok()) return status;
    Hub hub;
    double agreement = 0;
    while (hub.iterations < options.max_iterations && !hub.converged) {
      if (is_cancelled(cancel)) return cancelled_fit();
      // X_v' hub for all v at once: the hub is the mean of the mapped spaces
      if (Status status = turn_to(gram * maps / count); !status.ok()) return status;
      hub.iterations++;
      // |hub|^2 against the mean of |X_v|^2
      const double now = spread > 0 ? maps.cwiseProduct(gram * maps).sum() / count / spread : 1;
      hub.converged = std::abs(now - agreement) <= options.tolerance;
      agreement = now;
    }
    hub.agreement = {agreement};
    hub.means = means_of(moments, widths);
    for (size_t v = 0; v < widths.size(); v++) {
      hub.into.push_back(dense(maps.middleRows(offsets[v], widths[v])));
      hub.out_of.push_back(dense(maps.middleRows(offsets[v], widths[v]).transpose()));
    }
    *out = std::move(hub);
    return {};
  });
}

}  // namespace latentwire
