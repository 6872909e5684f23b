// Products in plain loops of float64, as the ABI describes them; thought steps, tiles, rotations and digests by the CPU's own kernels.
#include "kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "core/dtype.h"
#include "device.h"
#include "kernels/stats.h"
#include "kernels/thought.h"
#include "kernels/tile.h"
#include "kv/rope.h"
#include "kv/rows.h"

namespace latentwire::mock {
namespace {

Dtype dtype_of(int32_t dtype) noexcept { return dtype == latent_f16 ? Dtype::f16 : dtype == latent_bf16 ? Dtype::bf16 : Dtype::f32; }

// What is left of a number that is kept as `dtype`.
float rounded(double value, Dtype dtype) noexcept {
  const auto wide = static_cast<float>(value);
  if (dtype == Dtype::f16) return f16_to_f32(f32_to_f16(wide));
  if (dtype == Dtype::bf16) return bf16_to_f32(f32_to_bf16(wide));
  return wide;
}

void store(Dtype dtype, void* data, int64_t at, double value) noexcept {
  const auto wide = static_cast<float>(value);
  if (dtype == Dtype::f32) {
    static_cast<float*>(data)[at] = wide;
  } else {
    static_cast<uint16_t*>(data)[at] = dtype == Dtype::f16 ? f32_to_f16(wide) : f32_to_bf16(wide);
  }
}

void lower(int32_t* first, int64_t row) noexcept {
  if (first != nullptr) *first = std::min(*first, static_cast<int32_t>(row));
}

using Row = std::vector<double>;

Row row_of(const latent_rows& x, int64_t row, int64_t depth) {
  const Dtype dtype = dtype_of(x.dtype);
  const void* data = host_bytes(x.data, ((x.count - 1) * x.stride + depth) * static_cast<int64_t>(dtype_size(dtype)));
  Row out(static_cast<size_t>(depth));
  for (int64_t k = 0; k < depth; k++) out[static_cast<size_t>(k)] = float_element(dtype, data, row * x.stride + k);
  return out;
}

// [outputs, depth] without gaps: the leading dimension of this backend is the depth.
struct Matrix {
  explicit Matrix(const latent_matrix& m) : dtype(dtype_of(m.dtype)), outputs(m.outputs), depth(m.depth) {
    data = host_bytes(m.data, outputs * depth * static_cast<int64_t>(dtype_size(dtype)));
  }
  double at(int64_t j, int64_t k) const noexcept { return float_element(dtype, data, j * depth + k); }
  double dot(const Row& x, int64_t j) const noexcept {
    double sum = 0;
    for (int64_t k = 0; k < depth; k++) sum += x[static_cast<size_t>(k)] * at(j, k);
    return sum;
  }

