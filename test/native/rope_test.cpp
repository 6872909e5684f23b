// Rotary positions: rotations against float64, frequencies against their definitions, and what is read from model files.
#include "kv/rope.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numbers>

#include "engine/rope_spec.h"
#include "gguf_support.h"
#include "kernels_support.h"

namespace latentwire {
namespace {

using namespace testing::gguf;
using testing::Numbers;

RopeParameters plain(Rope::Pairs pairs, int32_t head_dim, int32_t rotated, float base = 10000) {
  RopeParameters parameters;
  parameters.pairs = pairs;
  parameters.head_dim = head_dim;
  parameters.rotated = rotated;
  parameters.base = base;
  return parameters;
}
Rope made(const RopeParameters& parameters) {
  Rope rope;
  const Status status = make_rope(parameters, &rope);
  REQUIRE_MESSAGE(status.ok(), status.message);
  return rope;
}

// One head at a position, by the definition.
std::vector<double> turned(const Rope& rope, std::vector<double> head, double position) {
  const auto pairs = static_cast<size_t>(rope.rotated / 2);
  for (size_t k = 0; k < pairs; k++) {
    double& a = head[rope.pairs == Rope::Pairs::neox ? k : 2 * k];
    double& b = head[rope.pairs == Rope::Pairs::neox ? k + pairs : 2 * k + 1];
    const double angle = position * rope.frequencies[k];
    const double x = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = x;
  }
  return head;
}

struct Shape {
  int32_t head_dim, rotated;
  int64_t heads;
};
constexpr Shape shapes[] = {{64, 64, 1}, {128, 128, 8}, {80, 32, 3}, {96, 2, 5}, {6, 6, 1}, {256, 64, 2}};

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); i++) most = std::max(most, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
  return most;
}

}  // namespace

TEST_CASE("each row is turned by its own shift, as in float64") {
  for (const Rope::Pairs pairs : {Rope::Pairs::neox, Rope::Pairs::norm}) {
    for (const Shape& shape : shapes) {
      const Rope rope = made(plain(pairs, shape.head_dim, shape.rotated));
      for (const std::vector<int32_t>& shifts :
           {std::vector<int32_t>{}, {5}, {0, 0, 0}, {7, 7, -7, 0, 7, 131071, -131071}, {1, 2, 3, 4, 5}}) {
        const auto count = static_cast<int64_t>(shifts.size());
        const std::vector<float> x = Numbers(1).normals(count * shape.heads * shape.head_dim);
        std::vector<float> rows = x;
        rotate(rope, shifts.data(), rows.data(), count, shape.heads);
        for (size_t h = 0; h < static_cast<size_t>(count * shape.heads); h++) {
          const size_t start = h * static_cast<size_t>(shape.head_dim);
          std::vector<double> head(x.begin() + static_cast<ptrdiff_t>(start), x.begin() + static_cast<ptrdiff_t>(start) + shape.head_dim);
          const int32_t shift = shifts[h / static_cast<size_t>(shape.heads)];
          const std::vector<double> want = turned(rope, head, shift);
          for (size_t i = 0; i < want.size(); i++) {
            REQUIRE(std::fabs(static_cast<double>(rows[start + i]) - want[i]) < 1e-6);
            // what carries no position, or stays where it is, keeps its bits
            if (i >= static_cast<size_t>(shape.rotated) || shift == 0) REQUIRE(rows[start + i] == x[start + i]);
          }
        }
      }
    }
  }
}

TEST_CASE("rotations compose: there and back, and R(p + d) = R(d) R(p)") {
  Numbers numbers(2);
  for (const Rope::Pairs pairs : {Rope::Pairs::neox, Rope::Pairs::norm}) {
    for (const Shape& shape : shapes) {
      const Rope rope = made(plain(pairs, shape.head_dim, shape.rotated));
      for (const int64_t count : {1, 3, 33}) {
        std::vector<int32_t> positions, shifts, back, sums;
        for (int64_t i = 0; i < count; i++) {
          positions.push_back(static_cast<int32_t>(numbers.below(40000)));
          shifts.push_back(static_cast<int32_t>(numbers.below(80000)) - 40000);
          back.push_back(-shifts.back());
          sums.push_back(positions.back() + shifts.back());
        }
        const std::vector<float> x = numbers.normals(count * shape.heads * shape.head_dim);
        std::vector<float> moved = x, direct = x;
        rotate(rope, positions.data(), moved.data(), count, shape.heads);
        const std::vector<float> there = moved;
        rotate(rope, shifts.data(), moved.data(), count, shape.heads);
        rotate(rope, sums.data(), direct.data(), count, shape.heads);
        CHECK(largest_difference(moved, direct) < 2e-6);
        rotate(rope, back.data(), moved.data(), count, shape.heads);
        CHECK(largest_difference(moved, there) < 2e-6);
      }
    }
  }
}

