// Fuzz target of the GGUF reader: any bytes end in a status, and what is accepted can be read in full.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "engine/gguf_file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  latentwire::GgufFile file;
  if (!latentwire::GgufFile::parse(bytes, size, &file).ok()) return 0;
  uint64_t sum = 0;
  for (const latentwire::GgufTensor& tensor : file.tensors()) {
    for (uint64_t i = 0; i < tensor.bytes; ++i) sum += file.data(tensor)[i];
    if (file.tensor(tensor.name) != &tensor) std::abort();
  }
  const auto tokens = file.strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->size() != file.array_length("tokenizer.ggml.tokens")) std::abort();
  for (const std::string_view token : *tokens) sum += token.size();
  // keeps the reads alive under optimisation
  [[maybe_unused]] volatile uint64_t sink = sum;
  return 0;
}
