// Fits a KVTC codec to contents of a model: means and principal components of what each layer holds, and how many bits each group of them
// gets.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "kv/kvtc.h"

namespace latentwire {

struct KvtcFit {
  KvManifest::Fields identity;
  std::vector<std::shared_ptr<const Rope>> ropes;  // [layers], nullptr where keys are not rotated
  std::vector<std::shared_ptr<const KvContent>> samples;
  std::vector<double> bits;  // [2 * layers], a number of each part, within [0, 8]: what coding may spend on the samples
};

// Everything is computed from the samples' entries without the first four, which codecs keep as they are. Bits are allotted by dynamic
// programming over groups of components (Staniszewski & Łańcucki 2026): each group has a choice of steps, whose squared error and entropy
// are measured on the samples, and the least error within the budget is found. Errors: invalid_argument (fewer than 2 entries, other
// layouts among the samples), non_finite, cancelled, out_of_memory.
Status fit_kvtc(const KvtcFit& fit, const std::atomic<bool>* cancel, std::shared_ptr<const Kvtc>* out);

}  // namespace latentwire
