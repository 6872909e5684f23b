// The JavaScript class of accumulated moments: one pass over the rows, and every fit that needs nothing but their sums.
#include "addon/args.h"
#include "addon/engine_objects.h"
#include "addon/fit_input.h"
#include "addon/fit_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "addon/operand_object.h"
#include "fit/affine.h"
#include "fit/decompose.h"
#include "fit/gcca.h"
#include "fit/procrustes.h"
#include "fit/ridge.h"

namespace latentwire::addon {
namespace {

struct Accumulated {
  Moments moments;
  bool centred = false;

  int64_t x_columns() const noexcept { return moments.gram.rows; }
  int64_t y_columns() const noexcept { return moments.cross.columns; }
  size_t bytes() const noexcept {
    return (moments.gram.values.size() + moments.cross.values.size() + moments.x_mean.size() + moments.y_mean.size()) * sizeof(double);
  }
};

FitResult hub_result(const Hub& hub) {
  std::vector<FitResult> spaces(hub.into.size());
  for (size_t v = 0; v < spaces.size(); v++) {
    spaces[v].matrix("into", hub.into[v]);
    spaces[v].floats("bias", centring_bias(hub.means[v], hub.into[v]));
    spaces[v].matrix("outOf", hub.out_of[v]);
    spaces[v].floats("mean", hub.means[v]);
  }
  FitResult result;
  result.list("spaces", std::move(spaces));
  return result;
}

class MomentsObject : public OperandObject<MomentsObject, Accumulated> {
 public:
  static constexpr const char* class_name = "Moments";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6d'6f6d'656e};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->moments_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&MomentsObject::info>("info"),
                           InstanceAccessor<&MomentsObject::disposed>("disposed"),
                           InstanceMethod<&MomentsObject::ridge>("ridge"),
                           InstanceMethod<&MomentsObject::components>("pca"),
                           InstanceMethod<&MomentsObject::whiten>("whitening"),
                           InstanceMethod<&MomentsObject::turn>("procrustes"),
                           InstanceMethod<&MomentsObject::canonical_hub>("gcca"),
                           InstanceMethod<&MomentsObject::procrustes_hub>("generalisedProcrustes"),
                           InstanceMethod<&MomentsObject::dispose>("dispose"),
                       });
  }

  explicit MomentsObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // accumulateMoments({ x [n, dx], y? [n, dy], weights? [n], centred })
  static Napi::Value accumulate(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Napi::Object given = require_object(call, 0, "options");
    RowSource x = row_source_of(given.Get("x"), "x");
    RowSource y;
    const Napi::Value y_value = given.Get("y");
    if (!y_value.IsUndefined()) {
      y = row_source_of(y_value, "y");
      if (y.rows != x.rows) throw_invalid(env, "x has " + std::to_string(x.rows) + " rows, y " + std::to_string(y.rows));
    }
    std::shared_ptr<const Tensor> weights;
    const Napi::Value weights_value = given.Get("weights");
    if (!weights_value.IsUndefined()) {
      weights = copy_of_array(weights_value, Dtype::f32, "weights");
      if (weights->size() != x.rows)
        throw_invalid(env, "x has " + std::to_string(x.rows) + " rows, but there are " + std::to_string(weights->size()) + " weights");
    }
    const bool centred = bool_field(given, "centred");
    return start_fit(env, [x = std::move(x), y = std::move(y), weights, centred](const std::atomic<bool>& cancel) -> Job::ToValue {
      MomentsInput input;
      input.rows = x.rows;
      input.x_columns = x.columns;
      input.x = x.read;
      input.y_columns = y.columns;
      input.y = y.read;
      input.weights = weights ? weights->f32() : nullptr;
      input.centred = centred;
      auto sums = std::make_shared<Accumulated>();
      sums->centred = centred;
      check(accumulate_moments(input, &cancel, &sums->moments));
      return wrap(std::move(sums));
    });
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const Accumulated& sums = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("weight", sums.moments.weight);
    out.Set("xColumns", static_cast<double>(sums.x_columns()));
    out.Set("yColumns", static_cast<double>(sums.y_columns()));
    out.Set("centred", sums.centred);
    out.Set("bytes", static_cast<double>(sums.bytes()));
    return out;
  }

  const Shared& centred_moments(Napi::Env env) const {
    const Shared& sums = shared(env);
    if (!sums->centred) throw_invalid(env, "variances need centred moments");
    return sums;
  }

  const Shared& joint_moments(Napi::Env env) const {
    const Shared& sums = shared(env);
    if (sums->y_columns() == 0) throw_invalid(env, "a map needs the moments of an x and of a y");
    return sums;
  }

  // ridge({ lambda, relative })
  Napi::Value ridge(const Napi::CallbackInfo& call) {
    const Shared sums = joint_moments(call.Env());
    const Napi::Object given = require_object(call, 0, "options");
    RidgeOptions options;
    options.lambda = number_field(given, "lambda", 0);
    options.relative = bool_field(given, "relative");
    return start_fit(call.Env(), [sums, options](const std::atomic<bool>& cancel) -> Job::ToValue {
      LinearFit fit;
      check(solve_ridge(sums->moments, options, &cancel, &fit));
      return linear_value(fit);
    });
  }

  // pca(k)
  Napi::Value components(const Napi::CallbackInfo& call) {
    const Shared sums = centred_moments(call.Env());
    const int64_t k = require_int(call, 0, "k", 1, sums->x_columns());
    return start_fit(call.Env(), [sums, k](const std::atomic<bool>&) -> Job::ToValue {
      Pca fit;
      check(pca(sums->moments, k, &fit));
      FitResult result;
      result.matrix("components", fit.components);
      result.floats("bias", centring_bias(fit.mean, fit.components));
      result.floats("mean", fit.mean);
      result.doubles("variances", std::move(fit.variances));
      result.number("totalVariance", fit.total_variance);
      return std::move(result).value();
    });
  }

  // whitening(shrinkage)
  Napi::Value whiten(const Napi::CallbackInfo& call) {
    const Shared sums = centred_moments(call.Env());
    const double shrinkage = require_number(call, 0, "shrinkage", 0, 1);
    return start_fit(call.Env(), [sums, shrinkage](const std::atomic<bool>&) -> Job::ToValue {
      Whitening fit;
      check(whitening(sums->moments, shrinkage, &fit));
      FitResult result;
      result.matrix("whiten", fit.whiten);
      result.floats("bias", centring_bias(fit.mean, fit.whiten));
      result.matrix("colour", fit.colour);
      result.floats("mean", fit.mean);
      return std::move(result).value();
    });
  }

  // procrustes({ rotationOnly, scaled })
  Napi::Value turn(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Shared sums = joint_moments(env);
    const Napi::Object given = require_object(call, 0, "options");
    ProcrustesOptions options;
    options.rotation_only = bool_field(given, "rotationOnly");
    options.scaled = bool_field(given, "scaled");
    if (options.rotation_only && sums->x_columns() != sums->y_columns())
      throw_invalid(env, "a rotation needs as many columns of x as of y");
    return start_fit(env, [sums, options](const std::atomic<bool>&) -> Job::ToValue {
      ProcrustesFit fit;
      check(procrustes(sums->moments, options, &fit));
      FitResult result;
      result.matrix("rotation", fit.rotation);
      result.floats("bias", fit.bias);
      result.number("scale", fit.scale);
      result.number("residual", fit.residual);
      if (options.scaled) {
        for (double& value : fit.rotation.values) value *= fit.scale;
        result.matrix("weights", fit.rotation);
      }
      return std::move(result).value();
    });
  }

  // Dimensions that add up to the columns.
  static std::vector<int64_t> widths_field(const Napi::Object& given, const Accumulated& sums) {
    const std::vector<int32_t> widths = copy_array<int32_t>(given.Get("widths"), "widths");
    int64_t sum = 0;
    for (const int32_t width : widths) {
      if (width < 1) throw_invalid(given.Env(), "every width must be at least 1");
      sum += width;
    }
    if (sum != sums.x_columns())
      throw_invalid(given.Env(),
                    "the widths add up to " + std::to_string(sum) + ", the moments have " + std::to_string(sums.x_columns()) + " columns");
    return {widths.begin(), widths.end()};
  }

  // gcca({ widths, dimension, ridge })
  Napi::Value canonical_hub(const Napi::CallbackInfo& call) {
    const Shared sums = shared(call.Env());
    const Napi::Object given = require_object(call, 0, "options");
    std::vector<int64_t> widths = widths_field(given, *sums);
    const int64_t dimension = int_field(given, "dimension", 1, sums->x_columns());
    const double ridge = number_field(given, "ridge", 0);
    return start_fit(call.Env(), [sums, widths = std::move(widths), dimension, ridge](const std::atomic<bool>& cancel) -> Job::ToValue {
      Hub hub;
      check(gcca(sums->moments, widths, dimension, ridge, &cancel, &hub));
      FitResult result = hub_result(hub);
      result.doubles("agreement", std::move(hub.agreement));
      return std::move(result).value();
    });
  }

  // generalisedProcrustes({ widths, maxIterations, tolerance })
  Napi::Value procrustes_hub(const Napi::CallbackInfo& call) {
    const Shared sums = shared(call.Env());
    const Napi::Object given = require_object(call, 0, "options");
    std::vector<int64_t> widths = widths_field(given, *sums);
    GpaOptions options;
    options.max_iterations = static_cast<int>(int_field(given, "maxIterations", 1, std::numeric_limits<int32_t>::max()));
    options.tolerance = number_field(given, "tolerance", 0);
    return start_fit(call.Env(), [sums, widths = std::move(widths), options](const std::atomic<bool>& cancel) -> Job::ToValue {
      Hub hub;
      check(generalised_procrustes(sums->moments, widths, options, &cancel, &hub));
      FitResult result = hub_result(hub);
      result.number("agreement", hub.agreement.front());
      result.number("iterations", hub.iterations);
      result.flag("converged", hub.converged);
      return std::move(result).value();
    });
  }
};

}  // namespace

void init_moments(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->moments_class = Napi::Persistent(MomentsObject::define(env));
  exports.Set("accumulateMoments", Napi::Function::New<MomentsObject::accumulate>(env, "accumulateMoments"));
}

}  // namespace latentwire::addon
