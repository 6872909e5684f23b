#include "engine/runtime.h"

#include <dlfcn.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <memory>
#include <mutex>
#include <new>

#include "engine/failure.h"

namespace latentwire {
namespace {

constexpr const char* llama_release = "0.5.0";
constexpr const char* ggml_release = "0.25.1";

// Bytes that the pinned release writes for its default parameters, measured; trailing padding is not written.
constexpr size_t model_params_written = 78;
constexpr size_t context_params_written = 160;

std::mutex load_mutex;
// Never freed: a thread that is disposing a pool when the process exits still calls it.
const Runtime* loaded = nullptr;

thread_local std::string log_tail;

void keep_log(int level, const char* text, void*) {
  constexpr int warn = 3;
  constexpr size_t limit = 2000;
  if (level < warn || text == nullptr) return;
  log_tail += text;
  if (log_tail.size() > limit) log_tail.erase(0, log_tail.size() - limit);
}

// A failed assertion would end the process. Thrown on the calling thread it unwinds to our try/catch instead, and the caller poisons its
// pool.
void throw_on_abort(const char* message) { fail(Code::engine_failed, message == nullptr ? "llama.cpp aborted" : message); }

// Calls `defaults` into memory filled with `fill` and returns that memory. The result is bigger than any real struct, so that the callee's
// writes end inside it; guaranteed elision makes the callee write straight into `bytes`.
struct Probe {
  std::array<unsigned char, 1024> bytes;
};

Probe probe_defaults(void* function, unsigned char fill) {
  alignas(64) std::array<unsigned char, sizeof(Probe)> storage;
  std::memset(storage.data(), fill, storage.size());
  asm volatile("" : : "r"(storage.data()) : "memory");
  auto* call = reinterpret_cast<Probe (*)()>(function);
  auto* probe = new (storage.data()) Probe(call());
  return *probe;
}

// The index after the last byte that the function wrote, whatever stood there before.
size_t bytes_written(void* function) {
  const Probe zeros = probe_defaults(function, 0xA5);
  const Probe ones = probe_defaults(function, 0x5A);
  size_t end = 0;
  for (size_t i = 0; i < zeros.bytes.size(); i++) {
    if (zeros.bytes[i] == ones.bytes[i]) end = i + 1;
  }
  return end;
}

}  // namespace

const Runtime& Runtime::load(const std::string& directory) {
  const std::lock_guard lock(load_mutex);
  std::error_code error;
  const std::string canonical = std::filesystem::canonical(directory, error).string();
  if (error) fail(Code::engine_not_found, "no llama.cpp folder at " + directory + ": " + error.message());
  if (loaded != nullptr) {
    if (loaded->directory_ != canonical) {
      fail(Code::engine_collision,
           "llama.cpp is already loaded from " + loaded->directory_ + "; one process holds one engine, not also " + canonical);
    }
    return *loaded;
  }
  std::unique_ptr<Runtime> runtime(new Runtime(canonical));
  runtime->open();
  runtime->resolve();
  runtime->check_versions();
  runtime->check_neighbours();
  runtime->check_structs();
  runtime->api_.llama_log_set(keep_log, nullptr);
  runtime->api_.ggml_set_abort_callback(throw_on_abort);
  if (runtime->api_.ggml_backend_dev_count() == 0) runtime->api_.ggml_backend_load_all_from_path(canonical.c_str());
  if (runtime->api_.ggml_backend_dev_count() == 0) {
    fail(Code::engine_not_found, "no compute backend (libggml-cpu-*) for this machine in " + canonical);
  }
  runtime->api_.llama_backend_init();
  loaded = runtime.release();
  return *loaded;
}

const Runtime& Runtime::get() {
  const std::lock_guard lock(load_mutex);
  if (loaded == nullptr) fail(Code::engine_not_found, "the engine is not loaded yet");
  return *loaded;
}

Runtime::Runtime(std::string directory) : directory_(std::move(directory)) {}

void Runtime::open() {
#if defined(__APPLE__)
  constexpr std::array names = {"libllama.v0.5.0.dylib", "libllama.dylib"};
#else
  // builds for GPUs have other names, and the same interface
  constexpr std::array names = {"libllama.v0.5.0.so", "libllama.cuda.v0.5.0.so", "libllama.vulkan.v0.5.0.so", "libllama.so"};
#endif
  std::string tried;
  for (const char* name : names) {
    const std::string path = directory_ + "/" + name;
    library_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (library_ != nullptr) return;
    const char* reason = dlerror();
    tried += (tried.empty() ? "" : "; ") + std::string(reason == nullptr ? path : reason);
  }
  fail(Code::engine_not_found, "cannot open llama.cpp: " + tried);
}

void Runtime::resolve() {
  std::string missing;
  const auto find = [&](const char* name) {
    void* address = dlsym(library_, name);
    if (address == nullptr) missing += (missing.empty() ? "" : ", ") + std::string(name);
    return address;
  };
#define LATENTWIRE_RESOLVE(name, result, arguments) api_.name = reinterpret_cast<decltype(api_.name)>(find(#name));
  LATENTWIRE_LLAMA_FUNCTIONS(LATENTWIRE_RESOLVE)
#undef LATENTWIRE_RESOLVE
  if (!missing.empty()) fail(Code::engine_symbol, "llama.cpp in " + directory_ + " lacks " + missing);
}

void Runtime::check_versions() const {
  const std::string llama = api_.llama_version();
  const std::string ggml = api_.ggml_version();
  if (!llama.starts_with(llama_release) || ggml != ggml_release) {
    fail(Code::engine_version, "need llama.cpp " + std::string(llama_release) + " with ggml " + ggml_release + ", found " + llama +
                                   " with ggml " + ggml + " in " + directory_);
  }
}

// libggml-base has an unversioned SONAME: a second engine in the process may have bound libllama to another copy of it.
void Runtime::check_neighbours() const {
  const auto folder_of = [](void* address) {
    Dl_info info{};
    if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return std::string("unknown");
    std::error_code error;
    return std::filesystem::canonical(info.dli_fname, error).parent_path().string();
  };
  const std::string llama = folder_of(reinterpret_cast<void*>(api_.llama_version));
  const std::string ggml = folder_of(reinterpret_cast<void*>(api_.ggml_version));
  if (llama != ggml)
    fail(Code::engine_collision,
         "libllama from " + llama + " was bound to ggml from " + ggml + ": another llama.cpp is loaded in this process");
}

void Runtime::check_structs() const {
  const size_t model = bytes_written(reinterpret_cast<void*>(api_.llama_model_default_params));
  const size_t context = bytes_written(reinterpret_cast<void*>(api_.llama_context_default_params));
  if (model != model_params_written || context != context_params_written) {
    fail(Code::engine_abi, "default parameters take " + std::to_string(model) + " and " + std::to_string(context) + " bytes, expected " +
                               std::to_string(model_params_written) + " and " + std::to_string(context_params_written));
  }
  const abi::llama_model_params m = api_.llama_model_default_params();
  const abi::llama_context_params c = api_.llama_context_default_params();
  const bool sane = m.devices == nullptr && m.progress_callback == nullptr && !m.vocab_only && c.n_ctx > 0 && c.n_batch > 0 &&
                    c.n_seq_max == 1 && c.n_threads > 0 && c.type_k == abi::GGML_TYPE_F16 && c.type_v == abi::GGML_TYPE_F16 &&
                    !c.embeddings && c.ctx_other == nullptr;
  if (!sane) fail(Code::engine_abi, "default parameters of llama.cpp do not look like those of " + std::string(llama_release));
}

std::vector<Runtime::Device> Runtime::devices() const {
  std::vector<Device> devices;
  for (size_t i = 0; i < api_.ggml_backend_dev_count(); i++) {
    const abi::ggml_backend_dev_t device = api_.ggml_backend_dev_get(i);
    devices.push_back({api_.ggml_backend_dev_name(device), api_.ggml_backend_dev_description(device)});
  }
  return devices;
}

std::string Runtime::take_log() {
  std::string text = std::move(log_tail);
  log_tail.clear();
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

}  // namespace latentwire
