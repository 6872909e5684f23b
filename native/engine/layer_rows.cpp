// Called by ggml's scheduler, first to ask whether a node is wanted and again once it is computed, which keeps its memory from being used
// again in between.
#include "engine/layer_rows.h"

#include <algorithm>
#include <new>
#include <optional>
#include <string_view>

namespace latentwire {
namespace {

// Longer ones are scores over the vocabulary and the like.
constexpr int64_t longest_row = int64_t{1} << 20;

// "Kcur-3" and "Kcur-3 (reshaped)" are of layer 3.
std::optional<int32_t> layer_of(std::string_view name) {
  name = name.substr(0, name.find(' '));
  const size_t dash = name.rfind('-');
  if (dash == std::string_view::npos || dash + 1 == name.size() || name.size() - dash > 6) return std::nullopt;
  int32_t layer = 0;
  for (const char c : name.substr(dash + 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    layer = layer * 10 + (c - '0');
  }
  return layer;
}

}  // namespace

bool LayerRows::on_node(abi::ggml_tensor* node, bool ask, void* self) {
  auto& rows = *static_cast<LayerRows*>(self);
  const abi::Functions& api = rows.api_;
  const std::optional<int32_t> layer = layer_of(api.ggml_get_name(node));
  const int64_t n = api.ggml_nelements(node);
  // numbers of four bytes are f32: what llama.cpp gives a layer's name is activations
  const bool wanted =
      layer && n > 0 && n <= longest_row && api.ggml_is_contiguous(node) && api.ggml_nbytes(node) == static_cast<size_t>(n) * sizeof(float);
  if (ask || !wanted) return wanted;
  try {
    std::vector<float> row(static_cast<size_t>(n));
    api.ggml_backend_tensor_get(node, row.data(), 0, row.size() * sizeof(float));
    rows.rows_.emplace(*layer, std::move(row));
  } catch (const std::bad_alloc&) {
    return false;  // the decode ends, and nothing is proved
  }
  return true;
}

std::set<int32_t> LayerRows::layers_of(const std::vector<float>& row) const {
  std::set<int32_t> layers;
  for (const auto& [layer, computed] : rows_) {
    if (computed == row) layers.insert(layer);
  }
  return layers;
}

}  // namespace latentwire
