// Fits that visit the rows again and again: representatives, and a probe for their classes.
#include "addon/addon.h"
#include "addon/args.h"
#include "addon/fit_input.h"
#include "addon/fit_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "fit/kmeans.h"
#include "fit/logistic.h"

namespace latentwire::addon {
namespace {

constexpr int64_t max_int32 = std::numeric_limits<int32_t>::max();

// Rows whose indices fit into an Int32Array.
RowSource indexed_rows(const Napi::Value& value, const char* name) {
  RowSource rows = row_source_of(value, name);
  if (rows.rows > max_int32) throw_invalid(value.Env(), std::string(name) + " must have at most 2147483647 rows");
  return rows;
}

RowDistance distance_field(const Napi::Object& given) {
  return choice_field<RowDistance>(given, "distance", "euclidean",
                                   {{"euclidean", RowDistance::euclidean}, {"cosine", RowDistance::cosine}});
}

uint64_t seed_field(const Napi::Object& given) { return static_cast<uint64_t>(int_field(given, "seed", 0, max_safe_integer)); }

// kmeans(x [n, d], { clusters, distance, seed, maxIterations, tolerance })
Napi::Value clusters(const Napi::CallbackInfo& call) {
  RowSource x = indexed_rows(call[0], "x");
  const Napi::Object given = require_object(call, 1, "options");
  KmeansOptions options;
  options.clusters = int_field(given, "clusters", 1, x.rows);
  options.distance = distance_field(given);
  options.seed = seed_field(given);
  options.max_iterations = static_cast<int>(int_field(given, "maxIterations", 1, max_int32));
  options.tolerance = number_field(given, "tolerance", 0);
  return start_fit(call.Env(), [x = std::move(x), options](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    Kmeans fit;
    check(kmeans(hold_rows(x, cancel, &copy), options, &cancel, &fit));
    FitResult result;
    result.matrix("centres", fit.centres, x.columns);
    result.integers("labels", fit.labels);
    result.integers("medoids", fit.medoids);
    result.doubles("inertia", std::move(fit.inertia));
    result.flag("converged", fit.converged);
    return std::move(result).value();
  });
}

// farthestPoints(x [n, d], count, { distance, seed })
Napi::Value far_points(const Napi::CallbackInfo& call) {
  RowSource x = indexed_rows(call[0], "x");
  const int64_t count = require_int(call, 1, "count", 1, x.rows);
  const Napi::Object given = require_object(call, 2, "options");
  const RowDistance distance = distance_field(given);
  const uint64_t seed = seed_field(given);
  return start_fit(call.Env(), [x = std::move(x), count, distance, seed](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    std::vector<int64_t> points;
    check(farthest_points(hold_rows(x, cancel, &copy), count, distance, seed, &cancel, &points));
    return integers_value(points);
  });
}

// logisticRegression(x [n, d], labels [n], { classes, l2, maxIterations, tolerance })
Napi::Value logistic(const Napi::CallbackInfo& call) {
  const Napi::Env env = call.Env();
  RowSource x = row_source_of(call[0], "x");
  const std::shared_ptr<const Tensor> labels = copy_of_array(call[1], Dtype::i32, "labels");
  if (labels->size() != x.rows)
    throw_invalid(env, "x has " + std::to_string(x.rows) + " rows, but there are " + std::to_string(labels->size()) + " labels");
  const Napi::Object given = require_object(call, 2, "options");
  const int64_t classes = int_field(given, "classes", 2, max_fit_columns);
  LogisticOptions options;
  options.l2 = number_field(given, "l2", 0);
  options.max_iterations = static_cast<int>(int_field(given, "maxIterations", 1, max_int32));
  options.tolerance = number_field(given, "tolerance", 0);
  return start_fit(env, [x = std::move(x), labels, classes, options](const std::atomic<bool>& cancel) -> Job::ToValue {
    std::shared_ptr<Tensor> copy;
    LogisticFit fit;
    check(logistic_regression(hold_rows(x, cancel, &copy), static_cast<const int32_t*>(labels->data()), classes, options, &cancel, &fit));
    // one column an output, as all maps of rows have it
    DenseMatrix weights(fit.w.columns, fit.w.rows);
    for (int64_t i = 0; i < weights.rows; i++) {
      for (int64_t j = 0; j < weights.columns; j++) weights.row(i)[j] = fit.w.row(j)[i];
    }
    std::vector<FitResult> reports(fit.reports.size());
    for (size_t i = 0; i < reports.size(); i++) {
      reports[i].number("loss", fit.reports[i].loss);
      reports[i].number("gradient", fit.reports[i].gradient);
      reports[i].number("iterations", fit.reports[i].iterations);
      reports[i].flag("converged", fit.reports[i].converged);
    }
    FitResult result;
    result.matrix("weights", weights);
    result.floats("bias", fit.bias);
    result.list("reports", std::move(reports));
    return std::move(result).value();
  });
}

}  // namespace

void init_row_fits(Napi::Env env, Napi::Object exports) {
  exports.Set("kmeans", Napi::Function::New<clusters>(env, "kmeans"));
  exports.Set("farthestPoints", Napi::Function::New<far_points>(env, "farthestPoints"));
  exports.Set("logisticRegression", Napi::Function::New<logistic>(env, "logisticRegression"));
}

}  // namespace latentwire::addon
