// The JavaScript class of an empirical distribution: sorted once on another thread, asked at once.
#include <cmath>

#include "addon/args.h"
#include "addon/fit_input.h"
#include "addon/fit_objects.h"
#include "addon/fit_result.h"
#include "addon/kernel_input.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"
#include "fit/quantiles.h"

namespace latentwire::addon {
namespace {

class DistributionObject : public OperandObject<DistributionObject, EmpiricalDistribution> {
 public:
  static constexpr const char* class_name = "EmpiricalDistribution";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e64'6973'7472};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->distribution_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&DistributionObject::info>("info"),
                           InstanceAccessor<&DistributionObject::disposed>("disposed"),
                           InstanceMethod<&DistributionObject::cdf>("cdf"),
                           InstanceMethod<&DistributionObject::quantile>("quantile"),
                           InstanceMethod<&DistributionObject::dispose>("dispose"),
                       });
  }

  explicit DistributionObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // empiricalDistribution(sample), a Float32Array or a Tensor of any shape
  static Napi::Value fit(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    std::shared_ptr<const Tensor> sample;
    if (call[0].IsTypedArray()) {
      sample = copy_of_array(call[0], Dtype::f32, "sample");
    } else {
      sample = TensorObject::tensor_of(call[0], "sample, unless a Float32Array,");
      if (!is_float(sample->dtype())) throw_status(env, Status::fail(Code::dtype, "sample must be f32, f16 or bf16"));
    }
    return start_fit(env, [sample](const std::atomic<bool>&) -> Job::ToValue {
      const float* numbers = sample->f32();
      std::shared_ptr<Tensor> copy;
      if (numbers == nullptr) {
        check(sample->to_f32(&copy));
        numbers = copy->f32();
      }
      auto sorted = std::make_shared<EmpiricalDistribution>();
      check(EmpiricalDistribution::fit(numbers, sample->size(), sorted.get()));
      return wrap(std::move(sorted));
    });
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const std::vector<float>& sorted = operand(call.Env()).sorted();
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(sorted.size()));
    out.Set("bytes", static_cast<double>(sorted.size() * sizeof(float)));
    return out;
  }

  Napi::Value cdf(const Napi::CallbackInfo& call) {
    const EmpiricalDistribution& distribution = operand(call.Env());
    const double x = call[0].IsNumber() ? call[0].As<Napi::Number>().DoubleValue() : std::nan("");
    if (std::isnan(x)) throw_invalid(call.Env(), "x must be a number");
    return Napi::Number::New(call.Env(), distribution.cdf(x));
  }

  Napi::Value quantile(const Napi::CallbackInfo& call) {
    const EmpiricalDistribution& distribution = operand(call.Env());
    return Napi::Number::New(call.Env(), distribution.quantile(require_number(call, 0, "p", 0, 1)));
  }
};

}  // namespace

void init_distribution(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->distribution_class = Napi::Persistent(DistributionObject::define(env));
  exports.Set("empiricalDistribution", Napi::Function::New<DistributionObject::fit>(env, "empiricalDistribution"));
}

}  // namespace latentwire::addon
