// The exception of the two rooms that may throw (engine and addon): a Status on its way up.
#pragma once

#include <exception>
#include <string>

#include "core/status.h"

namespace latentwire {

struct Failure final : std::exception {
  explicit Failure(Status reason) : status(std::move(reason)) {}
  const char* what() const noexcept override { return status.message.c_str(); }
  Status status;
};

[[noreturn]] inline void fail(Code code, std::string message) { throw Failure(Status::fail(code, std::move(message))); }

}  // namespace latentwire
