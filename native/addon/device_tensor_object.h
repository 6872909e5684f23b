// The JavaScript class of tensors that lie on a device, which is the same to JavaScript as Tensor but cannot be read, and what the device
// is.
#pragma once

#include <memory>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"
#include "core/tensor.h"
#include "device/tensor.h"

namespace latentwire::addon {

// The tensor behind a DeviceTensor object; nullptr if `value` is none. Throws ERR_LATENT_DISPOSED.
std::shared_ptr<const DeviceTensor> device_tensor_of(const Napi::Value& value);
// Throws ERR_LATENT_INVALID_ARGUMENT if `value` is such an object: for those who need numbers of the host.
void refuse_device_tensor(const Napi::Value& value, const char* name);
Job::ToValue device_tensor_value(std::shared_ptr<const DeviceTensor> tensor);

// A job that copies a tensor of the host to the device.
napi_value to_device(napi_env env, std::shared_ptr<const Tensor> tensor);

// A job that copies a tensor of the device into memory that others may open; the result is a DeviceShare object.
napi_value share_tensor(napi_env env, std::shared_ptr<const DeviceTensor> tensor);

}  // namespace latentwire::addon
