#include "kernels/cosine.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>

#include "kernels/table.h"

namespace latentwire {
namespace {

// Rows that are whitened together and then compared: what lies between stays in the last-level cache.
constexpr int64_t slab_rows = 512;

double element(const Rows& rows, int64_t row, int64_t k) noexcept { return float_element(rows.dtype, rows.data, row * rows.stride + k); }

TileSink copy_to(float* out, int64_t stride) {
  return [out, stride](const ProductTile& tile) {
    for (int64_t i = 0; i < tile.rows; i++)
      std::copy_n(tile.values + i * tile.stride, tile.columns, out + (tile.row + i) * stride + tile.column);
  };
}

bool is_unit(Similarity similarity) noexcept { return similarity == Similarity::cosine || similarity == Similarity::angular; }

bool is_euclidean(Similarity similarity) noexcept {
  return similarity == Similarity::euclidean || similarity == Similarity::squared_euclidean;
}

}  // namespace

Status PackedAnchors::check(int64_t depth, const Options& options) {
  const Whitening& whitening = options.whitening;
  const bool whitens = whitening.matrix.data != nullptr;
  if (options.similarity == Similarity::l1 && options.storage == Dtype::i8)
    return Status::fail(Code::invalid_argument, "l1 is for anchors kept as f32, f16 or bf16: codes of i8 have another scale in every row");
  if (whitens && (whitening.matrix.depth != depth || static_cast<int64_t>(whitening.mean.size()) != depth))
    return Status::fail(Code::invalid_argument, "a whitening must be of " + std::to_string(depth) + " elements, as the anchors are");
  const int64_t width = whitens ? whitening.matrix.outputs : depth;
  const auto fits = [&](const std::vector<float>& v) { return v.empty() || static_cast<int64_t>(v.size()) == width; };
  if (!fits(options.centre) || !fits(options.scale))
    return Status::fail(Code::invalid_argument, "centre and scale must have " + std::to_string(width) + " elements");
  return {};
}

bool PackedAnchors::centres_itself(const Options& options) noexcept {
  const bool in_16_bits = options.storage == Dtype::f16 || options.storage == Dtype::bf16;
  return is_euclidean(options.similarity) || (options.similarity == Similarity::l1 && in_16_bits);
}

std::vector<float> PackedAnchors::mean_of(const Rows& rows, int64_t depth) {
  std::vector<double> sum(static_cast<size_t>(depth));
  for (int64_t i = 0; i < rows.count; i++) {
    for (int64_t k = 0; k < depth; k++) sum[static_cast<size_t>(k)] += element(rows, i, k);
  }
  std::vector<float> mean(sum.size());
  for (size_t k = 0; k < sum.size(); k++) mean[k] = static_cast<float>(sum[k] / static_cast<double>(rows.count));
  return mean;
}

Status PackedAnchors::whiten_rows(const Rows& anchors, const Whitening& whitening, std::vector<float>* white) {
  PackedAnchors map;
  map.mean_ = whitening.mean;
  if (Status status = PackedMatrix::pack(whitening.matrix, Dtype::f32, {}, &map.whitening_); !status.ok()) return status;
  white->resize(static_cast<size_t>(anchors.count * map.whitening_->outputs()));
  return map.whiten(anchors, white->data(), nullptr);
}

Status PackedAnchors::pack(const Rows& anchors, int64_t depth, Options options, std::shared_ptr<const PackedAnchors>* out) {
  if (Status status = check(depth, options); !status.ok()) return status;
  const bool whitens = options.whitening.matrix.data != nullptr;
  try {
    std::shared_ptr<PackedAnchors> packed(new PackedAnchors());
    packed->centres_itself_ = centres_itself(options);
    packed->similarity_ = options.similarity;
    packed->centre_ = std::move(options.centre);
    packed->scale_ = std::move(options.scale);
    Status status = whitens ? packed->pack_white(anchors, std::move(options.whitening), options.storage)
                            : packed->pack_rows(anchors, depth, options.storage);
    if (status.ok()) *out = std::move(packed);
    return status;
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for packed anchors");
  }
}

Status PackedAnchors::pack_white(const Rows& anchors, Whitening whitening, Dtype storage) {
  mean_ = std::move(whitening.mean);
  if (Status status = PackedMatrix::pack(whitening.matrix, Dtype::f32, {}, &whitening_); !status.ok()) return status;
  const int64_t depth = whitening_->depth(), width = whitening_->outputs();
  std::vector<float> white(static_cast<size_t>(anchors.count * width));
  if (Status status = whiten(anchors, white.data(), nullptr); !status.ok()) return status;
  const Rows rows{Dtype::f32, white.data(), anchors.count, width};
  // <(x - mean) W, b> = <x - mean, b W'>: no row needs to be white, which mostly is less work. Fewer bits would lose in b W' what they keep
  // in b.
  const bool folds = similarity_ == Similarity::inner && storage == Dtype::f32 && centre_.empty() && scale_.empty() &&
                     anchors.count * depth <= width * (anchors.count + depth);
  if (!folds) return pack_rows(rows, width, storage);
  std::shared_ptr<const PackedMatrix> back;
  if (Status status = PackedMatrix::pack(whitening.matrix.transposed(), Dtype::f32, {}, &back); !status.ok()) return status;
  std::vector<float> folded(static_cast<size_t>(anchors.count * depth));
  if (Status status = multiply(rows, {}, *back, false, copy_to(folded.data(), depth)); !status.ok()) return status;
  whitening_ = nullptr;
  centre_ = std::move(mean_);
  return PackedMatrix::pack({Dtype::f32, folded.data(), anchors.count, depth, depth, 1}, storage, {}, &matrix_);
}

Status PackedAnchors::pack_rows(const Rows& anchors, int64_t depth, Dtype storage) {
  if (centres_itself_ && centre_.empty() && anchors.count > 0) centre_ = mean_of(anchors, depth);
  const bool unit = is_unit(similarity_);
  std::vector<float> inverse_norms;
  for (int64_t i = 0; i < anchors.count; i++) {
    double square = 0;
    for (int64_t k = 0; k < depth; k++) {
      double x = element(anchors, i, k);
      if (!centre_.empty()) x -= centre_[static_cast<size_t>(k)];
      if (!scale_.empty()) x *= scale_[static_cast<size_t>(k)];
      square += x * x;
    }
    // an anchor of extreme size is caught by the packing, or has an inverse norm that is a number
    if (unit) inverse_norms.push_back(square > 0 ? static_cast<float>(1 / std::sqrt(square)) : 0);
    if (is_euclidean(similarity_)) squares_.push_back(static_cast<float>(square));
  }
  PackedMatrix::Adjust adjust;
  adjust.shift = centre_.empty() ? nullptr : centre_.data();
  adjust.depth_scale = scale_.empty() ? nullptr : scale_.data();
  adjust.output_scale = unit ? inverse_norms.data() : nullptr;
  return PackedMatrix::pack({anchors.dtype, anchors.data, anchors.count, depth, anchors.stride, 1}, storage, adjust, &matrix_);
}

// white: [x.count, width]
Status PackedAnchors::whiten(const Rows& x, float* white, const std::atomic<bool>* cancel) const {
  RowTreatment centred;
  centred.shift = mean_.data();
  return multiply(x, centred, *whitening_, false, copy_to(white, whitening_->outputs()), cancel);
}

// The product of rows and anchors, its tiles turned into similarities.
class RelativeProduct {
 public:
  RelativeProduct(const Rows& x, const PackedAnchors& anchors) : x_(x), anchors_(anchors) {
    treatment_.norm = is_unit(anchors.similarity()) ? RowNorm::l2 : RowNorm::none;
    treatment_.shift = anchors.centre_.empty() ? nullptr : anchors.centre_.data();
    treatment_.scale = anchors.scale_.empty() ? nullptr : anchors.scale_.data();
  }