TEST_CASE("frequencies are powers of the base, scaled and divided by factors") {
  for (const float base : {10000.0F, 500000.0F, 1e6F}) {
    RopeParameters parameters = plain(Rope::Pairs::neox, 128, 96, base);
    for (const float scale : {1.0F, 0.25F}) {
      parameters.scale = scale;
      parameters.factors.clear();
      const Rope rope = made(parameters);
      REQUIRE(rope.frequencies.size() == 48);
      for (size_t i = 0; i < 48; i++) {
        const double want = std::pow(static_cast<double>(base), -2.0 * static_cast<double>(i) / 96) * static_cast<double>(scale);
        CHECK(rope.frequencies[i] == doctest::Approx(want).epsilon(1e-5));
        parameters.factors.push_back(1 + 0.5F * static_cast<float>(i));
      }
      const Rope divided = made(parameters);
      for (size_t i = 0; i < 48; i++)
        CHECK(divided.frequencies[i] == doctest::Approx(rope.frequencies[i] / static_cast<double>(parameters.factors[i])).epsilon(1e-12));
    }
  }
}

TEST_CASE("YaRN keeps fast pairs, stretches slow ones and blends between") {
  RopeParameters parameters = plain(Rope::Pairs::neox, 128, 128, 1e6F);
  const Rope own = made(parameters);
  parameters.scale = 0.25F;
  parameters.original_context = 32768;
  parameters.extension = 1;
  const Rope yarn = made(parameters);
  // the pairs that turn 32 times and once within 32768 positions, from the paper
  const auto pair = [](double turns) { return 128 * std::log(32768 / (turns * 2 * std::numbers::pi)) / (2 * std::log(1e6)); };
  const double low = std::floor(pair(32)), high = std::ceil(pair(1));
  CHECK(low == 23);
  CHECK(high == 40);
  for (size_t i = 0; i < 64; i++) {
    const double kept = 1 - std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    CHECK(yarn.frequencies[i] == doctest::Approx(own.frequencies[i] * (kept + 0.25 * (1 - kept))).epsilon(1e-6));
  }
  CHECK(yarn.frequencies[0] == own.frequencies[0]);
  CHECK(yarn.frequencies[63] == own.frequencies[63] / 4);
  parameters.extension = 0.5F;
  CHECK(made(parameters).frequencies[0] == doctest::Approx(own.frequencies[0] * 0.625));
  parameters.extension = 1;
  parameters.beta_slow = 32;  // no ramp, but a step
  CHECK(made(parameters).frequencies[40] == doctest::Approx(own.frequencies[40] / 4));
}

TEST_CASE("rotations that there are not") {
  Rope rope;
  const auto code = [&](const RopeParameters& parameters) { return make_rope(parameters, &rope).code; };
  CHECK(code(plain(Rope::Pairs::neox, 64, 63)) == Code::invalid_argument);
  CHECK(code(plain(Rope::Pairs::neox, 64, 66)) == Code::invalid_argument);
  CHECK(code(plain(Rope::Pairs::neox, 64, 0)) == Code::invalid_argument);
  CHECK(code(plain(Rope::Pairs::neox, 64, 64, 0)) == Code::invalid_argument);
  CHECK(code(plain(Rope::Pairs::neox, 64, 64, testing::not_a_number)) == Code::invalid_argument);
  RopeParameters parameters = plain(Rope::Pairs::neox, 64, 64);
  parameters.factors.assign(31, 1.0F);
  CHECK(code(parameters) == Code::invalid_argument);
  parameters.factors.assign(32, 0.0F);
  CHECK(code(parameters) == Code::invalid_argument);
  parameters.factors.clear();
  parameters.extension = 1;
  parameters.original_context = 0;  // YaRN of no context: the ramp is empty, not undefined
  CHECK(code(parameters) == Code::ok);
}

// --- Model files -----------------------------------------------------------------------------------------------------------------------

