// The JavaScript face of Tensor: made from a typed array (copied in), read back into one (copied out). Floats of 16 bits travel as Uint16Array.
#pragma once

#include "addon/addon.h"
#include "core/tensor.h"

namespace latentwire::addon {

class TensorObject : public Napi::ObjectWrap<TensorObject> {
 public:
  static Napi::Function define(Napi::Env env);
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Tensor> tensor);
  // The native tensor behind `value`; throws a JavaScript error naming `name` if there is none or it is disposed.
  static std::shared_ptr<Tensor> tensor_of(const Napi::Value& value, const char* name);

  explicit TensorObject(const Napi::CallbackInfo& info);

 private:
  const std::shared_ptr<Tensor>& tensor(Napi::Env env) const;
  Napi::Value dtype(const Napi::CallbackInfo& info);
  Napi::Value shape(const Napi::CallbackInfo& info);
  Napi::Value byte_length(const Napi::CallbackInfo& info);
  Napi::Value disposed(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Napi::Value copy_to(const Napi::CallbackInfo& info);
  Napi::Value to_typed(const Napi::CallbackInfo& info);
  Napi::Value to_float32(const Napi::CallbackInfo& info);
  Napi::Value convert(const Napi::CallbackInfo& info);

  std::shared_ptr<Tensor> tensor_;
};

}  // namespace latentwire::addon
