// Thought steps against their definition in f64, over sorted logits and rows read one number at a time.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numbers>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

// --- Tables ------------------------------------------------------------------------------------------------------------------------------

struct Format {
  RowFormat format;
  const char* name;
  int64_t columns, bytes;  // of a unit of storage
};
const std::vector<Format>& row_formats() {
  static const std::vector<Format> all = {{RowFormat::f32, "f32", 1, 4},      {RowFormat::f16, "f16", 1, 2},
                                          {RowFormat::bf16, "bf16", 1, 2},    {RowFormat::q8_0, "q8_0", 32, 34},
                                          {RowFormat::q4_0, "q4_0", 32, 18},  {RowFormat::q4_K, "q4_K", 256, 144},
                                          {RowFormat::q6_K, "q6_K", 256, 210}};
  return all;
}

double half_value(const uint8_t* p) {
  return static_cast<double>(__half2float(__ushort_as_half(static_cast<uint16_t>(p[0] | (p[1] << 8)))));
}

// Column `i` of a row, as ggml defines it.
double number_of(const Format& f, const uint8_t* row, int64_t i) {
  const uint8_t* b = row + i / f.columns * f.bytes;
  const auto c = static_cast<int>(i % f.columns);
  switch (f.format) {
    case RowFormat::f32: {
      float x;
      std::memcpy(&x, b, 4);
      return static_cast<double>(x);
    }
    case RowFormat::f16:
      return half_value(b);
    case RowFormat::bf16: {
      const uint32_t bits = static_cast<uint32_t>(b[0] | (b[1] << 8)) << 16;
      float x;
      std::memcpy(&x, &bits, 4);
      return static_cast<double>(x);
    }
    case RowFormat::q8_0:
      return half_value(b) * static_cast<int8_t>(b[2 + c]);
    case RowFormat::q4_0:
      return half_value(b) * ((c < 16 ? b[2 + c] & 15 : b[2 + c - 16] >> 4) - 8);
    case RowFormat::q4_K: {
      const int pair = c / 32;
      const uint8_t* s = b + 4;
      const int scale = pair < 4 ? s[pair] & 63 : (s[pair + 4] & 15) | (s[pair - 4] >> 6 << 4);
      const int minimum = pair < 4 ? s[pair + 4] & 63 : (s[pair + 4] >> 4) | (s[pair] >> 6 << 4);
      const uint8_t byte = b[16 + pair / 2 * 32 + c % 32];
      return half_value(b) * scale * (pair % 2 == 0 ? byte & 15 : byte >> 4) - half_value(b + 2) * minimum;
    }
    case RowFormat::q6_K: {
      const int part = c / 128;
      const int group = c % 128 / 32;
      const uint8_t low = b[part * 64 + group % 2 * 32 + c % 32];
      const uint8_t high = b[128 + part * 32 + c % 32];
      const int code = (group < 2 ? low & 15 : low >> 4) + 16 * (high >> (2 * group) & 3);
      return half_value(b + 208) * static_cast<int8_t>(b[192 + c / 16]) * (code - 32);
    }
  }
  return NAN;
}

std::vector<uint8_t> table_bytes(Random& random, const Format& f, int64_t count, int64_t width, int64_t row_bytes) {
  std::vector<uint8_t> bytes(static_cast<size_t>(count * row_bytes));
  for (int64_t row = 0; row < count; row++) {
    uint8_t* at = bytes.data() + row * row_bytes;
    if (f.columns == 1) {
      std::vector<float> x(static_cast<size_t>(width));
      for (float& v : x) v = static_cast<float>(random.uniform() * 2 - 1);
      const std::vector<uint8_t> row_data = encode(x, f.format == RowFormat::f32   ? Dtype::f32
                                                      : f.format == RowFormat::f16 ? Dtype::f16
                                                                                   : Dtype::bf16);
      std::copy(row_data.begin(), row_data.end(), at);
      continue;
    }
    for (int64_t block = 0; block < width / f.columns; block++, at += f.bytes) {
      for (int64_t i = 0; i < f.bytes; i++) at[i] = static_cast<uint8_t>(random.next());
      const auto scale = [&](int64_t offset) {
        const uint16_t bits = __half_as_ushort(__float2half_rn(static_cast<float>(random.uniform() * 0.01 + 0.001)));
        std::memcpy(at + offset, &bits, 2);
      };
      scale(f.format == RowFormat::q6_K ? 208 : 0);
      if (f.format == RowFormat::q4_K) scale(2);
    }
  }
  return bytes;
}