  Dtype dtype;
  const void* data;
  int64_t outputs;
  int64_t depth;
};

double square(const Row& x) noexcept { return std::inner_product(x.begin(), x.end(), x.begin(), 0.0); }

double squared_distance(const Matrix& m, const Row& x, int64_t j) noexcept {
  double sum = 0;
  for (int64_t k = 0; k < m.depth; k++) {
    const double d = x[static_cast<size_t>(k)] - m.at(j, k);
    sum += d * d;
  }
  return sum;
}

void treat(Row* x, const latent_cosine_args& args) {
  const Dtype dtype = dtype_of(args.anchors.dtype);
  const auto* mean = host(args.mean, args.whitening.depth);
  if (args.whitening.data != nullptr) {
    const Matrix whitening(args.whitening);
    Row shifted = *x;
    for (size_t k = 0; k < shifted.size(); k++) shifted[k] -= mean[k];
    x->resize(static_cast<size_t>(whitening.outputs));
    for (int64_t j = 0; j < whitening.outputs; j++) (*x)[static_cast<size_t>(j)] = whitening.dot(shifted, j);
  }
  const auto width = static_cast<int64_t>(x->size());
  const float* centre = host(args.centre, width);
  const float* scale = host(args.scale, width);
  for (size_t k = 0; k < x->size(); k++) {
    double value = (*x)[k];
    if (centre != nullptr) value -= centre[k];
    if (scale != nullptr) value *= scale[k];
    (*x)[k] = rounded(value, dtype);
  }
}

double similarity_of(const latent_cosine_args& args, const Matrix& anchors, const Row& x, double norm, int64_t j) noexcept {
  switch (args.similarity) {
    case latent_cosine:
    case latent_angular: {
      const double cosine = norm > 0 ? std::clamp(anchors.dot(x, j) / norm, -1.0, 1.0) : 0;
      // NaN goes through clamp as it is
      return args.similarity == latent_cosine ? cosine : std::acos(cosine) / std::acos(-1.0);
    }
    case latent_inner:
      return anchors.dot(x, j);
    case latent_squared_euclidean:
      return squared_distance(anchors, x, j);
    case latent_euclidean:
      return std::sqrt(squared_distance(anchors, x, j));
    default: {
      double sum = 0;
      for (int64_t k = 0; k < anchors.depth; k++) sum += std::abs(x[static_cast<size_t>(k)] - anchors.at(j, k));
      return sum;
    }
  }
}

bool all_finite(const Row& x) noexcept {
  return std::all_of(x.begin(), x.end(), [](double v) { return std::isfinite(v); });
}

void normalise(Row* x, int32_t norm, double epsilon) noexcept {
  const auto n = static_cast<double>(x->size());
  double shift = 0;
  double factor = 1;
  if (norm == latent_layer) shift = std::accumulate(x->begin(), x->end(), 0.0) / n;
  for (double& v : *x) v -= shift;
  const double squares = square(*x);
  if (norm == latent_l2) factor = 1 / std::max(std::sqrt(squares), 1e-12);
  if (norm == latent_rms || norm == latent_layer) factor = squares > 0 || epsilon > 0 ? 1 / std::sqrt(squares / n + epsilon) : 0;
  for (double& v : *x) v *= factor;
}

double activated(double v, int32_t activation) noexcept {
  switch (activation) {
    case latent_gelu:
      return 0.5 * v * std::erfc(-v / std::sqrt(2.0));
    case latent_silu:
      return v / (1 + std::exp(-v));
    case latent_tanh:
      return std::tanh(v);
    default:
      return v;
  }
}

void apply_layer(const Matrix& w, const float* bias, Row* x) {
  for (double& v : *x) v = rounded(v, w.dtype);
  Row out(static_cast<size_t>(w.outputs));
  for (int64_t j = 0; j < w.outputs; j++) out[static_cast<size_t>(j)] = w.dot(*x, j) + (bias == nullptr ? 0 : bias[j]);
  *x = std::move(out);
}

TileFormat format_of(const latent_tile_args& args) noexcept {
  return {static_cast<TileCode>(args.code), static_cast<TileScale>(args.scale), args.group};
}

// Row i of a part: its numbers, and its codes, scales and minima.
struct TileRow {
  void* numbers;
  uint8_t* codes;
  void* scales;
  void* minima;
};

TileRow tile_row(const latent_tile_args& args, const latent_tile_part& part, int64_t row) {
  const TileFormat format = format_of(args);
  const int32_t* cells = host(args.cells, args.rows);
  const auto element = static_cast<int64_t>(dtype_size(dtype_of(args.dtype)));
  const int64_t at = (cells == nullptr ? row : cells[row]) * args.stride * element;
  const int64_t codes = format.row_code_bytes(args.columns);
  const int64_t scales = format.row_scale_bytes(args.columns);
  return {host_bytes(static_cast<char*>(part.numbers) + at, args.columns * element), host(part.codes + row * codes, codes),
          host_bytes(static_cast<char*>(part.scales) + row * scales, scales),
          format.has_minima() ? host_bytes(static_cast<char*>(part.minima) + row * scales, scales) : nullptr};
}

}  // namespace

uint64_t packed_bytes(int32_t storage, int64_t outputs, int64_t depth) noexcept {
  return static_cast<uint64_t>(outputs * depth) * dtype_size(dtype_of(storage));
}

void pack(const latent_pack_args& args) {
  const Dtype from = dtype_of(args.dtype);
  const Dtype to = dtype_of(args.storage);
  const int64_t last = (args.outputs - 1) * args.output_stride + (args.depth - 1) * args.depth_stride;
  const void* source = host_bytes(args.source, (last + 1) * static_cast<int64_t>(dtype_size(from)));
  const float* shift = host(args.shift, args.depth);
  const float* scale = host(args.depth_scale, args.depth);
  const float* vector = host(args.vector, args.depth);
  const float* offset = host(args.offset, args.outputs);
  float* sums = host(args.sums, args.outputs);
  float* squares = host(args.squares, args.outputs);
  float* projected = host(args.projected, args.outputs);
  int32_t* bad = host(args.bad_output, 1);
  void* data = host_bytes(args.data, static_cast<int64_t>(packed_bytes(args.storage, args.outputs, args.depth)));
  for (int64_t j = 0; j < args.outputs; j++) {
    Row row(static_cast<size_t>(args.depth));
    double through = offset == nullptr ? 0 : offset[j];
    for (int64_t k = 0; k < args.depth; k++) {
      const double element = float_element(from, source, j * args.output_stride + k * args.depth_stride);
      if (vector != nullptr) through += vector[k] * element;
      row[static_cast<size_t>(k)] = (element - (shift == nullptr ? 0 : shift[k])) * (scale == nullptr ? 1 : scale[k]);
    }
    if (projected != nullptr) projected[j] = static_cast<float>(through);
    if (const double norm = std::sqrt(square(row)); args.unit != 0 && norm > 0) {
      for (double& v : row) v /= norm;
    }
    for (double& v : row) v = rounded(v, to);
    if (!all_finite(row)) lower(bad, j);
    for (int64_t k = 0; k < args.depth; k++) store(to, data, j * args.depth + k, row[static_cast<size_t>(k)]);
    if (sums != nullptr) sums[j] = static_cast<float>(std::accumulate(row.begin(), row.end(), 0.0));
    if (squares != nullptr) squares[j] = static_cast<float>(square(row));
  }
}

void cosine(const latent_cosine_args& args) {
  const Matrix anchors(args.anchors);
  const int64_t n = args.x.count;
  const int64_t depth = args.whitening.data != nullptr ? args.whitening.depth : anchors.depth;
  const int64_t k = args.k;
  float* r = k > 0 ? nullptr : host(args.r, n * anchors.outputs);
  int32_t* indices = host(args.indices, n * k);
  float* values = host(args.values, n * k);
  int32_t* bad = host(args.bad_row, 1);
  const bool smallest = args.similarity != latent_cosine && args.similarity != latent_inner;
  for (int64_t i = 0; i < n; i++) {
    Row x = row_of(args.x, i, depth);
    treat(&x, args);
    const double norm = std::sqrt(square(x));
    std::vector<float> found(static_cast<size_t>(anchors.outputs));
    for (int64_t j = 0; j < anchors.outputs; j++)
      found[static_cast<size_t>(j)] = static_cast<float>(similarity_of(args, anchors, x, norm, j));
    if (!all_finite(x) || !std::all_of(found.begin(), found.end(), [](float v) { return std::isfinite(v); })) lower(bad, i);
    if (k == 0) {
      std::copy(found.begin(), found.end(), r + i * anchors.outputs);
      continue;
    }
    std::vector<int32_t> order(found.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      const float first = found[static_cast<size_t>(a)];
      const float second = found[static_cast<size_t>(b)];
      return smallest ? first < second : first > second;
    });
    for (int64_t j = 0; j < k; j++) {
      indices[i * k + j] = order[static_cast<size_t>(j)];
      values[i * k + j] = found[static_cast<size_t>(order[static_cast<size_t>(j)])];
    }
  }
}

