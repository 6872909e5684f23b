// What a pool proves of its cache before keys and values leave it: the layout of its states, whether a quantised cache holds its rows
// rotated (its states do not say), which layers lie in which cache of a model that has two, and that keys move by the rotations that the
// model file tells. All of it is measured on one token decoded alone, for then the states of every layer are the same at any position, and
// so are keys but for their rotation.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

#include "engine/failure.h"
#include "engine/layer_rows.h"
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

// Rows that no two parts and no two entries have in common, of bytes that are finite numbers in every format.
KvContent distinct_rows(const CacheLayout& layout, int64_t count) {
  KvContent content;
  content.layout = layout;
  std::vector<uint8_t*> targets;
  check(allocate_segment(layout, count, &content.segments.emplace_back(), &targets));
  for (size_t part = 0; part < targets.size(); part++) {
    const auto bytes = static_cast<size_t>(count * layout.parts[part].row_bytes());
    uint32_t mixed = static_cast<uint32_t>(part) + 1;
    for (size_t i = 0; i < bytes; i++) {
      mixed = mixed * 1664525 + 1013904223;
      targets[part][i] = static_cast<uint8_t>(mixed >> 26);  // below 64: no exponent has all its bits
    }
  }
  return content;
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
  const Status learned = learn_geometry(two.data(), two.size(), 2, &probe.geometry);
  const bool two_caches = probe.geometry.sections.size() > 1;
  const uint64_t window = model_->file().integer(model_->file().arch_key("attention.sliding_window")).value_or(0);
  if (two_caches || (!learned.ok() && window > 0)) keep_what_windows_leave(window);
  layout_refusal_ = why_unreadable(learned, probe.geometry);
  if (!layout_refusal_.empty()) return;
  probe.layout = layout_of(probe.geometry);
  if (probe.layout.parts.front().channels % probe.layout.key_head != 0 || probe.layout.parts[1].channels % probe.layout.value_head != 0) {
    layout_refusal_ = "its rows are no whole heads";
    return;
  }
  const bool quantised = is_quantised(probe.layout.parts.front().format);
  Probe plain{};
  LayerRows computed(api_);  // outlives the context that fills it
  std::shared_ptr<abi::llama_context> context;
  if (two_caches || quantised) {
    // held against a cache of plain numbers for the same token
    context = plain_context(two_caches ? &computed : nullptr);
    plain.context = context.get();
    if (context != nullptr) plain.state = state_of_probe(context.get(), 0, token, 0, 1);
    if (!learn_geometry(plain.state.data(), plain.state.size(), 1, &plain.geometry).ok() ||
        plain.geometry.sections != probe.geometry.sections || (two_caches && !find_layers(computed, &plain, &probe))) {
      layout_refusal_ = "which rows of its states belong to which layer could not be proved";
      return;
    }
    plain.geometry.max_cells = context_length_;
    plain.layout = layout_of(plain.geometry);
    probe.layout = layout_of(probe.geometry);
  }
  probe.geometry.max_cells = context_length_;
  if (quantised && !find_rotation(plain, &probe)) {
    layout_refusal_ = "its quantised rows are stored in a way that this package does not know";
    return;
  }
  if (two_caches && !has_layers_of(plain, probe)) {
    layout_refusal_ = "its layers lie in another order than those of a cache of plain numbers";
    return;
  }
  geometry_ = std::make_shared<const StateGeometry>(probe.geometry);
  layout_ = probe.layout;
  // rotary positions that depend on the size of the context are others in the small cache of plain numbers
  const bool by_context = model_->file().tensor("rope_factors_long.weight") != nullptr;
  prove_rotary_positions(quantised && !by_context ? plain : probe, token);
}

void Pool::prove_in_place() {
  filler_ = probe_token();
  const std::string reason = why_not_in_place();
  if (!reason.empty()) fail(Code::kv_layout, "the cache of " + model_->info().architecture + " cannot be used in place: " + reason);
}

// "" if what is written there is what llama.cpp reads, entry by entry and layer by layer, and can be read back.
std::string Pool::why_not_in_place() {
  if (!layout_) return layout_refusal_;
  if (geometry_->sections.size() > 1) return "it is two caches, of global and of local layers";
  if (geometry_->transposed_values) return "values lie channel by channel without flash attention";
  const std::vector<CacheView::Part> parts = view_->parts();
  if (parts.size() != layout_->parts.size()) return "its graph does not show where each layer lies";
  for (size_t part = 0; part < parts.size(); part++) {
    if (parts[part].row_bytes != layout_->parts[part].row_bytes()) return "its rows have another size than those of its states";
    if (parts[part].cells < context_length_) return "it has fewer cells than the context has positions";
  }
  const Status opened = CellMemory::open(*layout_, parts, options_.backend, options_.asks_of_host, &memory_of_cells_);
  if (opened.code == Code::kv_layout) return opened.message;
  check(opened);
  on_device_ = memory_of_cells_->on_device();

  constexpr int32_t count = 3;
  std::vector<int32_t> places;
  try {
    // what is computed in one place for a few rows may be computed in several for many
    take_run(0, std::min(options_.batch, context_length_), &places);
    clear_scratch();
    places.clear();
    take_run(0, count, &places);
  } catch (const Failure& failure) {
    if (!counters().poisoned.empty()) throw;
    clear_scratch();
    return failure.status.message;
  }
  const KvContent written = distinct_rows(*layout_, count);
  check(memory_of_cells_->scatter(written, nullptr, places));
  const std::vector<uint8_t> state = guarded("llama_state_seq_get_data", [&] {
    std::vector<uint8_t> bytes(api_.llama_state_seq_get_size(context_, scratch_));
    bytes.resize(api_.llama_state_seq_get_data(context_, bytes.data(), bytes.size(), scratch_));
    return bytes;
  });
  KvSegment read;
  check(memory_of_cells_->gather(places, &read));
  clear_scratch();
  StateSummary found;
  check(locate_rows(state.data(), state.size(), *geometry_, &found));
  if (found.positions.front() != positions_from(0, count)) return "its cells are not those that it was given";
  for (size_t part = 0; part < parts.size(); part++) {
    const uint8_t* wanted = written.segments.front().parts[part];
    const auto bytes = static_cast<size_t>(count * parts[part].row_bytes);
    if (std::memcmp(state.data() + found.parts[part], wanted, bytes) != 0) return "what is written there is not what llama.cpp reads";
    if (std::memcmp(read.parts[part], wanted, bytes) != 0) return "what is read there is not what was written";
  }
  return "";
}

