// What products need of a device and what is fixed between them: anchors, projections and codebooks in its memory, packed once. They give
// what PackedAnchors, Projection and Codebook give, from the same options; weights of i8 are for the CPU. All of it runs on the issuing
// thread of the stream that the operand was packed on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "device/stream.h"
#include "kernels/cosine.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"
#include "kernels/project.h"

namespace latentwire {

// Numbers of the host, brought to the device.
Status upload_floats(DeviceStream& stream, const std::vector<float>& numbers, std::shared_ptr<DeviceBuffer>* out);

// The first row that a kernel found wanting; readable when the launched work has ended.
class BadRow {
 public:
  // Before the kernel.
  Status arm(DeviceStream& stream);
  // Behind it.
  Status fetch(DeviceStream& stream);
  int32_t* flag() const noexcept { return flag_->as<int32_t>(); }
  std::optional<int64_t> row() const noexcept;

 private:
  std::shared_ptr<DeviceBuffer> flag_;
  DeviceStream::Slot slot_;
};

// A matrix [outputs, depth] as products read it.
struct DeviceMatrix {
  std::shared_ptr<DeviceBuffer> data;
  std::shared_ptr<DeviceBuffer> sums;     // or none
  std::shared_ptr<DeviceBuffer> squares;  // or none
  Dtype storage = Dtype::f32;
  int64_t outputs = 0;
  int64_t depth = 0;

  latent_matrix view() const noexcept;
  size_t bytes() const noexcept;
};

class DeviceAnchors {
 public:
  static Status pack(DeviceStream& stream, const Rows& anchors, int64_t depth, PackedAnchors::Options options,
                     std::shared_ptr<const DeviceAnchors>* out);

  int64_t count() const noexcept { return anchors_.outputs; }
  int64_t depth() const noexcept { return whitening_.data ? whitening_.depth : anchors_.depth; }
  size_t bytes() const noexcept;
  Similarity similarity() const noexcept { return similarity_; }
  // r: [x.count, count] f32 of the device.
  Status relative(DeviceStream& stream, const latent_rows& x, float* r, int32_t* bad_row) const;
  // Both [x.count, k], 1 <= k <= count.
  Status top_k(DeviceStream& stream, const latent_rows& x, int64_t k, int32_t* indices, float* values, int32_t* bad_row) const;

 private:
  DeviceAnchors() = default;
  latent_cosine_args arguments(const latent_rows& x, int32_t* bad_row) const noexcept;

  Similarity similarity_ = Similarity::cosine;
  DeviceMatrix whitening_;
  DeviceMatrix anchors_;
  std::shared_ptr<DeviceBuffer> mean_;
  std::shared_ptr<DeviceBuffer> centre_;
  std::shared_ptr<DeviceBuffer> scale_;
};

class DeviceProjection {
 public:
  static Status pack(DeviceStream& stream, const Projection::Layer& first, const Projection::Layer* second, Projection::Options options,
                     std::shared_ptr<const DeviceProjection>* out);

  int64_t inputs() const noexcept { return first_.depth; }
  int64_t outputs() const noexcept { return second_.data ? second_.outputs : first_.outputs; }
  size_t bytes() const noexcept;
  // y: [x.count, outputs] f32 of the device.
  Status apply(DeviceStream& stream, const latent_rows& x, float* y, int32_t* bad_row) const;

 private:
  DeviceProjection() = default;

  Projection::Options options_;
  DeviceMatrix first_;
  DeviceMatrix second_;
  std::shared_ptr<DeviceBuffer> first_bias_;
  std::shared_ptr<DeviceBuffer> second_bias_;
};

class DeviceCodebook {
 public:
  static Status pack(DeviceStream& stream, const Rows& codewords, int64_t depth, Dtype storage, std::shared_ptr<const DeviceCodebook>* out);

  int64_t count() const noexcept { return words_.outputs; }
  int64_t depth() const noexcept { return words_.depth; }
  size_t bytes() const noexcept { return words_.bytes(); }
  // Both [x.count] of the device.
  Status nearest(DeviceStream& stream, const latent_rows& x, int32_t* indices, float* distances, int32_t* bad_row) const;

 private:
  DeviceCodebook() = default;
  DeviceMatrix words_;
};

}  // namespace latentwire
