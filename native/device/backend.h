// Finds and loads the library of an accelerator, stage by stage, so that each way of not having one has a code of its own and a message
// that says what was tried. Nothing here needs a GPU, a driver or the library to be there.
#pragma once

#include <string>

#include "core/status.h"
#include "latentwire/backend.h"

namespace latentwire {

struct Backend {
  const latent_backend_v1* api = nullptr;  // nullptr unless every stage was passed
  std::string file;                        // the library
  int devices = 0;
  // CUDA_NO_DRIVER, CUDA_BACKEND_MISSING, CUDA_ABI_MISMATCH or CUDA_NO_DEVICE; "" if all is well
  std::string reason;
  std::string message;
};

// 1. the driver's library `driver`, unless it is ""; 2. the library `file`; 3. its table, by ABI number and size; 4. its own probe. A
// library that was loaded stays loaded, for its threads and those of the driver may live on.
Backend load_backend(const std::string& file, const std::string& driver);

// The process's backend, tried once: latentwire_cuda.so in `folder`, or the library that the environment variable LATENTWIRE_CUDA_BACKEND
// names, which is asked for its driver itself.
const Backend& process_backend(const std::string& folder);

// The Status of a backend's answer: invalid_argument, out_of_memory, device_failed or device_lost.
Status device_status(int result, const char* why);

}  // namespace latentwire