void Pool::keep_what_windows_leave(uint64_t window) {
  if (2 * options_.max_sequences > last_sequence_id)
    fail(Code::invalid_argument,
         "a model with sliding windows has at most " + std::to_string(last_sequence_id / 2) + " sequences in a pool");
  twins_ = true;
  if (window > 0 && window < INT32_MAX) window_ = static_cast<int32_t>(window);
}

// "" if keys and values can be read.
std::string Pool::why_unreadable(const Status& learned, const StateGeometry& geometry) const {
  if (!learned.ok()) {
    const bool compressed = model_->file().integer(model_->file().arch_key("attention.kv_lora_rank")).value_or(0) > 0;
    return compressed ? "its keys are compressed, and it has no values (latent attention)" : learned.message;
  }
  if (geometry.extended_positions) return "its cells have more than one position each (M-RoPE)";
  const auto layers = static_cast<int32_t>(geometry.layers.size());
  if (layers == model_->info().layers) return "";
  return "it has " + std::to_string(layers) + " layers, the model " + std::to_string(model_->info().layers);
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

// A small one with a cache of f32; nullptr if llama.cpp makes none. `rows`, if given, gets what its graphs compute.
std::shared_ptr<abi::llama_context> Pool::plain_context(LayerRows* rows) {
  abi::llama_context_params params = context_params();
  params.n_ctx = params.n_batch = params.n_ubatch = 32;
  params.n_seq_max = 1;
  params.type_k = params.type_v = abi::GGML_TYPE_F32;
  if (rows != nullptr) {
    params.cb_eval = reinterpret_cast<void*>(&LayerRows::on_node);
    params.cb_eval_user_data = rows;
  }
  abi::llama_context* made = guarded("context of plain numbers", [&] { return api_.llama_init_from_model(model_->handle(), params); });
  if (made == nullptr) return nullptr;
  return {made, [free = api_.llama_free](abi::llama_context* context) { free(context); }};
}

// Which layer of the model each one of a state with two caches is: the one whose nodes in the graph have computed its rows. Brings both
// geometries, which have their layers in the order of the state, into that of the model.
bool Pool::find_layers(const LayerRows& computed, Probe* plain, Probe* probe) const {
  StateSummary found;
  if (!locate_rows(plain->state.data(), plain->state.size(), plain->geometry, &found).ok()) return false;
  const CacheLayout layout = layout_of(plain->geometry);
  const auto count = static_cast<size_t>(layout.layers());
  std::vector<int32_t> layers;
  for (size_t i = 0; i < count; i++) {
    const std::set<int32_t> with_keys = computed.layers_of(row_of(layout.parts[2 * i], plain->state.data() + found.parts[2 * i]));
    const std::set<int32_t> with_values = computed.layers_of(row_of(layout.parts[2 * i + 1], plain->state.data() + found.parts[2 * i + 1]));
    if (with_keys.size() != 1 || with_values != with_keys) return false;
    layers.push_back(*with_keys.begin());
  }
  if (std::set<int32_t>(layers.begin(), layers.end()).size() != count ||
      *std::max_element(layers.begin(), layers.end()) >= static_cast<int32_t>(count))
    return false;
  for (StateGeometry* geometry : {&plain->geometry, &probe->geometry}) {
    const std::vector<StateLayer> stored = geometry->layers;
    for (size_t i = 0; i < count; i++) geometry->layers[static_cast<size_t>(layers[i])] = stored[i];
    for (std::vector<int32_t>& section : geometry->sections) {
      for (int32_t& layer : section) layer = layers[static_cast<size_t>(layer)];
    }
  }
  return true;
}

// Whether every row of a state is nearest to that of the same layer in the cache of plain numbers, and clearly so.
bool Pool::has_layers_of(const Probe& plain, const Probe& probe) const {
  StateSummary wanted;
  StateSummary found;
  if (!locate_rows(plain.state.data(), plain.state.size(), plain.geometry, &wanted).ok() ||
      !locate_rows(probe.state.data(), probe.state.size(), probe.geometry, &found).ok())
    return false;
  for (size_t part = 0; part < probe.layout.parts.size(); part++) {
    const std::vector<float> row = row_of(probe.layout.parts[part], probe.state.data() + found.parts[part]);
    const auto distance_to = [&](size_t other) {
      return relative_distance(row, row_of(plain.layout.parts[other], plain.state.data() + wanted.parts[other]));
    };
    const double own = distance_to(part);
    for (size_t other = part % 2; other < probe.layout.parts.size(); other += 2) {
      if (other != part && plain.layout.parts[other].channels == plain.layout.parts[part].channels && !(own < 0.7 * distance_to(other)))
        return false;
    }
  }
  return true;
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
