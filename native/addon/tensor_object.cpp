#include "addon/tensor_object.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "addon/addon.h"
#include "addon/args.h"
#include "addon/device_tensor_object.h"
#include "addon/errors.h"
#include "addon/typed_arrays.h"
#include "engine/failure.h"

namespace latentwire::addon {
namespace {

// 16-bit floats travel as their bits: Float16Array is younger than the oldest Node we run on.
ArrayKind kind_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return array_kind<float>;
    case Dtype::f16:
    case Dtype::bf16:
      return array_kind<uint16_t>;
    case Dtype::i8:
      return array_kind<int8_t>;
    case Dtype::i32:
      break;
  }
  return array_kind<int32_t>;
}

struct Bytes {
  void* data = nullptr;
  size_t length = 0;
};

// The bytes of a typed array of the dtype's kind, or of a DataView. They are used before JavaScript runs again.
Bytes bytes_of(const Napi::Value& value, Dtype dtype, const char* name) {
  const Napi::Env env = value.Env();
  const ArrayKind kind = kind_of(dtype);
  Bytes bytes;
  if (value.IsTypedArray()) {
    napi_typedarray_type type = napi_int8_array;
    size_t count = 0;
    if (napi_get_typedarray_info(env, value, &type, &count, &bytes.data, nullptr, nullptr) == napi_ok && type == kind.type) {
      bytes.length = count * dtype_size(dtype);
      return bytes;
    }
  } else if (value.IsDataView()) {
    if (napi_get_dataview_info(env, value, &bytes.length, &bytes.data, nullptr, nullptr) == napi_ok) return bytes;
  }
  throw_invalid(
      env, std::string(name) + " of a tensor of " + std::string(dtype_name(dtype)) + " must be a " + kind.class_name + " or a DataView");
}

Bytes exact_bytes(const Napi::Value& value, const Tensor& tensor, const char* name) {
  const Bytes bytes = bytes_of(value, tensor.dtype(), name);
  if (bytes.length != tensor.bytes()) {
    throw_invalid(value.Env(), std::string(name) + " has " + std::to_string(bytes.length) + " bytes, but a tensor of " +
                                   std::string(dtype_name(tensor.dtype())) + " " + shape_text(tensor.shape()) + " has " +
                                   std::to_string(tensor.bytes()));
  }
  return bytes;
}

void copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

}  // namespace

std::vector<int64_t> shape_argument(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsArray()) throw_invalid(info.Env(), "shape must be an array of integers");
  const auto array = info[index].As<Napi::Array>();
  const uint32_t rank = array.Length();
  if (rank > Tensor::max_rank) throw_invalid(info.Env(), "shape must have at most " + std::to_string(Tensor::max_rank) + " dimensions");
  std::vector<int64_t> shape;
  for (uint32_t i = 0; i < rank; i++) {
    const Napi::Value value = array.Get(i);
    const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : -1;
    if (!(number >= 0 && number <= static_cast<double>(max_safe_integer)) || number != static_cast<double>(static_cast<int64_t>(number))) {
      throw_invalid(info.Env(), "shape[" + std::to_string(i) + "] must be an integer from 0 to 2^53 - 1");
    }
    shape.push_back(static_cast<int64_t>(number));
  }
  return shape;
}

Napi::Function TensorObject::define(Napi::Env env) {
  return DefineClass(env, class_name,
                     {
                         InstanceAccessor<&TensorObject::dtype>("dtype"),
                         InstanceAccessor<&TensorObject::shape>("shape"),
                         InstanceAccessor<&TensorObject::byte_length>("byteLength"),
                         InstanceAccessor<&TensorObject::device>("device"),
                         InstanceAccessor<&TensorObject::disposed>("disposed"),
                         InstanceMethod<&TensorObject::alias>("alias"),
                         InstanceMethod<&TensorObject::copy_to>("copyTo"),
                         InstanceMethod<&TensorObject::to_typed>("toTyped"),
                         InstanceMethod<&TensorObject::to_float32>("toFloat32"),
                         InstanceMethod<&TensorObject::convert>("convert"),
                         InstanceMethod<&TensorObject::to>("to"),
                         InstanceMethod<&TensorObject::share>("share"),
                         InstanceMethod<&TensorObject::dispose>("dispose"),
                     });
}

Napi::Object TensorObject::wrap(Napi::Env env, std::shared_ptr<Tensor> tensor) {
  AddonData& data = *env.GetInstanceData<AddonData>();
  // not an argument: JavaScript could make no tensor of its own choosing that way
  data.tensor_to_wrap = std::move(tensor);
  try {
    return data.tensor_class.New({});
  } catch (...) {
    data.tensor_to_wrap.reset();
    throw;
  }
}

