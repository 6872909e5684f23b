// The nearest orthogonal map between two spaces (Procrustes), and the Parseval frame of a set of anchors.
#pragma once

#include <vector>

#include "core/status.h"
#include "fit/gram.h"
#include "fit/matrix.h"

namespace latentwire {

struct ProcrustesOptions {
  bool rotation_only = false;  // no reflection: determinant 1; only for equal dimensions
  bool scaled = false;         // fit the scale too, else it is 1
};

struct ProcrustesFit {
  DenseMatrix rotation;      // R [dx, dy], R'R = I or RR' = I, whichever is smaller; y is about scale x R + bias
  double scale = 1;          // 0 when the best R points away from Y, which only rotation_only can cause
  std::vector<double> bias;  // [dy]; 0 for uncentred moments
  double residual = 0;       // |Y - scale X R - bias|^2 / |Y - mean|^2, on the rows of the fit
};

// From the moments of X and Y. Of unequal dimensions the smaller space is mapped into the larger as if padded with zeros, and the larger
// onto the smaller. Fails with invalid_argument, non_finite or out_of_memory.
Status procrustes(const Moments& moments, const ProcrustesOptions& options, ProcrustesFit* out);

struct ParsevalFrame {
  DenseMatrix frame;  // F (F'F)^(-1/2), [k, d]
  int64_t rank = 0;   // of F: singular values above rcond times the largest. Below min(k, d) the frame is one of F's row space only
};

// Of anchors f [k, d]: the nearest matrix whose singular values are 1, so that its transpose is its pseudo-inverse. What is above `rcond`
// is brought to 1, noise as well: for anchors that were f32 once it must be above the rounding of f32. Fails with invalid_argument (no
// anchor, nothing but zeros, or an rcond not in [0, 1)), non_finite or out_of_memory.
Status parseval_frame(const DenseMatrix& anchors, ParsevalFrame* out, double rcond = 1e-10);

}  // namespace latentwire
