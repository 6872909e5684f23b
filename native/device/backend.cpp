#include "device/backend.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>

namespace latentwire {
namespace {

constexpr const char* library_name = "latentwire_cuda.so";
constexpr const char* driver_name = "libcuda.so.1";
constexpr const char* entry_name = "latent_backend_entry_v1";

std::string last_dl_error() {
  const char* text = dlerror();
  return text == nullptr ? "unknown reason" : text;
}

Backend refused(Backend backend, const char* reason, std::string message) {
  backend.api = nullptr;
  backend.reason = reason;
  backend.message = std::move(message);
  return backend;
}

}  // namespace

Backend load_backend(const std::string& file, const std::string& driver) {
  Backend backend;
  backend.file = file;
  if (!driver.empty() && dlopen(driver.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr)
    return refused(std::move(backend), "CUDA_NO_DRIVER", "NVIDIA driver not found (" + last_dl_error() + ")");
  void* library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (library == nullptr) return refused(std::move(backend), "CUDA_BACKEND_MISSING", "cannot load CUDA backend: " + last_dl_error());
  auto* entry = reinterpret_cast<const latent_backend_v1* (*)()>(dlsym(library, entry_name));
  if (entry == nullptr) return refused(std::move(backend), "CUDA_ABI_MISMATCH", file + " has no " + entry_name);
  const latent_backend_v1* api = entry();
  if (api == nullptr) return refused(std::move(backend), "CUDA_ABI_MISMATCH", file + " gives no table of functions");
  // the two numbers come first in every version, so they can be read of any
  if (api->abi != LATENT_BACKEND_ABI || api->size != sizeof(latent_backend_v1)) {
    return refused(std::move(backend), "CUDA_ABI_MISMATCH",
                   file + " speaks ABI " + std::to_string(api->abi) + " of " + std::to_string(api->size) + " bytes, this addon " +
                       std::to_string(LATENT_BACKEND_ABI) + " of " + std::to_string(sizeof(latent_backend_v1)));
  }
  std::array<char, 256> why{};
  int32_t devices = 0;
  const int result = api->probe(&devices, why.data(), why.size());
  if (result == latent_no_driver) return refused(std::move(backend), "CUDA_NO_DRIVER", why.data());
  if (result != latent_ok) return refused(std::move(backend), "CUDA_NO_DEVICE", why.data());
  backend.api = api;
  backend.devices = devices;
  return backend;
}

const Backend& process_backend(const std::string& folder) {
  // never destroyed: a stream may ask for it while the process exits
  static const Backend* backend = [&] {
    const char* given = std::getenv("LATENTWIRE_CUDA_BACKEND");
    const bool other = given != nullptr && *given != '\0';
    return new Backend(other ? load_backend(given, "") : load_backend(folder + "/" + library_name, driver_name));
  }();
  return *backend;
}

Status device_status(int result, const char* why) {
  switch (result) {
    case latent_ok:
      return {};
    case latent_invalid:
      return Status::fail(Code::invalid_argument, why);
    case latent_out_of_memory:
      return Status::fail(Code::out_of_memory, why);
    case latent_lost:
      return Status::fail(Code::device_lost, why);
    default:
      return Status::fail(Code::device_failed, why);
  }
}

}  // namespace latentwire
