// The one exception of the engine and addon rooms: a Status that unwinds. The rooms below return Status and throw nothing.
#pragma once

#include <exception>
#include <string>
#include <utility>

#include "core/status.h"

namespace latentwire {

struct Failure : std::exception {
  Status status;

  explicit Failure(Status reason) noexcept : status(std::move(reason)) {}
  const char* what() const noexcept override { return status.message.c_str(); }
};

[[noreturn]] inline void fail(Code code, std::string message) { throw Failure(Status::fail(code, std::move(message))); }

// Throws Failure unless `status` is ok.
inline void check(const Status& status) {
  if (!status.ok()) throw Failure(status);
}

}  // namespace latentwire