  Status run(bool whole_rows, const TileSink& sink, const std::atomic<bool>* cancel) const {
    if (!anchors_.whitening_) return compare(x_, 0, whole_rows, sink, cancel);
    const std::unique_ptr<float[]> white(new (std::nothrow) float[static_cast<size_t>(std::min(slab_rows, x_.count) * anchors_.width())]);
    if (!white) return Status::fail(Code::out_of_memory, "no memory for white rows");
    for (int64_t first = 0; first < x_.count; first += slab_rows) {
      const Rows part = x_.part(first, std::min(slab_rows, x_.count - first));
      if (Status status = anchors_.whiten(part, white.get(), cancel); !status.ok()) return status;
      const Rows rows{Dtype::f32, white.get(), part.count, anchors_.width(), part.first};
      if (Status status = compare(rows, first, whole_rows, sink, cancel); !status.ok()) return status;
    }
    return {};
  }

 private:
  // `first` is which of x_ the first row is.
  Status compare(const Rows& rows, int64_t first, bool whole_rows, const TileSink& sink, const std::atomic<bool>* cancel) const {
    const bool l1 = anchors_.similarity() == Similarity::l1;
    return (l1 ? l1_distances : multiply)(
        rows, treatment_, *anchors_.matrix_, whole_rows,
        [&](ProductTile tile) {
          for (int64_t r = 0; r < tile.rows; r++) finish(tile, r);
          tile.row += first;
          sink(tile);
        },
        cancel);
  }