void projection(const latent_projection_args& args) {
  const Matrix first(args.first);
  const bool two = args.second.data != nullptr;
  const int64_t outputs = two ? args.second.outputs : first.outputs;
  const float* first_bias = host(args.first_bias, first.outputs);
  const float* second_bias = host(args.second_bias, outputs);
  float* y = host(args.y, args.x.count * outputs);
  int32_t* bad = host(args.bad_row, 1);
  for (int64_t i = 0; i < args.x.count; i++) {
    const Row given = row_of(args.x, i, first.depth);
    Row x = given;
    normalise(&x, args.norm, args.epsilon);
    apply_layer(first, first_bias, &x);
    for (double& v : x) v = activated(v, args.activation);
    if (two) apply_layer(Matrix(args.second), second_bias, &x);
    const double norm = std::sqrt(square(x));
    for (size_t j = 0; j < x.size(); j++) {
      if (args.rescale == latent_to_norm && norm > 0) x[j] *= args.target_norm / norm;
      if (args.rescale == latent_residual) x[j] += given[j];
      y[i * outputs + static_cast<int64_t>(j)] = static_cast<float>(x[j]);
    }
    if (!all_finite(given) || !all_finite(x)) lower(bad, i);
  }
}

void codeword(const latent_codeword_args& args) {
  const Matrix codewords(args.codewords);
  int32_t* indices = host(args.indices, args.x.count);
  float* distances = host(args.distances, args.x.count);
  int32_t* bad = host(args.bad_row, 1);
  for (int64_t i = 0; i < args.x.count; i++) {
    Row x = row_of(args.x, i, codewords.depth);
    for (double& v : x) v = rounded(v, codewords.dtype);
    double least = std::numeric_limits<double>::infinity();
    indices[i] = 0;
    for (int64_t j = 0; j < codewords.outputs; j++) {
      const double distance = squared_distance(codewords, x, j);
      if (distance >= least) continue;
      least = distance;
      indices[i] = static_cast<int32_t>(j);
    }
    if (!std::isfinite(static_cast<float>(least))) lower(bad, i);
    if (distances != nullptr) distances[i] = static_cast<float>(least);
  }
}

