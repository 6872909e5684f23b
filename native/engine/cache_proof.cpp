// What a pool proves of its cache before keys and values leave it: the layout of its states, whether a quantised cache holds its rows
// rotated (its states do not say), and that keys move by the rotations that the model file tells. All of it is measured on one token
// decoded alone, for then the states of every layer are the same at any position, and so are keys but for their rotation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

#include "engine/failure.h"
#include "engine/pool.h"
#include "engine/rope_spec.h"
#include "kernels/stats.h"

namespace latentwire {
namespace {

RowFormat format_of(int32_t type) {
  switch (type) {
    case abi::GGML_TYPE_F32:
      return RowFormat::f32;
    case abi::GGML_TYPE_BF16:
      return RowFormat::bf16;
    case abi::GGML_TYPE_Q8_0:
      return RowFormat::q8_0;
    case abi::GGML_TYPE_Q4_0:
      return RowFormat::q4_0;
    default:
      return RowFormat::f16;
  }
}

bool is_quantised(RowFormat format) { return format == RowFormat::q8_0 || format == RowFormat::q4_0; }

// How far numbers of a format lie from what was stored, relative in the mean square, with room to spare.
double tolerance_of(RowFormat format) {
  switch (format) {
    case RowFormat::q4_0:
      return 0.2;
    case RowFormat::q8_0:
      return 0.02;
    case RowFormat::bf16:
      return 0.01;
    case RowFormat::f32:
      return 1e-4;
    default:
      return 0.002;
  }
}

// Infinite where there is nothing to compare with: what proves nothing must not pass for a proof.
double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); i++) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return size == 0 ? std::numeric_limits<double>::infinity() : std::sqrt(difference / size);
}

std::vector<float> row_of(const CacheRows& rows, const uint8_t* at) {
  std::vector<float> numbers(static_cast<size_t>(rows.channels));
  decode(rows, at, 1, numbers.data());
  return numbers;
}

// What the frequencies are, in so few characters that they can be compared.
std::string digest_of_ropes(const std::vector<std::shared_ptr<const Rope>>& layers) {
  std::vector<float> numbers;
  for (const auto& rope : layers) {
    numbers.push_back(rope == nullptr ? -1.0F : static_cast<float>(rope->pairs == Rope::Pairs::neox ? 1 : 0));
    if (rope == nullptr) continue;
    numbers.push_back(static_cast<float>(rope->head_dim));
    numbers.push_back(static_cast<float>(rope->rotated));
    for (const double frequency : rope->frequencies) numbers.push_back(static_cast<float>(frequency));
  }
  const Digest128 digest = digest_of(numbers.data(), numbers.size() * sizeof(float));
  char text[33];
  std::snprintf(text, sizeof text, "%016llx%016llx", static_cast<unsigned long long>(digest.high),
                static_cast<unsigned long long>(digest.low));
  return text;
}

}  // namespace

// An ordinary token whose input row is of about the common size: those for unknown and padding are zero in some models.
int32_t Pool::probe_token() const {
  const ModelInfo& info = model_->info();
  std::vector<float> row(static_cast<size_t>(info.embedding_length));
  int32_t token = 0;
  for (int64_t fifth = 1; fifth < 5; fifth++) {
    token = static_cast<int32_t>((info.vocabulary_size - 1) * fifth / 5);
    model_->input_row(token, row.data());
    double square = 0;
    for (const float x : row) square += static_cast<double>(x) * x;
    if (std::sqrt(square) > info.alpha / 4) break;
  }
  return token;
}

// The state of a sequence that holds `count` times the token from `position` on, and nothing else before or after this.
std::vector<uint8_t> Pool::state_of_probe(abi::llama_context* context, int32_t sequence, int32_t token, int32_t position, int32_t count) {
  const abi::llama_memory_t memory = api_.llama_get_memory(context);
  Batch batch(model_->info().embedding_length, model_->positions_per_row());
  for (int32_t i = 0; i < count; i++) {
    batch.clear();
    batch.add_token(token, position + i, sequence, true);
    if (guarded("first decode", [&] { return api_.llama_decode(context, batch.view()); }) != 0)
      fail(Code::engine_failed, "the first decode failed: " + Runtime::take_log());
  }
  return guarded("llama_state_seq_get_data", [&] {
    std::vector<uint8_t> state(api_.llama_state_seq_get_size(context, sequence));
    state.resize(api_.llama_state_seq_get_data(context, state.data(), state.size(), sequence));
    api_.llama_memory_seq_rm(memory, sequence, -1, -1);
    return state;
  });
}

