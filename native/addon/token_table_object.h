// The JavaScript class of token tables: embedding or output matrices, of a tensor or straight from a mapped model file.
#pragma once

#include <memory>

#include "addon/napi_setup.h"
#include "core/tensor.h"
#include "device/stream.h"
#include "engine/gguf_file.h"
#include "kernels/token_table.h"

namespace latentwire::addon {

// A table, and whose memory it is.
struct HeldTable {
  TokenTable table;
  std::shared_ptr<Tensor> tensor;
  std::shared_ptr<GgufFile> file;
  std::shared_ptr<DeviceBuffer> on_device;  // a copy of the rows, if it was opened for a device
};

// The table behind a TokenTable object; nullptr if `value` is none. Throws ERR_LATENT_DISPOSED.
std::shared_ptr<const HeldTable> token_table_of(const Napi::Value& value);

}  // namespace latentwire::addon
