#include "addon/errors.h"

#include <new>

#include "engine/failure.h"

namespace latentwire::addon {

napi_value error_value(napi_env env, const Status& status) noexcept {
  const std::string_view text = code_text(status.code);
  napi_value code = nullptr;
  napi_value message = nullptr;
  napi_value error = nullptr;
  if (napi_create_string_utf8(env, text.data(), text.size(), &code) != napi_ok) return nullptr;
  if (napi_create_string_utf8(env, status.message.data(), status.message.size(), &message) != napi_ok) return nullptr;
  if (napi_create_error(env, code, message, &error) != napi_ok) return nullptr;
  return error;
}

void throw_status(napi_env env, const Status& status) { throw Napi::Error(env, error_value(env, status)); }

void throw_invalid(napi_env env, const std::string& message) { throw_status(env, Status::fail(Code::invalid_argument, message)); }

Status current_failure() noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    return failure.status;
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "out of memory");
  } catch (const std::exception& error) {
    return Status::fail(Code::engine_failed, error.what());
  } catch (...) {
    return Status::fail(Code::engine_failed, "an unknown exception");
  }
}

}  // namespace latentwire::addon
