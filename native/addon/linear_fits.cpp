// Fits of whole matrices that are small enough to be held in f64: least squares and decompositions.
#include <algorithm>

#include "addon/addon.h"
#include "addon/args.h"
#include "addon/fit_input.h"
#include "addon/fit_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "fit/decompose.h"
#include "fit/procrustes.h"
#include "fit/ridge.h"

namespace latentwire::addon {
namespace {

// leastSquares(x [n, d], y [n, m], { rcond, centred })
Napi::Value least_squares(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  RowSource x = row_source_of(call[0], "x");
  RowSource y = row_source_of(call[1], "y");
  if (y.rows != x.rows) throw_invalid(env, "x has " + std::to_string(x.rows) + " rows, y " + std::to_string(y.rows));
  const Napi::Object given = require_object(call, 2, "options");
  LeastSquaresOptions options;
  options.rcond = number_field(given, "rcond", 0, 1);
  options.centred = bool_field(given, "centred");
  return start_fit(env, [x = std::move(x), y = std::move(y), options](const std::atomic<bool>& cancel) -> Job::ToValue {
    LinearFit fit;
    check(solve_least_squares(dense_rows(x, cancel), dense_rows(y, cancel), options, &cancel, &fit));
    return linear_value(fit);
  });
}

// svd(a [n, d], { rank?, seed }): all min(n, d) singular values without a rank
Napi::Value singular_values(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  RowSource a = row_source_of(call[0], "a");
  const Napi::Object given = require_object(call, 1, "options");
  const int64_t rank = int_field(given, "rank", 1, std::min(a.rows, a.columns), 0);
  const auto seed = static_cast<uint64_t>(int_field(given, "seed", 0, max_safe_integer));
  return start_fit(env, [a = std::move(a), rank, seed](const std::atomic<bool>& cancel) -> Job::ToValue {
    Svd fit;
    const DenseMatrix rows = dense_rows(a, cancel);
    check(rank == 0 ? thin_svd(rows, &fit) : truncated_svd(rows, rank, seed, &cancel, &fit));
    FitResult result;
    result.matrix("u", fit.u);
    result.doubles("values", std::move(fit.values));
    result.matrix("v", fit.v);
    return std::move(result).value();
  });
}

// symmetricEigen(a [n, n])
Napi::Value eigenvalues(const Napi::CallbackInfo& call) {
  RowSource a = row_source_of(call[0], "a");
  if (a.rows != a.columns) throw_invalid(call.Env(), "a must be square");
  return start_fit(call.Env(), [a = std::move(a)](const std::atomic<bool>& cancel) -> Job::ToValue {
    SymmetricEigen fit;
    check(symmetric_eigen(dense_rows(a, cancel), &fit));
    FitResult result;
    result.doubles("values", std::move(fit.values));
    result.matrix("vectors", fit.vectors);
    return std::move(result).value();
  });
}

// parsevalFrame(anchors [k, d], { rcond })
Napi::Value parseval(const Napi::CallbackInfo& call) {
  RowSource anchors = row_source_of(call[0], "anchors");
  const double rcond = number_field(require_object(call, 1, "options"), "rcond", 0, 1);
  return start_fit(call.Env(), [anchors = std::move(anchors), rcond](const std::atomic<bool>& cancel) -> Job::ToValue {
    ParsevalFrame fit;
    check(parseval_frame(dense_rows(anchors, cancel), &fit, rcond));
    FitResult result;
    result.matrix("frame", fit.frame);
    result.number("rank", static_cast<double>(fit.rank));
    return std::move(result).value();
  });
}

}  // namespace

void init_linear_fits(Napi::Env env, Napi::Object exports) {
  exports.Set("leastSquares", Napi::Function::New<least_squares>(env, "leastSquares"));
  exports.Set("svd", Napi::Function::New<singular_values>(env, "svd"));
  exports.Set("symmetricEigen", Napi::Function::New<eigenvalues>(env, "symmetricEigen"));
  exports.Set("parsevalFrame", Napi::Function::New<parseval>(env, "parsevalFrame"));
}

}  // namespace latentwire::addon
