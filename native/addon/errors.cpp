#include "addon/errors.h"

namespace latentwire::addon {

Napi::Value error_value(Napi::Env env, const Status& status) {
  const Napi::Error error = Napi::Error::New(env, status.message);
  error.Value().Set("code", std::string(code_text(status.code)));
  return error.Value();
}

}  // namespace latentwire::addon
