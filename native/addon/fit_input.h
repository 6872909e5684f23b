// What goes into a fit: rows, from wherever they come, and the numbers that go with them.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "addon/napi_setup.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "fit/gram.h"
#include "fit/matrix.h"

namespace latentwire::addon {

// Rows [rows, columns] that a fit may read on any thread; whatever they are read from lives as long as this.
struct RowSource {
  int64_t rows = 0;
  int64_t columns = 0;
  RowReader read;
  const float* floats = nullptr;  // all rows, where they lie in memory as f32 already
};

// The one place that knows what can be a source of rows: a Tensor [n, d] of f32, f16 or bf16, n at least 1 and d in [1, max_fit_columns],
// or a TokenTable of such a size, whose rows are read as they lie in its tensor or model file. Throws Napi::Error, which names `name`.
RowSource row_source_of(const Napi::Value& value, const char* name);

// For fits that visit rows more than once: all of them in memory. They are converted into `copy` unless they are f32 already. Throws
// Failure.
FloatRows hold_rows(const RowSource& source, const std::atomic<bool>& cancel, std::shared_ptr<Tensor>* copy);
// All rows as f64. Throws Failure, or bad_alloc.
DenseMatrix dense_rows(const RowSource& source, const std::atomic<bool>& cancel);

// A copy [n] of a Float32Array or Int32Array, whichever has the numbers of `dtype`: JavaScript may change or transfer its own meanwhile.
// Throws Napi::Error.
std::shared_ptr<const Tensor> copy_of_array(const Napi::Value& value, Dtype dtype, const char* name);

}  // namespace latentwire::addon
