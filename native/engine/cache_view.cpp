// Rows go into a cache by nodes of the operation SET_ROWS, which are views of the cache's tensor; their second source holds the cells, of
// rows of a ubatch in order. llama.cpp names the tensors cache_k_l0, cache_v_l0 and so on.
#include "engine/cache_view.h"

#include <algorithm>
#include <charconv>
#include <new>
#include <optional>
#include <string_view>

namespace latentwire {
namespace {

struct Name {
  int32_t layer;
  bool values;
};

std::optional<Name> name_of(std::string_view text) {
  const bool values = text.starts_with("cache_v_l");
  if (!values && !text.starts_with("cache_k_l")) return std::nullopt;
  text.remove_prefix(9);
  int32_t layer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), layer);
  if (error != std::errc() || end != text.data() + text.size() || layer < 0) return std::nullopt;
  return Name{layer, values};
}

}  // namespace

void CacheView::begin(bool take_only) {
  cells_.clear();
  take_only_ = take_only;
  ended_ = went_on_ = false;
}

bool CacheView::on_node(abi::ggml_tensor* node, bool ask, void* self) {
  auto& view = *static_cast<CacheView*>(self);
  try {
    return view.look_at(node, ask);
  } catch (const std::bad_alloc&) {
    // without its cells a decode is of no use to anybody who asks for them
    view.cells_.clear();
    return false;
  }
}

// What is asked of a node is whether the computation should stop behind it; then it is shown again, and goes on if that is answered by
// true.
bool CacheView::look_at(abi::ggml_tensor* node, bool ask) {
  if (ended_) {
    // each further part of the graph ends at its first node
    went_on_ = true;
    return ask;
  }
  if (!ask) {
    ended_ = true;
    return false;
  }
  if (node->op != abi::GGML_OP_SET_ROWS || node->view_src == nullptr) return false;
  const abi::ggml_tensor& cache = *node->view_src;
  learn(*node, cache);
  if (cache.data != first_) return false;
  read_cells(*node);
  return take_only_;
}

void CacheView::learn(const abi::ggml_tensor& node, const abi::ggml_tensor& cache) {
  const std::optional<Name> name = name_of(api_.ggml_get_name(&cache));
  // a node that writes single numbers is of a cache that lies channel by channel
  if (!name || node.ne[0] != cache.ne[0] || cache.ne[2] != 1 || cache.ne[3] != 1 || cache.buffer == nullptr) return;
  if (first_ == nullptr && !name->values) first_ = cache.data;
  const bool known = std::any_of(seen_.begin(), seen_.end(), [&](const Seen& s) { return s.part.data == cache.data; });
  if (known) return;
  const size_t row_bytes = api_.ggml_row_size(cache.type, cache.ne[0]);
  if (cache.nb[1] != row_bytes) return;
  const bool on_host = api_.ggml_backend_buffer_is_host(cache.buffer);
  seen_.push_back(
      {name->layer, name->values, {static_cast<std::byte*>(cache.data), static_cast<int64_t>(row_bytes), cache.ne[1], on_host}});
}

void CacheView::read_cells(const abi::ggml_tensor& node) {
  const abi::ggml_tensor* source = node.src[1];
  if (source == nullptr || source->type != abi::GGML_TYPE_I64 || !api_.ggml_is_contiguous(source)) return;
  std::vector<int64_t> rows(static_cast<size_t>(api_.ggml_nelements(source)));
  api_.ggml_backend_tensor_get(source, rows.data(), 0, rows.size() * sizeof(int64_t));
  for (const int64_t row : rows) cells_.push_back(static_cast<int32_t>(row));
}

std::vector<CacheView::Part> CacheView::parts() const {
  std::vector<Seen> sorted = seen_;
  std::sort(sorted.begin(), sorted.end(), [](const Seen& a, const Seen& b) { return 2 * a.layer + a.values < 2 * b.layer + b.values; });
  std::vector<Part> parts;
  for (size_t i = 0; i < sorted.size(); i++) {
    if (2 * static_cast<size_t>(sorted[i].layer) + (sorted[i].values ? 1 : 0) != i) return {};
    parts.push_back(sorted[i].part);
  }
  return parts.size() % 2 == 0 ? parts : std::vector<Part>{};
}

}  // namespace latentwire
