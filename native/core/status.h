// The outcome of an operation, and the one list of error codes. `lib/errors.ts` mirrors the list and a test holds the two together.
#pragma once

#include <string>
#include <string_view>
#include <utility>

namespace latentwire {

// X(enumerator, public code)
#define LATENTWIRE_ERROR_CODES(X)                        \
  X(cancelled, "ERR_LATENT_CANCELLED")                   \
  X(invalid_argument, "ERR_LATENT_INVALID_ARGUMENT")     \
  X(disposed, "ERR_LATENT_DISPOSED")                     \
  X(out_of_memory, "ERR_LATENT_OUT_OF_MEMORY")           \
  X(dtype, "ERR_LATENT_DTYPE")                           \
  X(non_finite, "ERR_LATENT_NON_FINITE")                 \
  X(engine_not_found, "ERR_LATENT_ENGINE_NOT_FOUND")     \
  X(engine_version, "ERR_LATENT_ENGINE_VERSION")         \
  X(engine_symbol, "ERR_LATENT_ENGINE_SYMBOL")           \
  X(engine_abi, "ERR_LATENT_ENGINE_ABI")                 \
  X(engine_collision, "ERR_LATENT_ENGINE_COLLISION")     \
  X(engine_self_test, "ERR_LATENT_ENGINE_SELF_TEST")     \
  X(engine_failed, "ERR_LATENT_ENGINE_FAILED")           \
  X(model_not_found, "ERR_LATENT_MODEL_NOT_FOUND")       \
  X(model_format, "ERR_LATENT_MODEL_FORMAT")             \
  X(model_unsupported, "ERR_LATENT_MODEL_UNSUPPORTED")   \
  X(context_overflow, "ERR_LATENT_CONTEXT_OVERFLOW")     \
  X(sequence_limit, "ERR_LATENT_SEQUENCE_LIMIT")         \
  X(sequence_busy, "ERR_LATENT_SEQUENCE_BUSY")           \
  X(sequence_empty, "ERR_LATENT_SEQUENCE_EMPTY")         \
  X(position_scheme, "ERR_LATENT_POSITION_SCHEME")       \
  X(pool_poisoned, "ERR_LATENT_POOL_POISONED")           \
  X(space_mismatch, "ERR_LATENT_SPACE_MISMATCH")         \
  X(kv_format, "ERR_LATENT_KV_FORMAT")                   \
  X(kv_truncated, "ERR_LATENT_KV_TRUNCATED")             \
  X(kv_checksum, "ERR_LATENT_KV_CHECKSUM")               \
  X(kv_model_mismatch, "ERR_LATENT_KV_MODEL_MISMATCH")   \
  X(kv_layout, "ERR_LATENT_KV_LAYOUT")                   \
  X(kv_version, "ERR_LATENT_KV_VERSION")                 \
  X(kv_limit, "ERR_LATENT_KV_LIMIT")                     \
  X(kv_position, "ERR_LATENT_KV_POSITION")               \
  X(kv_unreachable, "ERR_LATENT_KV_UNREACHABLE")         \
  X(kv_codec, "ERR_LATENT_KV_CODEC")                     \
  X(device_unavailable, "ERR_LATENT_DEVICE_UNAVAILABLE") \
  X(device_failed, "ERR_LATENT_DEVICE_FAILED")           \
  X(device_lost, "ERR_LATENT_DEVICE_LOST")

enum class Code {
  ok,
#define LATENTWIRE_ENUMERATOR(name, text) name,
  LATENTWIRE_ERROR_CODES(LATENTWIRE_ENUMERATOR)
#undef LATENTWIRE_ENUMERATOR
};

// The public spelling of a code, `ERR_LATENT_…`; "" for `ok`.
constexpr std::string_view code_text(Code code) noexcept {
  switch (code) {
#define LATENTWIRE_CASE(name, text) \
  case Code::name:                  \
    return text;
    LATENTWIRE_ERROR_CODES(LATENTWIRE_CASE)
#undef LATENTWIRE_CASE
    case Code::ok:
      break;
  }
  return "";
}

struct [[nodiscard]] Status {
  Code code = Code::ok;
  std::string message;

  bool ok() const noexcept { return code == Code::ok; }
  static Status fail(Code code, std::string message) { return {code, std::move(message)}; }
};

}  // namespace latentwire
