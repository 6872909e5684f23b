// What every object on a device does: the environment's stream, jobs on it, rows that come from the host or lie there already, and results
// that lie where the rows lie.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "addon/env_jobs.h"
#include "addon/kernel_input.h"
#include "addon/napi_setup.h"
#include "core/tensor.h"
#include "device/operands.h"
#include "device/stream.h"
#include "device/tensor.h"

namespace latentwire::addon {

// The process's backend; the first call loads it, which may take a second.
const Backend& backend_of_process();

// Starts a job whose `issue` launches work on the environment's stream, on a thread of the stream. What it returns builds the result when
// that work has ended; what it throws rejects the promise. A job that is cancelled before its turn ends at once.
napi_value start_on_device(napi_env env, std::function<Job::ToValue(Job&, DeviceStream&)> issue);

// The environment's stream, for work that is no job of its own. Throws Failure.
std::shared_ptr<DeviceStream> device_stream_of(napi_env env);

// Bytes that this environment holds on the device, and pinned.
struct DeviceUse {
  int64_t device = 0;
  int64_t pinned = 0;
};
DeviceUse device_use_of(napi_env env);

// Rows [count, depth] without gaps.
class DeviceInput {
 public:
  // A Float32Array, which is copied, or a Tensor of either place; else ERR_LATENT_INVALID_ARGUMENT or ERR_LATENT_DTYPE.
  static DeviceInput of(const Napi::Value& value, const char* name, int64_t depth);

  int64_t count() const noexcept { return count_; }
  Dtype dtype() const noexcept { return dtype_; }
  bool on_device() const noexcept { return device_ != nullptr; }
  // For a kernel; brings rows of the host to the device. Throws Failure.
  latent_rows rows(Job& job, DeviceStream& stream);

 private:
  Dtype dtype_ = Dtype::f32;
  int64_t count_ = 0;
  int64_t depth_ = 0;
  std::shared_ptr<Tensor> host_;
  std::shared_ptr<const DeviceTensor> device_;
  std::shared_ptr<DeviceBuffer> uploaded_;
};

// A tensor of the device for a kernel to write. Throws Failure.
std::shared_ptr<DeviceTensor> device_output(DeviceStream& stream, Dtype dtype, std::vector<int64_t> shape);
// The JavaScript tensor of `made`, on the device if `stays`, else brought to the host here. Throws Failure.
Job::ToValue placed(Job& job, DeviceStream& stream, std::shared_ptr<DeviceTensor> made, bool stays);
// An object of such results by name.
Job::ToValue placed_object(std::vector<std::pair<const char*, Job::ToValue>> values);
// Rejects with ERR_LATENT_NON_FINITE if a row was found wanting.
Job::ToValue unless_bad(BadRow bad, Job::ToValue value);

}  // namespace latentwire::addon
