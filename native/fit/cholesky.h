// The Cholesky factorisation of a symmetric positive definite matrix in f64, and solves with it, on the kernels' own product: Eigen is
// compiled for the plainest processor only.
#pragma once

#include <atomic>
#include <memory>

#include "fit/matrix.h"

namespace latentwire {

class Cholesky {
 public:
  // Of a + shift I, where `a` is symmetric. False when it is not positive definite as far as f64 can tell, or when `cancel` was
  // set. Throws std::bad_alloc. Bit-identical at any number of threads, as are the solves.
  bool factor(const DenseMatrix& a, double shift, const std::atomic<bool>* cancel);

  // (a + shift I) W = C, after a factorisation: [rows, columns of c]. What is left when `cancel` was set is not defined.
  DenseMatrix solve(const DenseMatrix& c, const std::atomic<bool>* cancel) const;

  // Of what was factored, in the 1-norm: an estimate (Hager and Higham's), seldom far below the truth.
  double condition() const;

 private:
  struct Free {
    void operator()(double* memory) const noexcept;
  };
  using Doubles = std::unique_ptr<double[], Free>;

  static Doubles doubles(int64_t count);
  bool factor_block(int64_t first, int64_t end, const std::atomic<bool>* cancel);
  void solve_panels(double* x, int64_t panels) const noexcept;

  int64_t size_ = 0;
  int64_t rows_ = 0;  // of panels: a multiple of 8, with ones on the diagonal behind the last
  double norm_ = 0;   // of a + shift I, in the 1-norm
  Doubles factor_;    // in panels: U of U'U, and below its diagonal U'
};

}  // namespace latentwire