void thought(const latent_thought_args& args) {
  const TokenTable table{static_cast<RowFormat>(args.format), host_bytes(args.table, args.count * args.row_bytes), args.count, args.width,
                         args.row_bytes};
  ThoughtRecipe recipe;
  recipe.token = args.token;
  recipe.mix = args.mix;
  recipe.extra = args.extra;
  recipe.temperature = args.temperature;
  recipe.top_k = args.top_k;
  recipe.top_p = args.top_p;
  recipe.noise = static_cast<ThoughtNoise>(args.noise);
  recipe.noise_amount = args.noise_amount;
  recipe.unit_mix = args.unit_mix != 0;
  if (args.norm >= 0) recipe.norm = args.norm;
  std::vector<int32_t> masked;
  const uint32_t* bits = host(args.masked, (args.count + 31) / 32);
  for (int64_t v = 0; bits != nullptr && v < args.count; v++) {
    if ((bits[v / 32] >> (v % 32) & 1U) != 0) masked.push_back(static_cast<int32_t>(v));
  }
  recipe.masked = masked;
  const Dtype dtype = dtype_of(args.dtype);
  const void* logits = host_bytes(args.logits, args.batch * args.count * static_cast<int64_t>(dtype_size(dtype)));
  const int64_t room = args.top_k == 0 ? args.count : std::min(args.top_k, args.count);
  const int32_t* tokens = host(args.tokens, args.batch);
  const float* extras = host(args.extras, args.batch * args.width);
  const uint64_t* draws = host(args.draws, 2 * args.batch);
  float* out = host(args.out, args.batch * args.width);
  latent_thought_stats* stats = host(args.stats, args.batch);
  int32_t* ids = host(args.ids, args.batch * room);
  float* weights = host(args.weights, args.batch * room);
  int32_t* faults = host(args.faults, args.batch);
  std::vector<float> row(static_cast<size_t>(args.count));
  for (int64_t i = 0; i < args.batch; i++) {
    for (int64_t v = 0; v < args.count; v++) row[static_cast<size_t>(v)] = float_element(dtype, logits, i * args.count + v);
    ThoughtStats found;
    ThoughtInput input;
    input.logits = row.data();
    if (args.token != 0) input.token = tokens[i];
    if (args.extra != 0) input.extra = extras + i * args.width;
    if (args.noise != latent_no_noise) {
      input.seed = draws[2 * i];
      input.step = draws[2 * i + 1];
    }
    input.out = out == nullptr ? nullptr : out + i * args.width;
    input.stats = &found;
    if (ids != nullptr) {
      input.ids = ids + i * room;
      input.weights = weights + i * room;
    }
    const Status status = thought_steps(recipe, table, {&input, 1});
    const bool sound = std::none_of(row.begin(), row.end(), [](float z) { return std::isnan(z) || z == HUGE_VALF; });
    faults[i] = status.ok()                             ? latent_no_fault
                : !sound                                ? latent_bad_logit
                : status.code == Code::invalid_argument ? latent_no_token
                                                        : latent_bad_sum;
    if (stats != nullptr) stats[i] = {found.entropy_bits, found.max_p, found.n_eff, found.selected, found.argmax, 0};
  }
}

void quantise(const latent_tile_args& args, const std::vector<latent_tile_part>& parts) {
  int64_t* bad = host(args.first_bad, 1);
  if (bad != nullptr) *bad = LATENT_NO_BAD_ROW;
  for (size_t part = 0; part < parts.size(); part++) {
    for (int64_t row = 0; row < args.rows; row++) {
      const TileRow at = tile_row(args, parts[part], row);
      const Rows x{dtype_of(args.dtype), at.numbers, 1, args.columns};
      const Status status = latentwire::quantise(x, args.columns, format_of(args), Tiles{at.codes, at.scales, at.minima});
      if (!status.ok() && bad != nullptr) *bad = std::min(*bad, static_cast<int64_t>(part) * args.rows + row);
    }
  }
}

void dequantise(const latent_tile_args& args, const std::vector<latent_tile_part>& parts) {
  for (const latent_tile_part& part : parts) {
    for (int64_t row = 0; row < args.rows; row++) {
      const TileRow at = tile_row(args, part, row);
      static_cast<void>(latentwire::dequantise(format_of(args), ConstTiles{at.codes, at.scales, at.minima}, 1, args.columns,
                                               dtype_of(args.dtype), at.numbers, args.columns));
    }
  }
}

