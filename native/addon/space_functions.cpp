// What spaces are compared and translated with, for JavaScript: maps of rows, measures of likeness, retrieval.
#include <limits>
#include <utility>
#include <vector>

#include "addon/addon.h"
#include "addon/args.h"
#include "addon/fit_input.h"
#include "addon/fit_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "addon/tensor_object.h"
#include "fit/retrieval.h"
#include "fit/row_maps.h"
#include "fit/similarity.h"
#include "kernels/attention.h"
#include "kernels/cosine.h"

namespace latentwire::addon {
namespace {

constexpr int64_t max_int32 = std::numeric_limits<int32_t>::max();

// f32 [rows, columns] that a fit fills.
std::shared_ptr<Tensor> make_rows(int64_t rows, int64_t columns) {
  std::shared_ptr<Tensor> out;
  check(Tensor::create(Dtype::f32, {rows, columns}, &out));
  return out;
}

// columnStatistics(x [n, d]) -> { mean, deviation: Float64Array [d], meanNorm, centredNorm }
Napi::Value statistics(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  return start_fit(call.Env(), [x = std::move(x)](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    ColumnStatistics found;
    check(column_statistics(hold_rows(x, cancel, &copy), &cancel, &found));
    FitResult result;
    result.doubles("mean", std::move(found.mean));
    result.doubles("deviation", std::move(found.deviation));
    result.number("meanNorm", found.mean_norm);
    result.number("centredNorm", found.centred_norm);
    return std::move(result).value();
  });
}

// A Float32Array [size], copied; nothing where the field is undefined.
std::shared_ptr<const Tensor> row_field(const Napi::Object& given, const char* name, int64_t size) {
  const Napi::Value value = given.Get(name);
  if (value.IsUndefined()) return nullptr;
  std::shared_ptr<const Tensor> copy = copy_of_array(value, Dtype::f32, name);
  if (copy->size() != size) throw_invalid(given.Env(), std::string(name) + " must have " + std::to_string(size) + " elements");
  return copy;
}

// mapRows(x [n, d], { subtract?, multiply?, unit, add? }) -> Tensor [n, d]
Napi::Value map(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  const Napi::Object given = require_object(call, 1, "options");
  const auto subtract = row_field(given, "subtract", x.columns);
  const auto multiply = row_field(given, "multiply", x.columns);
  const auto add = row_field(given, "add", x.columns);
  const bool unit = bool_field(given, "unit");
  return start_fit(call.Env(), [x = std::move(x), subtract, multiply, add, unit](const std::atomic<bool>& cancel) -> Job::ToValue {
    const auto data = [](const std::shared_ptr<const Tensor>& row) { return row == nullptr ? nullptr : row->f32(); };
    std::shared_ptr<Tensor> copy;
    std::shared_ptr<Tensor> out = make_rows(x.rows, x.columns);
    check(map_rows(hold_rows(x, cancel, &copy), {data(subtract), data(multiply), unit, data(add)}, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// averageRows(x [n, d], indices: Int32Array [m k], k) -> Tensor [m, d]
Napi::Value average(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  const std::shared_ptr<const Tensor> indices = copy_of_array(call[1], Dtype::i32, "indices");
  const int64_t k = require_int(call, 2, "k", 1, max_int32);
  return start_fit(call.Env(), [x = std::move(x), indices, k](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    const auto* first = static_cast<const int32_t*>(indices->data());
    std::shared_ptr<Tensor> out = make_rows(indices->size() / k, x.columns);
    check(average_rows(hold_rows(x, cancel, &copy), {first, first + indices->size()}, k, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// combineRows(parts: Tensor [n, d] each, "concat" | "sum" | "mean") -> Tensor
Napi::Value combine(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  if (!call[0].IsArray()) throw_invalid(env, "parts must be an array");
  const auto given = call[0].As<Napi::Array>();
  std::vector<RowSource> sources;
  for (uint32_t i = 0; i < given.Length(); i++) sources.push_back(row_source_of(given.Get(i), "a part"));
  const Napi::Object options = require_object(call, 1, "options");
  const auto how = choice_field<Combination>(options, "how", "concat",
                                             {{"concat", Combination::concat}, {"sum", Combination::sum}, {"mean", Combination::mean}});
  if (sources.empty()) throw_invalid(env, "parts must have at least one element");
  return start_fit(env, [sources = std::move(sources), how](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::vector<std::shared_ptr<Tensor>> copies(sources.size());
    std::vector<FloatRows> parts;
    int64_t width = 0;
    for (size_t i = 0; i < sources.size(); i++) {
      parts.push_back(hold_rows(sources[i], cancel, &copies[i]));
      width += how == Combination::concat || i == 0 ? sources[i].columns : 0;
    }
    std::shared_ptr<Tensor> out = make_rows(sources[0].rows, width);
    check(combine_rows(parts, how, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// addNoise(x [n, d], { snr, seed }) -> { rows: Tensor, deviation }
Napi::Value noise(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  const Napi::Object given = require_object(call, 1, "options");
  const Napi::Value decibels = given.Get("snr");
  if (!decibels.IsNumber()) throw_invalid(call.Env(), "snr must be a number");
  const double snr = decibels.As<Napi::Number>().DoubleValue();  // may be infinity
  const auto seed = static_cast<uint64_t>(int_field(given, "seed", 0, max_safe_integer));
  return start_fit(call.Env(), [x = std::move(x), snr, seed](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    double deviation = 0;
    std::shared_ptr<Tensor> out = make_rows(x.rows, x.columns);
    check(add_noise(hold_rows(x, cancel, &copy), snr, seed, &cancel, out->f32(), &deviation));
    return [rows = tensor_value(std::move(out)), deviation](napi_env env) -> napi_value {
      Napi::Object result = Napi::Object::New(env);
      result.Set("rows", rows(env));
      result.Set("deviation", deviation);
      return result;
    };
  });
}

// quantiseRows(x [n, d], bits) -> Tensor [n, d]
Napi::Value quantise(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  const auto bits = static_cast<int>(require_int(call, 1, "bits", 1, 16));
  return start_fit(call.Env(), [x = std::move(x), bits](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    std::shared_ptr<Tensor> out = make_rows(x.rows, x.columns);
    check(quantise_rows(hold_rows(x, cancel, &copy), bits, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// decodeCodes(codes: i8 Tensor [n, bytes of a row], columns, bits) -> Tensor [n, columns]
Napi::Value decode(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  const std::shared_ptr<const Tensor> codes = TensorObject::tensor_of(call[0], "codes");
  const int64_t columns = require_int(call, 1, "columns", 1, max_int32);
  const auto bits = static_cast<int>(require_int(call, 2, "bits", 1, 8));
  require_matrix(env, *codes, "codes");
  if (codes->dtype() != Dtype::i8) throw_status(env, Status::fail(Code::dtype, "codes must be i8"));
  if (codes->shape()[1] != code_row_bytes(columns, bits))
    throw_invalid(env, "codes of " + std::to_string(columns) + " numbers must have " + std::to_string(code_row_bytes(columns, bits)) +
                           " bytes a row, got " + std::to_string(codes->shape()[1]));
  return start_fit(env, [codes, columns, bits](const std::atomic<bool>& cancel) -> Job::ToValue {
    const int64_t rows = codes->shape()[0];
    std::shared_ptr<Tensor> out = make_rows(rows, columns);
    check(decode_codes(static_cast<const uint8_t*>(codes->data()), rows, columns, bits, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// Two matrices with a row for every thing.
std::pair<RowSource, RowSource> paired(const Napi::CallbackInfo& call) {
  std::pair<RowSource, RowSource> both{row_source_of(call[0], "x"), row_source_of(call[1], "y")};
  if (both.first.rows != both.second.rows)
    throw_invalid(call.Env(), "x has " + std::to_string(both.first.rows) + " rows, y " + std::to_string(both.second.rows));
  return both;
}

// pairedErrors(predicted [n, d], target [n, d]) -> { squaredError, targetSpread, targetSquares, cosine }
Napi::Value errors(const Napi::CallbackInfo& call) {
  return start_fit(call.Env(), [both = paired(call)](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copies[2];
    PairedErrors found;
    check(paired_errors(hold_rows(both.first, cancel, &copies[0]), hold_rows(both.second, cancel, &copies[1]), &cancel, &found));
    FitResult result;
    result.number("squaredError", found.squared_error);
    result.number("targetSpread", found.target_spread);
    result.number("targetSquares", found.target_squares);
    result.number("cosine", found.cosine);
    return std::move(result).value();
  });
}

// lpDistances(x [n, d], anchors [m, d], p) -> Tensor [n, m]
Napi::Value distances(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  RowSource anchors = row_source_of(call[1], "anchors");
  const double p = require_number(call, 2, "p", 1);
  return start_fit(call.Env(), [x = std::move(x), anchors = std::move(anchors), p](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copies[2];
    std::shared_ptr<Tensor> out = make_rows(x.rows, anchors.rows);
    check(lp_distances(hold_rows(x, cancel, &copies[0]), hold_rows(anchors, cancel, &copies[1]), p, &cancel, out->f32()));
    return tensor_value(std::move(out));
  });
}

// attend(queries [n, d], keys [m, d], values [m, d], heads) -> Tensor [n, d]
Napi::Value attention(const Napi::CallbackInfo& call) {
  RowSource queries = row_source_of(call[0], "queries");
  std::pair<RowSource, RowSource> rows{row_source_of(call[1], "keys"), row_source_of(call[2], "values")};
  const int64_t heads = require_int(call, 3, "heads", 1, queries.columns);
  if (rows.first.rows != rows.second.rows || rows.first.columns != queries.columns || rows.second.columns != queries.columns)
    throw_invalid(call.Env(), "keys and values must have as many rows, and all of them as many columns as the queries");
  return start_fit(call.Env(),
                   [queries = std::move(queries), rows = std::move(rows), heads](const std::atomic<bool>& cancel) -> Job::ToValue {
                     std::shared_ptr<Tensor> copies[3];
                     const FloatRows q = hold_rows(queries, cancel, &copies[0]);
                     const FloatRows k = hold_rows(rows.first, cancel, &copies[1]);
                     const FloatRows v = hold_rows(rows.second, cancel, &copies[2]);
                     std::shared_ptr<Tensor> out = make_rows(q.rows, q.columns);
                     check(attend({q.data, q.rows, k.data, v.data, k.rows, q.columns, heads}, &cancel, out->f32()));
                     return tensor_value(std::move(out));
                   });
}

// pairedRanks(queries [n, d], candidates [n, d]) -> Int32Array [n]
Napi::Value ranks(const Napi::CallbackInfo& call) {
  std::pair<RowSource, RowSource> both = paired(call);
  if (both.first.rows > max_int32) throw_invalid(call.Env(), "there must be at most 2147483647 rows");
  return start_fit(call.Env(), [both = std::move(both)](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copies[2];
    std::vector<int64_t> found;
    check(paired_ranks(hold_rows(both.first, cancel, &copies[0]), hold_rows(both.second, cancel, &copies[1]), &cancel, &found));
    return integers_value(found);
  });
}

// A measure of two matrices as a number: name(x [n, dx], y [n, dy]).
template <Status (*measure)(const DenseMatrix&, const DenseMatrix&, const std::atomic<bool>*, double*)>
Napi::Value likeness(const Napi::CallbackInfo& call) {
  return start_fit(call.Env(), [both = paired(call)](const std::atomic<bool>& cancel) -> Job::ToValue {
    double found = 0;
    check(measure(dense_rows(both.first, cancel), dense_rows(both.second, cancel), &cancel, &found));
    return [found](napi_env env) -> napi_value { return Napi::Number::New(env, found); };
  });
}

// cknna(x [n, dx], y [n, dy], k)
Napi::Value neighbour_alignment(const Napi::CallbackInfo& call) {
  const int64_t k = require_int(call, 2, "k", 1, max_int32);
  return start_fit(call.Env(), [both = paired(call), k](const std::atomic<bool>& cancel) -> Job::ToValue {
    double found = 0;
    check(cknna(dense_rows(both.first, cancel), dense_rows(both.second, cancel), k, &cancel, &found));
    return [found](napi_env env) -> napi_value { return Napi::Number::New(env, found); };
  });
}

// canonicalCorrelations(x [n, dx], y [n, dy], epsilon) -> { values }
Napi::Value correlations(const Napi::CallbackInfo& call) {
  const double epsilon = require_number(call, 2, "epsilon");
  return start_fit(call.Env(), [both = paired(call), epsilon](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::vector<double> found;
    check(canonical_correlations(dense_rows(both.first, cancel), dense_rows(both.second, cancel), epsilon, &cancel, &found));
    FitResult result;
    result.doubles("values", std::move(found));
    return std::move(result).value();
  });
}

// centredSingularValues(x [n, d]) -> { values }
Napi::Value spectrum(const Napi::CallbackInfo& call) {
  RowSource x = row_source_of(call[0], "x");
  return start_fit(call.Env(), [x = std::move(x)](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::vector<double> found;
    check(centred_singular_values(dense_rows(x, cancel), &found));
    FitResult result;
    result.doubles("values", std::move(found));
    return std::move(result).value();
  });
}

}  // namespace

void init_spaces(Napi::Env env, Napi::Object exports) {
  exports.Set("columnStatistics", Napi::Function::New<statistics>(env, "columnStatistics"));
  exports.Set("mapRows", Napi::Function::New<map>(env, "mapRows"));
  exports.Set("averageRows", Napi::Function::New<average>(env, "averageRows"));
  exports.Set("combineRows", Napi::Function::New<combine>(env, "combineRows"));
  exports.Set("addNoise", Napi::Function::New<noise>(env, "addNoise"));
  exports.Set("quantiseRows", Napi::Function::New<quantise>(env, "quantiseRows"));
  exports.Set("lpDistances", Napi::Function::New<distances>(env, "lpDistances"));
  exports.Set("decodeCodes", Napi::Function::New<decode>(env, "decodeCodes"));
  exports.Set("attend", Napi::Function::New<attention>(env, "attend"));
  exports.Set("pairedErrors", Napi::Function::New<errors>(env, "pairedErrors"));
  exports.Set("pairedRanks", Napi::Function::New<ranks>(env, "pairedRanks"));
  exports.Set("linearCka", Napi::Function::New<likeness<linear_cka>>(env, "linearCka"));
  exports.Set("unbiasedCka", Napi::Function::New<likeness<unbiased_cka>>(env, "unbiasedCka"));
  exports.Set("rbfCka", Napi::Function::New<likeness<rbf_cka>>(env, "rbfCka"));
  exports.Set("procrustesDistance", Napi::Function::New<likeness<procrustes_distance>>(env, "procrustesDistance"));
  exports.Set("cknna", Napi::Function::New<neighbour_alignment>(env, "cknna"));
  exports.Set("canonicalCorrelations", Napi::Function::New<correlations>(env, "canonicalCorrelations"));
  exports.Set("centredSingularValues", Napi::Function::New<spectrum>(env, "centredSingularValues"));
}

}  // namespace latentwire::addon
