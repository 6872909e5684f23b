// The JavaScript face of Model: synchronous look-ups, and jobs for what takes time.
#include <cstdlib>

#include "addon/args.h"
#include "addon/device_jobs.h"
#include "addon/engine_objects.h"
#include "addon/errors.h"
#include "addon/tagged_wrap.h"
#include "addon/tensor_object.h"
#include "addon/typed_arrays.h"
#include "engine/failure.h"

namespace latentwire::addon {
namespace {

class ModelObject : public TaggedWrap<ModelObject> {
 public:
  static constexpr const char* class_name = "Model";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6d'6f64'656c};

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&ModelObject::info>("info"),
                           InstanceAccessor<&ModelObject::disposed>("disposed"),
                           InstanceMethod<&ModelObject::metadata>("metadata"),
                           InstanceMethod<&ModelObject::tokenize>("tokenize"),
                           InstanceMethod<&ModelObject::detokenize>("detokenize"),
                           InstanceMethod<&ModelObject::piece>("piece"),
                           InstanceMethod<&ModelObject::is_end_of_generation>("isEndOfGeneration"),
                           InstanceMethod<&ModelObject::is_control>("isControl"),
                           InstanceMethod<&ModelObject::input_rows>("inputRows"),
                           InstanceMethod<&ModelObject::matrix>("matrix"),
                           InstanceMethod<&ModelObject::solve_alignment>("solveAlignment"),
                           InstanceMethod<&ModelObject::create_pool>("createPool"),
                           InstanceMethod<&ModelObject::dispose>("dispose"),
                       });
  }

  // Only `wrap_model` makes one: it passes the model as an External.
  explicit ModelObject(const Napi::CallbackInfo& info) : TaggedWrap<ModelObject>(info) {
    if (info.Length() != 1 || !info[0].IsExternal()) throw Napi::TypeError::New(info.Env(), "a Model comes from loadModel");
    model_ = *info[0].As<Napi::External<std::shared_ptr<Model>>>().Data();
  }

 private:
  const std::shared_ptr<Model>& model(Napi::Env env) const {
    if (!model_) throw_status(env, Status::fail(Code::disposed, "the model is disposed"));
    return model_;
  }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const ModelInfo& facts = model(env)->info();
    Napi::Object out = Napi::Object::New(env);
    out.Set("description", facts.description);
    out.Set("architecture", facts.architecture);
    out.Set("parameters", static_cast<double>(facts.parameters));
    out.Set("bytes", static_cast<double>(facts.bytes));
    out.Set("layers", facts.layers);
    out.Set("heads", facts.heads);
    out.Set("kvHeads", facts.kv_heads);
    out.Set("embeddingLength", facts.embedding_length);
    out.Set("vocabularySize", facts.vocabulary_size);
    out.Set("contextLength", facts.context_length);
    out.Set("tiedOutput", facts.tied_output);
    out.Set("inputScale", static_cast<double>(facts.input_scale));
    out.Set("alpha", static_cast<double>(facts.alpha));
    out.Set("rope", facts.rope);
    out.Set("ropeScaling", facts.rope_scaling);
    out.Set("chatTemplate", facts.chat_template ? Napi::Value(Napi::String::New(env, *facts.chat_template)) : env.Undefined());
    out.Set("bos", facts.bos);
    out.Set("eos", facts.eos);
    out.Set("eot", facts.eot);
    out.Set("addBos", facts.add_bos);
    return out;
  }

  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), !model_); }

  Napi::Value metadata(const Napi::CallbackInfo& call) {
    const auto value = model(call.Env())->metadata(require_string(call, 0, "key"));
    return value ? Napi::Value(Napi::String::New(call.Env(), *value)) : call.Env().Undefined();
  }

  Napi::Value tokenize(const Napi::CallbackInfo& call) {
    const std::string text = require_string(call, 0, "text");
    const bool add_special = require_bool(call, 1, "addSpecial");
    const bool parse_special = require_bool(call, 2, "parseSpecial");
    return {call.Env(), translate(call.Env(), [&] {
              return to_int32_array(call.Env(), model(call.Env())->tokenize(text, add_special, parse_special));
            })};
  }

  Napi::Value detokenize(const Napi::CallbackInfo& call) {
    const std::vector<int32_t> tokens = copy_array<int32_t>(call[0], "tokens");
    const bool render_special = require_bool(call, 1, "renderSpecial");
    return translate(call.Env(), [&] {
      return Napi::String::New(call.Env(),
                               model(call.Env())->detokenize(tokens.data(), static_cast<int32_t>(tokens.size()), render_special));
    });
  }

  int32_t token(const Napi::CallbackInfo& call) const {
    return static_cast<int32_t>(require_int(call, 0, "token", 0, model(call.Env())->info().vocabulary_size - 1));
  }

  Napi::Value piece(const Napi::CallbackInfo& call) { return Napi::String::New(call.Env(), model(call.Env())->piece(token(call), true)); }
  Napi::Value is_end_of_generation(const Napi::CallbackInfo& call) {
    return Napi::Boolean::New(call.Env(), model(call.Env())->is_end_of_generation(token(call)));
  }
  Napi::Value is_control(const Napi::CallbackInfo& call) {
    return Napi::Boolean::New(call.Env(), model(call.Env())->is_control(token(call)));
  }

  Napi::Value input_rows(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const std::vector<int32_t> tokens = copy_array<int32_t>(call[0], "tokens");
    const Model& source = *model(env);
    return translate(env, [&] {
      const auto d = static_cast<size_t>(source.info().embedding_length);
      std::vector<float> rows(tokens.size() * d);
      for (size_t i = 0; i < tokens.size(); i++) {
        if (!source.is_token(tokens[i])) fail(Code::invalid_argument, "token " + std::to_string(tokens[i]) + " is not in the vocabulary");
        source.input_row(tokens[i], rows.data() + i * d);
      }
      return Napi::Value(env, tensor_of(env, rows, {static_cast<int64_t>(tokens.size()), static_cast<int64_t>(d)}));
    });
  }

  Napi::Value matrix(const Napi::CallbackInfo& call) {
    const std::string which = require_string(call, 0, "which");
    if (which != "input" && which != "output") {
      throw_status(call.Env(), Status::fail(Code::invalid_argument, "which must be 'input' or 'output'"));
    }
    return {call.Env(),
            start_on_thread(call.Env(), nullptr, [source = model(call.Env()), output = which == "output"](Job&) -> Job::ToValue {
              std::shared_ptr<Tensor> tensor = source->matrix(output);
              return [tensor = std::move(tensor)](napi_env env) -> napi_value {
                return tensor ? Napi::Value(TensorObject::wrap(env, tensor)) : Napi::Env(env).Null();
              };
            })};
  }

  Napi::Value solve_alignment(const Napi::CallbackInfo& call) {
    const double lambda = require_number(call, 0, "lambda");
    return {call.Env(), start_on_thread(call.Env(), nullptr, [source = model(call.Env()), lambda](Job& job) -> Job::ToValue {
              std::shared_ptr<Tensor> tensor = source->solve_alignment(lambda, job.cancel_flag());
              return [tensor = std::move(tensor)](napi_env env) -> napi_value { return TensorObject::wrap(env, tensor); };
            })};
  }

  Napi::Value create_pool(const Napi::CallbackInfo& call) {
    const Napi::Object given = require_object(call, 0, "options");
    Pool::Options options;
    // llama.cpp limits the batch by the context length, then rounds that up to a multiple of 256: rounded here, a short one limits nothing
    options.context_length = (static_cast<int32_t>(int_field(given, "contextLength", 0, 1 << 24)) + 255) / 256 * 256;
    options.max_sequences = static_cast<int32_t>(int_field(given, "maxSequences", 1, 255));
    // llama.cpp asserts that a batch can hold an output of every sequence, and the pool has one of its own
    options.batch = static_cast<int32_t>(int_field(given, "batch", options.max_sequences + 1, 1 << 16));
    options.threads = static_cast<int32_t>(int_field(given, "threads", 1, 512));
    options.flash_attention = bool_field(given, "flashAttention");
    options.in_place = bool_field(given, "inPlace");
    options.backend = backend_of_process;
    // one that was named by hand, as the mock is
    options.asks_of_host = std::getenv("LATENTWIRE_CUDA_BACKEND") != nullptr;
    const std::string type = string_field(given, "kvType");
    if (type == "f32")
      options.kv_type = abi::GGML_TYPE_F32;
    else if (type == "f16")
      options.kv_type = abi::GGML_TYPE_F16;
    else if (type == "bf16")
      options.kv_type = abi::GGML_TYPE_BF16;
    else if (type == "q8_0")
      options.kv_type = abi::GGML_TYPE_Q8_0;
    else if (type == "q4_0")
      options.kv_type = abi::GGML_TYPE_Q4_0;
    else
      throw_status(call.Env(), Status::fail(Code::dtype, "kvType must be f32, f16, bf16, q8_0 or q4_0"));
    // llama.cpp makes no such context
    if (!options.flash_attention && (type == "q8_0" || type == "q4_0"))
      throw_status(call.Env(), Status::fail(Code::dtype, "quantised values need flash attention: kvType must be f32, f16 or bf16"));
    return {call.Env(), start_on_thread(call.Env(), nullptr, [source = model(call.Env()), options](Job&) -> Job::ToValue {
              auto pool = std::make_shared<Pool>(source, options);
              return [pool](napi_env env) -> napi_value { return wrap_pool(env, pool); };
            })};
  }

  // Freeing gigabytes takes time, so the last reference goes on another thread; pools that are still open keep the weights alive.
  Napi::Value dispose(const Napi::CallbackInfo& call) {
    auto last = std::make_shared<std::shared_ptr<Model>>(std::move(model_));
    model_.reset();
    return {call.Env(), start_on_thread(call.Env(), nullptr, [last](Job&) -> Job::ToValue {
              last->reset();
              return {};
            })};
  }

  std::shared_ptr<Model> model_;
};

}  // namespace

void init_model(Napi::Env env) { env.GetInstanceData<AddonData>()->model_class = Napi::Persistent(ModelObject::define(env)); }

Napi::Object wrap_model(Napi::Env env, std::shared_ptr<Model> model) {
  return env.GetInstanceData<AddonData>()->model_class.New({Napi::External<std::shared_ptr<Model>>::New(env, &model)});
}

}  // namespace latentwire::addon