namespace {

// A sound file of an architecture with heads of 4 channels and `layers` layers.
File file_of(const std::string& architecture, uint32_t layers = 2) {
  File file = sound_file();
  for (auto& [key, content] : file.metadata) {
    if (key.starts_with("llama.")) key = architecture + key.substr(5);
  }
  file.set("general.architecture", string(architecture));
  file.set(architecture + ".block_count", u32(layers));
  file.set(architecture + ".attention.key_length", u32(4));
  file.set(architecture + ".attention.value_length", u32(4));
  file.set(architecture + ".attention.layer_norm_epsilon", f32(1e-5f));
  return file;
}
void add_numbers(File* file, const std::string& name, const std::vector<float>& numbers, uint32_t type = 0) {
  Tensor tensor{name, {numbers.size()}, type, numbers.size() * (type == 0 ? 4 : 2)};
  if (type == 0) {
    for (const float number : numbers) append(&tensor.content, raw(number));
  }
  file->tensors.push_back(tensor);
}
RopeSpec spec_of(const File& source, abi::llama_rope_type type = abi::LLAMA_ROPE_TYPE_NEOX, int64_t context = 64) {
  const Bytes bytes = source.encode();
  GgufFile file;
  const Status status = GgufFile::parse(bytes.data(), bytes.size(), &file);
  REQUIRE_MESSAGE(status.ok(), status.message);
  return read_rope_spec(file, type, context);
}
// Base, with pairs of channels 0 and 1 of heads of 4.
double second_frequency(const std::shared_ptr<const Rope>& rope) { return rope->frequencies.at(1); }

}  // namespace

TEST_CASE("a plain file: defaults, and its own numbers") {
  File file = file_of("stablelm");
  RopeSpec spec = spec_of(file);
  CHECK(spec.obstacle == "");
  REQUIRE(spec.layers.size() == 2);
  CHECK(spec.layers[0] == spec.layers[1]);
  CHECK(*spec.layers[0] == made(plain(Rope::Pairs::neox, 4, 4)));
  CHECK(*spec_of(file, abi::LLAMA_ROPE_TYPE_NORM).layers[0] == made(plain(Rope::Pairs::norm, 4, 4)));

  file.set("stablelm.rope.freq_base", f32(1e6F));
  file.set("stablelm.rope.dimension_count", u32(2));
  file.set("stablelm.rope.scaling.factor", f32(4));
  RopeParameters parameters = plain(Rope::Pairs::neox, 4, 2, 1e6F);
  parameters.scale = 0.25F;
  CHECK(*spec_of(file).layers[0] == made(parameters));  // linear is the default
  file.set("stablelm.rope.scaling.type", string("none"));
  parameters.scale = 1;
  CHECK(*spec_of(file).layers[0] == made(parameters));
}

TEST_CASE("YaRN: the context it was trained for, and parameters where llama.cpp reads them") {
  for (const std::string architecture : {"qwen2", "mistral3"}) {
    File file = file_of(architecture);
    file.set(architecture + ".rope.scaling.type", string("yarn"));
    file.set(architecture + ".rope.scaling.factor", f32(8));
    file.set(architecture + ".context_length", u32(32768));
    RopeParameters parameters = plain(Rope::Pairs::neox, 4, 4);
    parameters.scale = 0.125F;
    parameters.extension = 1;
    parameters.original_context = 32768;
    CHECK(*spec_of(file).layers[0] == made(parameters));
    file.set(architecture + ".rope.scaling.original_context_length", u32(4096));
    parameters.original_context = 4096;
    CHECK(*spec_of(file).layers[0] == made(parameters));
    file.set(architecture + ".rope.scaling.yarn_ext_factor", f32(0.5F));
    file.set(architecture + ".rope.scaling.yarn_beta_fast", f32(8));
    file.set(architecture + ".rope.scaling.yarn_beta_slow", f32(4));
    if (architecture == "mistral3") {
      parameters.extension = 0.5F;
      parameters.beta_fast = 8;
      parameters.beta_slow = 4;
    }
    CHECK(*spec_of(file).layers[0] == made(parameters));
  }
}

TEST_CASE("factors: of llama 3, and of LongRoPE by the context of a sequence") {
  File file = file_of("llama");
  add_numbers(&file, "rope_freqs.weight", {1, 8});
  RopeParameters parameters = plain(Rope::Pairs::norm, 4, 4);
  parameters.factors = {1, 8};
  CHECK(*spec_of(file, abi::LLAMA_ROPE_TYPE_NORM).layers[0] == made(parameters));

  File phi = file_of("phi3");
  phi.set("phi3.attention.sliding_window", u32(16));  // which llama.cpp ignores
  phi.set("phi3.rope.scaling.type", string("longrope"));
  phi.set("phi3.rope.scaling.original_context_length", u32(32));
  add_numbers(&phi, "rope_factors_long.weight", {2, 3});
  add_numbers(&phi, "rope_factors_short.weight", {1, 1.5F});
  const auto frequency = [&](int64_t context) { return second_frequency(spec_of(phi, abi::LLAMA_ROPE_TYPE_NEOX, context).layers[1]); };
  CHECK(frequency(32) == doctest::Approx(0.01 / 1.5).epsilon(1e-6));
  CHECK(frequency(33) == doctest::Approx(0.01 / 3).epsilon(1e-6));

  File half = file_of("llama");
  add_numbers(&half, "rope_freqs.weight", {1, 8}, 1);
  CHECK(spec_of(half).obstacle == "rope_freqs.weight is not one f32 number for each pair of channels");
  File few = file_of("llama");
  add_numbers(&few, "rope_freqs.weight", {1});
  CHECK(spec_of(few).obstacle != "");
  File zero = file_of("llama");
  add_numbers(&zero, "rope_freqs.weight", {1, 0});
  CHECK(spec_of(zero).obstacle == "the rotary frequency of pair 1 is not finite");
}

