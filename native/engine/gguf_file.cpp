// Reads the GGUF container in one pass with every length checked against the file, then checks what llama.cpp v0.5.0
// would assert on. The list of second-stage checks was made from its sources: each one stands for a GGML_ASSERT, a
// GGML_ABORT or a division by zero.
#include "engine/gguf_file.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <unordered_set>
#include <utility>

#ifdef _WIN32
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>

#include <filesystem>
#else
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace latentwire {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF values are read in place, as little-endian");
static_assert(sizeof(size_t) == 8, "model files are mapped whole");

constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1u << 20;
constexpr uint64_t kMaxKeyLength = 65535;
constexpr uint64_t kMaxTensorName = 63;  // GGML_MAX_NAME holds the terminating zero too
constexpr uint64_t kMaxDims = 4;
constexpr uint64_t kMaxLayers = 512;    // LLAMA_MAX_LAYERS
constexpr uint64_t kMaxExperts = 1024;  // LLAMA_MAX_EXPERTS
constexpr uint64_t kMaxEmbedding = 1u << 20;
constexpr uint64_t kMaxHeads = 1u << 16;
constexpr uint64_t kInt32Max = std::numeric_limits<int32_t>::max();
constexpr uint64_t kInt64Max = std::numeric_limits<int64_t>::max();

enum GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64, kTypeCount };

// Bytes of a value; 0 for those of variable length.
constexpr std::array<uint8_t, kTypeCount> kTypeBytes = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

enum GgmlType : uint32_t { kGgmlF32 = 0, kGgmlQ8K = 15, kGgmlI8 = 24, kGgmlI64 = 27, kGgmlF64 = 28 };

// Indexed by ggml_type of v0.5.0; {0, 0} marks numbers that were removed from the format.
constexpr std::array<GgmlTypeLayout, 43> kGgmlTypes = {{
    {1, 4},    {1, 2},    {32, 18},  {32, 20},   {0, 0},     {0, 0},     {32, 22},   {32, 24},    // f32 f16 q4_0 q4_1 - - q5_0 q5_1
    {32, 34},  {32, 36},  {256, 84}, {256, 110}, {256, 144}, {256, 176}, {256, 210}, {256, 292},  // q8_0 q8_1 q2_K … q6_K q8_K
    {256, 66}, {256, 74}, {256, 98}, {256, 50},  {32, 18},   {256, 110}, {256, 82},  {256, 136},  // iq2_xxs iq2_xs iq3_xxs iq1_s iq4_nl …
    {1, 1},    {1, 2},    {1, 4},    {1, 8},     {1, 8},     {256, 56},  {1, 2},     {0, 0},      // i8 i16 i32 i64 f64 iq1_m bf16 -
    {0, 0},    {0, 0},    {256, 54}, {256, 66},  {0, 0},     {0, 0},     {0, 0},     {32, 17},    // - - tq1_0 tq2_0 - - - mxfp4
    {64, 36},  {128, 18}, {64, 18},                                                               // nvfp4 q1_0 q2_0
}};

// Architectures without attention heads.
constexpr std::array<std::string_view, 6> kRecurrent = {"arwkv7", "mamba", "mamba2", "rwkv6", "rwkv6qwen2", "rwkv7"};

// Architectures whose graph asserts that keys, values and the rotary part have one width.
constexpr std::array<std::string_view, 64> kFullRotary = {
    "apertus",    "arcee",       "arctic",     "baichuan",     "chameleon",   "codeshell",  "cogvlm",        "cohere2moe",
    "dbrx",       "deci",        "deepseek",   "dots1",        "dream",       "ernie4_5",   "ernie4_5-moe",  "exaone",
    "exaone-moe", "exaone4",     "falcon",     "granite",      "granite_swa", "granitemoe", "graniteswitch", "grok",
    "grovemoe",   "hunyuan-moe", "hunyuan_vl", "hy_v3",        "internlm2",   "jais2",      "llada",         "llada-moe",
    "llama",      "llama-embed", "llama4",     "maincoder",    "mellum",      "minimax-01", "minimax-m2",    "minimax-m3",
    "mistral3",   "nemotron",    "olmo",       "olmo2",        "olmoe",       "orion",      "paddleocr",     "pangu-embedded",
    "plamo",      "pockettts",   "qwen2",      "qwen2moe",     "qwen2vl",     "qwen3",      "qwen3moe",      "qwen3vl",
    "qwen3vlmoe", "rnd1",        "seed_oss",   "smallthinker", "smollm3",     "starcoder2", "talkie",        "xverse",
};

// Architectures that rotate each position by sections; without a section the remainder by their sum divides by zero.
constexpr std::array<std::string_view, 8> kSectionedRotary = {"hunyuan_vl", "paddleocr", "qwen2vl",    "qwen35",
                                                              "qwen35moe",  "qwen3vl",   "qwen3vlmoe", "qwen4exp"};

