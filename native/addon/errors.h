// From a Status, or whatever was thrown, to a JavaScript Error with its public code. lib/errors.ts turns that into a LatentError.
#pragma once

#include <string>

#include "addon/napi_setup.h"
#include "core/status.h"
#include "engine/failure.h"

namespace latentwire::addon {

// An Error with the message of `status` and its `code`; nullptr if the environment can make none any more.
napi_value error_value(napi_env env, const Status& status) noexcept;

// Throws that Error as a JavaScript exception.
[[noreturn]] void throw_status(napi_env env, const Status& status);
[[noreturn]] void throw_invalid(napi_env env, const std::string& message);

// The Status of the exception in flight; only inside a catch block. A Napi::Error is not for it.
Status current_failure() noexcept;

// Runs synchronous code and turns what it throws, Failure or std::bad_alloc, into a JavaScript exception with its code.
template <typename Call>
auto translate(Napi::Env env, Call&& call) {
  try {
    return call();
  } catch (const Napi::Error&) {
    throw;
  } catch (...) {
    throw_status(env, current_failure());
  }
}

}  // namespace latentwire::addon
