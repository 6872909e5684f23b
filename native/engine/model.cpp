#include "engine/model.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "engine/batch.h"
#include "engine/failure.h"
#include "fit/alignment.h"

namespace latentwire {
namespace {

std::string rope_name(abi::llama_rope_type type) {
  switch (type) {
    case abi::LLAMA_ROPE_TYPE_NORM:
      return "norm";
    case abi::LLAMA_ROPE_TYPE_NEOX:
      return "neox";
    case abi::LLAMA_ROPE_TYPE_MROPE:
      return "mrope";
    case abi::LLAMA_ROPE_TYPE_IMROPE:
      return "imrope";
    case abi::LLAMA_ROPE_TYPE_VISION:
      return "vision";
    case abi::LLAMA_ROPE_TYPE_NONE:
      break;
  }
  return "none";
}

// The context of the calibration: a few positions, one thread, freed on every path.
struct ProbeContext {
  const abi::Functions& api;
  abi::llama_context* context;

  ProbeContext(const abi::Functions& functions, abi::llama_model* model) : api(functions) {
    abi::llama_context_params params = api.llama_context_default_params();
    params.n_ctx = 64;
    params.n_batch = 16;
    params.n_ubatch = 16;
    params.n_threads = 1;
    params.n_threads_batch = 1;
    params.pooling_type = abi::LLAMA_POOLING_TYPE_NONE;
    params.flash_attn_type = abi::LLAMA_FLASH_ATTN_TYPE_ENABLED;
    params.kv_unified = true;
    params.swa_full = true;
    context = api.llama_init_from_model(model, params);
    if (context == nullptr) fail(Code::model_unsupported, "llama.cpp made no context: " + Runtime::take_log());
  }
  ~ProbeContext() { api.llama_free(context); }
  ProbeContext(const ProbeContext&) = delete;
  ProbeContext& operator=(const ProbeContext&) = delete;

  std::vector<float> logits(Batch& batch, int32_t vocabulary) {
    api.llama_memory_seq_rm(api.llama_get_memory(context), 0, -1, -1);
    if (api.llama_decode(context, batch.view()) != 0)
      fail(Code::engine_self_test, "the self-test could not decode: " + Runtime::take_log());
    const float* row = api.llama_get_logits_ith(context, batch.rows() - 1);
    if (row == nullptr) fail(Code::engine_self_test, "the self-test got no logits");
    return {row, row + vocabulary};
  }
};

}  // namespace

std::shared_ptr<Model> Model::load(const std::string& path, const Options& options, const std::function<bool(float)>& progress) {
  std::shared_ptr<Model> model(new Model());
  if (Status status = GgufFile::open(path, &model->file_); !status.ok()) throw Failure(std::move(status));
  model->input_ = model->file_->tensor("token_embd.weight");
  model->output_ = model->file_->tensor("output.weight");

  bool stopped = false;
  struct Callback {
    const std::function<bool(float)>& progress;
    bool& stopped;
  } callback{progress, stopped};

  abi::llama_model_params params = model->api_.llama_model_default_params();
  params.n_gpu_layers = options.gpu_layers;
  params.load_mode = options.mmap ? abi::LLAMA_LOAD_MODE_MMAP : abi::LLAMA_LOAD_MODE_NONE;
  params.progress_callback = [](float ratio, void* data) {
    auto* call = static_cast<Callback*>(data);
    if (!call->progress(ratio)) call->stopped = true;
    return !call->stopped;
  };
  params.progress_callback_user_data = &callback;

  Runtime::take_log();
  try {
    model->model_ = model->api_.llama_model_load_from_file(path.c_str(), params);
  } catch (const std::exception& error) {
    fail(Code::model_format, "llama.cpp refused " + path + ": " + error.what());
  }
  if (stopped) fail(Code::cancelled, "loading was aborted");
  if (model->model_ == nullptr) fail(Code::model_format, "llama.cpp refused " + path + ": " + Runtime::take_log());
  try {
    model->read_info();
    model->refuse_unsupported();
    model->calibrate();
  } catch (const Failure&) {
    throw;
  } catch (const std::exception& error) {
    fail(Code::model_unsupported, "llama.cpp failed on " + path + ": " + error.what());
  }
  return model;
}

Model::~Model() {
  if (model_ != nullptr) api_.llama_model_free(model_);
}

void Model::read_info() {
  vocabulary_ = api_.llama_model_get_vocab(model_);
  std::array<char, 256> text{};
  api_.llama_model_desc(model_, text.data(), text.size());
  info_.description = text.data();
  info_.architecture = file_->architecture();
  info_.parameters = api_.llama_model_n_params(model_);
  info_.bytes = api_.llama_model_size(model_);
  info_.layers = api_.llama_model_n_layer(model_);
  info_.heads = api_.llama_model_n_head(model_);
  info_.kv_heads = api_.llama_model_n_head_kv(model_);
  info_.embedding_length = api_.llama_model_n_embd(model_);
  info_.vocabulary_size = api_.llama_vocab_n_tokens(vocabulary_);
  info_.context_length = api_.llama_model_n_ctx_train(model_);
  info_.bos = api_.llama_vocab_bos(vocabulary_);
  info_.eos = api_.llama_vocab_eos(vocabulary_);
  info_.eot = api_.llama_vocab_eot(vocabulary_);
  info_.add_bos = api_.llama_vocab_get_add_bos(vocabulary_);
  info_.tied_output = output_ == nullptr;
  if (const char* source = api_.llama_model_chat_template(model_, nullptr)) info_.chat_template = source;

  const abi::llama_rope_type rope = api_.llama_model_rope_type(model_);
  const bool multi = rope == abi::LLAMA_ROPE_TYPE_MROPE || rope == abi::LLAMA_ROPE_TYPE_IMROPE;
  info_.rope = rope_name(rope);
  info_.rope_scaling = file_->string(info_.architecture + ".rope.scaling.type").value_or("none");
  positions_per_row_ = multi ? 4 : 1;
}

void Model::refuse_unsupported() const {
  const auto refuse = [&](const std::string& why) { fail(Code::model_unsupported, info_.architecture + ": " + why); };
  if (api_.llama_model_is_recurrent(model_) || api_.llama_model_is_hybrid(model_)) {
    refuse("a recurrent state cannot be cut or shared by position, which every hand-over needs");
  }
  if (api_.llama_model_has_encoder(model_) || !api_.llama_model_has_decoder(model_)) refuse("only decoder models can be agents");
  if (api_.llama_model_is_diffusion(model_)) refuse("diffusion models have no left-to-right cache to hand over");
  if (api_.llama_model_n_embd_inp(model_) != info_.embedding_length || api_.llama_model_n_embd_out(model_) != info_.embedding_length) {
    refuse("input rows, hidden states and embeddings differ in length");
  }
  if (info_.vocabulary_size <= 0 || input_ == nullptr) refuse("no vocabulary or no token embeddings");
}

// Rows are what agents hand over, so they must enter the model exactly where tokens do. Families differ in what they multiply a token's row
// by (1, sqrt(d), a value in the file); the right scale is the one under which rows and ids give the same logits, bit for bit.
void Model::calibrate() {
  const int32_t d = info_.embedding_length;
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 4; i++) tokens.push_back(static_cast<int32_t>((static_cast<int64_t>(info_.vocabulary_size - 1) * (i + 1)) / 5));

