// A dense row-major tensor in the memory of a device. It belongs to the stream that made it; its size and type never change.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "device/stream.h"

namespace latentwire {

struct DeviceTensor {
  Dtype dtype = Dtype::f32;
  std::vector<int64_t> shape;
  int64_t size = 0;  // elements
  std::shared_ptr<DeviceBuffer> buffer;

  size_t bytes() const noexcept { return static_cast<size_t>(size) * dtype_size(dtype); }

  // Of undefined contents; for the issuing thread. The sizes are those of a Tensor, which has checked them. Fails with out_of_memory.
  static Status create(DeviceStream& stream, Dtype dtype, std::vector<int64_t> shape, std::shared_ptr<DeviceTensor>* out) {
    auto made = std::make_shared<DeviceTensor>();
    made->dtype = dtype;
    made->shape = std::move(shape);
    made->size = 1;
    for (const int64_t extent : made->shape) made->size *= extent;
    if (Status status = stream.allocate(made->bytes(), &made->buffer); !status.ok()) return status;
    *out = std::move(made);
    return {};
  }
};

}  // namespace latentwire
