// The JavaScript class of packed anchors: relative representations, nearest anchors, codes.
#include "addon/device_objects.h"
#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "kernels/cosine.h"

namespace latentwire::addon {
namespace {

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

  // packAnchors(tensor [m, d], { similarity, storage, mean, whiten [d, k], centre, scale }, onDevice: boolean)
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
                                                   {"squared-euclidean", Similarity::squared_euclidean},
                                                   {"euclidean", Similarity::euclidean},
                                                   {"l1", Similarity::l1}});
    options.storage = storage_field(given);
    const auto map = tensor_field(given, "whiten");
    if (map) require_matrix(env, *map, "whiten");
    options.whitening.mean = array_field(given, "mean");
    options.centre = array_field(given, "centre");
    options.scale = array_field(given, "scale");
    if (require_bool(call, 2, "onDevice"))
      return {env, translate(env, [&] { return pack_device_anchors(env, tensor, map, std::move(options)); })};
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env,
            start_on_pool(env, jobs, std::make_shared<Job>(), nullptr, [=, options = std::move(options)](Job&) mutable -> Job::ToValue {
              if (map) options.whitening.matrix = {map->dtype(), map->data(), map->shape()[1], map->shape()[0], 1, map->shape()[1]};
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
    const Input input = input_of(call[0], "x", anchors.depth());
    float* out = output_of<float>(call[1], "out", input, input.rows.count * anchors.count());
    translate(call.Env(), [&] { check(relative(input.rows, anchors, out, anchors.count())); });
  }

  Napi::Value relative_rows(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    Input input = input_of(call[0], "x", anchors->depth());
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
    Input input = input_of(call[0], "x", anchors->depth());
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
          tensors_value({{"indices", indices}, {"values", values}}));
    });
  }

  Napi::Value codes(const Napi::CallbackInfo& call) {
    const Shared anchors = shared(call.Env());
    Input input = input_of(call[0], "x", anchors->depth());
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

}  // namespace

void init_anchors(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->anchors_class = Napi::Persistent(AnchorsObject::define(env));
  exports.Set("packAnchors", Napi::Function::New<AnchorsObject::pack>(env, "packAnchors"));
}

}  // namespace latentwire::addon
