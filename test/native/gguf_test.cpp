// The GGUF reader on small files built byte by byte: a sound one, each kind of damage, and each hyper-parameter that
// llama.cpp would answer by ending the process.
#include "engine/gguf_file.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "gguf_support.h"

namespace latentwire {
namespace {

using namespace testing::gguf;

Status parse(const Bytes& bytes) {
  GgufFile file;
  return GgufFile::parse(bytes.data(), bytes.size(), &file);
}

// The outcome after one change of the sound file.
Code after(const std::function<void(File&)>& change) {
  File file = sound_file();
  change(file);
  return parse(file.encode()).code;
}
Code after_setting(const std::string& key, const Bytes& encoded) {
  return after([&](File& file) { file.set(key, encoded); });
}

std::filesystem::path write_temporary(const Bytes& bytes) {
  const std::filesystem::path path =
      std::filesystem::temp_directory_path() / ("latentwire-gguf-test-" + std::to_string(std::random_device{}()) + ".gguf");
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace

TEST_CASE("a sound file is read") {
  for (const uint32_t version : {2u, 3u}) {
    File source = sound_file();
    source.version = version;
    source.set("llama.rope.freq_base", value(kF64, 500000.0));
    source.set("llama.numbers", array<int16_t>(kI16, {1, 2, 3}));
    source.set("llama.negative", array<int16_t>(kI16, {1, -2}));
    source.set("llama.flag", boolean(true));
    const Bytes bytes = source.encode();
    GgufFile file;
    const Status status = GgufFile::parse(bytes.data(), bytes.size(), &file);
    REQUIRE_MESSAGE(status.ok(), status.message);
    CHECK(file.version() == version);
    CHECK(file.architecture() == "llama");
    CHECK(file.integer(file.arch_key("block_count")) == 2);
    CHECK(file.number("llama.rope.freq_base") == 500000.0);
    CHECK(file.number("llama.block_count") == 2.0);
    CHECK(file.boolean("llama.flag") == true);
    CHECK(file.string("tokenizer.ggml.model") == "gpt2");
    CHECK(file.array_length("tokenizer.ggml.tokens") == kVocab);
    CHECK(file.integers("llama.numbers") == std::vector<uint64_t>{1, 2, 3});
    CHECK(file.strings("tokenizer.ggml.merges") == std::vector<std::string_view>{"a b"});
    CHECK(file.has("llama.flag"));

    // absent, or of another kind
    CHECK_FALSE(file.has("nothing"));
    CHECK(file.string("nothing") == std::nullopt);
    CHECK(file.string("llama.block_count") == std::nullopt);
    CHECK(file.integer("general.architecture") == std::nullopt);
    CHECK(file.integer("tokenizer.ggml.tokens") == std::nullopt);
    CHECK(file.number("llama.flag") == std::nullopt);
    CHECK(file.boolean("llama.block_count") == std::nullopt);
    CHECK(file.array_length("llama.block_count") == std::nullopt);
    CHECK(file.integers("llama.negative") == std::nullopt);
    CHECK(file.integers("tokenizer.ggml.tokens") == std::nullopt);
    CHECK(file.strings("llama.numbers") == std::nullopt);
    CHECK(file.tensor("nothing") == nullptr);

    const GgufTensor* output = file.tensor("output.weight");
    REQUIRE(output != nullptr);
    CHECK(output->dims == std::vector<int64_t>{kWidth, kVocab});
    CHECK(output->ggml_type == 1);
    CHECK(output->bytes == kWidth * kVocab * 2);
    CHECK(output->offset % 32 == 0);
    CHECK(file.data(*output) == bytes.data() + output->offset);
    CHECK(file.tensors().size() == 3);
    CHECK(file.tensors()[0].offset == file.header_bytes());
    CHECK(file.size() == bytes.size());
  }
}

TEST_CASE("a file cut at any byte is refused") {
  const Bytes bytes = sound_file().encode();
  for (size_t size = 0; size < bytes.size(); ++size) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    CHECK(parse(cut).code == Code::model_format);
  }
}

TEST_CASE("twenty thousand damaged files do not crash") {
  const Bytes sound = sound_file().encode();
  std::mt19937 engine(1);
  for (int i = 0; i < 20000; ++i) {
    Bytes bytes = sound;
    for (uint32_t changes = 1 + engine() % 4; changes > 0; --changes) {
      const size_t at = engine() % bytes.size();
      bytes[at] = engine() % 2 == 0 ? static_cast<uint8_t>(engine()) : static_cast<uint8_t>(bytes[at] ^ (1u << engine() % 8));
    }
    if (engine() % 4 == 0) bytes.resize(engine() % bytes.size());
    const Status status = parse(bytes);
    CHECK((status.ok() || status.code == Code::model_format || status.code == Code::model_unsupported));
  }
}

TEST_CASE("damage of the container") {
  const auto patched = [](size_t at, const Bytes& patch) {
    Bytes bytes = sound_file().encode();
    std::copy(patch.begin(), patch.end(), bytes.begin() + static_cast<ptrdiff_t>(at));
    return parse(bytes).code;
  };
  CHECK(patched(0, {'X'}) == Code::model_format);
  for (const uint32_t version : {0u, 1u, 4u, 0x03000000u}) CHECK(patched(4, raw(version)) == Code::model_format);
  for (const uint64_t count : {uint64_t{1000}, std::numeric_limits<uint64_t>::max()}) {
    CHECK(patched(8, raw(count)) == Code::model_format);
    CHECK(patched(16, raw(count)) == Code::model_format);
    CHECK(patched(24, raw(count)) == Code::model_format);  // length of the first key
    CHECK(after_setting("x", [&] {
            Bytes b = raw<uint32_t>(kString);
            append(&b, raw(count));
            return b;
          }()) == Code::model_format);
    CHECK(after_setting("x", array_head(kU8, count)) == Code::model_format);
    CHECK(after_setting("x", array_head(kU64, count)) == Code::model_format);
    CHECK(after_setting("x", array_head(kString, count)) == Code::model_format);
  }
  CHECK(after_setting("x", raw<uint32_t>(13)) == Code::model_format);
  CHECK(after_setting("x", array_head(kArray, 0)) == Code::model_format);
  CHECK(after_setting("", u32(1)) == Code::model_format);
  CHECK(after_setting("new\nline", u32(1)) == Code::model_format);
  CHECK(after([](File& file) { file.metadata.push_back(file.metadata[1]); }) == Code::model_format);
  CHECK(after_setting("split.count", value<uint16_t>(kU16, 2)) == Code::model_unsupported);
  CHECK(after_setting("split.count", value<uint16_t>(kU16, 1)) == Code::ok);
}

TEST_CASE("damage of the tensor table") {
  const auto tensor = [](const std::function<void(Tensor&)>& change) { return after([&](File& file) { change(file.tensors[2]); }); };
  CHECK(tensor([](Tensor& t) { t.name = ""; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.name = std::string(64, 'x'); }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.name = std::string(63, 'x'); }) == Code::ok);
  CHECK(tensor([](Tensor& t) { t.name = std::string("a\0b", 3); }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.name = "token_embd.weight"; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {}; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {8, 1, 1, 1, 1}; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {8, 0}; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {1ull << 33, 1ull << 33}; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {~0ull}; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.dims = {1ull << 40}; }) == Code::model_format);
  for (const uint32_t type : {4u, 5u, 31u, 38u, 43u, 0xffffffffu}) CHECK(tensor([&](Tensor& t) { t.type = type; }) == Code::model_format);
  CHECK(tensor([](Tensor& t) { t.type = 8; }) == Code::model_format);  // 8 elements are no block of q8_0
  for (const int64_t offset : {int64_t{0}, int64_t{4}, int64_t{320}, std::numeric_limits<int64_t>::max()}) {
    CHECK(tensor([&](Tensor& t) { t.offset = offset; }) == Code::model_format);
  }
  for (const uint32_t alignment : {0u, 3u, 48u, 1u << 30}) CHECK(after_setting("general.alignment", u32(alignment)) == Code::model_format);
  CHECK(after_setting("general.alignment", value<uint64_t>(kU64, 32)) == Code::model_format);
  CHECK(after([](File& file) {
          file.alignment = 64;
          file.set("general.alignment", u32(64));
        }) == Code::ok);
}

