// What a pool proves of its cache before keys and values leave it: the layout of its states, whether a quantised cache holds its rows
// rotated (its states do not say), and that keys move by the rotations that the model file tells. All of it is measured on one token
// decoded alone, for then the states of every layer are the same at any position, and so are keys but for their rotation.
#include <algorithm>
#include <cmath>

#include "engine/failure.h"
#include "engine/pool.h"
#include "engine/rope_spec.h"

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
    default:
      return 0.002;
  }
}

double relative_distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < a.size(); i++) {
    difference += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    size += static_cast<double>(b[i]) * b[i];
  }
  return size == 0 ? std::sqrt(difference) : std::sqrt(difference / size);
}

// llama.cpp rotates the rows of quantised caches in blocks, where heads are multiples of 64: keys by the largest power of two that divides
// a head, values by 64.
int32_t rotation_of(int32_t head_dim, bool keys) {
  if (head_dim % 64 != 0) return 0;
  return keys ? head_dim & -head_dim : 64;
}

std::vector<float> row_of(const CacheRows& rows, const uint8_t* at) {
  std::vector<float> numbers(static_cast<size_t>(rows.channels));
  decode(rows, at, 1, numbers.data());
  return numbers;
}

}  // namespace

// The state of the scratch sequence after `tokens` times token 0 from `position` on, and nothing else.
std::vector<uint8_t> Pool::state_of_probe(abi::llama_context* context, int32_t sequence, int32_t position, int32_t tokens) {
  const abi::llama_memory_t memory = api_.llama_get_memory(context);
  Batch batch(model_->info().embedding_length, model_->positions_per_row());
  for (int32_t i = 0; i < tokens; i++) {
    batch.clear();
    batch.add_token(0, position + i, sequence, true);
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
  const std::vector<uint8_t> one = state_of_probe(context_, scratch_, 0, 1);
  const std::vector<uint8_t> two = state_of_probe(context_, scratch_, 0, 2);
  kv_bytes_per_position_ = two.size() - one.size();
  StateGeometry geometry;
  if (Status status = learn_geometry(two.data(), two.size(), 2, model_->info().layers, &geometry); !status.ok()) {
    layout_refusal_ = std::move(status.message);
    return;
  }
  if (geometry.transposed_values || geometry.extended_positions) {
    layout_refusal_ = geometry.extended_positions ? "its cells have more than one position each (M-RoPE)" : "its values are transposed";
    return;
  }
  geometry.max_cells = context_length_;
  CacheLayout layout;
  layout.dimension = model_->info().embedding_length;
  for (const StateLayer& layer : geometry.layers) {
    for (const auto& [type, bytes] : {std::pair{layer.key_type, layer.key_row_bytes}, std::pair{layer.value_type, layer.value_row_bytes}}) {
      const RowFormat format = format_of(type);
      const auto units = static_cast<int64_t>(bytes) / row_unit_bytes(format);
      layout.parts.push_back({format, static_cast<int32_t>(units * row_unit_columns(format)), 0});
    }
  }
  geometry_ = std::move(geometry);
  if (is_quantised(layout.parts.front().format) && !find_rotation(one, &layout)) {
    layout_refusal_ = "its quantised rows are stored in a way that this package does not know";
    return;
  }
  layout_ = std::move(layout);
  prove_rotary_positions(one);
}

// Which of the two ways of storing quantised rows gives back what a cache of plain numbers holds for the same token. Of the first layer
// only: the states of the others depend on what attention reads.
bool Pool::find_rotation(const std::vector<uint8_t>& probe, CacheLayout* layout) {
  abi::llama_context_params params = context_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 32;
  params.n_seq_max = 1;
  params.type_k = params.type_v = abi::GGML_TYPE_F32;
  abi::llama_context* plain = guarded("context of plain numbers", [&] { return api_.llama_init_from_model(model_->handle(), params); });
  if (plain == nullptr) fail(Code::out_of_memory, "llama.cpp made no context: " + Runtime::take_log());
  std::vector<uint8_t> truth;
  try {
    truth = state_of_probe(plain, 0, 0, 1);
  } catch (...) {
    api_.llama_free(plain);
    throw;
  }
  api_.llama_free(plain);
  StateGeometry plain_geometry;
  StateSummary wanted;
  StateSummary found;
  if (!learn_geometry(truth.data(), truth.size(), 1, model_->info().layers, &plain_geometry).ok() ||
      !locate_rows(truth.data(), truth.size(), plain_geometry, &wanted).ok() ||
      !locate_rows(probe.data(), probe.size(), *geometry_, &found).ok())
    return false;
  for (const bool rotated : {false, true}) {
    CacheLayout guess = *layout;
    const int32_t heads = model_->info().kv_heads;
    for (size_t part = 0; rotated && part < guess.parts.size(); part++)
      guess.parts[part].rotation = rotation_of(guess.parts[part].channels / heads, part % 2 == 0);
    bool fits = true;
    for (size_t part = 0; part < 2; part++) {
      const CacheRows numbers{RowFormat::f32, guess.parts[part].channels, 0};
      fits = fits && check_rows(guess.parts[part]).ok() &&
             relative_distance(row_of(guess.parts[part], probe.data() + found.parts[part]),
                               row_of(numbers, truth.data() + wanted.parts[part])) < tolerance_of(guess.parts[part].format);
    }
    if (fits) {
      *layout = std::move(guess);
      return true;
    }
  }
  return false;
}

// Keys at position 0 turned to another must be the keys that llama.cpp computes there, in every layer, and values must be the same.
void Pool::prove_rotary_positions(const std::vector<uint8_t>& probe) {
  RopeSpec spec = read_rope_spec(model_->file(), api_.llama_model_rope_type(model_->handle()), context_length_);
  rope_refusal_ = spec.obstacle;
  // layers that predict further tokens are in the file, and not in this cache
  if (rope_refusal_.empty() && static_cast<int64_t>(spec.layers.size()) != layout_->layers())
    rope_refusal_ = "the model file has " + std::to_string(spec.layers.size()) + " layers, the cache " + std::to_string(layout_->layers());
  const int32_t position = std::min(97, context_length_ - 1);
  if (!rope_refusal_.empty() || position < 1) return;
  const std::vector<uint8_t> there = state_of_probe(context_, scratch_, position, 1);
  StateSummary from;
  StateSummary to;
  if (!locate_rows(probe.data(), probe.size(), *geometry_, &from).ok() || !locate_rows(there.data(), there.size(), *geometry_, &to).ok()) {
    rope_refusal_ = "the cache changed its layout";
    return;
  }
  for (size_t part = 0; part < layout_->parts.size(); part++) {
    const CacheRows& rows = layout_->parts[part];
    std::vector<float> moved = row_of(rows, probe.data() + from.parts[part]);
    const Rope* rope = part % 2 == 0 ? spec.layers[part / 2].get() : nullptr;
    if (rope != nullptr) rotate(*rope, &position, moved.data(), 1, rows.channels / rope->head_dim);
    if (relative_distance(moved, row_of(rows, there.data() + to.parts[part])) < tolerance_of(rows.format)) continue;
    rope_refusal_ = "those of layer " + std::to_string(part / 2) + " do not turn as the model file says";
    return;
  }
  ropes_ = std::move(spec.layers);
}

}  // namespace latentwire