  ProbeContext probe(api_, model_);
  Batch ids(d, positions_per_row_);
  for (int32_t i = 0; i < 4; i++) ids.add_token(tokens[static_cast<size_t>(i)], i, 0, i == 3);
  const std::vector<float> want = probe.logits(ids, info_.vocabulary_size);
  if (!std::all_of(want.begin(), want.end(), [](float x) { return std::isfinite(x); })) {
    fail(Code::engine_self_test, "the model gives logits that are not finite");
  }

  std::vector<float> scales = {1.0F, std::sqrt(static_cast<float>(d))};
  if (const auto scale = file_->number(info_.architecture + ".embedding_scale")) scales.push_back(static_cast<float>(*scale));
  std::vector<float> row(static_cast<size_t>(d));
  for (const float scale : scales) {
    info_.input_scale = scale;
    Batch rows(d, positions_per_row_);
    for (int32_t i = 0; i < 4; i++) {
      input_row(tokens[static_cast<size_t>(i)], row.data());
      rows.add_row(row.data(), i, 0, i == 3);
    }
    if (probe.logits(rows, info_.vocabulary_size) == want) {
      const double mean =
          mean_row_norm(info_.vocabulary_size, d, [&](int64_t first, int64_t count, float* out) { read_rows(*input_, first, count, out); });
      info_.alpha = static_cast<float>(mean * static_cast<double>(scale));
      return;
    }
  }
  fail(Code::engine_self_test,
       info_.architecture + ": input rows never gave the logits of their token ids, so latents would be read wrongly");
}

std::optional<std::string> Model::metadata(const std::string& key) const { return file_->string(key); }

