// What the native benchmarks share: the command line, interleaved rounds of everything that is compared, what the machine can do at most in
// the same rounds, and the one shape of row that bench/native-benches.mjs takes in.
//
//   <name>_bench [--threads=N] [filter]      filter: part of a row's name
//
// LATENTWIRE_THREADS, OPENBLAS_NUM_THREADS and OPENBLAS_CORETYPE are read before main runs: native-benches.mjs sets them.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/status.h"
#include "kernels/table.h"

#if defined(LATENTWIRE_OPENBLAS)
extern "C" {
void cblas_sgemv(int order, int trans, int m, int n, float alpha, const float* a, int lda, const float* x, int incx, float beta, float* y,
                 int incy);
void cblas_sgemm(int order, int trans_a, int trans_b, int m, int n, int k, float alpha, const float* a, int lda, const float* b, int ldb,
                 float beta, float* c, int ldc);
void cblas_ssyrk(int order, int uplo, int trans, int n, int k, float alpha, const float* a, int lda, float beta, float* c, int ldc);
int spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
int spotrs_(const char* uplo, const int* n, const int* nrhs, const float* a, const int* lda, float* b, const int* ldb, int* info);
int sgesv_(const int* n, const int* nrhs, float* a, const int* lda, int* pivots, float* b, const int* ldb, int* info);
}
#endif

namespace latentwire::bench {

// As cblas.h numbers them.
constexpr int row_major = 101, plain = 111, transposed = 112, lower = 122;

struct Options {
  int threads = 1;
  std::string filter;
};

inline Options& options() {
  static Options parsed;
  return parsed;
}

inline void parse(int count, char** arguments) {
  for (int i = 1; i < count; i++) {
    if (std::strncmp(arguments[i], "--threads=", 10) == 0)
      options().threads = std::atoi(arguments[i] + 10);
    else
      options().filter = arguments[i];
  }
}

inline bool wanted(const std::string& name) { return name.find(options().filter) != std::string::npos; }

inline void require(const Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.message.c_str());
  std::exit(1);
}

// How long this thread has waited for a core so far, in ms; 0 where the system does not say.
inline double waited() {
  double ns = 0;
  if (std::FILE* file = std::fopen("/proc/thread-self/schedstat", "r"); file != nullptr) {
    if (std::fscanf(file, "%*s %lf", &ns) != 1) ns = 0;
    std::fclose(file);
  }
  return ns / 1e6;
}

// Without what one thread waited because others had its core; for several threads that cannot be told.
inline double milliseconds(const std::function<void()>& job) {
  const double before = waited();
  const auto begin = std::chrono::steady_clock::now();
  job();
  const double ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
  return options().threads > 1 ? ms : ms - (waited() - before);
}

inline double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  const size_t middle = x.size() / 2;
  return x.size() % 2 == 1 ? x[middle] : (x[middle - 1] + x[middle]) / 2;
}

// Normal numbers, never zeros: those run faster.
inline std::vector<float> normal_numbers(int64_t count, unsigned seed, float scale = 1) {
  std::mt19937 engine(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<size_t>(count));
  for (float& x : out) x = normal(engine);
  return out;
}

// The times in ms of each round, by name.
class Samples {
 public:
  void add(const std::string& name, double ms) { times_[name].push_back(ms); }
  // One that is computed from others, round by round: a peer in several steps.
  void sum(const std::string& name, const std::vector<std::string>& parts) {
    std::vector<double> total(times_.at(parts.front()).size());
    for (const std::string& part : parts) {
      for (size_t round = 0; round < total.size(); round++) total[round] += times_.at(part)[round];
    }
    times_[name] = total;
  }
  bool has(const std::string& name) const { return times_.count(name) > 0; }
  double ms(const std::string& name) const { return median(times_.at(name)); }
  // How many times as long as `ours` it takes: the median of the rounds' ratios.
  double ratio(const std::string& name, const std::string& ours) const {
    std::vector<double> ratios;
    for (size_t round = 0; round < times_.at(ours).size(); round++) ratios.push_back(times_.at(name)[round] / times_.at(ours)[round]);
    return median(ratios);
  }

 private:
  std::map<std::string, std::vector<double>> times_;
};

struct Case {
  std::string name;
  std::function<void()> run;
};

inline const std::string fma_probe = "multiply-adds", read_probe = "reads";
constexpr int64_t probe_rounds = 200'000;
constexpr int64_t probe_floats = int64_t{64} << 20;  // more than a cache holds

