// What the fits share inside: Eigen's view of a DenseMatrix, the guard that keeps exceptions in the room, and loops over blocks that do not
// depend on the number of threads.
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <exception>
#include <new>
#include <string>

#include "core/status.h"
#include "core/thread_pool.h"
#include "fit/matrix.h"

namespace latentwire {

using EigenMatrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
// Column-major, which Eigen's decompositions prefer.
using EigenColumns = Eigen::MatrixXd;
using EigenVector = Eigen::VectorXd;

inline Eigen::Map<EigenMatrix> view(DenseMatrix& m) { return {m.values.data(), m.rows, m.columns}; }
inline Eigen::Map<const EigenMatrix> view(const DenseMatrix& m) { return {m.values.data(), m.rows, m.columns}; }
inline Eigen::Map<EigenVector> view(std::vector<double>& v) { return {v.data(), static_cast<Eigen::Index>(v.size())}; }
inline Eigen::Map<const EigenVector> view(const std::vector<double>& v) { return {v.data(), static_cast<Eigen::Index>(v.size())}; }

template <class Expression>
DenseMatrix dense(const Expression& expression) {
  DenseMatrix out(expression.rows(), expression.cols());
  view(out) = expression;
  return out;
}

inline bool all_finite(const DenseMatrix& m) { return m.values.empty() || view(m).allFinite(); }

inline bool is_cancelled(const std::atomic<bool>* cancel) noexcept { return cancel != nullptr && cancel->load(std::memory_order_relaxed); }

inline Status cancelled_fit() { return Status::fail(Code::cancelled, "the fit was cancelled"); }

// Runs `body`, which answers with a Status; no memory is an answer too.
template <class Body>
Status guarded(const Body& body) {
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for the matrices of the fit");
  }
}

// Calls body(begin, end) for blocks of `block` that cover [0, n), on all threads. A block's work must depend on nothing but its range: then
// so does the result. What a block throws (no memory, or a reader's own exception) is thrown here.
template <class Body>
void for_blocks(int64_t n, int64_t block, const Body& body) {
  std::atomic_flag failed;
  std::exception_ptr failure;
  ThreadPool::get().parallel_for(n, block, [&](int64_t begin, int64_t end) {
    try {
      body(begin, end);
    } catch (...) {
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

}  // namespace latentwire