void hadamard_rows(const latent_hadamard_args& args) {
  static_cast<void>(latentwire::hadamard(host(args.x, args.rows * args.columns), args.rows, args.columns, args.columns, args.block));
}

void copy_cells(const latent_cell_args& args, const std::vector<latent_cell_part>& parts) {
  const int32_t* from_cells = host(args.from_cells, args.count);
  const int32_t* to_cells = host(args.to_cells, args.count);
  for (const latent_cell_part& part : parts) {
    for (int64_t i = 0; i < args.count; i++) {
      const auto* from = static_cast<const char*>(part.from) + (from_cells == nullptr ? i : from_cells[i]) * args.from_stride;
      auto* to = static_cast<char*>(part.to) + (to_cells == nullptr ? i : to_cells[i]) * args.to_stride;
      std::memcpy(host(to, args.row_bytes), host(from, args.row_bytes), static_cast<size_t>(args.row_bytes));
    }
  }
}

void copy_transposed_cells(const latent_transposed_cell_args& args, const std::vector<latent_cell_part>& parts) {
  const int32_t* cells = host(args.cells, args.count);
  const int64_t bytes = args.element_bytes;
  for (const latent_cell_part& part : parts) {
    for (int64_t i = 0; i < args.count; i++) {
      for (int64_t channel = 0; channel < args.channels; channel++) {
        const int64_t cache = (channel * args.channel_stride + (cells == nullptr ? i : cells[i])) * bytes;
        const int64_t row = (i * args.row_stride + channel) * bytes;
        const auto* from = static_cast<const char*>(part.from) + (args.scatter != 0 ? row : cache);
        auto* to = static_cast<char*>(part.to) + (args.scatter != 0 ? cache : row);
        std::memcpy(host(to, bytes), host(from, bytes), static_cast<size_t>(bytes));
      }
    }
  }
}

void rope_shift(const latent_rope_args& args, const std::vector<void*>& rows) {
  Rope rope;
  rope.pairs = args.pairs == latent_neox ? Rope::Pairs::neox : Rope::Pairs::norm;
  rope.head_dim = args.head_dim;
  rope.rotated = args.rotated;
  const double* frequencies = host(args.frequencies, args.rotated / 2);
  rope.frequencies.assign(frequencies, frequencies + args.rotated / 2);
  const int32_t* shifts = host(args.shifts, args.count);
  const int32_t* cells = host(args.cells, args.count);
  const Dtype dtype = dtype_of(args.dtype);
  const auto element = static_cast<int64_t>(dtype_size(dtype));
  const int64_t width = args.heads * args.head_dim;
  std::vector<float> wide(static_cast<size_t>(width));
  for (void* part : rows) {
    for (int64_t i = 0; i < args.count; i++) {
      const int64_t at = (cells == nullptr ? i : cells[i]) * args.stride * element;
      void* row = host_bytes(static_cast<char*>(part) + at, width * element);
      convert_elements(dtype, row, Dtype::f32, wide.data(), wide.size());
      rotate(rope, shifts + i, wide.data(), 1, args.heads);
      convert_elements(Dtype::f32, wide.data(), dtype, row, wide.size());
    }
  }
}

void find_non_finite(const latent_finite_args& args, const std::vector<const void*>& parts) {
  int64_t* first_bad = host(args.first_bad, 1);
  const auto format = static_cast<RowFormat>(args.format);
  const int64_t channels = args.row_bytes / row_unit_bytes(format) * row_unit_columns(format);
  const CacheRows kind{format, static_cast<int32_t>(channels), 0};
  for (size_t part = 0; part < parts.size(); part++) {
    const auto* rows = static_cast<const uint8_t*>(host_bytes(parts[part], args.rows * args.row_bytes));
    const int64_t row = first_non_finite_row(kind, rows, args.rows);
    if (row < args.rows) *first_bad = std::min(*first_bad, static_cast<int64_t>(part) * args.rows + row);
  }
}

void digest(const latent_digest_args& args) {
  uint64_t* digests = host(args.digests, 2 * args.count);
  for (int64_t i = 0; i < args.count; i++) {
    const Digest128 one =
        digest_of(host(static_cast<const char*>(args.data) + i * args.stride, args.bytes), static_cast<size_t>(args.bytes));
    digests[2 * i] = one.low;
    digests[2 * i + 1] = one.high;
  }
}

}  // namespace latentwire::mock
