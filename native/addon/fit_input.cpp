#include "addon/fit_input.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "addon/errors.h"
#include "addon/kernel_input.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {
namespace {

// Rows that are converted between two looks at the cancel flag.
constexpr int64_t block_rows = 512;

template <typename Body>
void for_row_blocks(const RowSource& source, const std::atomic<bool>& cancel, const Body& body) {
  for (int64_t first = 0; first < source.rows; first += block_rows) {
    if (cancel.load(std::memory_order_relaxed)) fail(Code::cancelled, "the fit was cancelled");
    body(first, std::min(block_rows, source.rows - first));
  }
}

}  // namespace

RowSource row_source_of(const Napi::Value& value, const char* name) {
  const Napi::Env env = value.Env();
  const std::shared_ptr<const Tensor> tensor = TensorObject::tensor_of(value, name);
  require_matrix(env, *tensor, name);
  if (!is_float(tensor->dtype())) {
    throw_status(env, Status::fail(Code::dtype, std::string(name) + " must be f32, f16 or bf16"));
  }
  RowSource source;
  source.rows = tensor->shape()[0];
  source.columns = tensor->shape()[1];
  if (source.columns > max_fit_columns)
    throw_invalid(env, std::string(name) + " must have at most " + std::to_string(max_fit_columns) + " columns");
  source.floats = tensor->f32();
  source.read = [tensor, columns = source.columns](int64_t first, int64_t count, float* out) {
    const auto offset = static_cast<size_t>(first * columns) * dtype_size(tensor->dtype());
    convert_elements(tensor->dtype(), static_cast<const char*>(tensor->data()) + offset, Dtype::f32, out,
                     static_cast<size_t>(count * columns));
  };
  return source;
}

FloatRows hold_rows(const RowSource& source, const std::atomic<bool>& cancel, std::shared_ptr<Tensor>* copy) {
  if (source.floats != nullptr) return {source.floats, source.rows, source.columns};
  check(Tensor::create(Dtype::f32, {source.rows, source.columns}, copy));
  float* out = (*copy)->f32();
  for_row_blocks(source, cancel, [&](int64_t first, int64_t count) { source.read(first, count, out + first * source.columns); });
  return {out, source.rows, source.columns};
}

DenseMatrix dense_rows(const RowSource& source, const std::atomic<bool>& cancel) {
  DenseMatrix out(source.rows, source.columns);
  std::vector<float> block(static_cast<size_t>(std::min(block_rows, source.rows) * source.columns));
  for_row_blocks(source, cancel, [&](int64_t first, int64_t count) {
    source.read(first, count, block.data());
    std::copy_n(block.data(), count * source.columns, out.row(first));
  });
  return out;
}

std::shared_ptr<const Tensor> copy_of_array(const Napi::Value& value, Dtype dtype, const char* name) {
  const Napi::Env env = value.Env();
  napi_typedarray_type type = napi_int8_array;
  size_t size = 0;
  void* data = nullptr;
  const bool floats = dtype == Dtype::f32;
  if (napi_get_typedarray_info(env, value, &type, &size, &data, nullptr, nullptr) != napi_ok ||
      type != (floats ? napi_float32_array : napi_int32_array))
    throw_invalid(env, std::string(name) + (floats ? " must be a Float32Array" : " must be an Int32Array"));
  std::shared_ptr<Tensor> copy;
  if (const Status status = Tensor::create(dtype, {static_cast<int64_t>(size)}, &copy); !status.ok()) throw_status(env, status);
  if (size > 0) std::memcpy(copy->data(), data, copy->bytes());
  return copy;
}

}  // namespace latentwire::addon
