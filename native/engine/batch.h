// The rows of one llama_decode call: all token ids or all embedding rows, each with its position, its sequence, and whether its output is
// wanted.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/llama_abi.h"

namespace latentwire {

class Batch {
 public:
  Batch(int32_t embedding_length, int32_t positions_per_row) : d_(embedding_length), positions_per_row_(positions_per_row) {}

  void clear() {
    tokens_.clear();
    embeddings_.clear();
    positions_.clear();
    sequences_.clear();
    outputs_.clear();
  }

  int32_t rows() const noexcept { return static_cast<int32_t>(positions_.size()); }
  bool empty() const noexcept { return positions_.empty(); }

  void add_token(int32_t token, int32_t position, int32_t sequence, bool output) {
    tokens_.push_back(token);
    add_place(position, sequence, output);
  }

  // `row`: [d]
  void add_row(const float* row, int32_t position, int32_t sequence, bool output) {
    embeddings_.insert(embeddings_.end(), row, row + d_);
    add_place(position, sequence, output);
  }

  // The C view; valid until the batch changes.
  abi::llama_batch view() {
    const size_t n = positions_.size();
    counts_.assign(n, 1);
    sequence_pointers_.resize(n);
    for (size_t i = 0; i < n; i++) sequence_pointers_[i] = &sequences_[i];
    const bool embedded = !embeddings_.empty();
    int32_t* positions = positions_.data();
    if (embedded && positions_per_row_ == 4) {
      // M-RoPE rows carry time, height, width and an unused axis as four planes; text moves the first three together   // [4, n]
      planes_.assign(4 * n, 0);
      for (size_t axis = 0; axis < 3; axis++)
        std::copy(positions_.begin(), positions_.end(), planes_.begin() + static_cast<ptrdiff_t>(axis * n));
      positions = planes_.data();
    }
    return {static_cast<int32_t>(n),
            embedded ? nullptr : tokens_.data(),
            embedded ? embeddings_.data() : nullptr,
            positions,
            counts_.data(),
            sequence_pointers_.data(),
            outputs_.data()};
  }

 private:
  void add_place(int32_t position, int32_t sequence, bool output) {
    positions_.push_back(position);
    sequences_.push_back(sequence);
    outputs_.push_back(output ? 1 : 0);
  }

  int32_t d_;
  int32_t positions_per_row_;
  std::vector<int32_t> tokens_;
  std::vector<float> embeddings_;  // [n, d]
  std::vector<int32_t> positions_;
  std::vector<int32_t> sequences_;
  std::vector<int8_t> outputs_;
  std::vector<int32_t> counts_;
  std::vector<int32_t*> sequence_pointers_;
  std::vector<int32_t> planes_;
};

}  // namespace latentwire
