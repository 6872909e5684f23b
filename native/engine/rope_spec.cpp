// The parameters as llama.cpp derives them: most are keys of the file, but what a sliding-window architecture does differently in its local
// layers is written in llama.cpp only, so those that are known here are listed and the others refused.
#include "engine/rope_spec.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>
#include <utility>

namespace latentwire {
namespace {

// Layer i is local unless i % period == period - 1.
struct Pattern {
  std::string_view architecture;
  uint32_t period = 1;            // 1: llama.cpp ignores the file's sliding window
  bool always = false;            // or only if the file has a sliding window
  bool global_unrotated = false;  // keys of the other layers carry no position
  bool local_unscaled = false;    // no stretching in local layers
  float local_base = 0;           // unless the file has another; 0 for that of the model
};
constexpr std::array<Pattern, 10> patterns = {{
    {"cohere2", 4, true, true, false, 0},
    {"gemma2", 2, true, false, false, 0},
    {"gemma3", 6, false, false, true, 10000},
    {"gemma3n", 5, true, false, true, 10000},
    {"gpt-oss", 2, true, false, false, 0},
    {"llama", 1},
    {"olmo2", 4, false, false, true, 0},
    {"phi3", 1},
    {"qwen2", 1},
    {"smollm3", 4, true, true, false, 0},
}};

// The architectures for which llama.cpp reads the YaRN parameters of the file; the others get its defaults.
constexpr std::array<std::string_view, 3> reads_yarn = {"grok", "laguna", "mistral3"};

class Reader {
 public:
  explicit Reader(const GgufFile& file) : file_(file) {}

  bool has(std::string_view name) const { return file_.has(file_.arch_key(name)); }
  uint64_t integer(std::string_view name, uint64_t otherwise) const { return file_.integer(file_.arch_key(name)).value_or(otherwise); }
  float number(std::string_view name, float otherwise) const {
    return static_cast<float>(file_.number(file_.arch_key(name)).value_or(static_cast<double>(otherwise)));
  }
  // One number, or the first of one for each layer.
  uint64_t first(std::string_view name, uint64_t otherwise) const {
    const auto all = file_.integers(file_.arch_key(name));
    return all && !all->empty() ? all->front() : integer(name, otherwise);
  }

  RopeParameters parameters(Rope::Pairs pairs) const {
    RopeParameters p;
    p.pairs = pairs;
    const uint64_t heads = std::max<uint64_t>(first("attention.head_count", 1), 1);
    p.head_dim = static_cast<int32_t>(integer("attention.key_length", integer("embedding_length", 0) / heads));
    p.rotated = static_cast<int32_t>(integer("rope.dimension_count", static_cast<uint64_t>(p.head_dim)));
    p.base = number("rope.freq_base", 10000);
    p.original_context = static_cast<int32_t>(integer("rope.scaling.original_context_length", integer("context_length", 0)));
    const std::string type = file_.string(file_.arch_key("rope.scaling.type")).value_or("linear");
    const float stretch = number("rope.scaling.factor", number("rope.scale_linear", 0));
    if (type != "none" && stretch != 0) p.scale = 1 / stretch;
    if (type == "yarn") p.extension = 1;
    const std::string& architecture = file_.architecture();
    if (std::find(reads_yarn.begin(), reads_yarn.end(), architecture) == reads_yarn.end()) return p;
    // negative for "not set"
    if (const float extension = number("rope.scaling.yarn_ext_factor", -1); extension >= 0) p.extension = extension;
    p.beta_fast = number("rope.scaling.yarn_beta_fast", p.beta_fast);
    p.beta_slow = number("rope.scaling.yarn_beta_slow", p.beta_slow);
    return p;
  }

