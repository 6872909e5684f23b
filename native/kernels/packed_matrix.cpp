#include "kernels/packed_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <string>

#include "core/thread_pool.h"
#include "kernels/gemm_kernels.h"

namespace latentwire {
namespace {

constexpr size_t alignment = 64;
// Of an output with a norm of at least 1e-10, denormals are less than f32's rounding errors in a product with any row of 1e-15 or more.
constexpr double least_square = 1e-20;

int64_t round_up(int64_t n, int64_t step) noexcept { return (n + step - 1) / step * step; }

float adjusted(const PackedMatrix::Source& s, const PackedMatrix::Adjust& a, int64_t output, int64_t k) noexcept {
  float value = float_element(s.dtype, s.data, output * s.output_stride + k * s.depth_stride);
  if (a.shift != nullptr) value -= a.shift[k];
  if (a.depth_scale != nullptr) value *= a.depth_scale[k];
  if (a.output_scale != nullptr) value *= a.output_scale[output];
  return value;
}

}  // namespace

void PackedMatrix::Free::operator()(void* memory) const noexcept { ::operator delete (memory, std::align_val_t{alignment}); }

Status PackedMatrix::pack(const Source& source, Dtype storage, const Adjust& adjust, std::shared_ptr<const PackedMatrix>* out) {
  if (!is_float(source.dtype)) return Status::fail(Code::dtype, "a matrix to pack must be f32, f16 or bf16");
  if (!is_float(storage) && storage != Dtype::i8) return Status::fail(Code::dtype, "a matrix is packed as f32, f16, bf16 or i8");
  if (source.outputs < 0 || source.depth < 0) return Status::fail(Code::invalid_argument, "a matrix has no negative sizes");
  if (storage == Dtype::i8 && source.depth > max_i8_depth)
    return Status::fail(Code::invalid_argument, "i8 is for depths up to " + std::to_string(max_i8_depth));
  try {
    std::shared_ptr<PackedMatrix> matrix(new PackedMatrix());
    matrix->storage_ = storage;
    matrix->outputs_ = source.outputs;
    matrix->depth_ = source.depth;
    matrix->panel_count_ = round_up(source.outputs, panel_width) / panel_width;
    matrix->panel_stride_ = round_up(source.depth, i8_group) * panel_width;
    if (storage == Dtype::i8) {
      matrix->scales_.resize(static_cast<size_t>(matrix->panel_count_ * panel_width));
      matrix->code_sums_.resize(static_cast<size_t>(matrix->panel_count_ * panel_width));
    }
    matrix->data_.reset(::operator new (std::max<size_t>(matrix->bytes(), 1), std::align_val_t{alignment}));
    std::atomic<bool> sound{true};
    ThreadPool::get().parallel_for(matrix->panel_count_, 4, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++) {
        if (!matrix->pack_panel(source, adjust, p)) sound.store(false, std::memory_order_relaxed);
      }
    });
    if (!sound)
      return Status::fail(Code::non_finite,
                          "the matrix has an element that is not finite or too large for " + std::string(dtype_name(storage)));
    *out = std::move(matrix);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a packed matrix");
  }
}

size_t PackedMatrix::bytes() const noexcept { return static_cast<size_t>(panel_count_ * panel_stride_) * dtype_size(storage_); }

const void* PackedMatrix::panel(int64_t p, int64_t k) const noexcept {
  return static_cast<const char*>(data_.get()) + static_cast<size_t>(p * panel_stride_ + k * panel_width) * dtype_size(storage_);
}

// False if an element cannot be represented.
bool PackedMatrix::pack_panel(const Source& source, const Adjust& adjust, int64_t panel_index) noexcept {
  const int64_t first = panel_index * panel_width;
  const int64_t present = std::min(panel_width, outputs_ - first);
  const int64_t padded_depth = panel_stride_ / panel_width;
  void* const to = const_cast<void*>(panel(panel_index, 0));  // our own memory, not shared yet
  bool sound = true;
  for (int64_t j = 0; j < panel_width; j++) {
    const auto value = [&](int64_t k) { return j < present && k < depth_ ? adjusted(source, adjust, first + j, k) : 0.0F; };
    float scale = 0;
    if (storage_ == Dtype::i8) {
      float largest = 0;
      for (int64_t k = 0; k < depth_ && std::isfinite(largest); k++) {
        const float x = std::fabs(value(k));
        if (!(x <= largest)) largest = x;
      }
      sound = sound && std::isfinite(largest);
      scale = largest / 127;
      scales_[static_cast<size_t>(first + j)] = scale;
    }
    const float inverse = scale > 0 ? 1 / scale : 0;
    int32_t sum = 0;
    double square = 0;
    for (int64_t k = 0; k < padded_depth; k++) {
      const float x = value(k);
      switch (storage_) {
        case Dtype::f16: {
          const uint16_t half = f32_to_f16(x);
          sound = sound && std::isfinite(f16_to_f32(half));
          static_cast<uint16_t*>(to)[k * panel_width + j] = half;
          break;
        }
        case Dtype::bf16: {
          const uint16_t half = f32_to_bf16(x);
          const float held = bf16_to_f32(half);
          sound = sound && std::isfinite(held);
          square += static_cast<double>(held) * held;
          static_cast<uint16_t*>(to)[(k / bf16_group * panel_width + j) * bf16_group + k % bf16_group] = half;
          break;
        }
        case Dtype::i8: {
          // a denormal scale has no inverse that is a number: such an output is 0
          const float code = std::isfinite(inverse) ? std::clamp(std::nearbyint(x * inverse), -127.0F, 127.0F) : 0.0F;
          const auto stored = static_cast<int8_t>(std::isnan(code) ? 0.0F : code);
          sum += stored;
          static_cast<int8_t*>(to)[(k / i8_group * panel_width + j) * i8_group + k % i8_group] = stored;
          break;
        }
        default:
          sound = sound && std::isfinite(x);
          static_cast<float*>(to)[k * panel_width + j] = x;
          break;
      }
    }
    if (storage_ == Dtype::i8) code_sums_[static_cast<size_t>(first + j)] = sum;
    if (square > 0 && square < least_square) normal_.store(false, std::memory_order_relaxed);
  }
  return sound;
}

}  // namespace latentwire
