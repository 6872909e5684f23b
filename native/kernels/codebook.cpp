#include "kernels/codebook.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <new>
#include <queue>
#include <string>

#include "core/atomic_least.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// Rows whose residuals pass through all stages together.
constexpr int64_t slab_rows = 512;

float element(const Rows& rows, int64_t row, int64_t k) noexcept { return float_element(rows.dtype, rows.data, row * rows.stride + k); }

// x as the packed matrix holds it
float held(float x, Dtype storage) noexcept {
  return storage == Dtype::f16 ? f16_to_f32(f32_to_f16(x)) : storage == Dtype::bf16 ? bf16_to_f32(f32_to_bf16(x)) : x;
}

Status check_stages(const std::vector<std::shared_ptr<const Codebook>>& stages) {
  if (stages.empty()) return Status::fail(Code::invalid_argument, "at least one codebook is needed");
  for (const auto& stage : stages) {
    if (stage->depth() != stages.front()->depth()) return Status::fail(Code::invalid_argument, "the codebooks have different depths");
  }
  return {};
}

}  // namespace

Status Codebook::pack(const Rows& codewords, int64_t depth, Dtype storage, std::shared_ptr<const Codebook>* out) {
  if (codewords.count < 1 || codewords.count > std::numeric_limits<int32_t>::max())
    return Status::fail(Code::invalid_argument, "a codebook has at least one codeword and at most 2^31 - 1");
  if (!is_float(storage)) return Status::fail(Code::dtype, "codewords are compared in f32, f16 or bf16");
  try {
    std::shared_ptr<Codebook> book(new Codebook());
    const PackedMatrix::Source source{codewords.dtype, codewords.data, codewords.count, depth, codewords.stride, 1};
    if (Status status = PackedMatrix::pack(source, storage, {}, &book->matrix_); !status.ok()) return status;
    book->words_.resize(static_cast<size_t>(codewords.count * depth));
    book->half_squares_.resize(static_cast<size_t>(codewords.count));
    for (int64_t i = 0; i < codewords.count; i++) {
      double square = 0;
      for (int64_t k = 0; k < depth; k++) {
        const float c = element(codewords, i, k);
        book->words_[static_cast<size_t>(i * depth + k)] = c;
        const double h = held(c, storage);
        square += h * h;
      }
      const auto half = static_cast<float>(square / 2);
      if (!std::isfinite(half))
        return Status::fail(Code::non_finite, "the square of codeword " + std::to_string(codewords.first + i) + " is no f32");
      book->half_squares_[static_cast<size_t>(i)] = half;
    }
    *out = std::move(book);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a codebook");
  }
}

Status Codebook::nearest(const Rows& x, int32_t* indices, float* distances, const std::atomic<bool>* cancel) const {
  const auto least = kernels().codebook.least;
  // one row's best so far stays in a few registers' worth of memory: its own, or that of its distance
  std::vector<float> own;
  if (distances == nullptr) {
    try {
      own.resize(static_cast<size_t>(x.count));
    } catch (const std::bad_alloc&) {
      return Status::fail(Code::out_of_memory, "no memory for distances");
    }
    distances = own.data();
  }
  std::atomic<int64_t> beyond{x.count};  // the first row whose distance is no f32
  Status status = multiply(
      x, {}, *matrix_, true,
      [&](const ProductTile& tile) {
        const bool last = tile.column + tile.columns == count();
        for (int64_t r = 0; r < tile.rows; r++) {
          float* best = distances + tile.row + r;
          int32_t* index = indices + tile.row + r;
          if (tile.column == 0) {
            *best = std::numeric_limits<float>::infinity();
            *index = 0;
          }
          least(tile.values + r * tile.stride, half_squares_.data() + tile.column, tile.columns, static_cast<int32_t>(tile.column), best,
                index);
          if (!last) continue;
          const float distance = tile.squares[r] + 2 * *best;
          *best = std::max(0.0F, distance);
          if (!std::isfinite(distance)) keep_least(beyond, tile.row + r);
        }
      },
      cancel);
  if (!status.ok() || beyond == x.count) return status;
  return Status::fail(Code::non_finite, "the squared distances of row " + std::to_string(x.first + beyond) + " are beyond f32");
}

