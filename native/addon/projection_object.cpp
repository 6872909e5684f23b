#include "addon/projection_object.h"

#include "addon/device_objects.h"
#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {
namespace {

class ProjectionObject : public OperandObject<ProjectionObject, Projection> {
 public:
  static constexpr const char* class_name = "Projection";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e70'726f'6a63};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->projection_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&ProjectionObject::info>("info"),
                           InstanceAccessor<&ProjectionObject::disposed>("disposed"),
                           InstanceMethod<&ProjectionObject::apply_sync>("applySync"),
                           InstanceMethod<&ProjectionObject::apply>("apply"),
                           InstanceMethod<&ProjectionObject::dispose>("dispose"),
                       });
  }

  explicit ProjectionObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // packProjection({ weights [in, out], bias, secondWeights, secondBias, norm, epsilon, normWeight, normBias, activation, rescale,
  // targetNorm, storage }, onDevice: boolean)
  static Napi::Value pack(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const Napi::Object given = require_object(call, 0, "options");
    const auto first = tensor_field(given, "weights");
    if (!first) throw_invalid(env, "weights must be a Tensor");
    require_matrix(env, *first, "weights");
    const auto second = tensor_field(given, "secondWeights");
    if (second) require_matrix(env, *second, "secondWeights");
    Projection::Options options;
    options.norm = choice_field<RowNorm>(given, "norm", "none",
                                         {{"none", RowNorm::none}, {"l2", RowNorm::l2}, {"rms", RowNorm::rms}, {"layer", RowNorm::layer}});
    options.activation = choice_field<Activation>(
        given, "activation", "identity",
        {{"identity", Activation::identity}, {"gelu", Activation::gelu}, {"silu", Activation::silu}, {"tanh", Activation::tanh}});
    options.rescale = choice_field<Rescale>(given, "rescale", "none",
                                            {{"none", Rescale::none}, {"norm", Rescale::to_norm}, {"residual", Rescale::residual}});
    options.epsilon = static_cast<float>(number_field(given, "epsilon", 0, 1e30, 1e-6));
    options.target_norm = static_cast<float>(number_field(given, "targetNorm", 0, 1e30, 1));
    options.storage = storage_field(given);
    options.norm_weight = array_field(given, "normWeight");
    options.norm_bias = array_field(given, "normBias");
    if (require_bool(call, 1, "onDevice")) {
      auto first_bias = array_field(given, "bias");
      auto second_bias = array_field(given, "secondBias");
      return {env, translate(env, [&] {
                return pack_device_projection(env, first, std::move(first_bias), second, std::move(second_bias), std::move(options));
              })};
    }
    const auto layer = [](const Tensor& weights, std::vector<float> bias) {
      return Projection::Layer{weights.dtype(), weights.data(), weights.shape()[0], weights.shape()[1], std::move(bias)};
    };
    auto first_layer = layer(*first, array_field(given, "bias"));
    auto second_bias = array_field(given, "secondBias");
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr,
                               [=, options = std::move(options), first_layer = std::move(first_layer)](Job&) mutable -> Job::ToValue {
                                 Projection::Layer second_layer;
                                 if (second) second_layer = layer(*second, std::move(second_bias));
                                 Shared packed;
                                 check(Projection::pack(first_layer, second ? &second_layer : nullptr, std::move(options), &packed));
                                 static_cast<void>(first);  // the first layer's weights live in it
                                 return wrap(std::move(packed));
                               })};
  }

  static Shared projection_in(const Napi::Value& value) {
    ProjectionObject* object = from(value);
    return object == nullptr ? nullptr : object->shared(value.Env());
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const Projection& projection = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("inputs", static_cast<double>(projection.inputs()));
    out.Set("outputs", static_cast<double>(projection.outputs()));
    out.Set("bytes", static_cast<double>(projection.bytes()));
    return out;
  }

  void apply_sync(const Napi::CallbackInfo& call) {
    const Projection& projection = operand(call.Env());
    const Input input = input_of(call[0], "x", projection.inputs());
    float* out = output_of<float>(call[1], "out", input, input.rows.count * projection.outputs());
    translate(call.Env(), [&] { check(projection.apply(input.rows, out, projection.outputs())); });
  }

  Napi::Value apply(const Napi::CallbackInfo& call) {
    const Shared projection = shared(call.Env());
    Input input = input_of(call[0], "x", projection->inputs());
    const int64_t n = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> out;
      check(Tensor::create(Dtype::f32, {n, projection->outputs()}, &out));
      return run(
          call, std::move(input), n * projection->multiplications(),
          [projection, out](const Rows& x, const std::atomic<bool>* cancel) {
            check(projection->apply(x, out->f32(), projection->outputs(), cancel));
          },
          tensor_value(out));
    });
  }
};

}  // namespace

std::shared_ptr<const Projection> projection_of(const Napi::Value& value) { return ProjectionObject::projection_in(value); }

void init_projection(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->projection_class = Napi::Persistent(ProjectionObject::define(env));
  exports.Set("packProjection", Napi::Function::New<ProjectionObject::pack>(env, "packProjection"));
}

}  // namespace latentwire::addon
