#include "harness.h"

#include <cmath>
#include <cstring>
#include <numbers>

namespace latentwire::cuda::test {

double Random::normal() {
  const double radius = std::sqrt(-2 * std::log(uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

namespace {

uint16_t bits_of(float x, Dtype dtype) {
  return dtype == Dtype::f16 ? __half_as_ushort(__float2half_rn(x)) : __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
float number_of(uint16_t bits, Dtype dtype) {
  return dtype == Dtype::f16 ? __half2float(__ushort_as_half(bits)) : __bfloat162float(__ushort_as_bfloat16(bits));
}

}  // namespace

std::vector<uint8_t> encode(const std::vector<float>& x, Dtype dtype) {
  if (dtype == Dtype::f32) return bytes_of(x);
  std::vector<uint16_t> bits(x.size());
  for (size_t i = 0; i < x.size(); i++) bits[i] = bits_of(x[i], dtype);
  return bytes_of(bits);
}

std::vector<float> decode(const std::vector<uint8_t>& bytes, Dtype dtype) {
  std::vector<float> x(bytes.size() / dtype_size(dtype));
  if (x.empty()) return x;
  if (dtype == Dtype::f32) {
    std::memcpy(x.data(), bytes.data(), bytes.size());
    return x;
  }
  std::vector<uint16_t> bits(x.size());
  std::memcpy(bits.data(), bytes.data(), bytes.size());
  for (size_t i = 0; i < x.size(); i++) x[i] = number_of(bits[i], dtype);
  return x;
}

const char* name_of(Dtype dtype) { return dtype == Dtype::f32 ? "f32" : dtype == Dtype::f16 ? "f16" : "bf16"; }

double relative_error(const std::vector<float>& out, const std::vector<double>& reference) {
  if (out.size() != reference.size()) return INFINITY;
  double difference = 0;
  double size = 0;
  for (size_t i = 0; i < out.size(); i++) {
    const double d = static_cast<double>(out[i]) - reference[i];
    difference += d * d;
    size += reference[i] * reference[i];
  }
  const double error = size > 0 ? std::sqrt(difference / size) : std::sqrt(difference);
  return std::isnan(error) ? static_cast<double>(INFINITY) : error;
}

void expect_close(const std::vector<float>& out, const std::vector<double>& reference, double bound, const std::string& what) {
  const double error = relative_error(out, reference);
  if (error <= bound) return;
  char text[64];
  std::snprintf(text, sizeof(text), ": error %.3g above %.3g", error, bound);
  fail(what + text);
}

void expect_same(const std::vector<uint8_t>& out, const std::vector<uint8_t>& reference, const std::string& what) {
  if (out == reference) return;
  size_t first = 0;
  size_t different = 0;
  for (size_t i = out.size() < reference.size() ? out.size() : reference.size(); i-- > 0;) {
    if (out[i] == reference[i]) continue;
    different++;
    first = i;
  }
  char text[160];
  std::snprintf(text, sizeof(text), ": %zu of %zu bytes (wanted: %zu) differ, the first at %zu", different, out.size(), reference.size(),
                first);
  fail(what + text);
}

void run(const std::function<cudaError_t(cudaStream_t)>& launch, const std::string& what) {
  cudaStream_t stream;
  LATENT_MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  // buffers were filled on the default stream
  LATENT_MUST(cudaDeviceSynchronize());
  must(launch(stream), what.c_str());
  must(cudaGetLastError(), what.c_str());
  must(cudaStreamSynchronize(stream), what.c_str());
  LATENT_MUST(cudaStreamDestroy(stream));
}

void expect_independent_of_timing(const std::vector<Case>& cases, const std::string& what) {
  std::vector<std::vector<uint8_t>> alone;
  for (const Case& c : cases) {
    c.reset();
    run(c.launch, what);
    alone.push_back(c.result());
  }
  std::vector<cudaStream_t> streams(cases.size());
  for (cudaStream_t& stream : streams) LATENT_MUST(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  const auto together = [&](const char* how, const std::function<cudaError_t(size_t)>& launch) {
    for (int repeat = 0; repeat < 2; repeat++) {
      for (const Case& c : cases) c.reset();
      LATENT_MUST(cudaDeviceSynchronize());
      for (size_t i = 0; i < cases.size(); i++) must(launch(i), what.c_str());
      LATENT_MUST(cudaDeviceSynchronize());
      for (size_t i = 0; i < cases.size(); i++) expect_same(cases[i].result(), alone[i], what + ", case " + std::to_string(i) + how);
    }
  };
  together(" on its own stream", [&](size_t i) { return cases[i].launch(streams[i]); });
  std::vector<cudaGraphExec_t> graphs(cases.size());
  for (size_t i = 0; i < cases.size(); i++) {
    cudaGraph_t graph;
    LATENT_MUST(cudaStreamBeginCapture(streams[i], cudaStreamCaptureModeThreadLocal));
    must(cases[i].launch(streams[i]), what.c_str());
    LATENT_MUST(cudaStreamEndCapture(streams[i], &graph));
    LATENT_MUST(cudaGraphInstantiate(&graphs[i], graph, 0));
    LATENT_MUST(cudaGraphDestroy(graph));
  }
  together(" as a graph", [&](size_t i) { return cudaGraphLaunch(graphs[i], streams[i]); });
  for (cudaGraphExec_t graph : graphs) LATENT_MUST(cudaGraphExecDestroy(graph));
  for (cudaStream_t stream : streams) LATENT_MUST(cudaStreamDestroy(stream));
}

}  // namespace latentwire::cuda::test
