// GGUF files built byte by byte, sound or not, and a small sound one to begin with.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace latentwire::testing::gguf {

using Bytes = std::vector<uint8_t>;
enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

template <typename T>
Bytes raw(T value) {
  Bytes bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}
inline void append(Bytes* bytes, const Bytes& more) { bytes->insert(bytes->end(), more.begin(), more.end()); }
inline Bytes text(const std::string& value) {
  Bytes bytes = raw<uint64_t>(value.size());
  bytes.insert(bytes.end(), value.begin(), value.end());
  return bytes;
}
template <typename T>
Bytes value(Type type, T number) {
  Bytes bytes = raw<uint32_t>(type);
  append(&bytes, raw(number));
  return bytes;
}
inline Bytes u32(uint32_t number) { return value(kU32, number); }
inline Bytes f32(float number) { return value(kF32, number); }
inline Bytes boolean(bool yes) { return value(kBool, static_cast<uint8_t>(yes)); }
inline Bytes string(const std::string& content) {
  Bytes bytes = raw<uint32_t>(kString);
  append(&bytes, text(content));
  return bytes;
}
inline Bytes array_head(Type type, uint64_t count) {
  Bytes bytes = raw<uint32_t>(kArray);
  append(&bytes, raw<uint32_t>(type));
  append(&bytes, raw(count));
  return bytes;
}
template <typename T>
Bytes array(Type type, const std::vector<T>& numbers) {
  Bytes bytes = array_head(type, numbers.size());
  for (const T number : numbers) append(&bytes, raw(number));
  return bytes;
}
inline Bytes strings(const std::vector<std::string>& items) {
  Bytes bytes = array_head(kString, items.size());
  for (const std::string& item : items) append(&bytes, text(item));
  return bytes;
}

struct Tensor {
  std::string name;
  std::vector<uint64_t> dims;
  uint32_t type = 0;
  uint64_t bytes = 0;
  int64_t offset = -1;  // where the previous one ends
  Bytes content = {};   // else zeros
};

// A file whose parts a test can change before it is encoded.
struct File {
  uint32_t version = 3;
  std::vector<std::pair<std::string, Bytes>> metadata;
  std::vector<Tensor> tensors;
  uint64_t alignment = 32;

  void set(const std::string& key, Bytes encoded) {
    for (auto& [name, content] : metadata) {
      if (name == key) {
        content = std::move(encoded);
        return;
      }
    }
    metadata.emplace_back(key, std::move(encoded));
  }
  void drop(const std::string& key) {
    std::erase_if(metadata, [&](const auto& entry) { return entry.first == key; });
  }
  Bytes encode() const {
    Bytes bytes = {'G', 'G', 'U', 'F'};
    append(&bytes, raw(version));
    append(&bytes, raw<uint64_t>(tensors.size()));
    append(&bytes, raw<uint64_t>(metadata.size()));
    for (const auto& [key, content] : metadata) {
      append(&bytes, text(key));
      append(&bytes, content);
    }
    uint64_t offset = 0;
    const auto padded = [&](uint64_t size) { return (size + alignment - 1) / alignment * alignment; };
    for (const Tensor& tensor : tensors) {
      append(&bytes, text(tensor.name));
      append(&bytes, raw(static_cast<uint32_t>(tensor.dims.size())));
      for (const uint64_t extent : tensor.dims) append(&bytes, raw(extent));
      append(&bytes, raw(tensor.type));
      append(&bytes, raw(tensor.offset < 0 ? offset : static_cast<uint64_t>(tensor.offset)));
      offset += padded(tensor.bytes);
    }
    const size_t start = padded(bytes.size());
    bytes.resize(start + offset);
    offset = 0;
    for (const Tensor& tensor : tensors) {
      std::copy(tensor.content.begin(), tensor.content.end(), bytes.begin() + static_cast<ptrdiff_t>(start + offset));
      offset += padded(tensor.bytes);
    }
    return bytes;
  }
};

inline constexpr uint64_t kWidth = 8, kVocab = 6;

inline File sound_file() {
  File file;
  file.set("general.architecture", string("llama"));
  file.set("llama.block_count", u32(2));
  file.set("llama.context_length", u32(64));
  file.set("llama.embedding_length", u32(kWidth));
  file.set("llama.attention.head_count", u32(2));
  file.set("llama.attention.head_count_kv", u32(1));
  file.set("llama.attention.layer_norm_rms_epsilon", f32(1e-5f));
  file.set("tokenizer.ggml.model", string("gpt2"));
  file.set("tokenizer.ggml.tokens", strings({"a", "b", "ab", "<end>", "c", "d"}));
  file.set("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1, 1}));
  file.set("tokenizer.ggml.merges", strings({"a b"}));
  file.set("tokenizer.ggml.eos_token_id", u32(3));
  file.tensors.push_back({"token_embd.weight", {kWidth, kVocab}, 0, kWidth * kVocab * 4});
  file.tensors.push_back({"output_norm.weight", {kWidth}, 0, kWidth * 4});
  file.tensors.push_back({"output.weight", {kWidth, kVocab}, 1, kWidth * kVocab * 2});
  return file;
}

}  // namespace latentwire::testing::gguf