Status residual_encode(const Rows& x, const std::vector<std::shared_ptr<const Codebook>>& stages, int32_t* indices, float* residual,
                       const std::atomic<bool>* cancel) {
  if (Status status = check_stages(stages); !status.ok()) return status;
  if (!is_float(x.dtype)) return Status::fail(Code::dtype, "rows must be f32, f16 or bf16");
  const int64_t depth = stages.front()->depth();
  const auto count = static_cast<int64_t>(stages.size());
  try {
    std::vector<float> slab(residual == nullptr ? static_cast<size_t>(std::min(x.count, slab_rows) * depth) : 0);
    std::vector<int32_t> found(static_cast<size_t>(std::min(x.count, slab_rows)));
    for (int64_t first = 0; first < x.count; first += slab_rows) {
      const int64_t rows = std::min(slab_rows, x.count - first);
      float* left = residual == nullptr ? slab.data() : residual + first * depth;
      for (int64_t i = 0; i < rows; i++) {
        for (int64_t k = 0; k < depth; k++) left[i * depth + k] = element(x, first + i, k);
      }
      for (int64_t stage = 0; stage < count; stage++) {
        const Codebook& book = *stages[static_cast<size_t>(stage)];
        if (Status status = book.nearest({Dtype::f32, left, rows, depth, x.first + first}, found.data(), nullptr, cancel); !status.ok())
          return status;
        for (int64_t i = 0; i < rows; i++) {
          const int32_t index = found[static_cast<size_t>(i)];
          indices[(first + i) * count + stage] = index;
          const float* word = book.word(index);
          for (int64_t k = 0; k < depth; k++) left[i * depth + k] -= word[k];
        }
      }
    }
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for residuals");
  }
}

Status residual_decode(const std::vector<std::shared_ptr<const Codebook>>& stages, const int32_t* indices, int64_t rows, float* y,
                       int64_t stride) {
  if (Status status = check_stages(stages); !status.ok()) return status;
  const int64_t depth = stages.front()->depth();
  const auto count = static_cast<int64_t>(stages.size());
  for (int64_t i = 0; i < rows; i++) {
    std::fill_n(y + i * stride, depth, 0.0F);
    for (int64_t stage = 0; stage < count; stage++) {
      const Codebook& book = *stages[static_cast<size_t>(stage)];
      const int32_t index = indices[i * count + stage];
      if (index < 0 || index >= book.count())
        return Status::fail(Code::invalid_argument, "row " + std::to_string(i) + " names codeword " + std::to_string(index) + " of " +
                                                        std::to_string(book.count()));
      const float* word = book.word(index);
      for (int64_t k = 0; k < depth; k++) y[i * stride + k] += word[k];
    }
  }
  return {};
}

Status Fsq::make(std::vector<int32_t> levels, Fsq* out) {
  if (levels.empty()) return Status::fail(Code::invalid_argument, "FSQ needs at least one component");
  int64_t symbols = 1;
  for (const int32_t count : levels) {
    if (count < 2 || count > 65536) return Status::fail(Code::invalid_argument, "a component of FSQ has 2 to 65536 levels");
    if (symbols > (int64_t{1} << 62) / count) return Status::fail(Code::invalid_argument, "there would be more than 2^62 symbols");
    symbols *= count;
  }
  out->levels_ = std::move(levels);
  out->symbols_ = symbols;
  return {};
}

Status Fsq::encode(const Rows& x, int64_t* symbols) const {
  if (!is_float(x.dtype)) return Status::fail(Code::dtype, "rows must be f32, f16 or bf16");
  for (int64_t row = 0; row < x.count; row++) {
    int64_t symbol = 0;
    int64_t weight = 1;
    for (int64_t j = 0; j < depth(); j++) {
      const float z = element(x, row, j);
      if (!std::isfinite(z)) return Status::fail(Code::non_finite, "row " + std::to_string(x.first + row) + " holds NaN or an infinity");
      const int32_t levels = levels_[static_cast<size_t>(j)];
      // the bound lies a little beyond the outermost values, so that they can be reached; an even count is shifted by half a step
      const double half = (levels - 1) * (1 + 1e-3) / 2;
      const double offset = levels % 2 == 0 ? 0.5 : 0.0;
      const double bounded = std::tanh(static_cast<double>(z) + std::atanh(offset / half)) * half - offset;
      // at many levels the bound goes beyond them
      const auto code = std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(bounded)), -(levels / 2), (levels - 1) / 2);
      symbol += (code + levels / 2) * weight;
      weight *= levels;
    }
    symbols[row] = symbol;
  }
  return {};
}

