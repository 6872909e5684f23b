// Little-endian numbers and strings in bytes: a cursor that cannot leave them, and a buffer to write to.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace latentwire {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian, and so are all processors that are built for");

class ByteReader {
 public:
  ByteReader(const uint8_t* bytes, size_t size) : bytes_(bytes), size_(size) {}

  size_t at() const noexcept { return at_; }
  size_t left() const noexcept { return size_ - at_; }
  // Whether so many items of so many bytes are left.
  bool fits(uint64_t count, uint64_t each) const noexcept { return each == 0 || count <= left() / each; }
  // nullptr, and nothing is taken, if fewer are left.
  const uint8_t* take(uint64_t bytes) noexcept {
    if (bytes > left()) return nullptr;
    const uint8_t* start = bytes_ + at_;
    at_ += static_cast<size_t>(bytes);
    return start;
  }
  template <typename T>
  bool read(T* out) noexcept {
    const uint8_t* start = take(sizeof(T));
    if (start != nullptr) std::memcpy(out, start, sizeof(T));
    return start != nullptr;
  }
  template <typename T>
  bool read_all(uint64_t count, std::vector<T>* out) {
    if (!fits(count, sizeof(T))) return false;
    out->resize(static_cast<size_t>(count));
    const uint8_t* start = take(count * sizeof(T));
    if (count > 0) std::memcpy(out->data(), start, static_cast<size_t>(count) * sizeof(T));
    return true;
  }
  // u32 length, bytes
  bool read_string(std::string* out) {
    uint32_t length = 0;
    if (!read(&length)) return false;
    const uint8_t* start = take(length);
    if (start != nullptr) out->assign(reinterpret_cast<const char*>(start), length);
    return start != nullptr;
  }

 private:
  const uint8_t* bytes_;
  size_t size_;
  size_t at_ = 0;
};

class ByteWriter {
 public:
  template <typename T>
  void put(T value) {
    append(&value, sizeof value);
  }
  template <typename T>
  void put_all(const std::vector<T>& values) {
    append(values.data(), values.size() * sizeof(T));
  }
  void put_string(std::string_view text) {
    put(static_cast<uint32_t>(text.size()));
    append(text.data(), text.size());
  }
  std::vector<uint8_t> take() { return std::move(bytes_); }

 private:
  void append(const void* from, size_t size);

  std::vector<uint8_t> bytes_;
};

}  // namespace latentwire