template <size_t N>
bool contains(const std::array<std::string_view, N>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

template <typename T>
T load(const uint8_t* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Status damaged(uint64_t offset, const std::string& what) {
  return Status::fail(Code::model_format, "damaged GGUF file: at byte " + std::to_string(offset) + ": " + what);
}

Status unsound(std::string_view key, const std::string& what) {
  return Status::fail(Code::model_format, "unsound GGUF file: " + std::string(key) + ": " + what);
}

// Names are shown in messages and handed to C strings: no control characters, no zero bytes.
bool printable(std::string_view text) {
  return std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

bool ends_with_byte_escape(std::string_view text) {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F') || (c >= 'a' && c <= 'f'); };
  return text.size() == 6 && text.substr(0, 3) == "<0x" && hex(text[3]) && hex(text[4]) && text[5] == '>';
}

}  // namespace

GgmlTypeLayout ggml_type_layout(uint32_t ggml_type) noexcept {
  return ggml_type < kGgmlTypes.size() ? kGgmlTypes[ggml_type] : GgmlTypeLayout{};
}

// A whole file, mapped read-only.
class GgufFile::Mapping {
 public:
  static Status open(const std::string& path, std::unique_ptr<Mapping>* out);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  const uint8_t* data() const noexcept { return static_cast<const uint8_t*>(view_); }
  size_t size() const noexcept { return size_; }

 private:
  Mapping(void* view, size_t size) : view_(view), size_(size) {}

  void* view_;
  size_t size_;
};

#ifdef _WIN32

Status GgufFile::Mapping::open(const std::string& path, std::unique_ptr<Mapping>* out) {
  const auto failed = [&](const char* step) {
    return Status::fail(Code::model_not_found,
                        "cannot " + std::string(step) + " " + path + ": Windows error " + std::to_string(GetLastError()));
  };
  const std::filesystem::path wide(std::u8string(path.begin(), path.end()));
  const HANDLE file = CreateFileW(wide.c_str(), GENERIC_READ, FILE_SHARE_READ, nullptr, OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  if (file == INVALID_HANDLE_VALUE) return failed("open");
  LARGE_INTEGER size;
  if (!GetFileSizeEx(file, &size)) {
    const Status status = failed("measure");
    CloseHandle(file);
    return status;
  }
  if (size.QuadPart == 0) {
    CloseHandle(file);
    return damaged(0, "the file is empty");
  }
  const HANDLE section = CreateFileMappingW(file, nullptr, PAGE_READONLY, 0, 0, nullptr);
  CloseHandle(file);
  if (section == nullptr) return failed("map");
  void* view = MapViewOfFile(section, FILE_MAP_READ, 0, 0, 0);
  CloseHandle(section);
  if (view == nullptr) return failed("map");
  out->reset(new Mapping(view, static_cast<size_t>(size.QuadPart)));
  return {};
}

GgufFile::Mapping::~Mapping() { UnmapViewOfFile(view_); }

#else

Status GgufFile::Mapping::open(const std::string& path, std::unique_ptr<Mapping>* out) {
  const auto failed = [&](const char* step, int error) {
    return Status::fail(Code::model_not_found, "cannot " + std::string(step) + " " + path + ": " + std::strerror(error));
  };
  // O_NONBLOCK: opening a named pipe must not wait for a writer
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) return failed("open", errno);
  struct stat info;
  if (::fstat(file, &info) != 0) {
    const int error = errno;
    ::close(file);
    return failed("measure", error);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(file);
    return Status::fail(Code::model_not_found, path + " is not a regular file");
  }
  if (info.st_size == 0) {
    ::close(file);
    return damaged(0, "the file is empty");
  }
  void* view = ::mmap(nullptr, static_cast<size_t>(info.st_size), PROT_READ, MAP_SHARED, file, 0);
  const int error = errno;
  ::close(file);
  if (view == MAP_FAILED) return failed("map", error);
  out->reset(new Mapping(view, static_cast<size_t>(info.st_size)));
  return {};
}

GgufFile::Mapping::~Mapping() { ::munmap(view_, size_); }

#endif

GgufFile::GgufFile() = default;
GgufFile::~GgufFile() = default;

Status GgufFile::open(const std::string& path, std::shared_ptr<GgufFile>* out) {
  try {
    if (path.empty() || path.find('\0') != std::string::npos) {
      return Status::fail(Code::model_not_found, "the model path is empty or holds a zero byte");
    }
    auto file = std::make_shared<GgufFile>();
    if (Status status = Mapping::open(path, &file->mapping_); !status.ok()) return status;
    if (Status status = parse(file->mapping_->data(), file->mapping_->size(), file.get()); !status.ok()) {
      status.message = path + ": " + status.message;
      return status;
    }
    *out = std::move(file);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for the tensor table of " + path);
  }
}

Status GgufFile::parse(const uint8_t* bytes, size_t size, GgufFile* out) {
  out->bytes_ = bytes;
  out->size_ = size;
  using Check = Status (GgufFile::*)() const;
  if (Status status = out->parse_structure(); !status.ok()) return status;
  for (const Check check :
       {&GgufFile::check_split, &GgufFile::check_numbers_are_finite, &GgufFile::check_shape, &GgufFile::check_tokenizer}) {
    if (Status status = (out->*check)(); !status.ok()) return status;
  }
  return {};
}

// ---- structure ----

Status GgufFile::parse_structure() {
  constexpr uint64_t kFixedHeader = 24;
  if (size_ < kFixedHeader) return damaged(size_, "the header is cut off");
  if (std::memcmp(bytes_, "GGUF", 4) != 0) return damaged(0, "not a GGUF file (wrong magic)");
  version_ = load<uint32_t>(bytes_ + 4);
  if (version_ != 2 && version_ != 3) {
    const bool swapped = (version_ & 0xffff) == 0;
    return damaged(4, swapped ? "a big-endian file" : "GGUF version " + std::to_string(version_) + ", expected 2 or 3");
  }
  const uint64_t tensor_count = load<uint64_t>(bytes_ + 8);
  const uint64_t key_count = load<uint64_t>(bytes_ + 16);
  // the shortest entries: a one-byte key with a one-byte value; a one-byte tensor name with one dimension
  if (key_count > size_ / 14)
    return damaged(16, "more metadata entries announced (" + std::to_string(key_count) + ") than the file can hold");
  if (tensor_count > size_ / 33) return damaged(8, "more tensors announced (" + std::to_string(tensor_count) + ") than the file can hold");

  uint64_t at = kFixedHeader;
  if (Status status = parse_metadata(key_count, &at); !status.ok()) return status;
  const std::optional<std::string> arch = string("general.architecture");
  if (!arch || arch->empty() || arch->size() > 64 || !printable(*arch)) return unsound("general.architecture", "absent or not a name");
  architecture_ = *arch;
  return parse_tensor_table(tensor_count, &at);
}

Status GgufFile::parse_metadata(uint64_t count, uint64_t* at) {
  const auto left = [&] { return size_ - *at; };
  // a u64 length and that many bytes
  const auto skip_string = [&](std::string_view* text) {
    if (left() < 8) return false;
    const uint64_t length = load<uint64_t>(bytes_ + *at);
    if (length > left() - 8) return false;
    *text = {reinterpret_cast<const char*>(bytes_ + *at + 8), static_cast<size_t>(length)};
    *at += 8 + length;
    return true;
  };

  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t start = *at;
    std::string_view key;
    if (!skip_string(&key)) return damaged(start, "metadata key " + std::to_string(i) + " is cut off");
    if (key.empty() || key.size() > kMaxKeyLength || !printable(key))
      return damaged(start, "metadata key " + std::to_string(i) + " is not a name");
    if (left() < 4) return damaged(*at, "the type of a metadata value is cut off");
    Entry entry;
    entry.type = load<uint32_t>(bytes_ + *at);
    *at += 4;
    if (entry.type == kArray) {
      if (left() < 12) return damaged(*at, "an array header is cut off");
      entry.array = true;
      entry.type = load<uint32_t>(bytes_ + *at);
      entry.count = load<uint64_t>(bytes_ + *at + 4);
      *at += 12;
      if (entry.type == kArray) return damaged(*at, "nested arrays are not part of any model (" + std::string(key) + ")");
    }
    if (entry.type >= kTypeCount) return damaged(*at, "unknown value type " + std::to_string(entry.type) + " of " + std::string(key));
    entry.offset = *at;
    if (entry.type == kString) {
      if (entry.count > left() / 8) return damaged(*at, "more strings announced than the file can hold (" + std::string(key) + ")");
      std::string_view text;
      for (uint64_t k = 0; k < entry.count; ++k) {
        if (!skip_string(&text)) return damaged(*at, "string " + std::to_string(k) + " of " + std::string(key) + " is cut off");
      }
    } else {
      if (entry.count > left() / kTypeBytes[entry.type]) return damaged(*at, "the value of " + std::string(key) + " is cut off");
      *at += entry.count * kTypeBytes[entry.type];
    }
    if (!entries_.emplace(key, entry).second) return damaged(start, "metadata key " + std::string(key) + " occurs twice");
  }
  return {};
}

Status GgufFile::parse_tensor_table(uint64_t count, uint64_t* at) {
  uint64_t alignment = kDefaultAlignment;
  if (const Entry* entry = find("general.alignment"); entry != nullptr) {
    if (entry->array || entry->type != kU32) return unsound("general.alignment", "must be a u32");
    alignment = element_as_unsigned(*entry, 0).value_or(0);
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) return unsound("general.alignment", "must be a power of two");
  }
  const auto padded = [&](uint64_t bytes) { return (bytes + alignment - 1) & ~(alignment - 1); };

  uint64_t expected = 0;  // tensors follow each other in the order of the table; llama.cpp refuses anything else
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t start = *at;
    const std::string which = "tensor " + std::to_string(i);
    if (size_ - *at < 8) return damaged(start, which + ": the name is cut off");
    const uint64_t length = load<uint64_t>(bytes_ + *at);
    if (length == 0 || length > kMaxTensorName)
      return damaged(start, which + ": the name has " + std::to_string(length) + " bytes, expected 1 to 63");
    if (size_ - *at - 8 < length + 4) return damaged(start, which + ": the entry is cut off");
    const std::string_view name(reinterpret_cast<const char*>(bytes_ + *at + 8), static_cast<size_t>(length));
    if (!printable(name)) return damaged(start, which + ": the name has control characters");
    *at += 8 + length;

    GgufTensor tensor;
    tensor.name = name;
    const uint32_t dims = load<uint32_t>(bytes_ + *at);
    *at += 4;
    if (dims == 0 || dims > kMaxDims) return damaged(*at - 4, tensor.name + ": " + std::to_string(dims) + " dimensions, expected 1 to 4");
    if (size_ - *at < dims * 8 + 12) return damaged(start, tensor.name + ": the entry is cut off");
    uint64_t elements = 1;
    for (uint32_t d = 0; d < dims; ++d) {
      const uint64_t extent = load<uint64_t>(bytes_ + *at);
      if (extent == 0 || extent > kInt64Max / elements)
        return damaged(*at, tensor.name + ": dimension " + std::to_string(d) + " is zero or too large");
      elements *= extent;
      tensor.dims.push_back(static_cast<int64_t>(extent));
      *at += 8;
    }
    tensor.ggml_type = load<uint32_t>(bytes_ + *at);
    const GgmlTypeLayout layout = ggml_type_layout(tensor.ggml_type);
    if (layout.elements == 0) return damaged(*at, tensor.name + ": unknown tensor type " + std::to_string(tensor.ggml_type));
    if (tensor.dims[0] % layout.elements != 0) {
      return damaged(*at, tensor.name + ": rows of " + std::to_string(tensor.dims[0]) + " are no multiple of the block size " +
                              std::to_string(layout.elements));
    }
    const uint64_t blocks = elements / layout.elements;
    if (blocks > size_ / layout.bytes) return damaged(*at, tensor.name + ": larger than the file");
    tensor.bytes = blocks * layout.bytes;
    tensor.offset = load<uint64_t>(bytes_ + *at + 4);  // still relative to the data section
    *at += 12;
    if (tensor.offset % alignment != 0)
      return damaged(*at - 8, tensor.name + ": the data offset is not aligned to " + std::to_string(alignment));
    if (tensor.offset != expected) {
      return damaged(*at - 8, tensor.name + ": data offset " + std::to_string(tensor.offset) + ", expected " + std::to_string(expected) +
                                  " (tensors overlap or leave a gap)");
    }
    expected += padded(tensor.bytes);
    if (expected > size_ + alignment) return damaged(*at - 8, tensor.name + ": the data lies outside the file");
    if (!tensor_index_.emplace(name, tensors_.size()).second) return damaged(start, "tensor " + tensor.name + " occurs twice");
    tensors_.push_back(std::move(tensor));
  }

  header_bytes_ = padded(*at);
  for (GgufTensor& tensor : tensors_) {
    tensor.offset += header_bytes_;
    if (tensor.offset > size_ || tensor.bytes > size_ - tensor.offset) {
      return damaged(size_, tensor.name + ": the file ends before its data (" + std::to_string(tensor.offset + tensor.bytes) +
                                " bytes needed, " + std::to_string(size_) + " there)");
    }
  }
  return {};
}