Status Fsq::decode(const int64_t* symbols, int64_t rows, float* y, int64_t stride) const {
  for (int64_t row = 0; row < rows; row++) {
    int64_t rest = symbols[row];
    if (rest < 0 || rest >= symbols_)
      return Status::fail(Code::invalid_argument,
                          "row " + std::to_string(row) + " has symbol " + std::to_string(rest) + " of " + std::to_string(symbols_));
    for (int64_t j = 0; j < depth(); j++) {
      const int32_t levels = levels_[static_cast<size_t>(j)];
      const int32_t half = levels / 2;
      y[row * stride + j] = static_cast<float>(rest % levels - half) / static_cast<float>(half);
      rest /= levels;
    }
  }
  return {};
}

namespace {

Status check_variances(const std::vector<double>& variances, double total_bits) {
  if (!(total_bits >= 0) || !std::isfinite(total_bits))
    return Status::fail(Code::invalid_argument, "the number of bits must be finite and not negative");
  for (size_t i = 0; i < variances.size(); i++) {
    if (!(variances[i] >= 0) || !std::isfinite(variances[i]))
      return Status::fail(Code::invalid_argument, "variance " + std::to_string(i) + " is negative or not finite");
  }
  return {};
}

}  // namespace

Status water_filling(const std::vector<double>& variances, double total_bits, WaterFilling* out) {
  if (Status status = check_variances(variances, total_bits); !status.ok()) return status;
  std::vector<double> sorted = variances;
  std::sort(sorted.begin(), sorted.end(), [](double a, double b) { return a > b; });
  if (total_bits > 0 && (sorted.empty() || sorted.front() == 0))
    return Status::fail(Code::invalid_argument, "nothing varies, so there is nothing to spend bits on");
  // With the m largest components in use, log2 of the level is their mean log variance less 2 total / m. The largest m whose last variance
  // lies above that level is the one.
  // It stays a logarithm: it may be smaller than any number.
  double log_level = sorted.empty() ? 0 : std::log2(sorted.front());
  double logs = 0;
  for (size_t m = 1; total_bits > 0 && m <= sorted.size() && sorted[m - 1] > 0; m++) {
    logs += std::log2(sorted[m - 1]);
    const double candidate = (logs - 2 * total_bits) / static_cast<double>(m);
    if (std::log2(sorted[m - 1]) < candidate) break;
    log_level = candidate;
  }
  const double level = sorted.empty() ? 0 : total_bits > 0 ? std::exp2(log_level) : sorted.front();
  out->level = level;
  out->distortion = 0;
  out->bits.assign(variances.size(), 0);
  for (size_t i = 0; i < variances.size(); i++) {
    out->distortion += std::min(level, variances[i]);
    if (total_bits > 0 && variances[i] > 0) out->bits[i] = std::max(0.0, (std::log2(variances[i]) - log_level) / 2);
  }
  return {};
}

Status whole_bits(const std::vector<double>& variances, int64_t total_bits, int most, std::vector<int>* bits, double* distortion) {
  if (Status status = check_variances(variances, static_cast<double>(total_bits)); !status.ok()) return status;
  if (most < 0) return Status::fail(Code::invalid_argument, "a component has no negative number of bits");
  bits->assign(variances.size(), 0);
  *distortion = 0;
  using Entry = std::pair<double, size_t>;
  const auto after = [](const Entry& a, const Entry& b) { return a.first < b.first || (a.first == b.first && a.second > b.second); };
  std::priority_queue<Entry, std::vector<Entry>, decltype(after)> queue(after);
  for (size_t i = 0; i < variances.size(); i++) {
    if (most > 0 && variances[i] > 0)
      queue.emplace(variances[i], i);
    else
      *distortion += variances[i];
  }
  for (int64_t spent = 0; spent < total_bits && !queue.empty(); spent++) {
    const auto [error, i] = queue.top();
    queue.pop();
    (*bits)[i]++;
    if ((*bits)[i] < most)
      queue.emplace(error / 4, i);
    else
      *distortion += error / 4;
  }
  for (; !queue.empty(); queue.pop()) *distortion += queue.top().first;
  return {};
}

}  // namespace latentwire