  // "" or what is wrong with them.
  std::string factors(int64_t context, RopeParameters* p) const {
    const std::string_view by_context = context > p->original_context ? "rope_factors_long.weight" : "rope_factors_short.weight";
    const GgufTensor* tensor = file_.tensor("rope_freqs.weight");
    if (tensor == nullptr) tensor = file_.tensor(by_context);
    if (tensor == nullptr) return "";
    const auto pairs = static_cast<size_t>(p->rotated / 2);
    if (static_cast<abi::ggml_type>(tensor->ggml_type) != abi::GGML_TYPE_F32 || tensor->dims[0] < static_cast<int64_t>(pairs))
      return tensor->name + " is not one f32 number for each pair of channels";
    p->factors.resize(pairs);
    std::memcpy(p->factors.data(), file_.data(*tensor), pairs * sizeof(float));
    return "";
  }

  // Whether each layer is local; empty if the file's pattern cannot be read.
  std::vector<bool> local_layers(const Pattern& pattern, size_t layers) const {
    std::vector<bool> local(layers);
    constexpr std::string_view key = "attention.sliding_window_pattern";
    if (const auto each = file_.integers(file_.arch_key(key)); each) {
      if (each->size() != layers) return {};
      std::transform(each->begin(), each->end(), local.begin(), [](uint64_t x) { return x != 0; });
      return local;
    }
    if (has(key) && !file_.integer(file_.arch_key(key))) return {};
    const uint64_t period = integer(key, pattern.period);
    for (size_t i = 0; i < layers; ++i) local[i] = period == 0 || i % period < period - 1;
    return local;
  }

 private:
  const GgufFile& file_;
};

}  // namespace

RopeSpec read_rope_spec(const GgufFile& file, abi::llama_rope_type type, int64_t context) {
  const auto refuse = [](std::string why) { return RopeSpec{{}, std::move(why)}; };
  const Reader reader(file);
  if (type == abi::LLAMA_ROPE_TYPE_NONE) return refuse("its positions are not rotary");
  if (type != abi::LLAMA_ROPE_TYPE_NORM && type != abi::LLAMA_ROPE_TYPE_NEOX)
    return refuse("its positions have more than one axis (M-RoPE)");
  if (reader.integer("attention.kv_lora_rank", 0) > 0) return refuse("its keys are compressed (latent attention)");

  const auto known =
      std::find_if(patterns.begin(), patterns.end(), [&](const Pattern& p) { return p.architecture == file.architecture(); });
  const bool windowed = reader.integer("attention.sliding_window", 0) > 0;
  if (known == patterns.end() && windowed)
    return refuse("which layers of " + file.architecture() + " have a sliding window is not known here");

  RopeParameters parameters = reader.parameters(type == abi::LLAMA_ROPE_TYPE_NORM ? Rope::Pairs::norm : Rope::Pairs::neox);
  if (std::string wrong = reader.factors(context, &parameters); !wrong.empty()) return refuse(std::move(wrong));
  auto global = std::make_shared<Rope>();
  if (Status status = make_rope(parameters, global.get()); !status.ok()) return refuse(std::move(status.message));

  const auto layers = static_cast<size_t>(reader.integer("block_count", 0));
  RopeSpec spec;
  spec.layers.assign(layers, global);
  if (known == patterns.end() || known->period == 1 || !(known->always || windowed)) return spec;

  const std::vector<bool> local_layers = reader.local_layers(*known, layers);
  if (local_layers.size() != layers) return refuse("the file's attention.sliding_window_pattern is no number and no list for its layers");
  if (known->local_unscaled) {
    parameters.scale = 1;
    parameters.extension = 0;
  }
  parameters.base = reader.number("rope.freq_base_swa", known->local_base == 0 ? parameters.base : known->local_base);
  auto local = std::make_shared<Rope>();
  if (Status status = make_rope(parameters, local.get()); !status.ok()) return refuse(std::move(status.message));
  for (size_t i = 0; i < layers; ++i) {
    if (local_layers[i])
      spec.layers[i] = local;
    else if (known->global_unrotated)
      spec.layers[i] = nullptr;
  }
  return spec;
}

}  // namespace latentwire