void Pool::prove_cache() {
  const int32_t token = probe_token();
  Probe probe{context_, scratch_, {}, {}, state_of_probe(context_, scratch_, token, 0, 1)};
  const std::vector<uint8_t> two = state_of_probe(context_, scratch_, token, 0, 2);
  kv_bytes_per_position_ = two.size() - probe.state.size();
  if (Status status = learn_geometry(two.data(), two.size(), 2, model_->info().layers, &probe.geometry); !status.ok()) {
    layout_refusal_ = std::move(status.message);
    return;
  }
  if (probe.geometry.transposed_values || probe.geometry.extended_positions) {
    layout_refusal_ =
        probe.geometry.extended_positions ? "its cells have more than one position each (M-RoPE)" : "its values are transposed";
    return;
  }
  probe.geometry.max_cells = context_length_;
  geometry_ = probe.geometry;
  probe.layout = layout_of(probe.geometry);
  if (probe.layout.parts.front().channels % probe.layout.key_head != 0 || probe.layout.parts[1].channels % probe.layout.value_head != 0) {
    layout_refusal_ = "its rows are no whole heads";
    return;
  }
  if (!is_quantised(probe.layout.parts.front().format)) {
    layout_ = probe.layout;
    prove_rotary_positions(probe, token);
    return;
  }
  // A quantised cache is held against one of plain numbers for the same token.
  const std::shared_ptr<abi::llama_context> context = plain_context();
  Probe plain{context.get(), 0, {}, {}, {}};
  if (context != nullptr) plain.state = state_of_probe(context.get(), 0, token, 0, 1);
  if (!learn_geometry(plain.state.data(), plain.state.size(), 1, model_->info().layers, &plain.geometry).ok() ||
      !find_rotation(plain, &probe)) {
    layout_refusal_ = "its quantised rows are stored in a way that this package does not know";
    return;
  }
  layout_ = probe.layout;
  plain.geometry.max_cells = context_length_;
  plain.layout = layout_of(plain.geometry);
  // rotary positions that depend on the size of the context are others there
  const bool by_context = model_->file().tensor("rope_factors_long.weight") != nullptr;
  prove_rotary_positions(by_context ? probe : plain, token);
}

CacheLayout Pool::layout_of(const StateGeometry& geometry) const {
  const GgufFile& file = model_->file();
  const ModelInfo& info = model_->info();
  CacheLayout layout;
  layout.dimension = info.embedding_length;
  const auto head = [&](const char* key) {
    const auto given = file.integer(file.arch_key(key)).value_or(static_cast<uint64_t>(info.embedding_length / std::max(info.heads, 1)));
    return static_cast<int32_t>(std::clamp<uint64_t>(given, 1, INT32_MAX));
  };
  layout.key_head = head("attention.key_length");
  layout.value_head = head("attention.value_length");
  for (const StateLayer& layer : geometry.layers) {
    for (const auto& [type, bytes] : {std::pair{layer.key_type, layer.key_row_bytes}, std::pair{layer.value_type, layer.value_row_bytes}}) {
      const RowFormat format = format_of(type);
      const auto units = static_cast<int64_t>(bytes) / row_unit_bytes(format);
      layout.parts.push_back({format, static_cast<int32_t>(units * row_unit_columns(format)), 0});
    }
  }
  return layout;
}

// A small one with a cache of f32; nullptr if llama.cpp makes none.
std::shared_ptr<abi::llama_context> Pool::plain_context() {
  abi::llama_context_params params = context_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 32;
  params.n_seq_max = 1;
  params.type_k = params.type_v = abi::GGML_TYPE_F32;
  abi::llama_context* made = guarded("context of plain numbers", [&] { return api_.llama_init_from_model(model_->handle(), params); });
  if (made == nullptr) return nullptr;
  return {made, [free = api_.llama_free](abi::llama_context* context) { free(context); }};
}

