// Both are the polar factor U V' of a singular value decomposition.
#include "fit/procrustes.h"

#include <Eigen/LU>
#include <algorithm>
#include <cmath>
#include <utility>

#include "fit/decompose.h"
#include "fit/eigen.h"

namespace latentwire {

Status procrustes(const Moments& moments, const ProcrustesOptions& options, ProcrustesFit* out) {
  const DenseMatrix& cross = moments.cross;
  if (cross.rows < 1 || cross.columns < 1) return Status::fail(Code::invalid_argument, "Procrustes needs the moments of an X and of a Y");
  if (options.rotation_only && cross.rows != cross.columns)
    return Status::fail(Code::invalid_argument, "a rotation needs spaces of equal dimension");
  return guarded([&]() -> Status {
    Svd svd;
    if (Status status = thin_svd(cross, &svd); !status.ok()) return status;
    EigenColumns u = view(svd.u);
    const EigenColumns v = view(svd.v);
    double agreement = view(svd.values).sum();  // trace of R' X'Y
    if (options.rotation_only && (u * v.transpose()).determinant() < 0) {
      u.col(u.cols() - 1) *= -1;
      agreement -= 2 * svd.values.back();
    }
    ProcrustesFit fit;
    const EigenColumns rotation = u * v.transpose();
    // |X R|^2, which is |X|^2 unless R drops dimensions
    const double x_squares =
        cross.rows <= cross.columns ? view(moments.gram).trace() : rotation.cwiseProduct(view(moments.gram) * rotation).sum();
    if (options.scaled) fit.scale = x_squares > 0 ? std::max(0.0, agreement / x_squares) : 0;
    fit.rotation = dense(rotation);
    fit.bias.resize(static_cast<size_t>(cross.columns));
    view(fit.bias) = view(moments.y_mean) - fit.scale * rotation.transpose() * view(moments.x_mean);
    const double missed = moments.y_squares - 2 * fit.scale * agreement + fit.scale * fit.scale * x_squares;
    fit.residual = moments.y_squares > 0 ? std::max(0.0, missed / moments.y_squares) : 0;
    *out = std::move(fit);
    return {};
  });
}

Status parseval_frame(const DenseMatrix& anchors, ParsevalFrame* out, double rcond) {
  if (!(rcond >= 0 && rcond < 1)) return Status::fail(Code::invalid_argument, "rcond must be in [0, 1)");
  return guarded([&]() -> Status {
    Svd svd;
    if (Status status = thin_svd(anchors, &svd); !status.ok()) return status;
    ParsevalFrame found;
    const auto count = static_cast<int64_t>(svd.values.size());
    while (found.rank < count && svd.values[static_cast<size_t>(found.rank)] > rcond * svd.values[0]) found.rank++;
    if (found.rank == 0) return Status::fail(Code::invalid_argument, "anchors that are all zero span nothing");
    found.frame = dense(view(svd.u).leftCols(found.rank) * view(svd.v).leftCols(found.rank).transpose());
    *out = std::move(found);
    return {};
  });
}

}  // namespace latentwire
