// What can be read off rows in one pass, for JavaScript: norms, drift, means, entropy, what is not finite, digests. All of it moves at the
// speed of memory, so all of it is done at once.
#include <array>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/tensor_object.h"
#include "kernels/stats.h"

namespace latentwire::addon {
namespace {

int64_t columns_of(const Napi::CallbackInfo& call, size_t index) { return require_int(call, index, "columns", 1, most_extent); }

// rowNorms(x, columns, out: Float32Array [n])
void norms(const Napi::CallbackInfo& call) {
  const int64_t columns = columns_of(call, 1);
  const Input input = input_of(call[0], "x", columns);
  float* out = output_of<float>(call[2], "out", input, input.rows.count);
  translate(call.Env(), [&] { check(row_norms(input.rows, columns, out)); });
}

// entropyBits(p, columns, out: Float32Array [n])
void entropies(const Napi::CallbackInfo& call) {
  const int64_t columns = columns_of(call, 1);
  const Input input = input_of(call[0], "p", columns);
  float* out = output_of<float>(call[2], "out", input, input.rows.count);
  translate(call.Env(), [&] { check(entropy_bits(input.rows, columns, out)); });
}

// firstNonFinite(x, columns) -> the row, or -1
Napi::Value first_non_finite(const Napi::CallbackInfo& call) {
  const int64_t columns = columns_of(call, 1);
  const Input input = input_of(call[0], "x", columns);
  const int64_t row = first_non_finite_row(input.rows, columns);
  return Napi::Number::New(call.Env(), row == input.rows.count ? -1 : static_cast<double>(row));
}

// drift(x, columns, previous | undefined, first | undefined, squares, toPrevious, toFirst): Float32Arrays [n]
void row_drift(const Napi::CallbackInfo& call) {
  const int64_t columns = columns_of(call, 1);
  const Input input = input_of(call[0], "x", columns);
  const auto earlier = [&](size_t index, const char* name) -> Input {
    if (call[index].IsUndefined()) return {};
    Input row = input_of(call[index], name, columns);
    if (row.rows.count != 1) throw_invalid(call.Env(), std::string(name) + " must be one row");
    if (row.rows.dtype != input.rows.dtype)
      throw_status(call.Env(), Status::fail(Code::dtype, std::string(name) + " must have the dtype of x"));
    return row;
  };
  const Input previous = earlier(2, "previous");
  const Input first = earlier(3, "first");
  Drift out;
  out.previous = previous.rows.data;
  out.first = first.rows.data;
  const std::array names = {"squares", "toPrevious", "toFirst"};
  std::array<std::span<float>, 3> results;
  for (size_t i = 0; i < results.size(); i++) {
    results[i] = require_array<float>(call[4 + i], names[i], input.rows.count);
    refuse_overlap(call.Env(), names[i], std::as_bytes(results[i]), input);
  }
  out.squares = results[0].data();
  out.to_previous = results[1].data();
  out.to_first = results[2].data();
  translate(call.Env(), [&] { check(drift(input.rows, columns, out)); });
}

// addToMean(x, mean: Float32Array [d], count) -> the new count
Napi::Value mean_of(const Napi::CallbackInfo& call) {
  const std::span<float> mean = require_array<float>(call[1], "mean");
  if (mean.empty()) throw_invalid(call.Env(), "mean must have at least one number");
  const Input input = input_of(call[0], "x", static_cast<int64_t>(mean.size()));
  refuse_overlap(call.Env(), "mean", std::as_bytes(mean), input);
  int64_t count = require_int(call, 2, "count", 0, max_safe_integer);
  translate(call.Env(), [&] { check(add_to_mean(input.rows, static_cast<int64_t>(mean.size()), mean.data(), &count)); });
  return Napi::Number::New(call.Env(), static_cast<double>(count));
}

// digest(Uint8Array | Tensor) -> XXH3-128 as xxhsum prints it: 32 hex digits, the high half first
Napi::Value digest(const Napi::CallbackInfo& call) {
  Digest128 found;
  if (std::span<uint8_t> bytes; array_of(call[0], &bytes)) {
    found = digest_of(bytes.data(), bytes.size());
  } else {
    if (TensorObject::from(call[0]) == nullptr) throw_invalid(call.Env(), "data must be a Uint8Array or a Tensor");
    const auto tensor = TensorObject::tensor_of(call[0], "data");
    found = digest_of(tensor->data(), tensor->bytes());
  }
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(found.high),
                static_cast<unsigned long long>(found.low));
  return Napi::String::New(call.Env(), text);
}

}  // namespace

void init_stats(Napi::Env env, Napi::Object exports) {
  exports.Set("rowNorms", Napi::Function::New<norms>(env, "rowNorms"));
  exports.Set("entropyBits", Napi::Function::New<entropies>(env, "entropyBits"));
  exports.Set("firstNonFinite", Napi::Function::New<first_non_finite>(env, "firstNonFinite"));
  exports.Set("drift", Napi::Function::New<row_drift>(env, "drift"));
  exports.Set("addToMean", Napi::Function::New<mean_of>(env, "addToMean"));
  exports.Set("digest", Napi::Function::New<digest>(env, "digest"));
}

}  // namespace latentwire::addon