// Which of the two ways of storing quantised rows gives back what a cache of plain numbers holds for the same token; it must be one of them
// and not the other. Of the first layer only: the states of the others depend on what attention reads.
bool Pool::find_rotation(const Probe& plain, Probe* probe) const {
  StateSummary wanted;
  StateSummary found;
  if (!locate_rows(plain.state.data(), plain.state.size(), plain.geometry, &wanted).ok() ||
      !locate_rows(probe->state.data(), probe->state.size(), probe->geometry, &found).ok())
    return false;
  const auto fits = [&](const CacheLayout& guess) {
    for (size_t part = 0; part < 2; part++) {
      const CacheRows& rows = guess.parts[part];
      if (!check_rows(rows).ok()) return false;
      const CacheRows numbers{RowFormat::f32, rows.channels, 0};
      const double distance = relative_distance(row_of(rows, probe->state.data() + found.parts[part]),
                                                row_of(numbers, plain.state.data() + wanted.parts[part]));
      if (!(distance < tolerance_of(rows.format))) return false;
    }
    return true;
  };
  CacheLayout as_numbers = probe->layout;
  for (CacheRows& rows : as_numbers.parts) rows.format = RowFormat::f32;
  const CacheLayout rotated = with_format(as_numbers, probe->layout.parts.front().format);
  if (rotated == probe->layout) return fits(rotated);
  const bool is_rotated = fits(rotated);
  if (fits(probe->layout) == is_rotated) return false;
  if (is_rotated) probe->layout = rotated;
  return true;
}

// Keys at position 0 turned to another must be the keys that llama.cpp computes there, in every layer, and values must be the same.
void Pool::prove_rotary_positions(const Probe& probe, int32_t token) {
  RopeSpec spec = read_rope_spec(model_->file(), api_.llama_model_rope_type(model_->handle()), context_length_);
  // what is not known may depend on the size of the context, as LongRoPE does
  key_positions_ = "unproved/" + std::to_string(context_length_);
  rope_refusal_ = spec.obstacle;
  // layers that predict further tokens are in the file, and not in this cache
  if (rope_refusal_.empty() && static_cast<int64_t>(spec.layers.size()) != layout_->layers())
    rope_refusal_ = "the model file has " + std::to_string(spec.layers.size()) + " layers, the cache " + std::to_string(layout_->layers());
  if (!rope_refusal_.empty()) return;
  StateSummary from;
  if (!locate_rows(probe.state.data(), probe.state.size(), probe.geometry, &from).ok()) return;
  for (const int32_t position : {std::min(97, context_length_ - 1), context_length_ - 1}) {
    const std::vector<uint8_t> there = state_of_probe(probe.context, probe.sequence, token, position, 1);
    StateSummary to;
    rope_refusal_ = "the cache changed its layout";
    if (!locate_rows(there.data(), there.size(), probe.geometry, &to).ok()) return;
    for (size_t part = 0; part < probe.layout.parts.size(); part++) {
      const CacheRows& rows = probe.layout.parts[part];
      std::vector<float> moved = row_of(rows, probe.state.data() + from.parts[part]);
      const Rope* rope = part % 2 == 0 ? spec.layers[part / 2].get() : nullptr;
      if (rope != nullptr) rotate(*rope, &position, moved.data(), 1, rows.channels / rope->head_dim);
      // llama.cpp multiplies its angles up in f32
      const double tolerance = tolerance_of(rows.format) + 1e-7 * position;
      if (relative_distance(moved, row_of(rows, there.data() + to.parts[part])) < tolerance) continue;
      rope_refusal_ = "those of layer " + std::to_string(part / 2) + " do not turn as the model file says";
      return;
    }
  }
  rope_refusal_.clear();
  key_positions_ = digest_of_ropes(spec.layers);
  ropes_ = std::move(spec.layers);
}

}  // namespace latentwire
