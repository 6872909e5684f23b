// What can be read off rows in one pass, for JavaScript: norms, drift, means, entropy, what is not finite, digests. All of it moves at the
// speed of memory, so all of it is done at once.
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/tensor_object.h"
#include "kernels/blake3.h"
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

// What is digested; a tensor stays alive with it.
struct Data {
  std::span<const std::byte> bytes;
  std::shared_ptr<Tensor> tensor;
};

Data data_of(const Napi::Value& value) {
  if (std::span<uint8_t> bytes; array_of(value, &bytes)) return {std::as_bytes(bytes), nullptr};
  if (TensorObject::from(value) == nullptr) throw_invalid(value.Env(), "data must be a Uint8Array or a Tensor");
  auto tensor = TensorObject::tensor_of(value, "data");
  return {{static_cast<const std::byte*>(tensor->data()), tensor->bytes()}, tensor};
}

// digest(Uint8Array | Tensor) -> XXH3-128 as xxhsum prints it: 32 hex digits, the high half first
Napi::Value digest(const Napi::CallbackInfo& call) {
  const Data data = data_of(call[0]);
  const Digest128 found = digest_of(data.bytes.data(), data.bytes.size());
  char text[33];
  std::snprintf(text, sizeof(text), "%016llx%016llx", static_cast<unsigned long long>(found.high),
                static_cast<unsigned long long>(found.low));
  return Napi::String::New(call.Env(), text);
}

// blake3(Uint8Array | Tensor, key: Uint8Array [32] | undefined) -> 64 hex digits
Napi::Value blake3_digest(const Napi::CallbackInfo& call) {
  const Data data = data_of(call[0]);
  Blake3Digest found;
  if (call[1].IsUndefined()) {
    found = blake3(data.bytes);
  } else {
    Blake3Key key;
    std::ranges::copy(require_array<uint8_t>(call[1], "key", static_cast<int64_t>(key.size())), key.begin());
    found = blake3(data.bytes, key);
  }
  std::string text;
  for (const uint8_t byte : found) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
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
  exports.Set("blake3", Napi::Function::New<blake3_digest>(env, "blake3"));
}

}  // namespace latentwire::addon
