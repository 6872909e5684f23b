#include "addon/token_table_object.h"

#include <optional>
#include <string>
#include <utility>

#include "addon/device_jobs.h"
#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {
namespace {

// ggml's numbers of the types that rows can be read in.
std::optional<RowFormat> format_of(uint32_t ggml_type) noexcept {
  switch (ggml_type) {
    case 0:
      return RowFormat::f32;
    case 1:
      return RowFormat::f16;
    case 2:
      return RowFormat::q4_0;
    case 8:
      return RowFormat::q8_0;
    case 12:
      return RowFormat::q4_K;
    case 14:
      return RowFormat::q6_K;
    case 30:
      return RowFormat::bf16;
    default:
      return std::nullopt;
  }
}

HeldTable of_tensor(std::shared_ptr<Tensor> tensor) {
  const RowFormat format = tensor->dtype() == Dtype::f32   ? RowFormat::f32
                           : tensor->dtype() == Dtype::f16 ? RowFormat::f16
                                                           : RowFormat::bf16;
  HeldTable held;
  held.table = {format, tensor->data(), tensor->shape()[0], tensor->shape()[1], 0};
  held.tensor = std::move(tensor);
  return held;
}

HeldTable of_model(const std::string& path, bool output) {
  HeldTable held;
  check(GgufFile::open(path, &held.file));
  // a model without an output matrix uses the embeddings for both
  const GgufTensor* tensor = output ? held.file->tensor("output.weight") : nullptr;
  if (tensor == nullptr) tensor = held.file->tensor("token_embd.weight");
  if (tensor == nullptr) throw Failure(Status::fail(Code::model_unsupported, path + " has no token embeddings"));
  const std::optional<RowFormat> format = format_of(tensor->ggml_type);
  if (!format || tensor->dims.size() != 2)
    throw Failure(Status::fail(Code::model_unsupported, path + ": " + tensor->name + " has the ggml type " +
                                                            std::to_string(tensor->ggml_type) +
                                                            "; rows are read from f32, f16, bf16, q8_0, q4_0, q4_K and q6_K"));
  held.table = {*format, held.file->data(*tensor), tensor->dims[1], tensor->dims[0], 0};
  return held;
}

class TokenTableObject : public OperandObject<TokenTableObject, HeldTable> {
 public:
  static constexpr const char* class_name = "TokenTable";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e74'6162'6c65};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->token_table_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&TokenTableObject::info>("info"),
                           InstanceAccessor<&TokenTableObject::disposed>("disposed"),
                           InstanceMethod<&TokenTableObject::rows>("rows"),
                           InstanceMethod<&TokenTableObject::dispose>("dispose"),
                       });
  }

  explicit TokenTableObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // openTokenTable(tensor [tokens, width] | path of a model file, matrix: "input" | "output", onDevice: boolean)
  static Napi::Value open(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    std::function<HeldTable()> make;
    if (call[0].IsString()) {
      const std::string matrix = require_string(call, 1, "matrix");
      if (matrix != "input" && matrix != "output") throw_invalid(env, "matrix must be 'input' or 'output'");
      make = [path = require_string(call, 0, "source"), output = matrix == "output"] { return of_model(path, output); };
    } else {
      auto tensor = require_tensor(call, 0, "source");
      require_matrix(env, *tensor, "source");
      if (!is_float(tensor->dtype())) throw_status(env, Status::fail(Code::dtype, "a table of tokens must be f32, f16 or bf16"));
      make = [tensor = std::move(tensor)] { return of_tensor(tensor); };
    }
    const auto open = [make = std::move(make)] {
      auto held = std::make_shared<HeldTable>(make());
      check(check_readable(held->table));
      return held;
    };
    if (require_bool(call, 2, "onDevice")) {
      return {env, translate(env, [&] {
                return start_on_device(env, [open](Job& job, DeviceStream& stream) -> Job::ToValue {
                  auto held = open();
                  const TokenTable& table = held->table;
                  const size_t bytes = static_cast<size_t>((table.count - 1) * table.stride() + table.tight_bytes());
                  check(stream.allocate(bytes, &held->on_device));
                  check(stream.upload(held->on_device->data(), table.data, bytes, &job.cancel_flag()));
                  return wrap(std::move(held));
                });
              })};
    }
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr, [open](Job&) -> Job::ToValue { return wrap(open()); })};
  }

  static Shared table_of(const Napi::Value& value) {
    TokenTableObject* object = from(value);
    return object == nullptr ? nullptr : object->shared(value.Env());
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const TokenTable& table = operand(call.Env()).table;
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(table.count));
    out.Set("width", static_cast<double>(table.width));
    out.Set("format", std::string(row_format_name(table.format)));
    return out;
  }

  // rows(tokens: Int32Array) -> [n, width]
  Napi::Value rows(const Napi::CallbackInfo& call) {
    const Shared held = shared(call.Env());
    // copied before they are checked: those of a SharedArrayBuffer may change at any time
    std::vector<int32_t> tokens = copy_array<int32_t>(call[0], "tokens");
    const TokenTable& table = held->table;
    for (const int32_t token : tokens) {
      if (token < 0 || token >= table.count)
        throw_invalid(call.Env(), "token " + std::to_string(token) + " is not in a vocabulary of " + std::to_string(table.count));
    }
    return translate(call.Env(), [&] {
      const auto count = static_cast<int64_t>(tokens.size());
      std::shared_ptr<Tensor> out;
      check(Tensor::create(Dtype::f32, {count, table.width}, &out));
      return run(
          call, count * table.width,
          [held, out, tokens = std::move(tokens)](const std::atomic<bool>*) {
            read_rows(held->table, tokens.data(), 0, static_cast<int64_t>(tokens.size()), out->f32());
          },
          tensor_value(out));
    });
  }
};

}  // namespace

std::shared_ptr<const HeldTable> token_table_of(const Napi::Value& value) { return TokenTableObject::table_of(value); }

void init_token_table(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->token_table_class = Napi::Persistent(TokenTableObject::define(env));
  exports.Set("openTokenTable", Napi::Function::New<TokenTableObject::open>(env, "openTokenTable"));
}

}  // namespace latentwire::addon
