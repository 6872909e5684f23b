// Small products are done on the JavaScript thread, because going to another one and back costs more; large ones are jobs. The same call
// decides.
#include "addon/kernel_objects.h"

#include <array>
#include <string>
#include <utility>

#include "addon/addon.h"
#include "addon/args.h"
#include "addon/env_jobs.h"
#include "addon/errors.h"
#include "addon/tagged_wrap.h"
#include "addon/tensor_object.h"
#include "kernels/cosine.h"
#include "kernels/project.h"
#include "kernels/table.h"

namespace latentwire::addon {
namespace {

void check(const Status& status) {
  if (!status.ok()) throw Failure(status);
}

struct Floats {
  float* data = nullptr;
  int64_t size = 0;
};

// The numbers of a Float32Array, to be used before JavaScript runs again.
bool floats_of(const Napi::Value& value, Floats* out) {
  napi_typedarray_type type = napi_int8_array;
  size_t size = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(value.Env(), value, &type, &size, &data, nullptr, nullptr) != napi_ok || type != napi_float32_array)
    return false;
  *out = {static_cast<float*>(data), static_cast<int64_t>(size)};
  return true;
}

Floats require_floats(const Napi::CallbackInfo& call, size_t index, const char* name) {
  Floats floats;
  if (!floats_of(call[index], &floats)) throw_invalid(call.Env(), std::string(name) + " must be a Float32Array");
  return floats;
}

std::vector<float> floats_field(const Napi::Object& object, const char* name) {
  const Napi::Value value = object.Get(name);
  if (value.IsUndefined()) return {};
  Floats floats;
  if (!floats_of(value, &floats)) throw_invalid(object.Env(), std::string(name) + " must be a Float32Array");
  return {floats.data, floats.data + floats.size};
}

// Rows of `depth` numbers; what `tensor` holds stays alive with it.
struct Input {
  Rows rows;
  std::shared_ptr<Tensor> tensor;
};

int64_t count_rows(Napi::Env env, int64_t size, int64_t depth) {
  if (size % depth != 0) throw_invalid(env, "x has " + std::to_string(size) + " numbers, which are no rows of " + std::to_string(depth));
  return size / depth;
}

Input input_of(const Napi::CallbackInfo& call, size_t index, int64_t depth) {
  const Napi::Env env = call.Env();
  Floats floats;
  if (floats_of(call[index], &floats)) return {{Dtype::f32, floats.data, count_rows(env, floats.size, depth), depth}, nullptr};
  auto tensor = TensorObject::tensor_of(call[index], "x, unless a Float32Array,");
  const auto& shape = tensor->shape();
  if (shape.empty() || shape.size() > 2 || shape.back() != depth)
    throw_invalid(env, "x must have the shape [n, " + std::to_string(depth) + "], not " + shape_text(shape));
  if (!is_float(tensor->dtype())) throw_status(env, Status::fail(Code::dtype, "x must be f32, f16 or bf16"));
  return {{tensor->dtype(), tensor->data(), tensor->size() / depth, depth}, tensor};
}

// For a job: a Float32Array is copied, for JavaScript may change or transfer it meanwhile.
void keep(Input* input) {
  if (input->tensor) return;
  const int64_t size = input->rows.count * input->rows.stride;
  check(Tensor::create(Dtype::f32, {input->rows.count, input->rows.stride}, &input->tensor));
  std::copy_n(static_cast<const float*>(input->rows.data), size, input->tensor->f32());
  input->rows.data = input->tensor->data();
}

// The output of a synchronous call.
float* output_of(const Napi::CallbackInfo& call, size_t index, const Input& input, int64_t outputs) {
  const Floats out = require_floats(call, index, "out");
  const int64_t size = input.rows.count * outputs;
  if (out.size != size) throw_invalid(call.Env(), "out has " + std::to_string(out.size) + " numbers, the result " + std::to_string(size));
  const auto* x = static_cast<const char*>(input.rows.data);
  const auto x_bytes = static_cast<size_t>(input.rows.count * input.rows.stride) * dtype_size(input.rows.dtype);
  const auto* y = reinterpret_cast<const char*>(out.data);
  if (size > 0 && x_bytes > 0 && y < x + x_bytes && x < y + static_cast<size_t>(size) * sizeof(float))
    throw_invalid(call.Env(), "out must not overlap x");
  return out.data;
}

// Runs `work(cancel)`, here if it is small, else as a job; `build(env)` makes the result. Returns a value or a job.
Napi::Value run(const Napi::CallbackInfo& call, Input input, int64_t multiplications,
                std::function<void(const Rows&, const std::atomic<bool>*)> work, Job::ToValue build) {
  const Napi::Env env = call.Env();
  return translate(env, [&]() -> Napi::Value {
    if (multiplications <= worth_a_thread) {
      work(input.rows, nullptr);
      return {env, build(env)};
    }
    keep(&input);
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr,
                               [input = std::move(input), work = std::move(work), build = std::move(build)](Job& job) -> Job::ToValue {
                                 work(input.rows, &job.cancel_flag());
                                 return build;
                               })};
  });
}

