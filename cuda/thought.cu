// A thought step in two launches. In the first (thought_select.cu), a team of blocks reads the logits of a position once from memory and
// then from its caches: maximum, sums of exponentials, and a search for the least selected logit that tries three thresholds at a time and
// counts (or weighs) what reaches each; then the selection's ids in order and its weights. In the second (thought_sum.cu), blocks sum the
// rows of the selection, and the last to finish adds the rest and brings the sum to its length. Nothing depends on the order in which
// blocks or threads come.
//
// A mix of the whole vocabulary needs no selection: the first launch finds the maximum and the sum, and the second, whose blocks have begun
// to bring their rows into the second-level cache meanwhile, makes the weights of its rows itself. On Hopper, thought_all.cu takes
// those whose rows bulk copies take.
//
// The second launch begins while the first one ends, and the first while what is before it on the stream does, so a graph of the two would
// save the host's time alone. They may be captured: nothing is allocated, and arguments are taken by value.
#include <cfloat>
#include <cmath>

#include "thought_job.cuh"

namespace latentwire::cuda {
namespace {

using namespace thought;

bool valid(const ThoughtArgs& a) noexcept {
  const auto finite = [](float x) { return std::fabs(x) <= FLT_MAX; };
  const bool noise = a.noise == ThoughtNoise::none || (a.noise_amount > 0 && finite(a.noise_amount));
  return finite(a.token) && finite(a.mix) && finite(a.extra) && a.temperature > 0 && finite(a.temperature) && a.top_k >= 0 && a.top_p > 0 &&
         a.top_p <= 1 && noise && !(a.norm > FLT_MAX) && a.norm == a.norm && a.table.count >= 1 &&
         a.table.count < (int64_t{1} << 31) - 128 && a.table.width >= 0 && a.table.width < (int64_t{1} << 30) && a.batch >= 0 &&
         a.batch <= 65535;
}

// Whether all rows are mixed by their probabilities, and nobody asks for what is selected.
bool mixes_all(const ThoughtArgs& a) noexcept {
  return a.out != nullptr && a.mix != 0 && room_of(a) == a.table.count && a.top_p >= 1 && a.noise == ThoughtNoise::none && !a.unit_mix &&
         a.ids == nullptr && a.weights == nullptr;
}

}  // namespace

size_t thought_workspace(const ThoughtArgs& a) noexcept {
  const size_t bytes = static_cast<size_t>(a.batch) * layout_of(a).row_bytes;
  const size_t of_all = thought_all_workspace(a);
  return bytes > of_all ? bytes : of_all;
}

cudaError_t thought_steps(const ThoughtArgs& a, cudaStream_t stream) noexcept {
  if (!valid(a)) return cudaErrorInvalidValue;
  if (a.batch == 0) return cudaSuccess;
  RowPlan plan;
  if (mixes_all(a) && plan_rows(a, &plan)) return thought_all(a, plan, stream);
  const double scale = std::fmin(log2_e / a.temperature, static_cast<double>(FLT_MAX));
  const Job job{a, layout_of(a), 0, most_team, static_cast<float>(scale), 0, false, false, mixes_all(a)};
  LATENT_CUDA_TRY(launch_select(job, stream));
  return a.out == nullptr || a.table.width == 0 ? cudaSuccess : launch_sum(job, stream);
}

}  // namespace latentwire::cuda
