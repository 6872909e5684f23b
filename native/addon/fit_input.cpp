#include "addon/fit_input.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "addon/errors.h"
#include "addon/kernel_input.h"
#include "addon/tensor_object.h"
#include "addon/token_table_object.h"

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
  const auto check_columns = [&](int64_t columns) {
    if (columns > max_fit_columns)
      throw_invalid(env, std::string(name) + " must have at most " + std::to_string(max_fit_columns) + " columns");
  };
  if (const std::shared_ptr<const HeldTable> held = token_table_of(value)) {
    check_columns(held->table.width);
    RowSource source;
    source.rows = held->table.count;
    source.columns = held->table.width;
    source.read = [held](int64_t first, int64_t count, float* out) { read_rows(held->table, nullptr, first, count, out); };
    return source;
  }
  const std::shared_ptr<const Tensor> tensor = TensorObject::tensor_of(value, name);
  require_matrix(env, *tensor, name);
  if (!is_float(tensor->dtype())) {
    throw_status(env, Status::fail(Code::dtype, std::string(name) + " must be f32, f16 or bf16"));
  }
  RowSource source;
  source.rows = tensor->shape()[0];
  source.columns = tensor->shape()[1];
  check_columns(source.columns);
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
  const auto bytes =
      dtype == Dtype::f32 ? std::as_bytes(require_array<float>(value, name)) : std::as_bytes(require_array<int32_t>(value, name));
  std::shared_ptr<Tensor> copy;
  if (const Status status = Tensor::create(dtype, {static_cast<int64_t>(bytes.size() / dtype_size(dtype))}, &copy); !status.ok())
    throw_status(env, status);
  if (!bytes.empty()) std::memcpy(copy->data(), bytes.data(), bytes.size());
  return copy;
}

}  // namespace latentwire::addon