// ---- reading ----

const GgufFile::Entry* GgufFile::find(std::string_view key) const {
  const auto found = entries_.find(key);
  return found == entries_.end() ? nullptr : &found->second;
}

double GgufFile::element_as_double(const Entry& entry, uint64_t index) const {
  const uint8_t* at = bytes_ + entry.offset + index * kTypeBytes[entry.type];
  switch (entry.type) {
    case kU8:
      return load<uint8_t>(at);
    case kI8:
      return load<int8_t>(at);
    case kU16:
      return load<uint16_t>(at);
    case kI16:
      return load<int16_t>(at);
    case kU32:
      return load<uint32_t>(at);
    case kI32:
      return load<int32_t>(at);
    case kF32:
      return load<float>(at);
    case kU64:
      return static_cast<double>(load<uint64_t>(at));
    case kI64:
      return static_cast<double>(load<int64_t>(at));
    case kF64:
      return load<double>(at);
    default:
      return std::numeric_limits<double>::quiet_NaN();
  }
}

std::optional<uint64_t> GgufFile::element_as_unsigned(const Entry& entry, uint64_t index) const {
  const uint8_t* at = bytes_ + entry.offset + index * kTypeBytes[entry.type];
  const auto non_negative = [](int64_t value) { return value < 0 ? std::optional<uint64_t>() : static_cast<uint64_t>(value); };
  switch (entry.type) {
    case kU8:
      return load<uint8_t>(at);
    case kU16:
      return load<uint16_t>(at);
    case kU32:
      return load<uint32_t>(at);
    case kU64:
      return load<uint64_t>(at);
    case kI8:
      return non_negative(load<int8_t>(at));
    case kI16:
      return non_negative(load<int16_t>(at));
    case kI32:
      return non_negative(load<int32_t>(at));
    case kI64:
      return non_negative(load<int64_t>(at));
    default:
      return std::nullopt;
  }
}

