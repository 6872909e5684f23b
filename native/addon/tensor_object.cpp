#include "addon/tensor_object.h"

#include <cmath>
#include <cstring>

#include "addon/args.h"
#include "addon/errors.h"
#include "core/thread_pool.h"

namespace latentwire::addon {
namespace {

[[noreturn]] void refuse(Napi::Env env, Code code, std::string why) { throw Napi::Error(env, error_value(env, Status::fail(code, std::move(why)))); }

napi_typedarray_type array_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return napi_float32_array;
    case Dtype::f16:
    case Dtype::bf16:
      return napi_uint16_array;
    case Dtype::i8:
      return napi_int8_array;
    case Dtype::i32:
      return napi_int32_array;
  }
  return napi_float32_array;
}

Dtype require_dtype(const Napi::CallbackInfo& info, size_t index) {
  const std::string name = require_string(info, index, "dtype");
  const auto dtype = parse_dtype(name);
  if (!dtype) refuse(info.Env(), Code::dtype, "dtype must be f32, f16, bf16, i8 or i32, not " + name);
  return *dtype;
}

// The bytes of a typed array that matches the tensor's dtype and element count.
uint8_t* require_matching(const Napi::Value& value, const Tensor& tensor) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != array_type(tensor.dtype())) {
    refuse(value.Env(), Code::dtype, "the typed array does not match dtype " + std::string(dtype_name(tensor.dtype())));
  }
  const auto array = value.As<Napi::TypedArray>();
  if (static_cast<int64_t>(array.ElementLength()) != tensor.elements()) {
    refuse(value.Env(), Code::invalid_argument, "the shape has " + std::to_string(tensor.elements()) + " elements, the array " + std::to_string(array.ElementLength()));
  }
  return static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset();
}

napi_value new_array(Napi::Env env, napi_typedarray_type type, size_t elements, size_t bytes) {
  const Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(env, bytes);
  napi_value array = nullptr;
  if (napi_create_typedarray(env, type, elements, buffer, 0, &array) != napi_ok) throw Napi::Error::New(env);
  return array;
}

}  // namespace

Napi::Function TensorObject::define(Napi::Env env) {
  return DefineClass(env, "Tensor",
                     {
                         InstanceAccessor<&TensorObject::dtype>("dtype"),
                         InstanceAccessor<&TensorObject::shape>("shape"),
                         InstanceAccessor<&TensorObject::byte_length>("byteLength"),
                         InstanceAccessor<&TensorObject::disposed>("disposed"),
                         InstanceMethod<&TensorObject::dispose>("dispose"),
                         InstanceMethod<&TensorObject::copy_to>("copyTo"),
                         InstanceMethod<&TensorObject::to_typed>("toTyped"),
                         InstanceMethod<&TensorObject::to_float32>("toFloat32"),
                         InstanceMethod<&TensorObject::convert>("convert"),
                     });
}

Napi::Object TensorObject::wrap(Napi::Env env, std::shared_ptr<Tensor> tensor) {
  return env.GetInstanceData<AddonData>()->tensor_class.New({Napi::External<std::shared_ptr<Tensor>>::New(env, &tensor)});
}

std::shared_ptr<Tensor> TensorObject::tensor_of(const Napi::Value& value, const char* name) {
  const Napi::Env env = value.Env();
  if (!value.IsObject() || !value.As<Napi::Object>().InstanceOf(env.GetInstanceData<AddonData>()->tensor_class.Value())) {
    refuse(env, Code::invalid_argument, std::string(name) + " must be a Tensor");
  }
  return Unwrap(value.As<Napi::Object>())->tensor(env);
}

