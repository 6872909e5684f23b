// llama.cpp in this process: found, opened and gated once. The library keeps global state (backends, log and abort hooks), so there is one
// Runtime a process, shared by all environments, and it is never closed.
#pragma once

#include <string>
#include <vector>

#include "engine/llama_abi.h"

namespace latentwire {

class Runtime {
 public:
  struct Device {
    std::string name;
    std::string description;
  };

  // Opens the libraries in `directory` and applies every check of the gate; throws Failure with an ERR_LATENT_ENGINE_* code.
  // A second call with the same directory returns the same Runtime; another directory is refused.
  static const Runtime& load(const std::string& directory);
  // The loaded runtime; throws ERR_LATENT_ENGINE_NOT_FOUND before `load`.
  static const Runtime& get();

  const abi::Functions& api() const noexcept { return api_; }
  const std::string& directory() const noexcept { return directory_; }
  std::vector<Device> devices() const;

  // Takes the messages that llama.cpp logged on this thread since the last call: the reason behind a null result.
  static std::string take_log();

 private:
  explicit Runtime(std::string directory);
  void open();
  void resolve();
  void check_versions() const;
  void check_neighbours() const;
  void check_structs() const;

  std::string directory_;
  void* library_ = nullptr;
  abi::Functions api_;
};

}  // namespace latentwire