TEST_CASE("sizes of quantised tensors") {
  CHECK(ggml_type_layout(2).bytes == 18);
  CHECK(ggml_type_layout(8).bytes == 34);
  CHECK(ggml_type_layout(12).bytes == 144);
  CHECK(ggml_type_layout(14).bytes == 210);
  CHECK(ggml_type_layout(30).bytes == 2);
  CHECK(ggml_type_layout(39).bytes == 17);
  CHECK(ggml_type_layout(43).elements == 0);
  CHECK(after([](File& file) { file.tensors.push_back({"blk.0.ffn_up.weight", {256, 3}, 12, 144 * 3}); }) == Code::ok);
}

TEST_CASE("hyper-parameters that would end the process or divide by zero") {
  const auto refused = [](const std::string& key, const Bytes& encoded) {
    CAPTURE(key);
    CHECK(after_setting(key, encoded) == Code::model_format);
  };
  for (const std::string key :
       {"general.architecture", "llama.block_count", "llama.context_length", "llama.embedding_length", "llama.attention.head_count",
        "llama.attention.layer_norm_rms_epsilon", "tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges"}) {
    CAPTURE(key);
    CHECK(after([&](File& file) { file.drop(key); }) == Code::model_format);
    refused(key, boolean(true));
  }
  for (const std::string key : {"llama.block_count", "llama.context_length", "llama.embedding_length", "llama.attention.head_count",
                                "llama.attention.head_count_kv", "llama.attention.key_length", "llama.attention.value_length"}) {
    refused(key, u32(0));
    refused(key, u32(0xffffffff));
    refused(key, value<int32_t>(kI32, -1));
    refused(key, f32(2.0f));
  }
  refused("llama.block_count", u32(513));
  refused("llama.embedding_length", u32(16));
  refused("llama.attention.head_count", u32(16));
  refused("llama.attention.head_count_kv", u32(3));
  refused("llama.attention.head_count_kv", u32(4));
  refused("llama.attention.head_count_kv", array<uint32_t>(kU32, {1}));
  refused("llama.attention.head_count_kv", array<uint32_t>(kU32, {0, 0}));
  refused("llama.attention.head_count", array<uint32_t>(kU32, {2, 3, 4}));
  CHECK(after_setting("llama.attention.head_count_kv", array<uint32_t>(kU32, {1, 2})) == Code::ok);
  refused("llama.attention.value_length", u32(6));
  for (const float epsilon : {0.0f, -1e-5f, 1.0f, std::numeric_limits<float>::quiet_NaN()})
    refused("llama.attention.layer_norm_rms_epsilon", f32(epsilon));
  refused("llama.nextn_predict_layers", u32(3));

  refused("llama.rope.dimension_count", u32(3));
  refused("llama.rope.dimension_count", u32(2));
  refused("llama.rope.dimension_count", u32(6));
  refused("llama.rope.freq_base", f32(0.0f));
  refused("llama.rope.freq_base", f32(-1.0f));
  refused("llama.rope.scaling.type", string("ntk"));
  refused("llama.rope.scaling.factor", f32(-2.0f));
  CHECK(after_setting("llama.rope.scaling.factor", f32(0.0f)) == Code::ok);
  refused("llama.rope.scaling.original_context_length", u32(0));
  refused("llama.rope.dimension_sections", array<int32_t>(kI32, {0, 0, 0, 0}));
  refused("llama.rope.dimension_sections", array<int32_t>(kI32, {1, -1, 1, 0}));
  refused("llama.rope.dimension_sections", array<int32_t>(kI32, {9, 9, 9, 9}));
  refused("llama.rope.dimension_sections", array<int32_t>(kI32, {1}));

  refused("llama.expert_used_count", u32(2));
  refused("llama.expert_count", u32(2));
  refused("llama.expert_count", u32(2000));
  refused("llama.expert_group_count", u32(2));
  CHECK(after([](File& file) {
          file.set("llama.expert_count", u32(4));
          file.set("llama.expert_used_count", u32(2));
        }) == Code::ok);

  for (const float number : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    refused("llama.attention.scale", f32(number));
    refused("llama.factors", array<float>(kF32, {1.0f, number}));
  }
}