// Runs every case once a round, each round beginning with another case, so that a slow minute of the machine hits all of them alike; what
// the machine can do at most is measured as one of them, on one thread. Short cases are repeated for 2 ms, behind one call that brings
// their operands into the caches. The first round warms up and is not counted, unless the cases are `slow` ones.
inline Samples interleave(std::vector<Case> cases, int rounds = 11, bool slow = false) {
  static const std::vector<float> memory(probe_floats, 1.0F);
  static volatile float result = 0;
  const size_t jobs = cases.size();
  cases.push_back({fma_probe, [] { result = result + kernels().probe.multiply_add(probe_rounds); }});
  cases.push_back({read_probe, [] { result = result + kernels().rows.sum(memory.data(), probe_floats); }});
  std::vector<int> calls(cases.size(), 1);
  Samples samples;
  for (int round = slow ? 0 : -1; round < rounds; round++) {
    for (size_t i = 0; i < cases.size(); i++) {
      const size_t at = (i + static_cast<size_t>(round + 1)) % cases.size();
      // the threads of another pool spin for a while behind its last call
      if (options().threads > 1) std::this_thread::sleep_for(std::chrono::milliseconds(35));
      const auto all_calls = [&] {
        for (int call = 0; call < calls[at]; call++) cases[at].run();
      };
      const bool brief = calls[at] > 1;
      if (brief && at < jobs) cases[at].run();
      const double ms = milliseconds(all_calls) / calls[at];
      if (round >= 0)
        samples.add(cases[at].name, ms);
      else if (ms < 1)
        calls[at] = static_cast<int>(std::ceil(2 / ms));
    }
  }
  return samples;
}

// A condition on a row: against a peer, how many times as fast ours is to be at least or how many times its time ours may take; without
// one, the share of the machine's limit.
struct Target {
  enum class Kind { faster, within, share } kind;
  double value;
  std::string peer{};
};
inline Target faster(double times, std::string peer) { return {Target::Kind::faster, times, std::move(peer)}; }
inline Target within(double times, std::string peer) { return {Target::Kind::within, times, std::move(peer)}; }
inline Target share(double value) { return {Target::Kind::share, value}; }

struct Row {
  std::string name;
  std::string shape;
  std::string dtype;
  std::vector<std::string> peers{};
  std::vector<Target> targets{};
  // What must be computed and read at least; 0 where it bounds nothing.
  double flops = 0;
  double bytes = 0;
  std::string ours = "ours";
  int threads = options().threads;  // 1 for what has no other way
};

// Prints a row. Targets whose peer was not measured are left out.
inline void print(const Row& row, const Samples& samples) {
  const auto number = [](double x) {
    char text[32];
    std::snprintf(text, sizeof(text), "%.6g", x);
    return std::string(text);
  };
  const double ms = samples.ms(row.ours);
  double limit = 0;
  if (row.flops > 0) limit = row.flops * samples.ms(fma_probe) / static_cast<double>(probe_rounds * kernels().probe.flops_per_round);
  if (row.bytes > 0) limit = std::max(limit, row.bytes * samples.ms(read_probe) / static_cast<double>(probe_floats * 4));
  limit /= row.threads;
  std::string peers, best, targets;
  for (const std::string& peer : row.peers) {
    if (!samples.has(peer)) continue;
    peers += (peers.empty() ? "\"" : ",\"") + peer + "\":" + number(samples.ms(peer));
    if (best.empty() || samples.ms(peer) < samples.ms(best)) best = peer;
  }
  bool met = true;
  for (const Target& target : row.targets) {
    if (!target.peer.empty() && !samples.has(target.peer)) continue;
    targets += targets.empty() ? "" : ", ";
    switch (target.kind) {
      case Target::Kind::faster:
        targets += ">= " + number(target.value) + "x " + target.peer;
        met = met && samples.ratio(target.peer, row.ours) >= target.value;
        break;
      case Target::Kind::within:
        targets += "<= " + number(target.value) + " of " + target.peer;
        met = met && 1 / samples.ratio(target.peer, row.ours) <= target.value;
        break;
      case Target::Kind::share:
        targets += ">= " + number(100 * target.value) + " % of the limit";
        met = met && limit / ms >= target.value;
        break;
    }
  }
  std::printf(R"({"name":"%s","shape":"%s","dtype":"%s","threads":%d,"ms":%s,"peers":{%s},"ratio":%s,"limitShare":%s,"target":%s,"met":%s})"
              "\n",
              row.name.c_str(), row.shape.c_str(), row.dtype.c_str(), row.threads, number(ms).c_str(), peers.c_str(),
              best.empty() ? "null" : number(samples.ratio(best, row.ours)).c_str(), limit > 0 ? number(limit / ms).c_str() : "null",
              targets.empty() ? "null" : ('"' + targets + '"').c_str(),
              targets.empty() ? "null"
              : met           ? "true"
                              : "false");
  std::fflush(stdout);
}

}  // namespace latentwire::bench
