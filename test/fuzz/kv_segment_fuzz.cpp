// Fuzz target of shared segments. The first fields are made right, for no fuzzer finds a nonce: what lies behind them is what can be wrong.
// Of what is accepted, the state must be one that llama.cpp may read at the positions that were said, and all rows must lie within.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "../native/kv_support.h"
#include "kv/llama_state.h"
#include "kv/segment.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  using namespace latentwire;
  constexpr size_t fixed = 32;  // magic, version, nonce, bytes of it all
  const SegmentNonce nonce{};
  const std::shared_ptr<uint8_t> memory(new uint8_t[fixed + size](), std::default_delete<uint8_t[]>());
  constexpr uint32_t version = 1;
  const uint64_t whole = fixed + size;
  std::memcpy(memory.get(), "LWKS", 4);
  std::memcpy(memory.get() + 4, &version, sizeof version);
  std::memcpy(memory.get() + 24, &whole, sizeof whole);
  if (size > 0) std::memcpy(memory.get() + fixed, bytes, size);
  const CacheLayout layout = test::layout_of(2, RowFormat::f16, 32);
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  if (!read_segment(memory, whole, nonce, test::expectation_of(layout, 512), &content, &manifest).ok()) return 0;
  if (content->size() > 512 || content->positions.size() != content->tokens.size()) std::abort();
  for (int64_t part = 0; part < 4; part++) {
    if (static_cast<int64_t>(test::rows_of(*content, part).size()) !=
        content->size() * content->layout.parts[static_cast<size_t>(part)].row_bytes())
      std::abort();
  }
  if (content->state.bytes.get() + content->state.size != memory.get() + whole) std::abort();
  return 0;
}
