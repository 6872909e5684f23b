// Where llama.cpp keeps the keys and values of a context, and which cells a decode writes: both are told by the nodes of its graphs, which
// ggml's scheduler shows to a callback before it computes them. A decode can also be ended at the first of them: then its cells are taken,
// and nothing was computed that anybody would miss.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/llama_abi.h"

namespace latentwire {

class CacheView {
 public:
  // Keys or values of a layer: cell c at data + c * row_bytes, in memory of the host or of a device.
  struct Part {
    std::byte* data = nullptr;
    int64_t row_bytes = 0;
    int64_t cells = 0;
    bool on_host = true;
  };

  explicit CacheView(const abi::Functions& api) : api_(api) {}

  // Goes with this object into the parameters of a context.
  static bool on_node(abi::ggml_tensor* node, bool ask, void* self);

  // Before a decode: what was learned of the last one is forgotten. With `take_only`, the decode ends once its cells are taken.
  void begin(bool take_only);
  // The cells of the decode's rows, in their order. Empty if they could not be read.
  const std::vector<int32_t>& cells() const noexcept { return cells_; }
  // Whether a decode that was to end went on in another part of the graph, as it does where a model is computed in several places.
  bool went_on() const noexcept { return went_on_; }

  // [2 * layers]: keys and values of each layer, by layer. Empty unless a whole decode has shown each of them once, in the order of layers
  // from 0 on.
  std::vector<Part> parts() const;

 private:
  struct Seen {
    int32_t layer;
    bool values;
    Part part;
  };

  bool look_at(abi::ggml_tensor* node, bool ask);
  void learn(const abi::ggml_tensor& node, const abi::ggml_tensor& cache);
  void read_cells(const abi::ggml_tensor& node);

  const abi::Functions& api_;
  std::vector<Seen> seen_;
  std::vector<int32_t> cells_;
  const void* first_ = nullptr;  // the cache whose node tells the cells
  bool take_only_ = false;
  bool ended_ = false;
  bool went_on_ = false;
};

}  // namespace latentwire
