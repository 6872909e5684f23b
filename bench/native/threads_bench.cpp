// Row G2: two threads against one, for the rows A4, B4 and D1. The pool of a process is made once, so each number of threads has a process
// of its own, which waits for its turn.
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

#include "bench_support.h"
#include "kernels/cosine.h"
#include "kernels/project.h"
#include "kernels/tile.h"

using namespace latentwire;
using namespace latentwire::bench;

namespace {

std::function<void()> cosines() {
  constexpr int64_t n = 1000, m = 1000, d = 1024;
  const std::vector<float> a = normal_numbers(m * d, 1);
  const auto x = std::make_shared<std::vector<float>>(normal_numbers(n * d, 2)),
             r = std::make_shared<std::vector<float>>(static_cast<size_t>(n * m));
  std::shared_ptr<const PackedAnchors> anchors;
  require(PackedAnchors::pack({Dtype::f32, a.data(), m, d}, d, {}, &anchors));
  return [=] { require(relative({Dtype::f32, x->data(), n, d}, *anchors, r->data(), m)); };
}

std::function<void()> projections() {
  constexpr int64_t n = 512, d = 896;
  const std::vector<float> w = normal_numbers(d * d, 3);
  const auto x = std::make_shared<std::vector<float>>(normal_numbers(n * d, 4)), y = std::make_shared<std::vector<float>>(n * d);
  Projection::Options options;
  options.activation = Activation::gelu;
  std::shared_ptr<const Projection> projection;
  require(Projection::pack({Dtype::f32, w.data(), d, d, normal_numbers(d, 6)}, nullptr, options, &projection));
  return [=] { require(projection->apply({Dtype::f32, x->data(), n, d}, y->data(), d)); };
}

std::function<void()> tiles() {
  constexpr int64_t n = 65536, d = 1024;
  const auto x = std::make_shared<std::vector<float>>(normal_numbers(1 << 16, 5));
  const auto halves = std::make_shared<std::vector<uint16_t>>(n * d);
  for (size_t i = 0; i < halves->size(); i++) (*halves)[i] = f32_to_f16((*x)[i % x->size()]);
  const auto codes = std::make_shared<std::vector<uint8_t>>(n * d), scales = std::make_shared<std::vector<uint8_t>>(n * d / 64);
  return [=] { require(quantise({Dtype::f16, halves->data(), n, d}, d, {}, {codes->data(), scales->data(), nullptr})); };
}

struct Job {
  const char* shape;
  const char* dtype;
  std::function<void()> (*make)();
};

// A process with so many threads: gets ready, then answers every byte with the time of one run of the job, in ms.
class Process {
 public:
  Process(const Job& job, int threads) {
    int to[2], from[2];
    if (pipe(to) != 0 || pipe(from) != 0) std::abort();
    child_ = fork();
    if (child_ != 0) {
      close(to[0]);
      close(from[1]);
      to_ = to[1];
      from_ = from[0];
      return;
    }
    close(to[1]);
    close(from[0]);
    options().threads = 2;  // both are timed alike
    setenv("LATENTWIRE_THREADS", std::to_string(threads).c_str(), 1);
    const std::function<void()> run = job.make();
    for (char turn = 0; read(to[0], &turn, 1) == 1;) {
      run();
      const double ms = milliseconds(run);
      if (write(from[1], &ms, sizeof(ms)) != sizeof(ms)) break;
    }
    _exit(0);
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    close(to_);
    close(from_);
    waitpid(child_, nullptr, 0);
  }

  double run() const {
    const char turn = 0;
    double ms = 0;
    if (write(to_, &turn, 1) != 1 || read(from_, &ms, sizeof(ms)) != sizeof(ms)) std::abort();
    return ms;
  }

 private:
  pid_t child_ = 0;
  int to_ = -1;
  int from_ = -1;
};

}  // namespace

int main(int argc, char** argv) {
  parse(argc, argv);
  if (!wanted("G2")) return 0;
  const std::vector<Job> jobs = {{"A4: cosine 1000 x 1000 x 1024", "f32", cosines},
                                 {"B4: gelu(x W + b) 512 x 896 x 896", "f32", projections},
                                 {"D1: f16 to int8 of 128, 128 MiB of f16", "f16", tiles}};
  for (const Job& job : jobs) {
    const Process one(job, 1), two(job, 2);
    Samples samples;
    for (int round = -1; round < 11; round++) {
      const bool first = round % 2 == 0;
      const double a = first ? one.run() : two.run();
      const double b = first ? two.run() : one.run();
      if (round < 0) continue;
      samples.add("1 thread", first ? a : b);
      samples.add("ours", first ? b : a);
    }
    print({.name = "G2",
           .shape = std::string(job.shape) + ", 2 threads",
           .dtype = job.dtype,
           .peers = {"1 thread"},
           .targets = {faster(1.7, "1 thread")},
           .threads = 2},
          samples);
  }
}
