// The JavaScript face of an accelerator: tensors that lie on it, what it is, and the kernels' operands on it, one file a class. An
// operand's class has the methods of its twin on the CPU, but for those that would answer at once.
#pragma once

#include <memory>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"
#include "core/tensor.h"
#include "device/operands.h"
#include "device/stream.h"

namespace latentwire::addon {

// Exports deviceStatus, deviceMemory and everything below.
void init_device(Napi::Env env, Napi::Object exports);

void init_device_share(Napi::Env env, Napi::Object exports);
void init_device_anchors(Napi::Env env, Napi::Object exports);
void init_device_projection(Napi::Env env, Napi::Object exports);
void init_device_codebook(Napi::Env env, Napi::Object exports);
void init_device_thought(Napi::Env env, Napi::Object exports);

// Jobs that pack an operand; tensors are those of the host that it is made of.
napi_value pack_device_anchors(napi_env env, std::shared_ptr<const Tensor> anchors, std::shared_ptr<const Tensor> whitening,
                               PackedAnchors::Options options);
napi_value pack_device_projection(napi_env env, std::shared_ptr<const Tensor> first, std::vector<float> first_bias,
                                  std::shared_ptr<const Tensor> second, std::vector<float> second_bias, Projection::Options options);
napi_value pack_device_codebook(napi_env env, std::shared_ptr<const Tensor> codewords, Dtype storage);

// Memory of the device that a handle of 64 bytes names to other threads and processes of this machine, as long as it lives.
struct DeviceShare {
  latent_shared_handle handle{};
  std::shared_ptr<DeviceBuffer> buffer;

  size_t bytes() const noexcept { return buffer->bytes(); }
};
Job::ToValue device_share_value(DeviceShare share);
// A Uint8Array of 64 bytes; else throws ERR_LATENT_INVALID_ARGUMENT.
latent_shared_handle shared_handle_of(const Napi::Value& value);

// The projection behind an object of the device; nullptr if `value` is none. Throws ERR_LATENT_DISPOSED.
std::shared_ptr<const DeviceProjection> device_projection_of(const Napi::Value& value);

// For the methods that would answer at once. Throws ERR_LATENT_INVALID_ARGUMENT.
[[noreturn]] void refuse_sync(const Napi::CallbackInfo& call);

}  // namespace latentwire::addon