Job::ToValue tensor_value(std::shared_ptr<Tensor> tensor) {
  return [tensor = std::move(tensor)](napi_env env) -> napi_value { return TensorObject::wrap(env, tensor); };
}

template <typename T>
T choice_field(const Napi::Object& object, const char* name, const std::string& standard,
               std::initializer_list<std::pair<const char*, T>> choices) {
  const std::string given = string_field(object, name, standard);
  std::string known;
  for (const auto& [text, value] : choices) {
    if (given == text) return value;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throw_invalid(object.Env(), std::string(name) + " must be one of " + known);
}

Dtype storage_field(const Napi::Object& object) {
  return choice_field<Dtype>(object, "storage", "f32",
                             {{"f32", Dtype::f32}, {"f16", Dtype::f16}, {"bf16", Dtype::bf16}, {"i8", Dtype::i8}});
}

// A matrix [rows, columns], both at least 1.
void require_matrix(Napi::Env env, const Tensor& tensor, const char* name) {
  if (tensor.shape().size() != 2 || tensor.shape()[0] < 1 || tensor.shape()[1] < 1)
    throw_invalid(env, std::string(name) + " must be a matrix, not " + shape_text(tensor.shape()));
}

// What both classes share: a handle that a job creates, the operand behind it, and its disposal.
template <typename Object, typename Operand>
class OperandObject : public TaggedWrap<Object> {
 protected:
  using Shared = std::shared_ptr<const Operand>;

  // Only `wrap` makes one: it passes the operand as an External with a tag.
  explicit OperandObject(const Napi::CallbackInfo& info) : TaggedWrap<Object>(info) {
    if (info.Length() != 1 || !info[0].IsExternal() || !info[0].template As<Napi::External<Shared>>().CheckTypeTag(&external_tag))
      throw Napi::TypeError::New(info.Env(), std::string(Object::class_name) + " objects are made by packing");
    operand_ = *info[0].template As<Napi::External<Shared>>().Data();
  }

  static Job::ToValue wrap(Shared operand) {
    return [operand = std::move(operand)](napi_env env) -> napi_value {
      Shared given = operand;
      auto external = Napi::External<Shared>::New(env, &given);
      external.TypeTag(&external_tag);
      return Object::constructor(env).New({external});
    };
  }

  const Operand& operand(Napi::Env env) const { return *shared(env); }
  const Shared& shared(Napi::Env env) const {
    if (!operand_) throw_status(env, Status::fail(Code::disposed, std::string("the ") + Object::class_name + " is disposed"));
    return operand_;
  }

  bool is_disposed() const { return !operand_; }
  void release() { operand_.reset(); }

 private:
  static constexpr napi_type_tag external_tag = {Object::tag.lower, ~Object::tag.upper};
  Shared operand_;
};

class AnchorsObject : public OperandObject<AnchorsObject, PackedAnchors> {
 public:
  static constexpr const char* class_name = "PackedAnchors";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e61'6e63'6872};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->anchors_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&AnchorsObject::info>("info"),
                           InstanceAccessor<&AnchorsObject::disposed>("disposed"),
                           InstanceMethod<&AnchorsObject::relative_sync>("relativeSync"),
                           InstanceMethod<&AnchorsObject::relative_rows>("relative"),
                           InstanceMethod<&AnchorsObject::top_k>("topK"),
                           InstanceMethod<&AnchorsObject::codes>("codes"),
                           InstanceMethod<&AnchorsObject::dispose>("dispose"),
                       });
  }

  explicit AnchorsObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // packAnchors(tensor [m, d], { similarity, storage, centre, scale })
  static Napi::Value pack(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const auto tensor = require_tensor(call, 0, "anchors");
    require_matrix(env, *tensor, "anchors");
    const Napi::Object given = require_object(call, 1, "options");
    PackedAnchors::Options options;
    options.similarity = choice_field<Similarity>(given, "similarity", "cosine",
                                                  {{"cosine", Similarity::cosine},
                                                   {"angular", Similarity::angular},
                                                   {"inner", Similarity::inner},
                                                   {"squared-euclidean", Similarity::squared_euclidean}});
    options.storage = storage_field(given);
    options.centre = floats_field(given, "centre");
    options.scale = floats_field(given, "scale");
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {
        env,
        start_on_pool(env, jobs, std::make_shared<Job>(), nullptr, [tensor, options = std::move(options)](Job&) mutable -> Job::ToValue {
          const int64_t depth = tensor->shape()[1];
          Shared packed;
          check(PackedAnchors::pack({tensor->dtype(), tensor->data(), tensor->shape()[0], depth}, depth, std::move(options), &packed));
          return wrap(std::move(packed));
        })};
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const PackedAnchors& anchors = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(anchors.count()));
    out.Set("dimension", static_cast<double>(anchors.depth()));
    out.Set("bytes", static_cast<double>(anchors.bytes()));
    return out;
  }

  void relative_sync(const Napi::CallbackInfo& call) {
    const PackedAnchors& anchors = operand(call.Env());
    const Input input = input_of(call, 0, anchors.depth());
    float* out = output_of(call, 1, input, anchors.count());
    translate(call.Env(), [&] { check(relative(input.rows, anchors, out, anchors.count())); });
  }

  Napi::Value relative_rows(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    Input input = input_of(call, 0, anchors->depth());
    const int64_t n = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> out;
      check(Tensor::create(Dtype::f32, {n, anchors->count()}, &out));
      return run(
          call, std::move(input), n * anchors->multiplications(),
          [anchors, out](const Rows& x, const std::atomic<bool>* cancel) {
            check(relative(x, *anchors, out->f32(), anchors->count(), cancel));
          },
          tensor_value(out));
    });
  }

  Napi::Value top_k(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    Input input = input_of(call, 0, anchors->depth());
    const int64_t k = require_int(call, 1, "k", 1, anchors->count());
    const int64_t n = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> indices;
      std::shared_ptr<Tensor> values;
      check(Tensor::create(Dtype::i32, {n, k}, &indices));
      check(Tensor::create(Dtype::f32, {n, k}, &values));
      return run(
          call, std::move(input), n * anchors->multiplications(),
          [anchors, indices, values, k](const Rows& x, const std::atomic<bool>* cancel) {
            check(relative_top_k(x, *anchors, k, static_cast<int32_t*>(indices->data()), values->f32(), cancel));
          },
          [indices, values](napi_env env) -> napi_value {
            Napi::Object out = Napi::Object::New(env);
            out.Set("indices", TensorObject::wrap(env, indices));
            out.Set("values", TensorObject::wrap(env, values));
            return out;
          });
    });
  }

  Napi::Value codes(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    Input input = input_of(call, 0, anchors->depth());
    const auto bits = static_cast<int>(require_int(call, 1, "bits", 1, 8));
    const int64_t n = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> out;
      check(Tensor::create(Dtype::i8, {n, code_row_bytes(anchors->count(), bits)}, &out));
      return run(
          call, std::move(input), n * anchors->multiplications(),
          [anchors, out, bits](const Rows& x, const std::atomic<bool>* cancel) {
            check(relative_codes(x, *anchors, bits, static_cast<uint8_t*>(out->data()), cancel));
          },
          tensor_value(out));
    });
  }
};

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
  // targetNorm, storage })
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
    options.norm_weight = floats_field(given, "normWeight");
    options.norm_bias = floats_field(given, "normBias");
    const auto layer = [](const Tensor& weights, std::vector<float> bias) {
      return Projection::Layer{weights.dtype(), weights.data(), weights.shape()[0], weights.shape()[1], std::move(bias)};
    };
    auto first_layer = layer(*first, floats_field(given, "bias"));
    auto second_bias = floats_field(given, "secondBias");
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
    const Input input = input_of(call, 0, projection.inputs());
    float* out = output_of(call, 1, input, projection.outputs());
    translate(call.Env(), [&] { check(projection.apply(input.rows, out, projection.outputs())); });
  }

  Napi::Value apply(const Napi::CallbackInfo& call) {
    const Shared projection = shared(call.Env());
    Input input = input_of(call, 0, projection->inputs());
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

Napi::Value kernel_isa(const Napi::CallbackInfo& call) { return Napi::String::New(call.Env(), std::string(isa_name(kernels().isa))); }

}  // namespace

void init_kernels(Napi::Env env, Napi::Object exports) {
  AddonData& data = *env.GetInstanceData<AddonData>();
  data.anchors_class = Napi::Persistent(AnchorsObject::define(env));
  data.projection_class = Napi::Persistent(ProjectionObject::define(env));
  exports.Set("packAnchors", Napi::Function::New<AnchorsObject::pack>(env, "packAnchors"));
  exports.Set("packProjection", Napi::Function::New<ProjectionObject::pack>(env, "packProjection"));
  exports.Set("kernelIsa", Napi::Function::New<kernel_isa>(env, "kernelIsa"));
}

}  // namespace latentwire::addon
