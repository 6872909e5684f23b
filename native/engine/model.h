// One loaded GGUF model: vocabulary, input and output matrices, the calibrated scale of input rows, and the facts that pools need.
// Immutable after `load`, so every method may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "engine/gguf_file.h"
#include "engine/runtime.h"

namespace latentwire {

struct ModelInfo {
  std::string description;
  std::string architecture;
  std::string rope;
  std::string rope_scaling;
  std::optional<std::string> chat_template;
  uint64_t parameters = 0;
  uint64_t bytes = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t embedding_length = 0;
  int32_t vocabulary_size = 0;
  int32_t context_length = 0;
  int32_t bos = -1;
  int32_t eos = -1;
  int32_t eot = -1;
  bool add_bos = false;
  bool tied_output = true;
  float input_scale = 1.0F;  // what multiplies an embedding row before the first layer
  float alpha = 0.0F;        // mean norm of the scaled input rows
};

class Model {
 public:
  struct Options {
    int32_t gpu_layers = 0;
    bool mmap = true;
  };

  // Validates the file, loads it, and calibrates the input scale by bit-identity of rows with token ids, which is the engine's self-test.
  // `progress` gets 0..1 and returns false to stop. Throws Failure.
  static std::shared_ptr<Model> load(const std::string& path, const Options& options, const std::function<bool(float)>& progress);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  const ModelInfo& info() const noexcept { return info_; }
  const abi::Functions& api() const noexcept { return api_; }
  abi::llama_model* handle() const noexcept { return model_; }
  const abi::llama_vocab* vocabulary() const noexcept { return vocabulary_; }
  std::optional<std::string> metadata(const std::string& key) const;
  const GgufFile& file() const noexcept { return *file_; }

  // Positions that llama.cpp wants for one row: 4 under M-RoPE, else 1.
  int32_t positions_per_row() const noexcept { return positions_per_row_; }

  std::vector<int32_t> tokenize(const std::string& text, bool add_special, bool parse_special) const;
  std::string detokenize(const int32_t* tokens, int32_t count, bool render_special) const;
  std::string piece(int32_t token, bool render_special) const;
  bool is_token(int32_t token) const noexcept { return token >= 0 && token < info_.vocabulary_size; }
  bool is_end_of_generation(int32_t token) const noexcept { return api_.llama_vocab_is_eog(vocabulary_, token); }
  bool is_control(int32_t token) const noexcept { return api_.llama_vocab_is_control(vocabulary_, token); }

  // Writes the scaled input row of `token`, [d].
  void input_row(int32_t token, float* row) const;
  // The unscaled matrix as f32 [vocabulary, d]; nullptr for the output of a tied model.
  std::shared_ptr<Tensor> matrix(bool output) const;
  // Ridge alignment of output to input embeddings, f32 [d, d]; a latent step is alpha h W / |h W|, so W needs no input scale.
  std::shared_ptr<Tensor> solve_alignment(double lambda, const std::atomic<bool>& cancel) const;

 private:
  Model() : api_(Runtime::get().api()) {}
  void read_info();
  void refuse_unsupported() const;
  void calibrate();
  void read_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out) const;

  const abi::Functions& api_;
  std::shared_ptr<GgufFile> file_;
  const GgufTensor* input_ = nullptr;
  const GgufTensor* output_ = nullptr;
  abi::llama_model* model_ = nullptr;
  const abi::llama_vocab* vocabulary_ = nullptr;
  ModelInfo info_;
  int32_t positions_per_row_ = 1;
};

}  // namespace latentwire
