#include "addon/typed_arrays.h"

namespace latentwire::addon {

void refuse_detached(const Napi::Value& array) {
  const Napi::Env env = array.Env();
  napi_value buffer = nullptr;
  bool detached = false;
  if (napi_get_typedarray_info(env, array, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok) return;
  if (napi_is_detached_arraybuffer(env, buffer, &detached) == napi_ok && detached)
    throw_invalid(env, "the buffer of a typed array was transferred and holds nothing any more");
}

Napi::Value new_array(Napi::Env env, const ArrayKind& kind, int64_t size) {
  const Napi::Value constructor = env.Global().Get(kind.class_name);
  if (!constructor.IsFunction()) throw_invalid(env, std::string("globalThis has no ") + kind.class_name);
  try {
    return constructor.As<Napi::Function>().New({Napi::Number::New(env, static_cast<double>(size))});
  } catch (const Napi::Error& error) {
    throw_status(env, Status::fail(Code::out_of_memory,
                                   "no memory for " + std::to_string(size) + " elements of a " + kind.class_name + ": " + error.Message()));
  }
}

}  // namespace latentwire::addon