std::optional<std::string> GgufFile::string(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || entry->array || entry->type != kString) return std::nullopt;
  const uint64_t length = load<uint64_t>(bytes_ + entry->offset);
  return std::string(reinterpret_cast<const char*>(bytes_ + entry->offset + 8), static_cast<size_t>(length));
}

std::optional<uint64_t> GgufFile::integer(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || entry->array) return std::nullopt;
  return element_as_unsigned(*entry, 0);
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || entry->array || entry->type == kString || entry->type == kBool) return std::nullopt;
  return element_as_double(*entry, 0);
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || entry->array || entry->type != kBool) return std::nullopt;
  return bytes_[entry->offset] != 0;
}

std::optional<uint64_t> GgufFile::array_length(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || !entry->array) return std::nullopt;
  return entry->count;
}

std::optional<std::vector<uint64_t>> GgufFile::integers(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || !entry->array) return std::nullopt;
  std::vector<uint64_t> values;
  for (uint64_t i = 0; i < entry->count; ++i) {
    const std::optional<uint64_t> value = element_as_unsigned(*entry, i);
    if (!value) return std::nullopt;
    values.push_back(*value);
  }
  return values;
}

std::optional<std::vector<std::string_view>> GgufFile::strings(std::string_view key) const {
  const Entry* entry = find(key);
  if (entry == nullptr || !entry->array || entry->type != kString) return std::nullopt;
  std::vector<std::string_view> values;
  values.reserve(static_cast<size_t>(entry->count));
  const uint8_t* at = bytes_ + entry->offset;
  for (uint64_t i = 0; i < entry->count; ++i) {
    const uint64_t length = load<uint64_t>(at);
    values.emplace_back(reinterpret_cast<const char*>(at + 8), static_cast<size_t>(length));
    at += 8 + length;
  }
  return values;
}

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = tensor_index_.find(name);
  return found == tensor_index_.end() ? nullptr : &tensors_[found->second];
}