std::shared_ptr<Tensor> TensorObject::tensor_of(const Napi::Value& value, const char* name) {
  const TensorObject* object = from(value);
  if (object == nullptr) refuse_device_tensor(value, name);
  if (object == nullptr) throw_invalid(value.Env(), std::string(name) + " must be a Tensor");
  return object->tensor();
}

TensorObject::TensorObject(const Napi::CallbackInfo& info) : TaggedWrap<TensorObject>(info) {
  if (auto given = std::exchange(info.Env().GetInstanceData<AddonData>()->tensor_to_wrap, nullptr)) {
    adopt(std::move(given));
    return;
  }
  const Dtype type = require_dtype(info, 0, "dtype");
  std::shared_ptr<Tensor> made;
  if (const Status status = Tensor::create(type, shape_argument(info, 1), &made); !status.ok()) throw_status(info.Env(), status);
  if (info[2].IsUndefined()) {
    std::memset(made->data(), 0, made->bytes());
  } else {
    const Bytes bytes = exact_bytes(info[2], *made, "data");
    copy(made->data(), bytes.data, bytes.length);
  }
  adopt(std::move(made));
}

TensorObject::~TensorObject() { release(); }

std::shared_ptr<Tensor> TensorObject::tensor() const {
  if (!tensor_) throw_status(Env(), Status::fail(Code::disposed, "the tensor is disposed"));
  return tensor_;
}

void TensorObject::adopt(std::shared_ptr<Tensor> tensor) {
  tensor_ = std::move(tensor);
  // the collector sees a small object; this tells it what hangs on it
  Napi::MemoryManagement::AdjustExternalMemory(Env(), static_cast<int64_t>(tensor_->bytes()));
}

void TensorObject::release() {
  if (!tensor_) return;
  int64_t now = 0;
  napi_adjust_external_memory(Env(), -static_cast<int64_t>(tensor_->bytes()), &now);
  tensor_.reset();
}

Napi::Value TensorObject::dtype(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::string(dtype_name(tensor()->dtype())));
}

Napi::Value TensorObject::shape(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Tensor> held = tensor();
  const Napi::Array array = Napi::Array::New(info.Env(), held->shape().size());
  for (size_t i = 0; i < held->shape().size(); i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(held->shape()[i]));
  return array;
}

Napi::Value TensorObject::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(tensor()->bytes()));
}

Napi::Value TensorObject::disposed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), !tensor_); }

Napi::Value TensorObject::alias(const Napi::CallbackInfo& info) { return wrap(info.Env(), tensor()); }

Napi::Value TensorObject::copy_to(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Tensor> held = tensor();
  const Bytes bytes = exact_bytes(info[0], *held, "target");
  copy(bytes.data, held->data(), bytes.length);
  return info.Env().Undefined();
}

Napi::Value TensorObject::to_typed(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Tensor> held = tensor();
  const Napi::Value array = new_array(info.Env(), kind_of(held->dtype()), held->size());
  const Bytes bytes = exact_bytes(array, *held, "the array");
  copy(bytes.data, held->data(), bytes.length);
  return array;
}

Napi::Value TensorObject::to_float32(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Tensor> held = tensor();
  const Napi::Value array = new_array(info.Env(), array_kind<float>, held->size());
  const std::span<float> numbers = require_array<float>(array, "the array", held->size());
  convert_elements(held->dtype(), held->data(), Dtype::f32, numbers.data(), numbers.size());
  return array;
}

Napi::Value TensorObject::convert(const Napi::CallbackInfo& info) { return converted(info.Env(), require_dtype(info, 0, "dtype")); }

Napi::Value TensorObject::converted(Napi::Env env, Dtype to) {
  EnvJobs& jobs = *env.GetInstanceData<AddonData>()->jobs;
  return {env, start_on_pool(env, jobs, std::make_shared<Job>(), nullptr, [source = tensor(), to](Job& running) -> Job::ToValue {
            std::shared_ptr<Tensor> made;
            if (Status status = source->convert(to, &made, &running.cancel_flag()); !status.ok()) throw Failure(std::move(status));
            return [made](napi_env js) -> napi_value { return wrap(js, made); };
          })};
}

Napi::Value TensorObject::device(const Napi::CallbackInfo& info) { return Napi::String::New(info.Env(), "cpu"); }

Napi::Value TensorObject::share(const Napi::CallbackInfo& info) {
  throw_invalid(info.Env(), "the tensor lies on the cpu, and only memory of cuda has handles: await its to('cuda') first");
}

// to(device: "cpu" | "cuda"): a copy
Napi::Value TensorObject::to(const Napi::CallbackInfo& info) {
  const std::shared_ptr<Tensor> held = tensor();
  if (require_string(info, 0, "device") == "cpu") return converted(info.Env(), held->dtype());
  return {info.Env(), translate(info.Env(), [&] { return to_device(info.Env(), held); })};
}

void TensorObject::dispose(const Napi::CallbackInfo&) { release(); }

}  // namespace latentwire::addon