TEST_CASE("local layers have their own base, scale and order") {
  const auto kinds = [](const RopeSpec& spec) {
    CHECK(spec.obstacle == "");
    std::string out;
    for (const auto& rope : spec.layers) {
      const double f = rope == nullptr ? 0 : second_frequency(rope);
      out += rope == nullptr ? '-' : std::fabs(f - 0.01) < 1e-6 ? 'l' : 'g';
    }
    return out;
  };
  File gemma = file_of("gemma3", 8);
  gemma.set("gemma3.rope.freq_base", f32(1e6F));
  gemma.set("gemma3.rope.scaling.factor", f32(8));
  CHECK(kinds(spec_of(gemma)) == "gggggggg");
  gemma.set("gemma3.attention.sliding_window", u32(16));
  CHECK(kinds(spec_of(gemma)) == "lllllgll");
  CHECK(second_frequency(spec_of(gemma).layers[5]) == doctest::Approx(1e-3 / 8).epsilon(1e-6));
  gemma.set("gemma3.attention.sliding_window_pattern", u32(3));
  CHECK(kinds(spec_of(gemma)) == "llgllgll");
  gemma.set("gemma3.attention.sliding_window_pattern", array<uint32_t>(kU32, {0, 1, 0, 1, 1, 1, 1, 0}));
  CHECK(kinds(spec_of(gemma)) == "glgllllg");
  gemma.set("gemma3.attention.sliding_window_pattern", array<uint32_t>(kU32, {0, 1}));
  CHECK(spec_of(gemma).obstacle != "");
  gemma.set("gemma3.attention.sliding_window_pattern", boolean(true));
  CHECK(spec_of(gemma).obstacle != "");
  gemma.set("gemma3.attention.sliding_window_pattern", u32(0));
  gemma.set("gemma3.rope.freq_base_swa", f32(1e6F));
  CHECK(second_frequency(spec_of(gemma).layers[7]) == doctest::Approx(1e-3).epsilon(1e-6));

  File cohere = file_of("cohere2", 8);
  cohere.set("cohere2.attention.sliding_window", u32(16));
  CHECK(kinds(spec_of(cohere)) == "lll-lll-");
  CHECK(kinds(spec_of(file_of("smollm3", 5))) == "lll-l");

  // of one kind in all layers, but for the file's own base
  File gemma2 = file_of("gemma2", 4);
  gemma2.set("gemma2.rope.freq_base", f32(1e6F));
  CHECK(kinds(spec_of(gemma2)) == "gggg");
  gemma2.set("gemma2.rope.freq_base_swa", f32(10000));
  CHECK(kinds(spec_of(gemma2)) == "lglg");

  // YaRN in some layers only
  File olmo = file_of("olmo2", 4);
  olmo.set("olmo2.attention.sliding_window", u32(16));
  olmo.set("olmo2.rope.scaling.type", string("yarn"));
  olmo.set("olmo2.rope.scaling.factor", f32(8));
  CHECK(kinds(spec_of(olmo)) == "lllg");
}

TEST_CASE("files whose keys cannot be moved say why") {
  const File file = file_of("llama");
  CHECK(spec_of(file, abi::LLAMA_ROPE_TYPE_NONE).obstacle == "its positions are not rotary");
  for (const auto type : {abi::LLAMA_ROPE_TYPE_MROPE, abi::LLAMA_ROPE_TYPE_IMROPE, abi::LLAMA_ROPE_TYPE_VISION}) {
    const RopeSpec spec = spec_of(file, type);
    CHECK(spec.layers.empty());
    CHECK(spec.obstacle == "its positions have more than one axis (M-RoPE)");
  }
  File latent = file_of("deepseek2");
  latent.set("deepseek2.attention.kv_lora_rank", u32(4));
  CHECK(spec_of(latent).obstacle == "its keys are compressed (latent attention)");
  File windows = file_of("mimo2");
  windows.set("mimo2.attention.sliding_window", u32(16));
  CHECK(spec_of(windows).obstacle == "which layers of mimo2 have a sliding window is not known here");
  windows.set("mimo2.attention.sliding_window", u32(0));
  CHECK(spec_of(windows).obstacle == "");
}

}  // namespace latentwire
