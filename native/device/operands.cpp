#include "device/operands.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <string>
#include <utility>

namespace latentwire {
namespace {

// Every byte of a flag before a kernel lowers it: more than any row.
constexpr int flag_byte = 0x7F;
constexpr int32_t untouched = 0x7F7F7F7F;

Status refuse_i8(Dtype storage) {
  if (is_float(storage)) return {};
  return Status::fail(Code::dtype, "on a device, operands are kept as f32, f16 or bf16");
}

template <typename T>
T* address(const std::shared_ptr<DeviceBuffer>& buffer) noexcept {
  return buffer ? buffer->as<T>() : nullptr;
}

size_t bytes_of(const std::shared_ptr<DeviceBuffer>& buffer) noexcept { return buffer ? buffer->bytes() : 0; }

// How a matrix is packed, and what is packed along with it.
struct Packing {
  Dtype storage = Dtype::f32;
  const float* shift = nullptr;  // of the device, as the others
  const float* depth_scale = nullptr;
  bool unit = false;
  bool with_sums = false;
  bool with_squares = false;
  const float* vector = nullptr;
  const float* offset = nullptr;
  float* projected = nullptr;
};

// Bytes from the first to the last element of a matrix by strides.
size_t source_bytes(const PackedMatrix::Source& source) noexcept {
  const int64_t last = (source.outputs - 1) * source.output_stride + (source.depth - 1) * source.depth_stride;
  return static_cast<size_t>(last + 1) * dtype_size(source.dtype);
}

Status pack_matrix(DeviceStream& stream, const PackedMatrix::Source& source, const Packing& packing, DeviceMatrix* out) {
  if (source.outputs < 1 || source.depth < 1) return Status::fail(Code::invalid_argument, "a matrix needs rows and columns");
  if (Status status = refuse_i8(packing.storage); !status.ok()) return status;
  DeviceMatrix made;
  made.storage = packing.storage;
  made.outputs = source.outputs;
  made.depth = source.depth;
  std::shared_ptr<DeviceBuffer> raw;
  const size_t bytes = source_bytes(source);
  if (Status status = stream.allocate(bytes, &raw); !status.ok()) return status;
  if (Status status = stream.upload(raw->data(), source.data, bytes, nullptr); !status.ok()) return status;
  const auto storage = static_cast<int32_t>(packing.storage);
  if (Status status = stream.allocate(stream.api().packed_bytes(storage, source.outputs, source.depth), &made.data); !status.ok())
    return status;
  const size_t row = static_cast<size_t>(source.outputs) * sizeof(float);
  if (packing.with_sums) {
    if (Status status = stream.allocate(row, &made.sums); !status.ok()) return status;
  }
  if (packing.with_squares) {
    if (Status status = stream.allocate(row, &made.squares); !status.ok()) return status;
  }
  BadRow bad;
  if (Status status = bad.arm(stream); !status.ok()) return status;
  latent_pack_args args{};
  args.source = raw->data();
  args.outputs = source.outputs;
  args.depth = source.depth;
  args.output_stride = source.output_stride;
  args.depth_stride = source.depth_stride;
  args.shift = packing.shift;
  args.depth_scale = packing.depth_scale;
  args.dtype = static_cast<int32_t>(source.dtype);
  args.storage = storage;
  args.unit = packing.unit ? 1 : 0;
  args.data = made.data->data();
  args.sums = address<float>(made.sums);
  args.squares = address<float>(made.squares);
  args.vector = packing.vector;
  args.offset = packing.offset;
  args.projected = packing.projected;
  args.bad_output = bad.flag();
  if (Status status = DeviceStream::call(stream.api().pack, stream.handle(), &args); !status.ok()) return status;
  if (Status status = bad.fetch(stream); !status.ok()) return status;
  // packing happens once, so it is waited for: what cannot be kept is no operand
  if (Status status = DeviceStream::call(stream.api().stream_wait, stream.handle()); !status.ok()) return status;
  if (bad.row()) {
    return Status::fail(Code::non_finite,
                        "the matrix has an element that is not finite or too large for " + std::string(dtype_name(packing.storage)));
  }
  *out = std::move(made);
  return {};
}

bool is_unit(Similarity similarity) noexcept { return similarity == Similarity::cosine || similarity == Similarity::angular; }
bool is_euclidean(Similarity similarity) noexcept {
  return similarity == Similarity::euclidean || similarity == Similarity::squared_euclidean;
}

}  // namespace

Status upload_floats(DeviceStream& stream, const std::vector<float>& numbers, std::shared_ptr<DeviceBuffer>* out) {
  if (numbers.empty()) return {};
  const size_t bytes = numbers.size() * sizeof(float);
  if (Status status = stream.allocate(bytes, out); !status.ok()) return status;
  return stream.upload((*out)->data(), numbers.data(), bytes, nullptr);
}

Status BadRow::arm(DeviceStream& stream) {
  if (Status status = stream.allocate(sizeof(int32_t), &flag_); !status.ok()) return status;
  return DeviceStream::call(stream.api().fill, stream.handle(), flag_->as<void>(), flag_byte, sizeof(int32_t));
}

Status BadRow::fetch(DeviceStream& stream) {
  if (Status status = stream.slot(&slot_); !status.ok()) return status;
  Status status = DeviceStream::call(stream.api().copy, stream.handle(), slot_.get(), flag_->as<void>(), sizeof(int32_t), latent_to_host);
  flag_.reset();
  return status;
}

std::optional<int64_t> BadRow::row() const noexcept {
  int32_t row = untouched;
  std::memcpy(&row, slot_.get(), sizeof(row));
  return row == untouched ? std::nullopt : std::optional<int64_t>(row);
}

latent_matrix DeviceMatrix::view() const noexcept {
  latent_matrix view{};
  if (!data) return view;
  view.data = data->data();
  view.outputs = outputs;
  view.depth = depth;
  view.sums = address<float>(sums);
  view.squares = address<float>(squares);
  view.dtype = static_cast<int32_t>(storage);
  return view;
}

size_t DeviceMatrix::bytes() const noexcept { return bytes_of(data) + bytes_of(sums) + bytes_of(squares); }

// --- Anchors ---------------------------------------------------------------------------------------------------------------------------

Status DeviceAnchors::pack(DeviceStream& stream, const Rows& anchors, int64_t depth, PackedAnchors::Options options,
                           std::shared_ptr<const DeviceAnchors>* out) {
  if (Status status = PackedAnchors::check(depth, options); !status.ok()) return status;
  try {
    std::shared_ptr<DeviceAnchors> packed(new DeviceAnchors());
    packed->similarity_ = options.similarity;
    Rows rows = anchors;
    std::vector<float> white;
    const PackedAnchors::Whitening& whitening = options.whitening;
    if (whitening.matrix.data != nullptr) {
      if (Status status = PackedAnchors::whiten_rows(anchors, whitening, &white); !status.ok()) return status;
      rows = {Dtype::f32, white.data(), anchors.count, whitening.matrix.outputs};
      if (Status status = pack_matrix(stream, whitening.matrix, {}, &packed->whitening_); !status.ok()) return status;
      if (Status status = upload_floats(stream, whitening.mean, &packed->mean_); !status.ok()) return status;
    }
    const int64_t width = whitening.matrix.data != nullptr ? whitening.matrix.outputs : depth;
    if (options.centre.empty() && PackedAnchors::centres_itself(options)) options.centre = PackedAnchors::mean_of(rows, width);
    if (Status status = upload_floats(stream, options.centre, &packed->centre_); !status.ok()) return status;
    if (Status status = upload_floats(stream, options.scale, &packed->scale_); !status.ok()) return status;
    Packing packing;
    packing.storage = options.storage;
    packing.shift = address<float>(packed->centre_);
    packing.depth_scale = address<float>(packed->scale_);
    packing.unit = is_unit(options.similarity);
    packing.with_squares = is_euclidean(options.similarity);
    if (Status status = pack_matrix(stream, {rows.dtype, rows.data, rows.count, width, rows.stride, 1}, packing, &packed->anchors_);
        !status.ok())
      return status;
    *out = std::move(packed);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for packed anchors");
  }
}

size_t DeviceAnchors::bytes() const noexcept {
  return anchors_.bytes() + whitening_.bytes() + bytes_of(mean_) + bytes_of(centre_) + bytes_of(scale_);
}

latent_cosine_args DeviceAnchors::arguments(const latent_rows& x, int32_t* bad_row) const noexcept {
  latent_cosine_args args{};
  args.x = x;
  args.anchors = anchors_.view();
  args.whitening = whitening_.view();
  args.mean = address<float>(mean_);
  args.centre = address<float>(centre_);
  args.scale = address<float>(scale_);
  args.bad_row = bad_row;
  args.similarity = static_cast<int32_t>(similarity_);
  return args;
}

Status DeviceAnchors::relative(DeviceStream& stream, const latent_rows& x, float* r, int32_t* bad_row) const {
  latent_cosine_args args = arguments(x, bad_row);
  args.r = r;
  return DeviceStream::call(stream.api().cosine, stream.handle(), &args);
}

Status DeviceAnchors::top_k(DeviceStream& stream, const latent_rows& x, int64_t k, int32_t* indices, float* values,
                            int32_t* bad_row) const {
  latent_cosine_args args = arguments(x, bad_row);
  args.k = k;
  args.indices = indices;
  args.values = values;
  return DeviceStream::call(stream.api().cosine, stream.handle(), &args);
}

// --- Projections -----------------------------------------------------------------------------------------------------------------------

Status DeviceProjection::pack(DeviceStream& stream, const Projection::Layer& first, const Projection::Layer* second,
                              Projection::Options options, std::shared_ptr<const DeviceProjection>* out) {
  if (Status status = Projection::check(first, second, options); !status.ok()) return status;
  try {
    std::shared_ptr<DeviceProjection> packed(new DeviceProjection());
    std::shared_ptr<DeviceBuffer> weight;
    std::shared_ptr<DeviceBuffer> bias;
    if (Status status = upload_floats(stream, options.norm_weight, &weight); !status.ok()) return status;
    if (Status status = upload_floats(stream, options.norm_bias, &bias); !status.ok()) return status;
    if (Status status = upload_floats(stream, first.bias, &packed->first_bias_); !status.ok()) return status;
    std::shared_ptr<DeviceBuffer> folded;
    if (bias) {
      if (Status status = stream.allocate(static_cast<size_t>(first.outputs) * sizeof(float), &folded); !status.ok()) return status;
    }
    Packing packing;
    packing.storage = options.storage;
    packing.depth_scale = address<float>(weight);
    packing.with_sums = options.norm == RowNorm::layer;
    packing.vector = address<float>(bias);
    packing.offset = address<float>(packed->first_bias_);
    packing.projected = address<float>(folded);
    if (Status status =
            pack_matrix(stream, {first.dtype, first.weights, first.outputs, first.inputs, 1, first.outputs}, packing, &packed->first_);
        !status.ok())
      return status;
    if (folded) packed->first_bias_ = std::move(folded);
    if (second != nullptr) {
      Packing plain;
      plain.storage = options.storage;
      if (Status status = upload_floats(stream, second->bias, &packed->second_bias_); !status.ok()) return status;
      if (Status status = pack_matrix(stream, {second->dtype, second->weights, second->outputs, second->inputs, 1, second->outputs}, plain,
                                      &packed->second_);
          !status.ok())
        return status;
    }
    packed->options_ = std::move(options);
    *out = std::move(packed);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a packed projection");
  }
}

size_t DeviceProjection::bytes() const noexcept {
  return first_.bytes() + second_.bytes() + bytes_of(first_bias_) + bytes_of(second_bias_);
}

Status DeviceProjection::apply(DeviceStream& stream, const latent_rows& x, float* y, int32_t* bad_row) const {
  latent_projection_args args{};
  args.x = x;
  args.first = first_.view();
  args.second = second_.view();
  args.first_bias = address<float>(first_bias_);
  args.second_bias = address<float>(second_bias_);
  args.y = y;
  args.bad_row = bad_row;
  args.norm = static_cast<int32_t>(options_.norm);
  args.activation = static_cast<int32_t>(options_.activation);
  args.rescale = static_cast<int32_t>(options_.rescale);
  args.epsilon = options_.epsilon;
  args.target_norm = options_.target_norm;
  return DeviceStream::call(stream.api().projection, stream.handle(), &args);
}

// --- Codebooks -------------------------------------------------------------------------------------------------------------------------

Status DeviceCodebook::pack(DeviceStream& stream, const Rows& codewords, int64_t depth, Dtype storage,
                            std::shared_ptr<const DeviceCodebook>* out) {
  try {
    std::shared_ptr<DeviceCodebook> packed(new DeviceCodebook());
    Packing packing;
    packing.storage = storage;
    packing.with_squares = true;
    if (Status status =
            pack_matrix(stream, {codewords.dtype, codewords.data, codewords.count, depth, codewords.stride, 1}, packing, &packed->words_);
        !status.ok())
      return status;
    *out = std::move(packed);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a packed codebook");
  }
}

Status DeviceCodebook::nearest(DeviceStream& stream, const latent_rows& x, int32_t* indices, float* distances, int32_t* bad_row) const {
  latent_codeword_args args{};
  args.x = x;
  args.codewords = words_.view();
  args.indices = indices;
  args.distances = distances;
  args.bad_row = bad_row;
  return DeviceStream::call(stream.api().codeword, stream.handle(), &args);
}

}  // namespace latentwire