  void finish(const ProductTile& tile, int64_t r) const noexcept {
    float* v = tile.values + r * tile.stride;
    switch (anchors_.similarity()) {
      case Similarity::angular:
        for (int64_t j = 0; j < tile.columns; j++) v[j] = std::acos(std::clamp(v[j], -1.0F, 1.0F)) * 0.31830988618379067F;
        break;
      case Similarity::euclidean:
      case Similarity::squared_euclidean: {
        const float* squares = anchors_.squares_.data() + tile.column;
        for (int64_t j = 0; j < tile.columns; j++) v[j] = std::max(0.0F, tile.squares[r] + squares[j] - 2 * v[j]);
        if (anchors_.similarity() == Similarity::euclidean) std::transform(v, v + tile.columns, v, [](float x) { return std::sqrt(x); });
        break;
      }
      case Similarity::cosine:
      case Similarity::inner:
      case Similarity::l1:
        break;
    }
  }

  const Rows& x_;
  const PackedAnchors& anchors_;
  RowTreatment treatment_;
};

Status relative(const Rows& x, const PackedAnchors& anchors, float* r, int64_t stride, const std::atomic<bool>* cancel) {
  return RelativeProduct(x, anchors).run(false, copy_to(r, stride), cancel);
}

namespace {

// Rows keep their best k sorted while the tiles pass; most values fail the comparison with the worst of them.
struct Best {
  int64_t k;
  bool smallest;
  int32_t* indices;
  float* values;

  bool better(float a, float b) const noexcept { return smallest ? a < b : a > b; }

  void take(int64_t row, int64_t column, int64_t columns, const float* v) const noexcept {
    int32_t* ids = indices + row * k;
    float* best = values + row * k;
    int64_t filled = std::min(column, k);
    for (int64_t j = 0; j < columns; j++) {
      if (filled == k && !better(v[j], best[k - 1])) continue;
      int64_t at = filled < k ? filled++ : k - 1;
      for (; at > 0 && better(v[j], best[at - 1]); at--) {
        best[at] = best[at - 1];
        ids[at] = ids[at - 1];
      }
      best[at] = v[j];
      ids[at] = static_cast<int32_t>(column + j);
    }
  }
};

}  // namespace

Status relative_top_k(const Rows& x, const PackedAnchors& anchors, int64_t k, int32_t* indices, float* values,
                      const std::atomic<bool>* cancel) {
  if (k < 1 || k > anchors.count())
    return Status::fail(Code::invalid_argument, "k must be between 1 and the " + std::to_string(anchors.count()) + " anchors");
  const Best best{k, is_distance(anchors.similarity()), indices, values};
  return RelativeProduct(x, anchors)
      .run(
          true,
          [&best](const ProductTile& tile) {
            for (int64_t i = 0; i < tile.rows; i++) best.take(tile.row + i, tile.column, tile.columns, tile.values + i * tile.stride);
          },
          cancel);
}

void encode_cosines(const float* r, int64_t count, int bits, uint8_t* codes) noexcept {
  const float levels = bits == 8 ? 127.0F : 7.0F;
  std::fill(codes, codes + code_row_bytes(count, bits), uint8_t{0});
  for (int64_t j = 0; j < count; j++) {
    if (bits == 1) {
      codes[j / 8] = static_cast<uint8_t>(codes[j / 8] | ((r[j] >= 0 ? 1U : 0U) << (j % 8)));
      continue;
    }
    const auto code = static_cast<unsigned>(static_cast<int>(std::nearbyint(std::clamp(r[j], -1.0F, 1.0F) * levels)));
    if (bits == 8)
      codes[j] = static_cast<uint8_t>(code);
    else
      codes[j / 2] = static_cast<uint8_t>(codes[j / 2] | ((code & 15U) << (4 * (j % 2))));
  }
}

Status relative_codes(const Rows& x, const PackedAnchors& anchors, int bits, uint8_t* codes, const std::atomic<bool>* cancel) {
  if (anchors.similarity() != Similarity::cosine) return Status::fail(Code::invalid_argument, "codes are for cosine similarities");
  if (bits != 8 && bits != 4 && bits != 1) return Status::fail(Code::invalid_argument, "codes have 8, 4 or 1 bits");
  const int64_t row_bytes = code_row_bytes(anchors.count(), bits);
  // tiles begin at multiples of 16 outputs, so their codes begin at whole bytes
  return RelativeProduct(x, anchors)
      .run(
          false,
          [&](const ProductTile& tile) {
            for (int64_t i = 0; i < tile.rows; i++)
              encode_cosines(tile.values + i * tile.stride, tile.columns, bits,
                             codes + (tile.row + i) * row_bytes + tile.column * bits / 8);
          },
          cancel);
}

}  // namespace latentwire
