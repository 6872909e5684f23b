// A strict reader of GGUF model files. It runs before llama.cpp sees a path, because llama.cpp answers much of what a
// damaged file can hold with an assertion (which would end the Node process): duplicate tokens, block_count 0, an odd
// rotary width, a norm weight in f16, ... The file stays mapped read-only, so tensors can be read in place for as long
// as the object lives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/status.h"

namespace latentwire {

// Size of one quantisation block of a ggml type; `elements == 0` means the type is unknown or was removed from the
// format.
struct GgmlTypeLayout {
  uint32_t elements = 0;
  uint32_t bytes = 0;
};
GgmlTypeLayout ggml_type_layout(uint32_t ggml_type) noexcept;

struct GgufTensor {
  std::string name;
  uint32_t ggml_type = 0;
  std::vector<int64_t> dims;  // ggml's `ne` order: dims[0] is the length of a row
  uint64_t offset = 0;        // from the start of the file, in bytes
  uint64_t bytes = 0;
};

class GgufFile {
 public:
  GgufFile();
  ~GgufFile();
  GgufFile(const GgufFile&) = delete;
  GgufFile& operator=(const GgufFile&) = delete;

  // Maps and checks a whole model file. `model_not_found`: no readable regular file at `path` (UTF-8). `model_format`:
  // damaged, or inconsistent in a way that llama.cpp would not survive; the message names the offset or key.
  // `model_unsupported`: one part of a split model. `out_of_memory`. The file must not be truncated by others while it
  // is mapped.
  static Status open(const std::string& path, std::shared_ptr<GgufFile>* out);

  // The same checks over bytes in memory, which must outlive `out`.
  static Status parse(const uint8_t* bytes, size_t size, GgufFile* out);

  // Metadata by key; nullopt when the key is absent or holds another kind of value. `integer` refuses negative values,
  // `number` takes integers too.
  std::optional<std::string> string(std::string_view key) const;
  std::optional<uint64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;
  std::optional<bool> boolean(std::string_view key) const;
  std::optional<uint64_t> array_length(std::string_view key) const;
  // Whole arrays; string views point into the file. An integer array with a negative element gives nullopt.
  std::optional<std::vector<uint64_t>> integers(std::string_view key) const;
  std::optional<std::vector<std::string_view>> strings(std::string_view key) const;
  bool has(std::string_view key) const { return entries_.contains(key); }

  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }
  const GgufTensor* tensor(std::string_view name) const;
  const uint8_t* data(const GgufTensor& tensor) const noexcept { return bytes_ + tensor.offset; }

  const std::string& architecture() const noexcept { return architecture_; }
  // A hyper-parameter of the model's architecture: arch_key("block_count") is e.g. "llama.block_count".
  std::string arch_key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  uint32_t version() const noexcept { return version_; }
  const uint8_t* bytes() const noexcept { return bytes_; }
  size_t size() const noexcept { return size_; }
  // Bytes before the first tensor: header, metadata, tensor table and padding.
  uint64_t header_bytes() const noexcept { return header_bytes_; }

 private:
  class Mapping;
  struct Entry {
    uint32_t type = 0;  // gguf value type; of the elements when `array`
    bool array = false;
    uint64_t count = 1;
    uint64_t offset = 0;  // of the payload: the value, or the first element
  };

  Status parse_structure();
  Status parse_metadata(uint64_t count, uint64_t* at);
  Status parse_tensor_table(uint64_t count, uint64_t* at);
  Status check_split() const;
  Status check_numbers_are_finite() const;
  Status check_shape() const;
  Status check_attention(uint64_t embedding_length, uint64_t block_count) const;
  Status check_rotary(uint64_t key_length) const;
  Status check_experts(uint64_t block_count) const;
  Status check_weights(uint64_t embedding_length) const;
  Status check_tokenizer() const;
  Status check_special_tokens(std::string_view model, uint64_t vocab) const;

  const Entry* find(std::string_view key) const;
  double element_as_double(const Entry& entry, uint64_t index) const;
  std::optional<uint64_t> element_as_unsigned(const Entry& entry, uint64_t index) const;

  std::unique_ptr<Mapping> mapping_;
  const uint8_t* bytes_ = nullptr;
  size_t size_ = 0;
  uint32_t version_ = 0;
  uint64_t header_bytes_ = 0;
  std::string architecture_;
  std::unordered_map<std::string_view, Entry> entries_;  // keys point into the file
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> tensor_index_;  // keys point into the file
};

}  // namespace latentwire
