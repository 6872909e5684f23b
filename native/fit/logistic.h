// Logistic regression with an L2 penalty, by Newton's method: a probe that reads a class from a latent.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "fit/matrix.h"

namespace latentwire {

struct LogisticOptions {
  double l2 = 1;  // of the loss sum(-log p(label)) + l2 / 2 |w|^2, above 0; the bias is free
  int max_iterations = 100;
  double tolerance = 1e-12;  // of the decrease that is still to be had, relative to the loss
};

struct LogisticFit {
  // One row for two classes, the log-odds of class 1; else one a class against the rest: z = x w + bias.
  DenseMatrix w;             // [1 or classes, columns]
  std::vector<double> bias;  // [1 or classes]
  struct Report {
    double loss = 0;
    double gradient = 0;  // the largest component, at the end
    int iterations = 0;
    bool converged = false;
  };
  std::vector<Report> reports;  // [1 or classes]
};

// labels: [x.rows], each in [0, classes), and every class occurs. Fails with invalid_argument, non_finite, cancelled or out_of_memory.
Status logistic_regression(const FloatRows& x, const int32_t* labels, int64_t classes, const LogisticOptions& options,
                           const std::atomic<bool>* cancel, LogisticFit* out);

}  // namespace latentwire
