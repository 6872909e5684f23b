// The JavaScript class of codebooks, residual quantisation over several of them, finite scalar quantisation and the split of a budget of
// bits.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "addon/device_objects.h"
#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "kernels/codebook.h"

namespace latentwire::addon {
namespace {

class CodebookObject : public OperandObject<CodebookObject, Codebook> {
 public:
  static constexpr const char* class_name = "Codebook";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e63'6f64'6562};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->codebook_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&CodebookObject::info>("info"),
                           InstanceAccessor<&CodebookObject::disposed>("disposed"),
                           InstanceMethod<&CodebookObject::nearest_sync>("nearestSync"),
                           InstanceMethod<&CodebookObject::nearest>("nearest"),
                           InstanceMethod<&CodebookObject::dispose>("dispose"),
                       });
  }

  explicit CodebookObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // packCodebook(codewords [k, d], storage, onDevice: boolean)
  static Napi::Value pack(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const auto tensor = require_tensor(call, 0, "codewords");
    require_matrix(env, *tensor, "codewords");
    if (!is_float(tensor->dtype())) throw_status(env, Status::fail(Code::dtype, "codewords must be f32, f16 or bf16"));
    const Dtype storage = require_dtype(call, 1, "storage");
    if (require_bool(call, 2, "onDevice")) return {env, translate(env, [&] { return pack_device_codebook(env, tensor, storage); })};
    EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
    return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr, [tensor, storage](Job&) -> Job::ToValue {
              const int64_t depth = tensor->shape()[1];
              Shared packed;
              check(Codebook::pack({tensor->dtype(), tensor->data(), tensor->shape()[0], depth}, depth, storage, &packed));
              return wrap(std::move(packed));
            })};
  }

  static std::vector<Shared> stages_of(const Napi::Value& value) {
    const Napi::Env env = value.Env();
    if (!value.IsArray() || value.As<Napi::Array>().Length() == 0)
      throw_invalid(env, "codebooks must be an array of at least one Codebook");
    const auto array = value.As<Napi::Array>();
    std::vector<Shared> stages;
    for (uint32_t i = 0; i < array.Length(); i++) {
      CodebookObject* object = from(array.Get(i));
      if (object == nullptr) throw_invalid(env, "codebooks must be an array of at least one Codebook");
      stages.push_back(object->shared(env));
      if (stages.back()->depth() != stages.front()->depth()) throw_invalid(env, "the codebooks have different dimensions");
    }
    return stages;
  }

 private:
  Napi::Value disposed(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), is_disposed()); }
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value info(const Napi::CallbackInfo& call) {
    const Codebook& book = operand(call.Env());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("count", static_cast<double>(book.count()));
    out.Set("dimension", static_cast<double>(book.depth()));
    out.Set("bytes", static_cast<double>(book.bytes()));
    return out;
  }

  // nearestSync(x, indices: Int32Array [n], distances: Float32Array [n] | undefined)
  void nearest_sync(const Napi::CallbackInfo& call) {
    const Codebook& book = operand(call.Env());
    const Input input = input_of(call[0], "x", book.depth());
    const std::span<int32_t> indices = require_array<int32_t>(call[1], "indices", input.rows.count);
    std::span<float> distances;
    if (!call[2].IsUndefined()) distances = require_array<float>(call[2], "distances", input.rows.count);
    refuse_overlap(call.Env(), "indices", std::as_bytes(indices), input);
    refuse_overlap(call.Env(), "distances", std::as_bytes(distances), input);
    refuse_overlap(call.Env(), "distances", std::as_bytes(distances), "indices", std::as_bytes(indices));
    translate(call.Env(), [&] { check(book.nearest(input.rows, indices.data(), distances.empty() ? nullptr : distances.data())); });
  }

  // nearest(x) -> { indices i32 [n], distances f32 [n] }
  Napi::Value nearest(const Napi::CallbackInfo& call) {
    const Shared book = shared(call.Env());
    Input input = input_of(call[0], "x", book->depth());
    const int64_t n = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> indices;
      std::shared_ptr<Tensor> distances;
      check(Tensor::create(Dtype::i32, {n}, &indices));
      check(Tensor::create(Dtype::f32, {n}, &distances));
      return run(
          call, std::move(input), n * book->count() * book->depth(),
          [=](const Rows& x, const std::atomic<bool>* cancel) {
            check(book->nearest(x, static_cast<int32_t*>(indices->data()), distances->f32(), cancel));
          },
          tensors_value({{"indices", indices}, {"distances", distances}}));
    });
  }
};

// residualQuantise(codebooks, x) -> { indices i32 [n, stages], residual f32 [n, d] }
Napi::Value residual_quantise(const Napi::CallbackInfo& call) {
  const auto stages = CodebookObject::stages_of(call[0]);
  const int64_t depth = stages.front()->depth();
  Input input = input_of(call[1], "x", depth);
  const int64_t n = input.rows.count;
  int64_t words = 0;
  for (const auto& stage : stages) words += stage->count();
  return translate(call.Env(), [&] {
    std::shared_ptr<Tensor> indices;
    std::shared_ptr<Tensor> residual;
    check(Tensor::create(Dtype::i32, {n, static_cast<int64_t>(stages.size())}, &indices));
    check(Tensor::create(Dtype::f32, {n, depth}, &residual));
    return run(
        call, std::move(input), n * words * depth,
        [=](const Rows& x, const std::atomic<bool>* cancel) {
          check(residual_encode(x, stages, static_cast<int32_t*>(indices->data()), residual->f32(), cancel));
        },
        tensors_value({{"indices", indices}, {"residual", residual}}));
  });
}

