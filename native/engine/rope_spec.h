// Which rotary frequencies llama.cpp v0.5.0 gives the keys of each layer of a model file, so that keys can be moved without it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/gguf_file.h"
#include "engine/llama_abi.h"
#include "kv/rope.h"

namespace latentwire {

struct RopeSpec {
  std::vector<std::shared_ptr<const Rope>> layers;  // [layers]; nullptr where keys are not rotated. Empty if keys cannot be moved.
  std::string obstacle;                             // why they cannot; "" if they can
};

// `type` is what llama_model_rope_type says of the model, and `context` the cells a sequence may have (n_ctx_seq), by which LongRoPE
// chooses its factors.
RopeSpec read_rope_spec(const GgufFile& file, abi::llama_rope_type type, int64_t context);

}  // namespace latentwire