// ---- soundness ----

Status GgufFile::check_split() const {
  if (integer("split.count").value_or(0) > 1) {
    return Status::fail(Code::model_unsupported,
                        "this file is one part of a split model; merge the parts first, for example with llama.cpp's "
                        "llama-gguf-split --merge");
  }
  return {};
}

Status GgufFile::check_numbers_are_finite() const {
  const std::string prefix = architecture_ + ".";
  for (const auto& [key, entry] : entries_) {
    if ((entry.type != kF32 && entry.type != kF64) || !key.starts_with(prefix)) continue;
    for (uint64_t i = 0; i < entry.count; ++i) {
      if (!std::isfinite(element_as_double(entry, i))) return unsound(key, "not a finite number");
    }
  }
  return {};
}

Status GgufFile::check_shape() const {
  // `limit` is llama.cpp's own, or one that keeps products of two such numbers inside 64 bits
  const auto bounded = [&](std::string_view name, uint64_t limit, uint64_t* out) {
    const std::string key = arch_key(name);
    const std::optional<uint64_t> value = integer(key);
    if (!value) return unsound(key, "absent or not a non-negative integer");
    if (*value == 0 || *value > limit) return unsound(key, std::to_string(*value) + " is outside 1 to " + std::to_string(limit));
    *out = *value;
    return Status{};
  };
  uint64_t block_count = 0, embedding_length = 0, context_length = 0;
  if (Status status = bounded("block_count", kMaxLayers, &block_count); !status.ok()) return status;
  if (Status status = bounded("embedding_length", kMaxEmbedding, &embedding_length); !status.ok()) return status;
  if (Status status = bounded("context_length", kInt32Max, &context_length); !status.ok()) return status;
  if (integer(arch_key("nextn_predict_layers")).value_or(0) > block_count) {
    return unsound(arch_key("nextn_predict_layers"), "more layers than block_count");
  }

  bool has_epsilon = false;
  for (const std::string_view name : {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"}) {
    const std::string key = arch_key(name);
    if (!has(key)) continue;
    const std::optional<double> epsilon = number(key);
    if (!epsilon || !(*epsilon > 0.0 && *epsilon < 1.0)) return unsound(key, "must lie between 0 and 1");
    has_epsilon = true;
  }
  if (!has_epsilon) return unsound(arch_key("attention.layer_norm_rms_epsilon"), "absent, and no layer_norm_epsilon instead");

  if (!contains(kRecurrent, architecture_)) {
    if (Status status = check_attention(embedding_length, block_count); !status.ok()) return status;
  }
  if (Status status = check_experts(block_count); !status.ok()) return status;
  return check_weights(embedding_length);
}

Status GgufFile::check_attention(uint64_t embedding_length, uint64_t block_count) const {
  // one number for all layers or one a layer; layers without attention have 0 in the second form
  const auto per_layer = [&](std::string_view name, std::vector<uint64_t>* out) {
    const std::string key = arch_key(name);
    if (const std::optional<uint64_t> value = integer(key)) {
      out->assign(static_cast<size_t>(block_count), *value);
    } else if (std::optional<std::vector<uint64_t>> values = integers(key); values && values->size() == block_count) {
      *out = std::move(*values);
    } else {
      return unsound(key, "neither one integer nor one for each of the " + std::to_string(block_count) + " layers");
    }
    const bool scalar = !array_length(key);
    for (const uint64_t value : *out) {
      if ((scalar && value == 0) || value > kMaxHeads) return unsound(key, std::to_string(value) + " heads");
    }
    if (*std::max_element(out->begin(), out->end()) == 0) return unsound(key, "no layer has heads");
    return Status{};
  };

  std::vector<uint64_t> heads, kv_heads;
  if (Status status = per_layer("attention.head_count", &heads); !status.ok()) return status;
  kv_heads = heads;
  if (has(arch_key("attention.head_count_kv"))) {
    if (Status status = per_layer("attention.head_count_kv", &kv_heads); !status.ok()) return status;
  }
  for (size_t layer = 0; layer < heads.size(); ++layer) {
    if (kv_heads[layer] != 0 && (kv_heads[layer] > heads[layer] || heads[layer] % kv_heads[layer] != 0)) {
      return unsound(arch_key("attention.head_count_kv"), std::to_string(kv_heads[layer]) + " does not divide the " +
                                                              std::to_string(heads[layer]) + " heads of layer " + std::to_string(layer));
    }
  }

  const uint64_t default_length = heads[0] == 0 ? 0 : embedding_length / heads[0];
  std::array<uint64_t, 2> lengths = {default_length, default_length};
  constexpr std::array<std::string_view, 2> kNames = {"attention.key_length", "attention.value_length"};
  for (size_t i = 0; i < 2; ++i) {
    const std::string key = arch_key(kNames[i]);
    if (has(key)) {
      const std::optional<uint64_t> value = integer(key);
      if (!value || *value == 0 || *value > kMaxEmbedding) return unsound(key, "not a sensible head size");
      lengths[i] = *value;
    } else if (heads[0] > embedding_length) {
      return unsound(arch_key("attention.head_count"), "more heads than dimensions");
    }
  }
  if (contains(kFullRotary, architecture_) && lengths[0] != lengths[1]) {
    return unsound(arch_key("attention.value_length"), "differs from key_length, which this architecture cannot compute");
  }
  return check_rotary(lengths[0]);
}

Status GgufFile::check_rotary(uint64_t key_length) const {
  const std::string dims_key = arch_key("rope.dimension_count");
  uint64_t dims = key_length;
  if (has(dims_key)) {
    const std::optional<uint64_t> value = integer(dims_key);
    if (!value) return unsound(dims_key, "not a non-negative integer");
    dims = *value;
  }
  if (dims % 2 != 0 || dims > key_length) {
    return unsound(dims_key, std::to_string(dims) + " rotary dimensions are odd or more than the head's " + std::to_string(key_length));
  }
  if (contains(kFullRotary, architecture_) && dims != key_length) {
    return unsound(dims_key, std::to_string(dims) + " rotary dimensions, but this architecture rotates all " + std::to_string(key_length));
  }

  const std::string type_key = arch_key("rope.scaling.type");
  if (has(type_key)) {
    const std::string type = string(type_key).value_or("");
    constexpr std::array<std::string_view, 4> kTypes = {"none", "linear", "yarn", "longrope"};
    if (!contains(kTypes, type)) return unsound(type_key, "must be none, linear, yarn or longrope");
  }
  // zero is how a file says "no scaling" for the factor; it divides elsewhere
  for (const auto& [name, zero_allowed] : {std::pair<std::string_view, bool>{"rope.freq_base", false},
                                           {"rope.freq_base_swa", false},
                                           {"rope.scaling.factor", true},
                                           {"rope.scale_linear", true},
                                           {"rope.scaling.original_context_length", false}}) {
    const std::string key = arch_key(name);
    if (!has(key)) continue;
    const std::optional<double> value = number(key);
    if (!value || *value < 0.0 || (*value == 0.0 && !zero_allowed)) return unsound(key, "must be positive");
  }

  const std::string sections_key = arch_key("rope.dimension_sections");
  if (has(sections_key) || contains(kSectionedRotary, architecture_)) {
    const std::optional<std::vector<uint64_t>> sections = integers(sections_key);
    if (!sections || sections->size() < 3 || sections->size() > 4)
      return unsound(sections_key, "must be an array of 3 or 4 non-negative integers");
    uint64_t sum = 0;
    for (const uint64_t section : *sections) sum += std::min(section, kInt32Max);
    if ((*sections)[0] + (*sections)[1] + (*sections)[2] == 0 || sum > key_length) {
      return unsound(sections_key, "the sections are empty or wider than the head");
    }
  }
  return {};
}

Status GgufFile::check_experts(uint64_t block_count) const {
  const uint64_t experts = integer(arch_key("expert_count")).value_or(0);
  const std::string used_key = arch_key("expert_used_count");
  uint64_t used = integer(used_key).value_or(0);
  if (array_length(used_key)) {
    const std::optional<std::vector<uint64_t>> values = integers(used_key);
    if (!values || values->size() != block_count) return unsound(used_key, "must have one integer for each layer");
    used = *std::max_element(values->begin(), values->end());
  }
  const uint64_t groups = integer(arch_key("expert_group_count")).value_or(0);
  if (experts > kMaxExperts) return unsound(arch_key("expert_count"), "more than " + std::to_string(kMaxExperts) + " experts");
  if (used > experts || (experts > 0 && used == 0)) return unsound(used_key, "must lie between 1 and expert_count");
  if (groups > 0 && groups >= experts) return unsound(arch_key("expert_group_count"), "must be smaller than expert_count");
  if (groups > 1) {
    const uint64_t groups_used = integer(arch_key("expert_group_used_count")).value_or(0);
    if (experts % groups != 0) return unsound(arch_key("expert_group_count"), "does not divide expert_count");
    if (groups_used == 0 || groups_used >= groups)
      return unsound(arch_key("expert_group_used_count"), "must lie between 1 and expert_group_count - 1");
  }
  return {};
}

Status GgufFile::check_weights(uint64_t embedding_length) const {
  const GgufTensor* input = tensor("token_embd.weight");
  if (input == nullptr) return unsound("token_embd.weight", "the tensor is absent");
  if (input->dims.size() != 2 || input->dims[0] != static_cast<int64_t>(embedding_length)) {
    return unsound("token_embd.weight", "rows must have embedding_length = " + std::to_string(embedding_length) + " elements");
  }
  const GgufTensor* output = tensor("output.weight");
  if (output != nullptr && output->dims != input->dims) return unsound("output.weight", "the shape differs from token_embd.weight");

  for (const GgufTensor& weight : tensors_) {
    const std::string_view name = weight.name;
    const bool added = name.ends_with("norm.weight") || name.ends_with(".bias");
    // element-wise operators exist for f32 only; matrix products for no integer type, no f64 and no activation format
    if (added && weight.ggml_type != kGgmlF32) return unsound(name, "must be f32, found type " + std::to_string(weight.ggml_type));
    const bool integral = weight.ggml_type >= kGgmlI8 && weight.ggml_type <= kGgmlI64;
    const bool matrix = weight.dims.size() == 2 && name.ends_with(".weight");
    if (matrix && (integral || weight.ggml_type == kGgmlF64 || weight.ggml_type == kGgmlQ8K)) {
      return unsound(name, "type " + std::to_string(weight.ggml_type) + " cannot be multiplied");
    }
  }
  return {};
}

Status GgufFile::check_tokenizer() const {
  const std::optional<std::string> model = string("tokenizer.ggml.model");
  if (!model) return unsound("tokenizer.ggml.model", "absent or not a string");
  const std::optional<std::vector<std::string_view>> tokens = strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty()) return unsound("tokenizer.ggml.tokens", "absent or not an array of strings");
  const uint64_t vocab = tokens->size();
  const int64_t rows = tensor("token_embd.weight")->dims[1];
  if (vocab > kInt32Max || static_cast<int64_t>(vocab) != rows) {
    return unsound("tokenizer.ggml.tokens", std::to_string(vocab) + " tokens, but token_embd.weight has " + std::to_string(rows) + " rows");
  }
  std::unordered_set<std::string_view> seen;
  seen.reserve(tokens->size());
  for (size_t id = 0; id < tokens->size(); ++id) {
    const std::string_view text = (*tokens)[id];
    // llama.cpp renames empty tokens to [EMPTY_<id>], so several of them are no duplicates
    if (!text.empty() && !seen.insert(text).second)
      return unsound("tokenizer.ggml.tokens", "token " + std::to_string(id) + " occurs twice");
    if (text.starts_with("[EMPTY_"))
      return unsound("tokenizer.ggml.tokens", "token " + std::to_string(id) + " has a name reserved for empty tokens");
  }

  constexpr std::string_view kScores = "tokenizer.ggml.scores";
  if (const Entry* scores = find(kScores); scores != nullptr) {
    if (!scores->array || (scores->type != kF32 && scores->type != kI32) || scores->count != vocab) {
      return unsound(kScores, "must be one f32 or i32 for each token");
    }
    for (uint64_t id = 0; id < vocab; ++id) {
      if (std::isnan(element_as_double(*scores, id)))
        return unsound(kScores, "the score of token " + std::to_string(id) + " is not a number");
    }
  }

  constexpr std::string_view kTokenType = "tokenizer.ggml.token_type";
  if (const Entry* types = find(kTokenType); types != nullptr) {
    constexpr uint64_t kByteToken = 6;
    if (!types->array || types->type != kI32 || types->count != vocab) return unsound(kTokenType, "must be one i32 for each token");
    for (uint64_t id = 0; id < vocab; ++id) {
      const std::optional<uint64_t> type = element_as_unsigned(*types, id);
      if (!type || *type > kByteToken) return unsound(kTokenType, "token " + std::to_string(id) + " has an unknown type");
      if (*type == kByteToken && (*model == "bert" || !ends_with_byte_escape((*tokens)[static_cast<size_t>(id)]))) {
        return unsound(kTokenType, "token " + std::to_string(id) + " is marked as a byte but is not spelled <0x..>");
      }
    }
  }

  constexpr std::string_view kMerges = "tokenizer.ggml.merges";
  if (has(kMerges)) {
    const std::optional<std::vector<std::string_view>> merges = strings(kMerges);
    if (!merges) return unsound(kMerges, "must be an array of strings");
    for (size_t i = 0; i < merges->size(); ++i) {
      const std::string_view merge = (*merges)[i];
      const size_t space = merge.empty() ? std::string_view::npos : merge.find(' ', 1);
      if (space == std::string_view::npos || space + 1 == merge.size())
        return unsound(kMerges, "merge " + std::to_string(i) + " is not two pieces");
    }
  } else if (*model == "gpt2") {
    return unsound(kMerges, "absent");
  }
  return check_special_tokens(*model, vocab);
}