// residualDequantise(codebooks, indices: Int32Array [n, stages]) -> f32 [n, d]
Napi::Value residual_dequantise(const Napi::CallbackInfo& call) {
  const auto stages = CodebookObject::stages_of(call[0]);
  const std::span<int32_t> given = require_array<int32_t>(call[1], "indices");
  const auto count = static_cast<int64_t>(stages.size());
  const auto size = static_cast<int64_t>(given.size());
  if (size % count != 0)
    throw_invalid(call.Env(), "indices has " + std::to_string(size) + " numbers, which are no rows of " + std::to_string(count));
  const int64_t depth = stages.front()->depth();
  return translate(call.Env(), [&] {
    std::shared_ptr<Tensor> out;
    check(Tensor::create(Dtype::f32, {size / count, depth}, &out));
    return run(
        call, size * depth,
        [=, indices = std::vector<int32_t>(given.begin(), given.end())](const std::atomic<bool>*) {
          check(residual_decode(stages, indices.data(), size / count, out->f32(), depth));
        },
        tensor_value(out));
  });
}

// The grid of a call: levels is an Int32Array, and symbols must fit an Int32Array too.
Fsq fsq_of(const Napi::Value& value) {
  const std::span<int32_t> levels = require_array<int32_t>(value, "levels");
  Fsq fsq;
  translate(value.Env(), [&] { check(Fsq::make({levels.begin(), levels.end()}, &fsq)); });
  if (fsq.symbols() > std::numeric_limits<int32_t>::max()) throw_invalid(value.Env(), "the levels make more than 2^31 - 1 symbols");
  return fsq;
}

// fsqEncode(x, levels, symbols: Int32Array [n])
void fsq_encode(const Napi::CallbackInfo& call) {
  const Fsq fsq = fsq_of(call[1]);
  const Input input = input_of(call[0], "x", fsq.depth());
  auto* out = output_of<int32_t>(call[2], "symbols", input, input.rows.count);
  translate(call.Env(), [&] {
    std::vector<int64_t> symbols(static_cast<size_t>(input.rows.count));
    check(fsq.encode(input.rows, symbols.data()));
    std::transform(symbols.begin(), symbols.end(), out, [](int64_t symbol) { return static_cast<int32_t>(symbol); });
  });
}

// fsqDecode(symbols: Int32Array [n], levels, out: Float32Array [n, d])
void fsq_decode(const Napi::CallbackInfo& call) {
  const Fsq fsq = fsq_of(call[1]);
  const std::span<int32_t> symbols = require_array<int32_t>(call[0], "symbols");
  const auto n = static_cast<int64_t>(symbols.size());
  const std::span<float> out = require_array<float>(call[2], "out", n * fsq.depth());
  translate(call.Env(), [&] {
    const std::vector<int64_t> wide(symbols.begin(), symbols.end());
    check(fsq.decode(wide.data(), n, out.data(), fsq.depth()));
  });
}

// splitBits(variances: Float64Array, totalBits, bits: Float64Array [n]) -> { level, distortion }
Napi::Value split_bits(const Napi::CallbackInfo& call) {
  const std::span<double> given = require_array<double>(call[0], "variances");
  const double total = require_number(call, 1, "totalBits", 0, 1e15);
  const std::span<double> bits = require_array<double>(call[2], "bits", static_cast<int64_t>(given.size()));
  return translate(call.Env(), [&] {
    WaterFilling split;
    check(water_filling({given.begin(), given.end()}, total, &split));
    std::copy(split.bits.begin(), split.bits.end(), bits.begin());
    Napi::Object out = Napi::Object::New(call.Env());
    out.Set("level", split.level);
    out.Set("distortion", split.distortion);
    return out;
  });
}

// splitWholeBits(variances: Float64Array, totalBits, most, bits: Int32Array [n]) -> distortion
Napi::Value split_whole_bits(const Napi::CallbackInfo& call) {
  const std::span<double> given = require_array<double>(call[0], "variances");
  const auto size = static_cast<int64_t>(given.size());
  const auto most = static_cast<int>(require_int(call, 2, "mostBits", 0, 64));
  const int64_t total = require_int(call, 1, "totalBits", 0, max_safe_integer);
  const std::span<int32_t> out = require_array<int32_t>(call[3], "bits", size);
  return translate(call.Env(), [&] {
    std::vector<int> bits;
    double distortion = 0;
    check(whole_bits({given.begin(), given.end()}, total, most, &bits, &distortion));
    std::copy(bits.begin(), bits.end(), out.begin());
    return Napi::Number::New(call.Env(), distortion);
  });
}

}  // namespace

void init_codebook(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->codebook_class = Napi::Persistent(CodebookObject::define(env));
  exports.Set("packCodebook", Napi::Function::New<CodebookObject::pack>(env, "packCodebook"));
  exports.Set("residualQuantise", Napi::Function::New<residual_quantise>(env, "residualQuantise"));
  exports.Set("residualDequantise", Napi::Function::New<residual_dequantise>(env, "residualDequantise"));
  exports.Set("fsqEncode", Napi::Function::New<fsq_encode>(env, "fsqEncode"));
  exports.Set("fsqDecode", Napi::Function::New<fsq_decode>(env, "fsqDecode"));
  exports.Set("splitBits", Napi::Function::New<split_bits>(env, "splitBits"));
  exports.Set("splitWholeBits", Napi::Function::New<split_whole_bits>(env, "splitWholeBits"));
}

}  // namespace latentwire::addon