TEST_CASE("weights of a shape or type that cannot be computed with") {
  const auto tensor = [](size_t index, const std::function<void(Tensor&)>& change) {
    return after([&](File& file) { change(file.tensors[index]); });
  };
  CHECK(tensor(0, [](Tensor& t) { t.name = "elsewhere.weight"; }) == Code::model_format);
  CHECK(tensor(0, [](Tensor& t) { t.dims = {kVocab, kWidth}; }) == Code::model_format);
  CHECK(tensor(2, [](Tensor& t) { t.dims = {kVocab, kWidth}; }) == Code::model_format);
  CHECK(tensor(1, [](Tensor& t) {
          t.type = 1;
          t.bytes = kWidth * 2;
        }) == Code::model_format);
  CHECK(tensor(2, [](Tensor& t) {
          t.type = 26;
          t.bytes = kWidth * kVocab * 4;
        }) == Code::model_format);
  CHECK(tensor(2, [](Tensor& t) {
          t.type = 28;
          t.bytes = kWidth * kVocab * 8;
        }) == Code::model_format);
}

TEST_CASE("tokenizers that would end the process") {
  const auto refused = [](const std::string& key, const Bytes& encoded) {
    CAPTURE(key);
    CHECK(after_setting(key, encoded) == Code::model_format);
  };
  refused("tokenizer.ggml.tokens", strings({"a", "b", "ab", "<end>", "c"}));
  refused("tokenizer.ggml.tokens", strings({"a", "b", "ab", "<end>", "c", "a"}));
  refused("tokenizer.ggml.tokens", strings({"a", "b", "", "<end>", "c", "[EMPTY_2]"}));
  CHECK(after_setting("tokenizer.ggml.tokens", strings({"a", "b", "", "<end>", "c", ""})) == Code::ok);
  refused("tokenizer.ggml.tokens", array<uint32_t>(kU32, {1, 2, 3, 4, 5, 6}));
  refused("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1}));
  refused("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1, 7}));
  refused("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1, -1}));
  refused("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1, 6}));
  refused("tokenizer.ggml.token_type", array<uint32_t>(kU32, {1, 1, 1, 3, 1, 1}));
  refused("tokenizer.ggml.scores", array<float>(kF32, {1, 2, 3}));
  refused("tokenizer.ggml.scores", array<float>(kF32, {1, 2, 3, 4, 5, std::numeric_limits<float>::quiet_NaN()}));
  for (const std::string merge : {"", " ", "ab", "a ", "  "}) refused("tokenizer.ggml.merges", strings({"a b", merge}));
  for (const std::string name : {"bos", "eos", "eot", "eom"}) refused("tokenizer.ggml." + name + "_token_id", u32(kVocab));
  refused("tokenizer.ggml.eos_token_id", value<int32_t>(kI32, -1));
  // the default of this tokenizer is token 11, which six tokens do not have
  refused("tokenizer.ggml.add_bos_token", boolean(true));
  CHECK(after([](File& file) {
          file.set("tokenizer.ggml.add_bos_token", boolean(true));
          file.set("tokenizer.ggml.bos_token_id", u32(0));
        }) == Code::ok);
  CHECK(after([](File& file) {
          file.set("tokenizer.ggml.tokens", strings({"a", "b", "ab", "<end>", "c", "<0x0A>"}));
          file.set("tokenizer.ggml.token_type", array<int32_t>(kI32, {1, 1, 1, 3, 1, 6}));
        }) == Code::ok);
}

TEST_CASE("recurrent models have no heads to check") {
  CHECK(after([](File& file) {
          for (auto& [key, content] : file.metadata) {
            if (key.starts_with("llama.")) key = "mamba." + key.substr(6);
          }
          file.set("general.architecture", string("mamba"));
          file.set("mamba.attention.head_count", u32(0));
        }) == Code::ok);
}

TEST_CASE("files on disk") {
  std::shared_ptr<GgufFile> file;
  const std::filesystem::path path = write_temporary(sound_file().encode());
  REQUIRE(GgufFile::open(path.string(), &file).ok());
  CHECK(file->architecture() == "llama");
  std::filesystem::resize_file(path, 100);
  std::shared_ptr<GgufFile> damaged;
  const Status status = GgufFile::open(path.string(), &damaged);
  CHECK(status.code == Code::model_format);
  CHECK(status.message.starts_with(path.string()));
  std::filesystem::resize_file(path, 0);
  CHECK(GgufFile::open(path.string(), &damaged).code == Code::model_format);
  file.reset();
  std::filesystem::remove(path);
  CHECK(GgufFile::open(path.string(), &damaged).code == Code::model_not_found);
  CHECK(GgufFile::open(std::filesystem::temp_directory_path().string(), &damaged).code == Code::model_not_found);
  CHECK(GgufFile::open("", &damaged).code == Code::model_not_found);
  CHECK(GgufFile::open(std::string("a\0b", 3), &damaged).code == Code::model_not_found);
  CHECK(damaged == nullptr);
}

}  // namespace latentwire
