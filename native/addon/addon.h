// What the addon keeps for each environment. There are no globals: every worker that loads the addon has its own data.
#pragma once

#include <memory>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"
#include "core/tensor.h"
#include "device/stream.h"

namespace latentwire::addon {

struct AddonData {
  AddonData() = default;
  // After the jobs of the environment have ended, so the stream has nothing left to do.
  ~AddonData() {
    if (device_stream) device_stream->close();
  }
  AddonData(const AddonData&) = delete;
  AddonData& operator=(const AddonData&) = delete;

  std::shared_ptr<EnvJobs> jobs;
  Napi::FunctionReference tensor_class;
  Napi::FunctionReference model_class;
  Napi::FunctionReference pool_class;
  Napi::FunctionReference sequence_class;
  Napi::FunctionReference anchors_class;
  Napi::FunctionReference projection_class;
  Napi::FunctionReference token_table_class;
  Napi::FunctionReference thought_class;
  Napi::FunctionReference tile_codec_class;
  Napi::FunctionReference codebook_class;
  Napi::FunctionReference moments_class;
  Napi::FunctionReference distribution_class;
  Napi::FunctionReference kv_class;
  Napi::FunctionReference kv_writer_class;
  Napi::FunctionReference kv_reader_class;
  Napi::FunctionReference kv_segment_class;
  Napi::FunctionReference kvtc_class;
  Napi::FunctionReference device_tensor_class;
  Napi::FunctionReference device_share_class;
  Napi::FunctionReference device_kv_class;
  Napi::FunctionReference kv_piece_class;
  Napi::FunctionReference device_anchors_class;
  Napi::FunctionReference device_projection_class;
  Napi::FunctionReference device_codebook_class;
  Napi::FunctionReference device_thought_class;
  // what the next Tensor object takes instead of its arguments; set only while TensorObject::wrap calls the constructor
  std::shared_ptr<Tensor> tensor_to_wrap;
  std::shared_ptr<DeviceStream> device_stream;  // made at first use
};

}  // namespace latentwire::addon