Status GgufFile::check_special_tokens(std::string_view model, uint64_t vocab) const {
  for (const std::string_view name : {"bos", "eos", "eot", "eom"}) {
    const std::string key = "tokenizer.ggml." + std::string(name) + "_token_id";
    if (!has(key)) continue;
    const std::optional<uint64_t> id = integer(key);
    if (!id || *id >= vocab) return unsound(key, "not a token of this vocabulary");
  }
  // llama.cpp asserts that a token it is to add exists; these are the ids it takes when the file names none
  struct Defaults {
    std::string_view model;
    std::optional<uint64_t> bos, eos;
    bool adds_bos, adds_eos;
  };
  static constexpr std::array<Defaults, 4> kDefaults = {{
      {"llama", 1, 2, true, false},
      {"gpt2", 11, 11, false, false},
      {"bert", 101, std::nullopt, true, false},
      {"t5", std::nullopt, 1, false, true},
  }};
  const auto known = std::find_if(kDefaults.begin(), kDefaults.end(), [&](const Defaults& d) { return d.model == model; });
  const Defaults defaults = known == kDefaults.end() ? Defaults{} : *known;
  const auto missing = [&](std::string_view name, std::optional<uint64_t> fallback, bool added) {
    const std::string prefix = "tokenizer.ggml.";
    if (!boolean(prefix + "add_" + std::string(name) + "_token").value_or(added)) return false;
    const std::optional<uint64_t> id = integer(prefix + std::string(name) + "_token_id");
    return id.value_or(fallback.value_or(vocab)) >= vocab;
  };
  if (missing("bos", defaults.bos, defaults.adds_bos))
    return unsound("tokenizer.ggml.bos_token_id", "to be added to every prompt, but absent");
  if (missing("eos", defaults.eos, defaults.adds_eos))
    return unsound("tokenizer.ggml.eos_token_id", "to be added to every prompt, but absent");
  return {};
}

}  // namespace latentwire
