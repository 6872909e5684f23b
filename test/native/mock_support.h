// The mock of an accelerator's backend, and its faults.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "device/backend.h"

namespace latentwire::test {

inline const Backend& mock() {
  static const Backend backend = load_backend(LATENTWIRE_MOCK, "");
  return backend;
}

// Faults of the mock for as long as it lives.
class Faults {
 public:
  explicit Faults(const std::string& text) : file_(std::filesystem::temp_directory_path() / "latentwire-device-test-faults") {
    std::ofstream(file_) << text << '\n';
    setenv("LATENTWIRE_MOCK_FAULTS", file_.c_str(), 1);
  }
  ~Faults() {
    std::filesystem::remove(file_);
    unsetenv("LATENTWIRE_MOCK_FAULTS");
  }

 private:
  std::filesystem::path file_;
};

}  // namespace latentwire::test
