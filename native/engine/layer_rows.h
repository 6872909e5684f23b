// What the graph of one decoded token computes in each layer. llama.cpp numbers the nodes of its graphs by layer, which its states do not
// do, so a row of a state is of the layer whose nodes hold the same numbers.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <vector>

#include "engine/llama_abi.h"

namespace latentwire {

class LayerRows {
 public:
  // Of rows of any length. `on_node` with this object goes into the parameters of a context.
  explicit LayerRows(const abi::Functions& api) : api_(api) {}

  static bool on_node(abi::ggml_tensor* node, bool ask, void* self);

  // The layers that have computed exactly this row.
  std::set<int32_t> layers_of(const std::vector<float>& row) const;
  bool empty() const noexcept { return rows_.empty(); }

 private:
  const abi::Functions& api_;
  std::multimap<int32_t, std::vector<float>> rows_;  // by layer
};

}  // namespace latentwire
