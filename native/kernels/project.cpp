#include "kernels/project.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string>

#include "core/thread_pool.h"
#include "kernels/table.h"

namespace latentwire {
namespace {

// Rows that pass through both layers together: their hidden activations stay in the last-level cache.
constexpr int64_t slab_rows = 512;

Status check_bias(const Projection::Layer& layer, const char* name) {
  if (!layer.bias.empty() && static_cast<int64_t>(layer.bias.size()) != layer.outputs)
    return Status::fail(Code::invalid_argument, std::string("the bias of the ") + name + " layer has " + std::to_string(layer.bias.size()) +
                                                    " elements for " + std::to_string(layer.outputs) + " outputs");
  if (!std::all_of(layer.bias.begin(), layer.bias.end(), [](float b) { return std::isfinite(b); }))
    return Status::fail(Code::non_finite, std::string("the bias of the ") + name + " layer is not finite");
  return {};
}

}  // namespace

Status Projection::check(const Layer& first, const Layer* second, const Options& options) {
  const auto refuse = [](std::string why) { return Status::fail(Code::invalid_argument, std::move(why)); };
  const auto fits = [&](const std::vector<float>& v) { return v.empty() || static_cast<int64_t>(v.size()) == first.inputs; };
  if (!fits(options.norm_weight) || !fits(options.norm_bias)) return refuse("norm weight and bias must have an element for each input");
  const bool weighted = options.norm == RowNorm::rms || options.norm == RowNorm::layer;
  if (!weighted && (!options.norm_weight.empty() || !options.norm_bias.empty()))
    return refuse("only RMSNorm and LayerNorm have a weight and a bias");
  if (second != nullptr && second->inputs != first.outputs)
    return refuse("the second layer takes " + std::to_string(second->inputs) + " inputs, the first gives " + std::to_string(first.outputs));
  const int64_t outputs = second != nullptr ? second->outputs : first.outputs;
  if (options.rescale == Rescale::residual && outputs != first.inputs) return refuse("a residual needs as many outputs as inputs");
  if (!(options.epsilon >= 0) || !std::isfinite(options.epsilon)) return refuse("epsilon must be a number from 0 on");
  if (!(options.target_norm >= 0) || !std::isfinite(options.target_norm)) return refuse("the target norm must be a number from 0 on");
  if (Status status = check_bias(first, "first"); !status.ok()) return status;
  return second == nullptr ? Status{} : check_bias(*second, "second");
}

Status Projection::pack(const Layer& first, const Layer* second, Options options, std::shared_ptr<const Projection>* out) {
  if (Status status = check(first, second, options); !status.ok()) return status;
  try {
    std::shared_ptr<Projection> p(new Projection());
    PackedMatrix::Adjust adjust;
    adjust.depth_scale = options.norm_weight.empty() ? nullptr : options.norm_weight.data();
    if (Status s = PackedMatrix::pack({first.dtype, first.weights, first.outputs, first.inputs, 1, first.outputs}, options.storage, adjust,
                                      &p->first_);
        !s.ok())
      return s;
    if (second != nullptr) {
      if (Status s = PackedMatrix::pack({second->dtype, second->weights, second->outputs, second->inputs, 1, second->outputs},
                                        options.storage, {}, &p->second_);
          !s.ok())
        return s;
      p->second_bias_ = second->bias;
    }
    p->first_bias_ = first.bias;
    if (!options.norm_bias.empty()) {
      // (n * g + c) W + b = n (g W) + (c W + b)
      std::vector<double> folded(static_cast<size_t>(first.outputs));
      for (int64_t k = 0; k < first.inputs; k++) {
        for (int64_t j = 0; j < first.outputs; j++)
          folded[static_cast<size_t>(j)] += static_cast<double>(options.norm_bias[static_cast<size_t>(k)]) *
                                            float_element(first.dtype, first.weights, k * first.outputs + j);
      }
      p->first_bias_.resize(folded.size());
      for (size_t j = 0; j < folded.size(); j++) p->first_bias_[j] = static_cast<float>(folded[j] + p->first_bias_[j]);
    }
    p->options_ = std::move(options);
    *out = std::move(p);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::fail(Code::out_of_memory, "no memory for a packed projection");
  }
}

Status Projection::apply(const Rows& x, float* y, int64_t stride, const std::atomic<bool>* cancel) const {
  const Kernels& table = kernels();
  const RowTreatment treatment{options_.norm, options_.epsilon, nullptr, nullptr};
  const auto write_to = [&](const std::vector<float>& bias, Activation activation, float* out, int64_t out_stride) {
    return [&bias, &table, activation, out, out_stride](const ProductTile& tile) {
      for (int64_t r = 0; r < tile.rows; r++) {
        float* to = out + (tile.row + r) * out_stride + tile.column;
        table.rows.affine_by_column(tile.values + r * tile.stride, tile.columns, nullptr,
                                    bias.empty() ? nullptr : bias.data() + tile.column, to);
        table.rows.activate(activation, to, tile.columns);
      }
    };
  };
  std::unique_ptr<float[]> hidden;
  const int64_t width = first_->outputs();
  if (second_) {
    hidden.reset(new (std::nothrow) float[static_cast<size_t>(std::min(slab_rows, x.count) * width)]);
    if (!hidden) return Status::fail(Code::out_of_memory, "no memory for the activations between the layers");
  }
  for (int64_t first = 0; first < x.count; first += slab_rows) {
    const int64_t count = std::min(slab_rows, x.count - first);
    const Rows part = x.part(first, count);
    float* out = y + first * stride;
    Status status;
    if (second_) {
      status = multiply(part, treatment, *first_, false, write_to(first_bias_, options_.activation, hidden.get(), width), cancel);
      if (status.ok()) {
        const Rows between{Dtype::f32, hidden.get(), count, width, part.first};
        status = multiply(between, {}, *second_, false, write_to(second_bias_, Activation::identity, out, stride), cancel);
      }
    } else {
      status = multiply(part, treatment, *first_, false, write_to(first_bias_, options_.activation, out, stride), cancel);
    }
    if (!status.ok()) return status;
    if (options_.rescale != Rescale::none) {
      ThreadPool::get().parallel_for(count, 64, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) finish_row(part, i, out + i * stride);
      });
    }
  }
  return {};
}

void Projection::finish_row(const Rows& x, int64_t row, float* y) const noexcept {
  const Kernels& table = kernels();
  const int64_t n = outputs();
  if (options_.rescale == Rescale::to_norm) {
    const float largest = table.rows.max_abs(y, n);
    if (!(largest > 0)) return;
    // squares of extreme sizes would vanish or overflow
    double square = table.rows.sum_of_squares(y, n);
    if (!(square >= 1e-30 && square <= 1e30)) {
      square = 0;
      for (int64_t j = 0; j < n; j++) square += static_cast<double>(y[j]) * y[j];
    }
    const double factor = options_.target_norm / std::sqrt(square);
    if (factor <= 1e38) {
      table.rows.affine(y, n, static_cast<float>(factor), 0, y);
    } else {
      for (int64_t j = 0; j < n; j++) y[j] = static_cast<float>(y[j] * factor);
    }
    return;
  }
  const int64_t at = row * x.stride;
  if (x.dtype == Dtype::f32) {
    table.rows.add(y, static_cast<const float*>(x.data) + at, n, y);
    return;
  }
  for (int64_t j = 0; j < n; j++) y[j] += float_element(x.dtype, x.data, at + j);
}

}  // namespace latentwire
