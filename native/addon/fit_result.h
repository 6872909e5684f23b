// What comes out of a fit: an object whose parts are rounded and checked where the fit ran, so that the JavaScript thread only wraps them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"
#include "fit/matrix.h"
#include "fit/ridge.h"

namespace latentwire::addon {

class FitResult {
 public:
  // An f32 Tensor of the matrix. Throws Failure with non_finite, naming it, if a number does not fit into f32.
  void matrix(const char* name, const DenseMatrix& values);
  // The same of rows that are f32 already.
  void matrix(const char* name, const std::vector<float>& values, int64_t columns);
  // A Float32Array; fails as `matrix` does.
  void floats(const char* name, const std::vector<double>& values);
  // A Float64Array; fails likewise, of a number that is none.
  void doubles(const char* name, std::vector<double> values);
  // An Int32Array.
  void integers(const char* name, const std::vector<int32_t>& values);
  void integers(const char* name, const std::vector<int64_t>& values);
  // Infinity may be a number here, of a condition.
  void number(const char* name, double value);
  void flag(const char* name, bool value);
  // An array of results.
  void list(const char* name, std::vector<FitResult> items);

  // Builds the object; once.
  Job::ToValue value() &&;

 private:
  std::vector<std::pair<std::string, Job::ToValue>> parts_;
};

// { weights, bias, lambda, condition, unexplained }
Job::ToValue linear_value(const LinearFit& fit);

// An Int32Array, as a value by itself.
Job::ToValue integers_value(const std::vector<int64_t>& values);

// Starts a job on a thread of its own, for a fit takes seconds. `work` throws Failure or returns how to build the result. It is gone, with
// all that it holds, before the promise settles. A fit that was cancelled too late for it to notice is cancelled all the same.
Napi::Value start_fit(Napi::Env env, std::function<Job::ToValue(const std::atomic<bool>& cancel)> work);

}  // namespace latentwire::addon
