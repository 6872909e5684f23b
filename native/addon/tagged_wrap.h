// What the addon's JavaScript classes share: their objects carry a type tag, and nothing else is taken for one of them. A prototype can be
// set on any object and a getter can be called on any value; a tag cannot be had that way.
#pragma once

#include <string>

#include "addon/errors.h"
#include "addon/napi_setup.h"

namespace latentwire::addon {

// `T` has the constants `class_name` and `tag`, its own.
template <typename T>
class TaggedWrap : public Napi::ObjectWrap<T> {
 public:
  // The native side of `value`; nullptr if it is no object of this class.
  static T* from(const Napi::Value& value) {
    if (!value.IsObject()) return nullptr;
    const auto object = value.As<Napi::Object>();
    return object.CheckTypeTag(&T::tag) ? Napi::ObjectWrap<T>::Unwrap(object) : nullptr;
  }

  // Hides ObjectWrap's: node-addon-api calls T::Unwrap on `this` before every method and getter.
  static T* Unwrap(const Napi::Object& self) {
    T* object = from(self);
    if (object == nullptr) throw_invalid(self.Env(), std::string("this is not a ") + T::class_name);
    return object;
  }

 protected:
  explicit TaggedWrap(const Napi::CallbackInfo& info) : Napi::ObjectWrap<T>(info) { info.This().As<Napi::Object>().TypeTag(&T::tag); }
};

}  // namespace latentwire::addon
