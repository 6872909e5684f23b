// The JavaScript class Tensor: a handle to native memory. JavaScript reads and writes it by copies only, because a typed array over native
// memory could outlive it, and an ArrayBuffer under a running job could be transferred or resized.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "addon/tagged_wrap.h"
#include "core/tensor.h"

namespace latentwire::addon {

// An array of extents; throws ERR_LATENT_INVALID_ARGUMENT.
std::vector<int64_t> shape_argument(const Napi::CallbackInfo& info, size_t index);

class TensorObject : public TaggedWrap<TensorObject> {
 public:
  static constexpr const char* class_name = "Tensor";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e74'656e'736f};

  static Napi::Function define(Napi::Env env);
  // A new Tensor object that shares `tensor`.
  static Napi::Object wrap(Napi::Env env, std::shared_ptr<Tensor> tensor);

  // The tensor behind `value`; throws ERR_LATENT_INVALID_ARGUMENT naming `name` if there is none, ERR_LATENT_DISPOSED if it is disposed.
  static std::shared_ptr<Tensor> tensor_of(const Napi::Value& value, const char* name);

  // new Tensor(dtype, shape, data?): `data` is the dtype's typed array or a DataView, of exactly the tensor's size; it is copied. Without
  // it the tensor is zero.
  explicit TensorObject(const Napi::CallbackInfo& info);
  ~TensorObject() override;

  // Throws ERR_LATENT_DISPOSED.
  std::shared_ptr<Tensor> tensor() const;

 private:
  Napi::Value dtype(const Napi::CallbackInfo& info);
  Napi::Value shape(const Napi::CallbackInfo& info);
  Napi::Value byte_length(const Napi::CallbackInfo& info);
  Napi::Value device(const Napi::CallbackInfo& info);
  Napi::Value disposed(const Napi::CallbackInfo& info);
  Napi::Value alias(const Napi::CallbackInfo& info);
  Napi::Value copy_to(const Napi::CallbackInfo& info);
  Napi::Value to_typed(const Napi::CallbackInfo& info);
  Napi::Value to_float32(const Napi::CallbackInfo& info);
  Napi::Value convert(const Napi::CallbackInfo& info);
  Napi::Value share(const Napi::CallbackInfo& info);
  Napi::Value to(const Napi::CallbackInfo& info);
  void dispose(const Napi::CallbackInfo& info);
  Napi::Value converted(Napi::Env env, Dtype to);
  void adopt(std::shared_ptr<Tensor> tensor);
  void release();

  std::shared_ptr<Tensor> tensor_;
};

}  // namespace latentwire::addon