TensorObject::TensorObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<TensorObject>(info) {
  if (info.Length() == 1 && info[0].IsExternal()) {
    tensor_ = *info[0].As<Napi::External<std::shared_ptr<Tensor>>>().Data();
    return;
  }
  const Dtype dtype = require_dtype(info, 0);
  if (!info[1].IsArray()) refuse(info.Env(), Code::invalid_argument, "shape must be an array of integers");
  const auto extents = info[1].As<Napi::Array>();
  std::vector<int64_t> shape;
  for (uint32_t i = 0; i < extents.Length(); i++) {
    const Napi::Value extent = extents.Get(i);
    const double number = extent.IsNumber() ? extent.As<Napi::Number>().DoubleValue() : -1;
    if (number < 0 || number > 9007199254740991.0 || number != std::floor(number)) {
      refuse(info.Env(), Code::invalid_argument, "shape[" + std::to_string(i) + "] must be an integer of at least 0");
    }
    shape.push_back(static_cast<int64_t>(number));
  }
  if (const Status status = Tensor::create(dtype, std::move(shape), &tensor_); !status.ok()) refuse(info.Env(), status.code, status.message);
  if (info.Length() > 2 && !info[2].IsUndefined()) {
    const uint8_t* source = require_matching(info[2], *tensor_);
    if (tensor_->bytes() > 0) std::memcpy(tensor_->data(), source, tensor_->bytes());
  }
}

const std::shared_ptr<Tensor>& TensorObject::tensor(Napi::Env env) const {
  if (!tensor_) refuse(env, Code::disposed, "the tensor is disposed");
  return tensor_;
}

Napi::Value TensorObject::dtype(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::string(dtype_name(tensor(info.Env())->dtype())));
}

Napi::Value TensorObject::shape(const Napi::CallbackInfo& info) {
  const auto& extents = tensor(info.Env())->shape();
  Napi::Array array = Napi::Array::New(info.Env(), extents.size());
  for (size_t i = 0; i < extents.size(); i++) array.Set(static_cast<uint32_t>(i), static_cast<double>(extents[i]));
  return array;
}

Napi::Value TensorObject::byte_length(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(tensor(info.Env())->bytes()));
}
Napi::Value TensorObject::disposed(const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), !tensor_); }

Napi::Value TensorObject::dispose(const Napi::CallbackInfo& info) {
  tensor_.reset();
  return info.Env().Undefined();
}

Napi::Value TensorObject::copy_to(const Napi::CallbackInfo& info) {
  const Tensor& source = *tensor(info.Env());
  uint8_t* target = require_matching(info[0], source);
  if (source.bytes() > 0) std::memcpy(target, source.data(), source.bytes());
  return info.Env().Undefined();
}

Napi::Value TensorObject::to_typed(const Napi::CallbackInfo& info) {
  const Tensor& source = *tensor(info.Env());
  const Napi::Value array = {info.Env(), new_array(info.Env(), array_type(source.dtype()), static_cast<size_t>(source.elements()), source.bytes())};
  if (source.bytes() > 0) std::memcpy(require_matching(array, source), source.data(), source.bytes());
  return array;
}

Napi::Value TensorObject::to_float32(const Napi::CallbackInfo& info) {
  std::shared_ptr<Tensor> floats;
  if (const Status status = tensor(info.Env())->convert(Dtype::f32, &floats); !status.ok()) refuse(info.Env(), status.code, status.message);
  const Napi::Value array = {info.Env(), new_array(info.Env(), napi_float32_array, static_cast<size_t>(floats->elements()), floats->bytes())};
  if (floats->bytes() > 0) std::memcpy(require_matching(array, *floats), floats->data(), floats->bytes());
  return array;
}

Napi::Value TensorObject::convert(const Napi::CallbackInfo& info) {
  const Dtype target = require_dtype(info, 0);
  const auto job = std::make_shared<Job>();
  const std::shared_ptr<Tensor> source = tensor(info.Env());
  napi_value started = info.Env().GetInstanceData<AddonData>()->jobs->start(info.Env(), job, nullptr);
  run_on_worker([job, source, target] {
    std::shared_ptr<Tensor> converted;
    Status status = job->cancelled() ? Status::fail(Code::cancelled, "the operation was aborted") : source->convert(target, &converted);
    job->finish(std::move(status), [converted](napi_env env) -> napi_value { return wrap(env, converted); });
  });
  return {info.Env(), started};
}

}  // namespace latentwire::addon