std::vector<int32_t> Model::tokenize(const std::string& text, bool add_special, bool parse_special) const {
  const auto length = static_cast<int32_t>(text.size());
  std::vector<int32_t> tokens(text.size() + 8);
  int32_t count = 0;
  try {
    count = api_.llama_tokenize(vocabulary_, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()), add_special,
                                parse_special);
    if (count < 0 && count != INT32_MIN) {
      tokens.resize(static_cast<size_t>(-count));
      count = api_.llama_tokenize(vocabulary_, text.data(), length, tokens.data(), static_cast<int32_t>(tokens.size()), add_special,
                                  parse_special);
    }
  } catch (const std::exception& error) {
    // a vocabulary without byte tokens throws on characters it does not know
    fail(Code::invalid_argument, std::string("this vocabulary cannot spell the text: ") + error.what());
  }
  if (count < 0) fail(Code::invalid_argument, "the text is too long to tokenise");
  tokens.resize(static_cast<size_t>(count));
  return tokens;
}

std::string Model::detokenize(const int32_t* tokens, int32_t count, bool render_special) const {
  for (int32_t i = 0; i < count; i++) {
    if (!is_token(tokens[i])) fail(Code::invalid_argument, "token " + std::to_string(tokens[i]) + " is not in the vocabulary");
  }
  std::string text(static_cast<size_t>(count) * 8 + 16, '\0');
  int32_t length = api_.llama_detokenize(vocabulary_, tokens, count, text.data(), static_cast<int32_t>(text.size()), false, render_special);
  if (length < 0) {
    text.resize(static_cast<size_t>(-length));
    length = api_.llama_detokenize(vocabulary_, tokens, count, text.data(), static_cast<int32_t>(text.size()), false, render_special);
  }
  text.resize(static_cast<size_t>(std::max(length, 0)));
  return text;
}

std::string Model::piece(int32_t token, bool render_special) const {
  if (!is_token(token)) fail(Code::invalid_argument, "token " + std::to_string(token) + " is not in the vocabulary");
  std::string text(64, '\0');
  int32_t length = api_.llama_token_to_piece(vocabulary_, token, text.data(), static_cast<int32_t>(text.size()), 0, render_special);
  if (length < 0) {
    text.resize(static_cast<size_t>(-length));
    length = api_.llama_token_to_piece(vocabulary_, token, text.data(), static_cast<int32_t>(text.size()), 0, render_special);
  }
  text.resize(static_cast<size_t>(std::max(length, 0)));
  return text;
}

void Model::read_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out) const {
  const int64_t d = info_.embedding_length;
  const auto type = static_cast<abi::ggml_type>(tensor.ggml_type);
  const size_t row_bytes = api_.ggml_row_size(type, d);
  const uint8_t* source = file_->data(tensor) + static_cast<size_t>(first) * row_bytes;
  if (type == abi::GGML_TYPE_F32) {
    std::memcpy(out, source, static_cast<size_t>(count) * row_bytes);
    return;
  }
  const abi::ggml_to_float_t convert = api_.ggml_get_type_traits(type)->to_float;
  if (convert == nullptr) fail(Code::dtype, "llama.cpp cannot read rows of tensor " + tensor.name);
  for (int64_t i = 0; i < count; i++) convert(source + static_cast<size_t>(i) * row_bytes, out + i * d, d);
}

void Model::input_row(int32_t token, float* row) const {
  read_rows(*input_, token, 1, row);
  if (info_.input_scale == 1.0F) return;
  for (int32_t i = 0; i < info_.embedding_length; i++) row[i] *= info_.input_scale;
}

std::shared_ptr<Tensor> Model::matrix(bool output) const {
  const GgufTensor* tensor = output ? output_ : input_;
  if (tensor == nullptr) return nullptr;
  std::shared_ptr<Tensor> matrix;
  if (Status status = Tensor::create(Dtype::f32, {info_.vocabulary_size, info_.embedding_length}, &matrix); !status.ok())
    throw Failure(std::move(status));
  read_rows(*tensor, 0, info_.vocabulary_size, matrix->f32());
  return matrix;
}

std::shared_ptr<Tensor> Model::solve_alignment(double lambda, const std::atomic<bool>& cancel) const {
  const int64_t d = info_.embedding_length;
  const RowReader input = [&](int64_t first, int64_t count, float* out) { read_rows(*input_, first, count, out); };
  const RowReader output = [&](int64_t first, int64_t count, float* out) {
    read_rows(output_ == nullptr ? *input_ : *output_, first, count, out);
  };
  std::vector<float> w;
  if (Status status = latentwire::solve_alignment(info_.vocabulary_size, d, output, input, lambda, cancel, &w); !status.ok())
    throw Failure(std::move(status));
  std::shared_ptr<Tensor> tensor;
  if (Status status = Tensor::create(Dtype::f32, {d, d}, &tensor); !status.ok()) throw Failure(std::move(status));
  std::memcpy(tensor->f32(), w.data(), w.size() * sizeof(float));
  return tensor;
}

}  // namespace latentwire