// --- Noise by its definition
// ---------------------------------------------------------------------------------------------------------------

struct Words {
  uint32_t w[4];
};
Words philox(Words c, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; round++) {
    const uint64_t a = uint64_t{0xD2511F53U} * c.w[0];
    const uint64_t b = uint64_t{0xCD9E8D57U} * c.w[2];
    c = {{static_cast<uint32_t>(b >> 32) ^ c.w[1] ^ key0, static_cast<uint32_t>(b), static_cast<uint32_t>(a >> 32) ^ c.w[3] ^ key1,
          static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  return c;
}
struct Stream {
  uint64_t seed, step;
  uint32_t id;
  uint32_t block = 0;
  std::pair<double, double> next() {
    const Words w = philox({{id, static_cast<uint32_t>(step), static_cast<uint32_t>(step >> 32), block++}}, static_cast<uint32_t>(seed),
                           static_cast<uint32_t>(seed >> 32));
    const auto uniform = [](uint32_t high, uint32_t low) {
      return (static_cast<double>(((uint64_t{high} << 32) | low) >> 12) + 0.5) * 0x1p-52;
    };
    return {uniform(w.w[0], w.w[1]), uniform(w.w[2], w.w[3])};
  }
};
double log_gamma_draw(Stream s, double shape) {
  const double d = (shape < 1 ? shape + 1 : shape) - 1.0 / 3;
  const double c = 1 / std::sqrt(9 * d);
  const double lift = shape < 1 ? std::log(s.next().first) / shape : 0;
  while (true) {
    const auto polar = s.next();
    const double x = std::sqrt(-2 * std::log(polar.first)) * std::cos(2 * std::numbers::pi * polar.second);
    const double u = s.next().first;
    const double v = std::pow(1 + c * x, 3);
    if (1 + c * x <= 0) continue;
    if (std::log(u) < 0.5 * x * x + d - d * v + d * std::log(v)) return std::log(d * v) + lift;
  }
}

// --- A step
// --------------------------------------------------------------------------------------------------------------------------------

// Everything of a step, on both sides.
struct Step {
  Format format;
  ThoughtArgs args;
  std::vector<uint8_t> table;
  std::vector<float> logits;  // [batch, logit_stride], as the dtype has them
  std::vector<bool> masked;
  std::vector<int32_t> tokens;
  std::vector<float> extras;
  std::vector<uint64_t> draws;
  Buffer<uint8_t> d_table, d_logits, workspace;
  Buffer<uint32_t> d_masked;
  Buffer<int32_t> d_tokens, ids;
  Buffer<float> d_extras, out, weights;
  Buffer<uint64_t> d_draws;
  Buffer<ThoughtStats> stats;
  Buffer<ThoughtFault> faults;

  int64_t room() const { return args.top_k > 0 ? std::min(args.top_k, args.table.count) : args.table.count; }

  void upload(size_t offset) {
    const int64_t batch = args.batch;
    d_table = Buffer<uint8_t>(table, offset);
    d_logits = Buffer<uint8_t>(encode(logits, args.dtype), offset * dtype_size(args.dtype));
    std::vector<uint32_t> bits(static_cast<size_t>((args.table.count + 31) / 32));
    for (size_t i = 0; i < masked.size(); i++) bits[i / 32] |= static_cast<uint32_t>(masked[i]) << (i % 32);
    d_masked = Buffer<uint32_t>(bits);
    d_tokens = Buffer<int32_t>(tokens);
    d_extras = Buffer<float>(extras);
    d_draws = Buffer<uint64_t>(draws);
    out = Buffer<float>(batch * args.table.width);
    stats = Buffer<ThoughtStats>(batch);
    faults = Buffer<ThoughtFault>(batch);
    ids = Buffer<int32_t>(batch * room());
    weights = Buffer<float>(batch * room());
    args.table.data = d_table.data();
    args.logits = d_logits.data();
    args.masked = masked.empty() ? nullptr : d_masked.data();
    args.tokens = d_tokens.data();
    args.extras = d_extras.data();
    args.draws = d_draws.data();
    args.out = out.data();
    args.stats = stats.data();
    args.ids = ids.data();
    args.weights = weights.data();
    args.faults = faults.data();
    workspace = Buffer<uint8_t>(static_cast<int64_t>(thought_workspace(args)));
    args.workspace = workspace.data();
  }
  void poison() {
    out.poison();
    stats.poison();
    faults.poison();
    ids.poison();
    weights.poison();
    workspace.poison();
  }
};

struct Wanted {
  std::vector<double> out;
  double entropy_bits = 0, max_p = 0;
  int32_t argmax = 0;
  std::vector<int32_t> ids;
  std::vector<double> weights;
};

// `selected` settles where a nucleus ends if rounding could move its end.
Wanted definition(const Step& s, int64_t row, int64_t selected) {
  const ThoughtArgs& a = s.args;
  const int64_t n = a.table.count;
  const auto logit = [&](int64_t id) {
    if (!s.masked.empty() && s.masked[static_cast<size_t>(id)]) return -static_cast<double>(INFINITY);
    return static_cast<double>(s.logits[static_cast<size_t>(row * a.logit_stride + id)]);
  };
  std::vector<int32_t> order;
  for (int64_t id = 0; id < n; id++) {
    if (std::isfinite(logit(id))) order.push_back(static_cast<int32_t>(id));
  }
  std::sort(order.begin(), order.end(), [&](int32_t x, int32_t y) { return logit(x) != logit(y) ? logit(x) > logit(y) : x < y; });
  Wanted w;
  w.argmax = order[0];
  const double top = logit(order[0]);
  const auto exponential = [&](int32_t id) { return std::exp((logit(id) - top) / static_cast<double>(a.temperature)); };
  double rest = 0;
  double weighted = 0;
  for (size_t i = order.size(); i-- > 1;) {
    const double q = exponential(order[i]);
    rest += q;
    weighted += q * (logit(order[i]) - top) / static_cast<double>(a.temperature) * std::numbers::log2e;
  }
  const double sum = 1 + rest;
  w.entropy_bits = std::log1p(rest) * std::numbers::log2e - weighted / sum;
  w.max_p = 1 / sum;
  // the selection
  int64_t count = std::min<int64_t>(static_cast<int64_t>(order.size()), s.room());
  if (a.top_p < 1) {
    double mass = 0;
    for (int64_t i = 0; i < count; i++) {
      mass += exponential(order[static_cast<size_t>(i)]);
      const bool unsure = std::fabs(mass - a.top_p * sum) < 1e-6 * sum;
      if (unsure ? i + 1 == selected : mass >= a.top_p * sum) {
        count = i + 1;
        break;
      }
    }
  }
  w.ids.assign(order.begin(), order.begin() + count);
  std::sort(w.ids.begin(), w.ids.end());
  double total = 0;
  for (const int32_t id : w.ids) total += exponential(id);
  double largest = -INFINITY;
  for (const int32_t id : w.ids) {
    const double log_p = (logit(id) - top) / static_cast<double>(a.temperature);
    const Stream stream{s.draws[static_cast<size_t>(2 * row)], s.draws[static_cast<size_t>(2 * row + 1)], static_cast<uint32_t>(id)};
    double x = log_p;
    if (a.noise == ThoughtNoise::gumbel) {
      x = (log_p - std::log(-std::log(Stream(stream).next().first))) / static_cast<double>(a.noise_amount);
    } else if (a.noise == ThoughtNoise::dirichlet) {
      const double shape = static_cast<double>(a.noise_amount) * std::exp(log_p) / total;
      x = shape > 0 ? log_gamma_draw(stream, shape) : -static_cast<double>(INFINITY);
    }
    w.weights.push_back(x);
    largest = std::max(largest, x);
  }
  total = 0;
  for (double& x : w.weights) total += x = std::exp(x - largest);
  double square = 0;
  for (double& x : w.weights) {
    x /= total;
    square += x * x;
  }
  // e
  const auto add = [&](int32_t id, double factor) {
    const uint8_t* at = s.table.data() + id * a.table.row_bytes;
    for (int64_t j = 0; j < a.table.width; j++) w.out[static_cast<size_t>(j)] += factor * number_of(s.format, at, j);
  };
  w.out.assign(static_cast<size_t>(a.table.width), 0);
  const double mix = a.unit_mix ? static_cast<double>(a.mix) / std::sqrt(square) : static_cast<double>(a.mix);
  if (a.mix != 0) {
    for (size_t i = 0; i < w.ids.size(); i++) add(w.ids[i], mix * w.weights[i]);
  }
  if (a.token != 0) add(s.tokens[static_cast<size_t>(row)], static_cast<double>(a.token));
  double length = 0;
  for (int64_t j = 0; j < a.table.width; j++) {
    double& e = w.out[static_cast<size_t>(j)];
    if (a.extra != 0) e += static_cast<double>(a.extra) * static_cast<double>(s.extras[static_cast<size_t>(row * a.table.width + j)]);
    length += e * e;
  }
  if (a.norm >= 0 && length > 0) {
    for (double& e : w.out) e *= static_cast<double>(a.norm) / std::sqrt(length);
  }
  return w;
}

std::shared_ptr<Step> step_of(Random& random, const Format& format, int64_t count, int64_t width, int64_t batch) {
  auto s = std::make_shared<Step>();
  s->format = format;
  ThoughtArgs& a = s->args;
  a.table.format = format.format;
  a.table.count = count;
  a.table.width = round_up(width, format.columns);
  a.table.row_bytes = a.table.width / format.columns * format.bytes + random.of<int64_t>({0, 0, 16, 4});
  a.batch = batch;
  a.dtype = random.of(dtypes());
  a.logit_stride = count + random.of<int64_t>({0, 0, 4, 1});
  a.token = random.of<float>({0, 1, -0.5F});
  a.mix = random.of<float>({0, 1, 0.7F, 1, 1});
  a.extra = random.of<float>({0, 0, 0.3F});
  a.temperature = random.of<float>({1, 0.3F, 0.8F, 2});
  a.top_k = random.of<int64_t>({0, 1, 2, 15, 50, count, count + 3, 700});
  a.top_p = random.of<double>({1, 1, 0.9, 0.5, 0.01, 0.999});
  a.noise = random.of<ThoughtNoise>({ThoughtNoise::none, ThoughtNoise::none, ThoughtNoise::gumbel, ThoughtNoise::dirichlet});
  a.noise_amount = random.of<float>({1, 0.5F, 5});
  a.unit_mix = random.chance(0.3);
  a.norm = random.of<float>({-1, 1, 12.5F, 0});
  s->table = table_bytes(random, format, count, a.table.width, a.table.row_bytes);
  for (int64_t row = 0; row < batch; row++) {
    const auto kind = random.between(0, 5);
    std::vector<float> z = random.normals(a.logit_stride, kind == 1 ? 0.1F : 3.0F, kind == 2 ? -30.0F : 2.0F);
    for (float& v : z) {
      if (kind == 3) v = std::round(v * 2) / 2;  // equals
      if (kind == 4 && random.chance(0.3)) v = -INFINITY;
      if (kind == 5) v = random.chance(0.01) ? v * 8 : 1.25F;
    }
    if (kind == 4) z[static_cast<size_t>(random.between(0, count - 1))] = 4;
    s->logits.insert(s->logits.end(), z.begin(), z.end());
    s->tokens.push_back(static_cast<int32_t>(random.between(0, count - 1)));
    s->draws.push_back(random.next());
    s->draws.push_back(random.next());
  }
  s->logits = rounded(s->logits, a.dtype);
  if (count > 4 && random.chance(0.3)) {
    s->masked.resize(static_cast<size_t>(count));
    for (size_t i = 0; i < s->masked.size(); i++) s->masked[i] = random.chance(0.2);
    // something must be left of each row
    for (int64_t row = 0; row < batch; row++) {
      const auto keep = static_cast<size_t>(random.between(0, count - 1));
      s->masked[keep] = false;
      s->logits[static_cast<size_t>(row * a.logit_stride) + keep] = 3;
    }
  }
  s->extras = random.normals(batch * a.table.width);
  return s;
}

std::string describe(const Step& s) {
  const ThoughtArgs& a = s.args;
  return std::string(s.format.name) + " " + std::to_string(a.table.count) + " x " + std::to_string(a.table.width) + ", logits " +
         name_of(a.dtype) + ", k " + std::to_string(a.top_k) + ", p " + std::to_string(a.top_p) + ", noise " +
         std::to_string(static_cast<int>(a.noise)) + ", a " + std::to_string(a.token) + ", b " + std::to_string(a.mix) + ", norm " +
         std::to_string(a.norm);
}

void check(Step& s) {
  const std::string what = describe(s);
  run([&](cudaStream_t stream) { return thought_steps(s.args, stream); }, what);
  const std::vector<float> out = s.out.download();
  const std::vector<float> weights = s.weights.download();
  const std::vector<int32_t> ids = s.ids.download();
  const std::vector<ThoughtStats> stats = s.stats.download();
  const std::vector<ThoughtFault> faults = s.faults.download();
  for (int64_t row = 0; row < s.args.batch; row++) {
    const std::string where = what + ", row " + std::to_string(row);
    const ThoughtStats& got = stats[static_cast<size_t>(row)];
    const ThoughtFault fault = faults[static_cast<size_t>(row)];
    expect(fault == ThoughtFault::none, where + ": fault " + std::to_string(static_cast<int>(fault)));
    if (fault != ThoughtFault::none) continue;
    const Wanted w = definition(s, row, got.selected);
    expect(got.argmax == w.argmax, where + ": argmax " + std::to_string(got.argmax) + ", not " + std::to_string(w.argmax));
    expect(std::fabs(got.entropy_bits - w.entropy_bits) <= 2e-5 * std::max(w.entropy_bits, 1e-6),
           where + ": entropy " + std::to_string(got.entropy_bits) + ", not " + std::to_string(w.entropy_bits));
    expect(std::fabs(got.max_p / w.max_p - 1) <= 1e-5, where + ": max_p");
    expect(std::fabs(got.n_eff / std::exp2(w.entropy_bits) - 1) <= 1e-3, where + ": n_eff");
    if (got.selected != static_cast<int64_t>(w.ids.size())) {
      fail(where + ": selected " + std::to_string(got.selected) + ", not " + std::to_string(w.ids.size()));
      continue;
    }
    const auto base = row * s.room();
    const std::vector<int32_t> got_ids(ids.begin() + base, ids.begin() + base + got.selected);
    expect(got_ids == w.ids, where + ": other ids");
    expect_close({weights.begin() + base, weights.begin() + base + got.selected}, w.weights, 1e-5, where + ": weights");
    for (int64_t i = got.selected; i < s.room(); i++) {
      if (!std::isnan(weights[static_cast<size_t>(base + i)])) fail(where + ": a weight behind the selection");
    }
    const auto at = row * s.args.table.width;
    expect_close({out.begin() + at, out.begin() + at + s.args.table.width}, w.out, 1e-5, where + ": e");
  }
}

LATENT_TEST(thought_steps_match_their_definition) {
  for (int round = 0; round < rounds(30); round++) {
    Random random(2000 + static_cast<uint64_t>(round));
    for (const Format& format : row_formats()) {
      const auto count = random.of<int64_t>({1, 2, 5, 127, 128, 129, 1000, 2500});
      const auto width = random.of<int64_t>({1, 3, 8, 64, 100, 520});
      const auto step = step_of(random, format, count, width, random.between(1, 4));
      step->upload(random.of<size_t>({0, 0, format.columns == 1 ? size_t{4} : size_t{3}}));
      check(*step);
    }
  }
}

LATENT_TEST(thought_steps_of_large_vocabularies) {
  if (reduced()) return;
  for (int round = 0; round < 12; round++) {
    Random random(2100 + static_cast<uint64_t>(round));
    const auto count = random.of<int64_t>({151936, 128256, 262144, 32003, 32003});
    const auto step = step_of(random, row_formats()[static_cast<size_t>(round % 3)], count, count == 32003 ? 4100 : 16, 1);
    // rows of a table this large are only read where they are selected
    if (step->args.table.width > 16) {
      step->args.top_k = random.of<int64_t>({15, 64, 3000});
    } else {
      step->args.top_k = random.of<int64_t>({0, 1, 20000});
    }
    step->upload(0);
    check(*step);
  }
}

LATENT_TEST(thought_steps_without_outputs) {
  Random random(2200);
  for (int round = 0; round < rounds(8); round++) {
    const auto step = step_of(random, row_formats()[0], 3000, 64, 2);
    step->args.mix = 1;
    // a mix of all rows has weights of its own where nobody asks for them
    if (step->room() == step->args.table.count) step->args.top_p = 0.9;
    step->upload(0);
    check(*step);
    const std::vector<float> weights = step->weights.download();
    const std::vector<float> out = step->out.download();
    // the rest is the same where some of it is not asked for
    step->poison();
    step->args.out = nullptr;
    run([&](cudaStream_t stream) { return thought_steps(step->args, stream); }, "without e");
    expect_same(bytes_of(step->weights.download()), bytes_of(weights), "weights without e");
    step->poison();
    step->args.out = step->out.data();
    step->args.ids = nullptr;
    step->args.weights = nullptr;
    step->args.stats = nullptr;
    run([&](cudaStream_t stream) { return thought_steps(step->args, stream); }, "e alone");
    expect_same(bytes_of(step->out.download()), bytes_of(out), "e alone");
  }
}

// The mix of all rows, where neither ids nor weights are asked for.
void check_all_rows(Step& step, size_t offset) {
  ThoughtArgs& a = step.args;
  a.mix = 0.7F;
  a.top_p = 1;
  a.noise = ThoughtNoise::none;
  a.unit_mix = false;
  step.upload(offset);
  step.poison();
  a.ids = nullptr;
  a.weights = nullptr;
  const std::string what = describe(step) + ", all rows" + (offset == 0 ? "" : ", unaligned");
  run([&](cudaStream_t stream) { return thought_steps(a, stream); }, what);
  const std::vector<float> out = step.out.download();
  const std::vector<ThoughtStats> stats = step.stats.download();
  const std::vector<ThoughtFault> faults = step.faults.download();
  for (int64_t row = 0; row < a.batch; row++) {
    const std::string where = what + ", row " + std::to_string(row);
    const ThoughtStats& got = stats[static_cast<size_t>(row)];
    const Wanted w = definition(step, row, 0);
    expect(faults[static_cast<size_t>(row)] == ThoughtFault::none, where + ": a fault");
    expect(got.selected == static_cast<int64_t>(w.ids.size()), where + ": selected " + std::to_string(got.selected));
    expect(got.argmax == w.argmax, where + ": argmax " + std::to_string(got.argmax) + ", not " + std::to_string(w.argmax));
    expect(std::fabs(got.entropy_bits - w.entropy_bits) <= 2e-5 * std::max(w.entropy_bits, 1e-6),
           where + ": entropy " + std::to_string(got.entropy_bits) + ", not " + std::to_string(w.entropy_bits));
    expect(std::fabs(got.max_p / w.max_p - 1) <= 1e-5, where + ": max_p");
    const auto at = row * a.table.width;
    expect_close({out.begin() + at, out.begin() + at + a.table.width}, w.out, 1e-5, where + ": e");
  }
}

LATENT_TEST(thought_steps_mix_all_rows) {
  for (int round = 0; round < rounds(28); round++) {
    Random random(2250 + static_cast<uint64_t>(round));
    const auto count = random.of<int64_t>({1, 15, 17, 130, 2500, 20000});
    const auto width = random.of<int64_t>({1, 8, 12, 64, 100, 520, 2600});
    const auto step = step_of(random, row_formats()[static_cast<size_t>(round % 7)], count, count == 20000 ? 64 : width, 3);
    step->args.top_k = random.of<int64_t>({0, count, count + 3});
    check_all_rows(*step, random.of<size_t>({0, 0, step->format.columns == 1 ? size_t{4} : size_t{3}}));
  }
}

// Rows at multiples of 16 bytes, so many and so long that they go around the ring that Hopper brings them through; and rows that are just
// too long for it.
LATENT_TEST(thought_steps_mix_rows_in_a_ring) {
  if (reduced()) return;
  for (size_t i = 0; i < row_formats().size(); i++) {
    for (const int64_t width : {4096, 8192, 8448}) {
      Random random(2280 + static_cast<uint64_t>(width) + i);
      const int64_t count = width != 4096 ? 1100 : row_formats()[i].format == RowFormat::f32 ? 4501 : 12001;
      const auto step = step_of(random, row_formats()[i], count, width, width == 8192 ? 2 : 1);
      ThoughtArgs& a = step->args;
      const int64_t of_row = a.table.width / step->format.columns * step->format.bytes;
      a.table.row_bytes = of_row + (width == 8192 ? 16 : 0);
      step->table = table_bytes(random, step->format, count, a.table.width, a.table.row_bytes);
      a.top_k = 0;
      check_all_rows(*step, 0);
    }
  }
}

// Runs of rows that hold no token at all, one token that is all, and a token that all but cancels.
LATENT_TEST(thought_steps_mix_uneven_rows) {
  for (int round = 0; round < rounds(8); round++) {
    Random random(2290 + static_cast<uint64_t>(round));
    const int64_t count = 3000;
    const auto step = step_of(random, row_formats()[0], count, 64, 2);
    ThoughtArgs& a = step->args;
    a.dtype = Dtype::f32;
    a.table.row_bytes = 64 * 4;
    step->table = table_bytes(random, step->format, count, 64, a.table.row_bytes);
    a.top_k = 0;
    a.extra = 0;
    a.temperature = round % 2 == 0 ? 1.0F : 1e-3F;
    step->masked.assign(static_cast<size_t>(count), false);
    for (int64_t id = 700; id < 1900; id++) step->masked[static_cast<size_t>(id)] = round % 3 != 0;
    for (int64_t row = 0; row < 2; row++) {
      float* z = step->logits.data() + row * a.logit_stride;
      for (int64_t id = 0; id < count; id++) z[id] = static_cast<float>(random.uniform() * 4);
      std::fill_n(z + 2000, 500, -INFINITY);
      z[2600] = row == 0 ? 30.0F : 5.0F;
      step->tokens[static_cast<size_t>(row)] = random.of<int32_t>({2600, 1000, 2200, 5});
    }
    // on row 0, where 2600 is as good as all, -0.7 leaves what the others come to
    a.token = round < 4 ? -0.7F : 0.5F;
    if (a.token < 0) step->tokens[0] = 2600;
    check_all_rows(*step, 0);
  }
}

LATENT_TEST(thought_steps_name_faults) {
  Random random(2300);
  for (const int64_t count : {1, 130, 5000}) {
    const auto step = step_of(random, row_formats()[0], count, 24, 6);
    ThoughtArgs& a = step->args;
    a.dtype = Dtype::f32;
    a.token = 1;
    a.mix = 1;
    a.top_k = 0;
    a.top_p = 1;
    a.noise = ThoughtNoise::none;
    step->masked.clear();
    float* z = step->logits.data();
    z[0 * a.logit_stride + count - 1] = NAN;
    z[1 * a.logit_stride + count / 2] = INFINITY;
    std::fill_n(z + 2 * a.logit_stride, count, -INFINITY);
    z[3 * a.logit_stride] = 1;
    step->tokens[3] = static_cast<int32_t>(count);
    z[4 * a.logit_stride] = 1;
    step->extras[static_cast<size_t>(4 * a.table.width + 7)] = INFINITY;
    a.extra = 1;
    z[5 * a.logit_stride] = 1;
    step->upload(0);
    for (const bool listed : {true, false}) {
      step->poison();
      if (!listed) a.ids = nullptr;
      if (!listed) a.weights = nullptr;
      run([&](cudaStream_t stream) { return thought_steps(step->args, stream); }, "faults");
      const std::vector<ThoughtFault> faults = step->faults.download();
      const std::vector<ThoughtFault> wanted = {ThoughtFault::bad_logit, ThoughtFault::bad_logit, ThoughtFault::no_token,
                                                ThoughtFault::bad_sum,   ThoughtFault::bad_sum,   ThoughtFault::none};
      for (size_t row = 0; row < wanted.size(); row++)
        expect(faults[row] == wanted[row], "row " + std::to_string(row) + " of " + std::to_string(count) + " has fault " +
                                               std::to_string(static_cast<int>(faults[row])));
    }
  }
}

LATENT_TEST(thought_steps_refuse_what_no_kernel_takes) {
  Random random(2400);
  const auto step = step_of(random, row_formats()[0], 100, 8, 1);
  step->upload(0);
  const ThoughtArgs good = step->args;
  const auto refused = [&](const char* what, const auto& spoil) {
    ThoughtArgs bad = good;
    spoil(bad);
    expect(thought_steps(bad, nullptr) == cudaErrorInvalidValue, what);
  };
  refused("temperature 0", [](ThoughtArgs& a) { a.temperature = 0; });
  refused("temperature NaN", [](ThoughtArgs& a) { a.temperature = NAN; });
  refused("top_p 0", [](ThoughtArgs& a) { a.top_p = 0; });
  refused("top_p 1.5", [](ThoughtArgs& a) { a.top_p = 1.5; });
  refused("top_k -1", [](ThoughtArgs& a) { a.top_k = -1; });
  refused("an infinite coefficient", [](ThoughtArgs& a) { a.mix = INFINITY; });
  refused("a norm that is NaN", [](ThoughtArgs& a) { a.norm = NAN; });
  refused("noise of 0", [](ThoughtArgs& a) {
    a.noise = ThoughtNoise::gumbel;
    a.noise_amount = 0;
  });
  refused("an empty vocabulary", [](ThoughtArgs& a) { a.table.count = 0; });
}

LATENT_TEST(thought_is_independent_of_timing) {
  Random random(2500);
  std::vector<Case> cases;
  for (int i = 0; i < 7; i++) {
    const auto step = step_of(random, row_formats()[static_cast<size_t>(i)], reduced() ? 2000 : 20000, 256, 3);
    ThoughtArgs& a = step->args;
    a.mix = 1;
    // three sum all rows of the table, in splits: two whose rows bulk copies take, and one whose rows lie at odd places
    const bool all = i == 0 || i == 2 || i == 3;
    if (all) {
      a.top_k = 0;
      a.top_p = 1;
      a.noise = ThoughtNoise::none;
      a.unit_mix = false;
      a.table.row_bytes = round_up<int64_t>(a.table.row_bytes, 16);
      step->table = table_bytes(random, step->format, a.table.count, a.table.width, a.table.row_bytes);
    }
    step->upload(i == 3 ? 3 : 0);
    if (all) a.ids = nullptr;
    if (all) a.weights = nullptr;
    cases.push_back({[step] { step->poison(); }, [step](cudaStream_t stream) { return thought_steps(step->args, stream); },
                     [step] {
                       std::vector<uint8_t> bytes = bytes_of(step->out.download());
                       const std::vector<uint8_t> weights = bytes_of(step->weights.download());
                       bytes.insert(bytes.end(), weights.begin(), weights.end());
                       return bytes;
                     }});
  }
  expect_independent_of_timing(cases, "thought steps");
}

}  // namespace
