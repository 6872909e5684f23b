// The part of llama.cpp's C API that latentwire calls, declared by ourselves: opaque handles, four structs passed by value, and one list of
// functions that `Runtime` resolves with dlsym. scripts/check-llama-headers.mjs holds every line against the real headers of the pinned
// release.
#pragma once

#include <cstddef>
#include <cstdint>

namespace latentwire::abi {

struct llama_vocab;
struct llama_model;
struct llama_context;
struct llama_sampler;
struct llama_memory_i;
struct ggml_backend_device;
struct ggml_backend_buffer;

using llama_memory_t = llama_memory_i*;
using ggml_backend_dev_t = ggml_backend_device*;
using ggml_backend_buffer_t = ggml_backend_buffer*;
using llama_pos = int32_t;
using llama_token = int32_t;
using llama_seq_id = int32_t;

using llama_progress_callback = bool (*)(float progress, void* user_data);
using ggml_abort_callback = bool (*)(void* data);
using ggml_abort_callback_t = void (*)(const char* message);
using ggml_log_callback = void (*)(int level, const char* text, void* user_data);
using ggml_to_float_t = void (*)(const void* x, float* y, int64_t k);
using ggml_from_float_t = void (*)(const float* x, void* y, int64_t k);

enum llama_load_mode : int { LLAMA_LOAD_MODE_NONE = 0, LLAMA_LOAD_MODE_MMAP = 1 };
enum llama_pooling_type : int { LLAMA_POOLING_TYPE_NONE = 0 };
enum llama_flash_attn_type : int { LLAMA_FLASH_ATTN_TYPE_DISABLED = 0, LLAMA_FLASH_ATTN_TYPE_ENABLED = 1 };
enum llama_rope_type : int {
  LLAMA_ROPE_TYPE_NONE = -1,
  LLAMA_ROPE_TYPE_NORM = 0,
  LLAMA_ROPE_TYPE_NEOX = 2,
  LLAMA_ROPE_TYPE_MROPE = 8,
  LLAMA_ROPE_TYPE_IMROPE = 40,
  LLAMA_ROPE_TYPE_VISION = 24,
};
enum ggml_type : int {
  GGML_TYPE_F32 = 0,
  GGML_TYPE_F16 = 1,
  GGML_TYPE_Q4_0 = 2,
  GGML_TYPE_Q8_0 = 8,
  GGML_TYPE_I64 = 27,
  GGML_TYPE_BF16 = 30,
  GGML_TYPE_COUNT = 43,
};
enum ggml_op : int { GGML_OP_SET_ROWS = 42 };

struct llama_model_params {
  void* devices;
  const void* tensor_buft_overrides;
  int32_t n_gpu_layers;
  int split_mode;
  llama_load_mode load_mode;
  int lazy_mode;
  int32_t main_gpu;
  const float* tensor_split;
  llama_progress_callback progress_callback;
  void* progress_callback_user_data;
  const void* kv_overrides;
  bool vocab_only;
  bool check_tensors;
  bool use_extra_bufts;
  bool no_host;
  bool no_alloc;
  bool load_mtp;
};

struct llama_context_params {
  uint32_t n_ctx;
  uint32_t n_batch;
  uint32_t n_ubatch;
  uint32_t n_seq_max;
  uint32_t n_rs_seq;
  uint32_t n_outputs_max;
  uint32_t n_outputs_max_per_seq;
  int32_t n_threads;
  int32_t n_threads_batch;
  int ctx_type;
  int rope_scaling_type;
  llama_pooling_type pooling_type;
  int attention_type;
  llama_flash_attn_type flash_attn_type;
  float rope_freq_base;
  float rope_freq_scale;
  float yarn_ext_factor;
  float yarn_attn_factor;
  float yarn_beta_fast;
  float yarn_beta_slow;
  uint32_t yarn_orig_ctx;
  float defrag_thold;
  void* cb_eval;
  void* cb_eval_user_data;
  ggml_type type_k;
  ggml_type type_v;
  ggml_abort_callback abort_callback;
  void* abort_callback_data;
  bool embeddings;
  bool offload_kqv;
  bool no_perf;
  bool op_offload;
  bool swa_full;
  bool kv_unified;
  void* samplers;
  size_t n_samplers;
  llama_context* ctx_other;
};

struct llama_sampler_chain_params {
  bool no_perf;
};

struct llama_batch {
  int32_t n_tokens;
  llama_token* token;
  float* embd;
  llama_pos* pos;
  int32_t* n_seq_id;
  llama_seq_id** seq_id;
  int8_t* logits;
};

struct llama_token_data {
  llama_token id;
  float logit;
  float p;
};

struct llama_token_data_array {
  llama_token_data* data;
  size_t size;
  int64_t selected;
  bool sorted;
};

struct ggml_tensor {
  ggml_type type;
  ggml_backend_buffer* buffer;
  int64_t ne[4];
  size_t nb[4];
  ggml_op op;
  int32_t op_params[16];
  int32_t flags;
  ggml_tensor* src[10];
  ggml_tensor* view_src;
  size_t view_offs;
  void* data;
  char name[64];
  void* extra;
  char padding[8];
};

struct ggml_type_traits {
  const char* type_name;
  int64_t blck_size;
  int64_t blck_size_interleave;
  size_t type_size;
  bool is_quantized;
  ggml_to_float_t to_float;
  ggml_from_float_t from_float_ref;
};

// X(name, result, (arguments))
#define LATENTWIRE_LLAMA_FUNCTIONS(X)                                                                         \
  X(llama_version, const char*, (void))                                                                       \
  X(ggml_version, const char*, (void))                                                                        \
  X(llama_model_default_params, llama_model_params, (void))                                                   \
  X(llama_context_default_params, llama_context_params, (void))                                               \
  X(llama_sampler_chain_default_params, llama_sampler_chain_params, (void))                                   \
  X(llama_backend_init, void, (void))                                                                         \
  X(llama_log_set, void, (ggml_log_callback, void*))                                                          \
  X(ggml_set_abort_callback, ggml_abort_callback_t, (ggml_abort_callback_t))                                  \
  X(ggml_backend_load_all_from_path, void, (const char*))                                                     \
  X(ggml_backend_dev_count, size_t, (void))                                                                   \
  X(ggml_backend_dev_get, ggml_backend_dev_t, (size_t))                                                       \
  X(ggml_backend_dev_name, const char*, (ggml_backend_dev_t))                                                 \
  X(ggml_backend_dev_description, const char*, (ggml_backend_dev_t))                                          \
  X(ggml_get_type_traits, const ggml_type_traits*, (ggml_type))                                               \
  X(ggml_row_size, size_t, (ggml_type, int64_t))                                                              \
  X(ggml_get_name, const char*, (const ggml_tensor*))                                                         \
  X(ggml_nelements, int64_t, (const ggml_tensor*))                                                            \
  X(ggml_nbytes, size_t, (const ggml_tensor*))                                                                \
  X(ggml_is_contiguous, bool, (const ggml_tensor*))                                                           \
  X(ggml_backend_tensor_get, void, (const ggml_tensor*, void*, size_t, size_t))                               \
  X(ggml_backend_buffer_is_host, bool, (ggml_backend_buffer_t))                                               \
  X(llama_model_load_from_file, llama_model*, (const char*, llama_model_params))                              \
  X(llama_model_free, void, (llama_model*))                                                                   \
  X(llama_model_get_vocab, const llama_vocab*, (const llama_model*))                                          \
  X(llama_model_rope_type, llama_rope_type, (const llama_model*))                                             \
  X(llama_model_n_ctx_train, int32_t, (const llama_model*))                                                   \
  X(llama_model_n_embd, int32_t, (const llama_model*))                                                        \
  X(llama_model_n_embd_inp, int32_t, (const llama_model*))                                                    \
  X(llama_model_n_embd_out, int32_t, (const llama_model*))                                                    \
  X(llama_model_n_layer, int32_t, (const llama_model*))                                                       \
  X(llama_model_n_head, int32_t, (const llama_model*))                                                        \
  X(llama_model_n_head_kv, int32_t, (const llama_model*))                                                     \
  X(llama_model_desc, int32_t, (const llama_model*, char*, size_t))                                           \
  X(llama_model_size, uint64_t, (const llama_model*))                                                         \
  X(llama_model_chat_template, const char*, (const llama_model*, const char*))                                \
  X(llama_model_n_params, uint64_t, (const llama_model*))                                                     \
  X(llama_model_has_encoder, bool, (const llama_model*))                                                      \
  X(llama_model_has_decoder, bool, (const llama_model*))                                                      \
  X(llama_model_is_recurrent, bool, (const llama_model*))                                                     \
  X(llama_model_is_hybrid, bool, (const llama_model*))                                                        \
  X(llama_model_is_diffusion, bool, (const llama_model*))                                                     \
  X(llama_init_from_model, llama_context*, (llama_model*, llama_context_params))                              \
  X(llama_free, void, (llama_context*))                                                                       \
  X(llama_n_ctx, uint32_t, (const llama_context*))                                                            \
  X(llama_n_ubatch, uint32_t, (const llama_context*))                                                         \
  X(llama_get_memory, llama_memory_t, (const llama_context*))                                                 \
  X(llama_set_embeddings, void, (llama_context*, bool))                                                       \
  X(llama_decode, int32_t, (llama_context*, llama_batch))                                                     \
  X(llama_synchronize, void, (llama_context*))                                                                \
  X(llama_get_logits_ith, float*, (llama_context*, int32_t))                                                  \
  X(llama_get_embeddings_ith, float*, (llama_context*, int32_t))                                              \
  X(llama_memory_clear, void, (llama_memory_t, bool))                                                         \
  X(llama_memory_seq_rm, bool, (llama_memory_t, llama_seq_id, llama_pos, llama_pos))                          \
  X(llama_memory_seq_cp, void, (llama_memory_t, llama_seq_id, llama_seq_id, llama_pos, llama_pos))            \
  X(llama_state_seq_get_size, size_t, (llama_context*, llama_seq_id))                                         \
  X(llama_state_seq_get_data, size_t, (llama_context*, uint8_t*, size_t, llama_seq_id))                       \
  X(llama_state_seq_set_data, size_t, (llama_context*, const uint8_t*, size_t, llama_seq_id))                 \
  X(llama_vocab_n_tokens, int32_t, (const llama_vocab*))                                                      \
  X(llama_vocab_is_eog, bool, (const llama_vocab*, llama_token))                                              \
  X(llama_vocab_is_control, bool, (const llama_vocab*, llama_token))                                          \
  X(llama_vocab_bos, llama_token, (const llama_vocab*))                                                       \
  X(llama_vocab_eos, llama_token, (const llama_vocab*))                                                       \
  X(llama_vocab_eot, llama_token, (const llama_vocab*))                                                       \
  X(llama_vocab_get_add_bos, bool, (const llama_vocab*))                                                      \
  X(llama_tokenize, int32_t, (const llama_vocab*, const char*, int32_t, llama_token*, int32_t, bool, bool))   \
  X(llama_token_to_piece, int32_t, (const llama_vocab*, llama_token, char*, int32_t, int32_t, bool))          \
  X(llama_detokenize, int32_t, (const llama_vocab*, const llama_token*, int32_t, char*, int32_t, bool, bool)) \
  X(llama_sampler_chain_init, llama_sampler*, (llama_sampler_chain_params))                                   \
  X(llama_sampler_chain_add, void, (llama_sampler*, llama_sampler*))                                          \
  X(llama_sampler_init_dist, llama_sampler*, (uint32_t))                                                      \
  X(llama_sampler_init_greedy, llama_sampler*, (void))                                                        \
  X(llama_sampler_init_top_k, llama_sampler*, (int32_t))                                                      \
  X(llama_sampler_init_top_p, llama_sampler*, (float, size_t))                                                \
  X(llama_sampler_init_min_p, llama_sampler*, (float, size_t))                                                \
  X(llama_sampler_init_temp, llama_sampler*, (float))                                                         \
  X(llama_sampler_init_penalties, llama_sampler*, (int32_t, int32_t, float, float, float))                    \
  X(llama_sampler_apply, void, (llama_sampler*, llama_token_data_array*))                                     \
  X(llama_sampler_accept, void, (llama_sampler*, llama_token))                                                \
  X(llama_sampler_free, void, (llama_sampler*))

// Resolved entry points; filled by Runtime and constant afterwards.
struct Functions {
#define LATENTWIRE_FIELD(name, result, arguments) result(*name) arguments = nullptr;
  LATENTWIRE_LLAMA_FUNCTIONS(LATENTWIRE_FIELD)
#undef LATENTWIRE_FIELD
};

}  // namespace latentwire::abi
