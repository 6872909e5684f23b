// Relative representations: every row by its similarities to a set of anchors (Moschella et al. 2023), r_ij = sim(x_i, a_j).
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/dtype.h"
#include "core/status.h"
#include "kernels/packed_matrix.h"
#include "kernels/product.h"

namespace latentwire {

enum class Similarity {
  cosine,             // <x, a> / (|x| |a|); a zero vector has similarity 0 with everything
  angular,            // arccos(cosine) / pi, in [0, 1]
  inner,              // <x, a>
  squared_euclidean,  // |x - a|^2
  euclidean,          // |x - a|
  l1,                 // the sum of |x_k - a_k|
};

// Whether the smallest is the most similar.
constexpr bool is_distance(Similarity similarity) noexcept { return similarity != Similarity::cosine && similarity != Similarity::inner; }

// Anchors, prepared once for one similarity. Immutable.
class PackedAnchors {
 public:
  // A linear map with a shift, x -> (x - mean) matrix. Similarities of rows that it makes white are Mahalanobis's: of the rows themselves
  // under the inverse of their covariance.
  struct Whitening {
    std::vector<float> mean;      // [depth]
    PackedMatrix::Source matrix;  // `width` outputs, or no data for none; read while anchors are packed
  };
  struct Options {
    Similarity similarity = Similarity::cosine;
    Dtype storage = Dtype::f32;  // f32, f16, bf16 or, but for l1, i8
    // Applied to anchors and rows alike before anything else.
    Whitening whitening;
    // Applied after that: (x - centre) * scale. Both [width], which is depth without a whitening, or empty.
    std::vector<float> centre;
    std::vector<float> scale;
  };

  // `anchors` are `count` rows of `depth`. Distances do not depend on the centre, but their rounding errors do: those of |x|^2 + |a|^2 -
  // 2 <x, a>, and those of anchors in 16 bits. There the anchors' mean is the centre if none is given. Fails as PackedMatrix::pack does,
  // and with non_finite for anchors that are not.
  static Status pack(const Rows& anchors, int64_t depth, Options options, std::shared_ptr<const PackedAnchors>* out);

  // What `pack` needs apart from the anchors, for those who pack elsewhere. Fails with invalid_argument.
  static Status check(int64_t depth, const Options& options);
  // Whether the anchors' mean is their centre if none is given.
  static bool centres_itself(const Options& options) noexcept;
  static std::vector<float> mean_of(const Rows& rows, int64_t depth);
  // white: [anchors.count, width]
  static Status whiten_rows(const Rows& anchors, const Whitening& whitening, std::vector<float>* white);

  int64_t count() const noexcept { return matrix_->outputs(); }
  int64_t depth() const noexcept { return whitening_ ? whitening_->depth() : width(); }
  // Of one row.
  int64_t multiplications() const noexcept { return width() * (count() + (whitening_ ? depth() : 0)); }
  size_t bytes() const noexcept { return matrix_->bytes() + squares_.size() * sizeof(float) + (whitening_ ? whitening_->bytes() : 0); }
  Similarity similarity() const noexcept { return similarity_; }
  Dtype storage() const noexcept { return matrix_->storage(); }

 private:
  friend class RelativeProduct;
  PackedAnchors() = default;
  Status pack_rows(const Rows& anchors, int64_t depth, Dtype storage);
  Status pack_white(const Rows& anchors, Whitening whitening, Dtype storage);
  Status whiten(const Rows& x, float* white, const std::atomic<bool>* cancel) const;
  int64_t width() const noexcept { return matrix_->depth(); }  // of the rows that meet the anchors

  Similarity similarity_ = Similarity::cosine;
  bool centres_itself_ = false;
  // f32 whatever the anchors are stored as: rounded, it would mix what is large in a row into what is small. nullptr for none.
  std::shared_ptr<const PackedMatrix> whitening_;
  std::vector<float> mean_;
  std::vector<float> centre_;  // of the rows that meet the anchors, like `scale_`
  std::vector<float> scale_;
  std::shared_ptr<const PackedMatrix> matrix_;
  std::vector<float> squares_;  // |a|^2, for euclidean and its square
};

// r: [x.count, anchors.count] f32, rows `stride` elements apart.
Status relative(const Rows& x, const PackedAnchors& anchors, float* r, int64_t stride, const std::atomic<bool>* cancel = nullptr);

// The k most similar anchors of each row (the smallest distances), the best first, the lower index first among equals: indices i32 and
// values f32, both [x.count, k]. Fails with invalid_argument unless 1 <= k <= anchors.count.
Status relative_top_k(const Rows& x, const PackedAnchors& anchors, int64_t k, int32_t* indices, float* values,
                      const std::atomic<bool>* cancel = nullptr);

// Cosines as signed codes of 8, 4 or 1 bits: round(r * 127), round(r * 7), or the sign (1 where r >= 0). 4-bit codes are two's complement,
// the first in the low half of a byte; 1-bit codes are packed from the lowest bit on; rows begin at whole bytes. Only for
// Similarity::cosine.
Status relative_codes(const Rows& x, const PackedAnchors& anchors, int bits, uint8_t* codes, const std::atomic<bool>* cancel = nullptr);
// The codes of one row of cosines.
void encode_cosines(const float* r, int64_t count, int bits, uint8_t* codes) noexcept;
// Bytes of one row of codes.
constexpr int64_t code_row_bytes(int64_t count, int bits) noexcept { return (count * bits + 7) / 8; }

}  // namespace latentwire
