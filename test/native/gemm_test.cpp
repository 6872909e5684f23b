// Tiles of the matrix product and the row kernels, in every table that this processor runs, against plain float64.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <numbers>

#include "kernels/packed_matrix.h"
#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::infinity;
using latentwire::testing::not_a_number;
using latentwire::testing::Numbers;

namespace {

std::shared_ptr<const PackedMatrix> pack(const std::vector<float>& w, int64_t outputs, int64_t depth, Dtype storage) {
  std::shared_ptr<const PackedMatrix> packed;
  REQUIRE(PackedMatrix::pack({Dtype::f32, w.data(), outputs, depth, depth, 1}, storage, {}, &packed).ok());
  return packed;
}

GemmFunction function(const GemmKernels& k, Dtype storage) {
  switch (storage) {
    case Dtype::f16:
      return k.f16;
    case Dtype::bf16:
      return k.bf16;
    case Dtype::i8:
      return k.i8;
    default:
      return k.f32;
  }
}

GemmFunction l1_function(const GemmKernels& k, Dtype storage) {
  return storage == Dtype::f16 ? k.l1_f16 : storage == Dtype::bf16 ? k.l1_bf16 : k.l1_f32;
}

// w as the packed matrix holds it
float held(const std::vector<float>& w, size_t at, Dtype storage) {
  return storage == Dtype::f16 ? f16_to_f32(f32_to_f16(w[at])) : storage == Dtype::bf16 ? bf16_to_f32(f32_to_bf16(w[at])) : w[at];
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("float tiles of products and of distances of any shape, in every table") {
    Numbers numbers(1);
    for (const Kernels& table : all_kernels()) {
      for (int round = 0; round < 600; round++) {
        const bool l1 = round % 2 == 1;
        const int64_t rows = numbers.below(20);
        const int64_t outputs = numbers.below(190);
        const int64_t depth = numbers.below(70);
        const Dtype storage = std::array{Dtype::f32, Dtype::f16, Dtype::bf16}[static_cast<size_t>(round % 3)];
        const bool accumulate = numbers.below(2) == 1;
        const int64_t gap = numbers.below(3);
        CAPTURE(isa_name(table.isa));
        CAPTURE(l1);
        CAPTURE(rows);
        CAPTURE(outputs);
        CAPTURE(depth);
        const std::vector<float> x = numbers.normals(rows * depth);
        const std::vector<float> w = numbers.normals(outputs * depth);
        const auto packed = pack(w, outputs, depth, storage);
        const std::vector<float> spaced = testing::with_gaps(x, rows, depth, gap, not_a_number);
        const int64_t width = packed->panel_count() * panel_width;
        std::vector<float> out(static_cast<size_t>(rows * (width + gap)), 2.0F);
        GemmTile tile{spaced.data(),         depth + gap, rows,       packed->panel(0, 0), packed->panel_stride(),
                      packed->panel_count(), depth,       out.data(), width + gap,         accumulate};
        (l1 ? l1_function : function)(table.gemm, storage)(tile);
        for (int64_t i = 0; i < rows; i++) {
          for (int64_t j = 0; j < width + gap; j++) {
            double want = accumulate ? 2 : 0;
            double size = 1;
            for (int64_t k = 0; k < depth && j < width; k++) {
              const double u = x[static_cast<size_t>(i * depth + k)];
              const double v = j < outputs ? held(w, static_cast<size_t>(j * depth + k), storage) : 0;
              const double term = l1 ? std::fabs(u - v) : u * v;
              want += term;
              size += std::fabs(term);
            }
            if (j >= width) want = 2;  // not touched
            REQUIRE(std::fabs(out[static_cast<size_t>(i * (width + gap) + j)] - want) <= 1e-6 * size);
          }
        }
      }
    }
  }

  TEST_CASE("tiles of bf16 rows of any shape, in every table") {
    Numbers numbers(5);
    for (const Kernels& table : all_kernels()) {
      if (table.gemm.bf16_rows == nullptr) continue;
      for (int round = 0; round < 300; round++) {
        const int64_t rows = numbers.below(20);
        const int64_t outputs = numbers.below(190);
        const int64_t depth = numbers.below(70);
        const bool accumulate = numbers.below(2) == 1;
        const int64_t gap = numbers.below(3);
        CAPTURE(isa_name(table.isa));
        CAPTURE(rows);
        CAPTURE(outputs);
        CAPTURE(depth);
        const std::vector<float> w = numbers.normals(outputs * depth);
        const auto packed = pack(w, outputs, depth, Dtype::bf16);
        std::vector<float> x = testing::with_gaps(numbers.normals(rows * depth), rows, depth, gap, not_a_number);
        // no bytes behind the last row: what reads them is found by the sanitizer
        x.resize(static_cast<size_t>(std::max<int64_t>(rows * (depth + gap) - gap, 0)));
        const std::vector<uint8_t> bytes = testing::stored(Dtype::bf16, &x);
        const int64_t width = packed->panel_count() * panel_width;
        std::vector<float> out(static_cast<size_t>(rows * (width + gap)), 2.0F);
        const auto run = [&](int64_t first, int64_t count, float* to) {
          table.gemm.bf16_rows({bytes.data() + static_cast<size_t>(first * (depth + gap)) * 2, depth + gap, count, packed->panel(0, 0),
                                packed->panel_stride(), packed->panel_count(), depth, to, width + gap, accumulate});
        };
        run(0, rows, out.data());
        for (int64_t i = 0; i < rows; i++) {
          std::vector<float> alone(static_cast<size_t>(width), 2.0F);
          run(i, 1, alone.data());
          for (int64_t j = 0; j < width + gap; j++) {
            double want = accumulate ? 2 : 0;
            double size = 1;
            for (int64_t k = 0; k < depth && j < outputs; k++) {
              const double product = static_cast<double>(x[static_cast<size_t>(i * (depth + gap) + k)]) *
                                     held(w, static_cast<size_t>(j * depth + k), Dtype::bf16);
              want += product;
              size += std::fabs(product);
            }
            if (j >= width) want = 2;  // not touched
            const float got = out[static_cast<size_t>(i * (width + gap) + j)];
            REQUIRE(std::fabs(got - want) <= 1e-6 * size);
            if (j < width) REQUIRE(got == alone[static_cast<size_t>(j)]);
          }
        }
      }
    }
  }

  TEST_CASE("code tiles are exact, in every table") {
    Numbers numbers(2);
    for (const Kernels& table : all_kernels()) {
      for (int round = 0; round < 200; round++) {
        const int64_t rows = numbers.below(20);
        const int64_t outputs = numbers.below(150);
        const int64_t depth = numbers.below(90);
        const bool extreme = round % 4 == 0;
        CAPTURE(isa_name(table.isa));
        // each output's largest element is 127, so the codes are the elements themselves
        std::vector<float> w(static_cast<size_t>(outputs * depth));
        for (int64_t j = 0; j < outputs; j++) {
          for (int64_t k = 0; k < depth; k++)
            w[static_cast<size_t>(j * depth + k)] =
                k == 0 || extreme ? (numbers.below(2) == 1 ? 127.0F : -127.0F) : static_cast<float>(numbers.below(255) - 127);
        }
        const auto packed = pack(w, outputs, depth, Dtype::i8);
        const int64_t stride = packed->panel_stride() / panel_width;
        std::vector<uint8_t> x(static_cast<size_t>(rows * stride));
        for (uint8_t& code : x) code = static_cast<uint8_t>(extreme ? (numbers.below(2) == 1 ? 255 : 1) : 1 + numbers.below(255));
        const int64_t width = packed->panel_count() * panel_width;
        std::vector<int32_t> out(static_cast<size_t>(rows * width), 5);
        const bool accumulate = numbers.below(2) == 1;
        table.gemm.i8({x.data(), stride, rows, packed->panel(0, 0), packed->panel_stride(), packed->panel_count(), stride, out.data(),
                       width, accumulate});
        for (int64_t i = 0; i < rows; i++) {
          for (int64_t j = 0; j < outputs; j++) {
            int64_t want = accumulate ? 5 : 0;
            for (int64_t k = 0; k < depth; k++)
              want += (x[static_cast<size_t>(i * stride + k)] - 128) * static_cast<int64_t>(w[static_cast<size_t>(j * depth + k)]);
            const int64_t got =
                out[static_cast<size_t>(i * width + j)] - static_cast<int64_t>(table.gemm.i8_offset) * packed->code_sums()[j];
            REQUIRE(got == want);
          }
        }
      }
    }
  }

  TEST_CASE("what cannot be packed is refused") {
    std::shared_ptr<const PackedMatrix> packed;
    std::vector<float> w = {1, 2, 3, 4};
    const auto code = [&](float bad, Dtype storage) {
      w[2] = bad;
      return PackedMatrix::pack({Dtype::f32, w.data(), 2, 2, 2, 1}, storage, {}, &packed).code;
    };
    for (const Dtype storage : {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8}) {
      for (const float bad : {not_a_number, infinity, -infinity}) CHECK(code(bad, storage) == Code::non_finite);
    }
    CHECK(code(70000, Dtype::f16) == Code::non_finite);
    CHECK(code(3, Dtype::i32) == Code::dtype);
    CHECK(PackedMatrix::pack({Dtype::i8, w.data(), 2, 2, 2, 1}, Dtype::f32, {}, &packed).code == Code::dtype);
    CHECK(PackedMatrix::pack({Dtype::f32, w.data(), -1, 2, 2, 1}, Dtype::f32, {}, &packed).code == Code::invalid_argument);
    CHECK(PackedMatrix::pack({Dtype::f32, w.data(), 0, PackedMatrix::max_i8_depth + 1, 0, 1}, Dtype::i8, {}, &packed).code ==
          Code::invalid_argument);
    CHECK(packed == nullptr);
  }

  TEST_CASE("rows: sums, scans and maps, in every table") {
    Numbers numbers(3);
    for (const Kernels& table : all_kernels()) {
      const RowKernels& k = table.rows;
      CAPTURE(isa_name(table.isa));
      for (int64_t n = 0; n < 150; n++) {
        CAPTURE(n);
        std::vector<float> x = numbers.normals(n + 1);
        x[static_cast<size_t>(n)] = not_a_number;  // beyond the row
        double squares = 0, sum = 0, size = 0, largest = 0;
        for (int64_t i = 0; i < n; i++) {
          const double v = x[static_cast<size_t>(i)];
          squares += v * v;
          sum += v;
          size += std::fabs(v);
          largest = std::max(largest, std::fabs(v));
        }
        CHECK(k.sum_of_squares(x.data(), n) == doctest::Approx(squares).epsilon(1e-6));
        CHECK(std::fabs(k.sum(x.data(), n) - sum) <= 1e-6 * size);
        CHECK(k.max_abs(x.data(), n) == static_cast<float>(largest));
        CHECK(k.all_finite(x.data(), n));
        float both = 0;
        CHECK(k.max_abs_and_squares(x.data(), n, &both) == static_cast<float>(largest));
        CHECK(both == k.sum_of_squares(x.data(), n));
        std::vector<float> y = numbers.normals(n + 1), b = numbers.normals(n + 1), out(static_cast<size_t>(n + 1), 7.0F);
        k.affine(x.data(), n, 3, -2, out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(out[i] == doctest::Approx(3.0 * x[i] - 2).epsilon(1e-6));
        k.affine_by_column(x.data(), n, y.data(), b.data(), out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(std::fabs(out[i] - (static_cast<double>(x[i]) * y[i] + b[i])) <= 1e-5);
        k.affine_by_column(x.data(), n, nullptr, nullptr, out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(out[i] == x[i]);
        k.add(x.data(), y.data(), n, out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(out[i] == x[i] + y[i]);
        CHECK(out[static_cast<size_t>(n)] == 7.0F);
        for (const float bad : {not_a_number, infinity, -infinity}) {
          if (n == 0) continue;
          const auto at = static_cast<size_t>(numbers.below(n));
          const float before = x[at];
          x[at] = bad;
          CHECK_FALSE(std::isfinite(k.sum_of_squares(x.data(), n)));
          CHECK_FALSE(std::isfinite(k.max_abs(x.data(), n)));
          CHECK_FALSE(k.all_finite(x.data(), n));
          x[at] = before;
        }
      }
    }
  }

  TEST_CASE("activations to a few units in the last place, in every table") {
    std::vector<float> x = {0,   -0.0F, 1e-40F, -1e-30F, 1e-6F, -1e-4F, 0.6249F, 0.625F,   -0.6251F, 20,
                            -20, 88,    -88,    100,     -100,  1e30F,  -1e30F,  infinity, -infinity};
    for (int i = -4000; i <= 4000; i++) x.push_back(static_cast<float>(i) * 0.0037F);
    const auto n = static_cast<int64_t>(x.size());
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      const auto run = [&](Activation a) {
        std::vector<float> y = x;
        table.rows.activate(a, y.data(), n);
        return y;
      };
      const std::vector<float> gelu = run(Activation::gelu), silu = run(Activation::silu), tanh = run(Activation::tanh);
      CHECK(std::memcmp(run(Activation::identity).data(), x.data(), x.size() * 4) == 0);
      for (size_t i = 0; i < x.size(); i++) {
        const double v = x[i];
        CAPTURE(v);
        REQUIRE(std::fabs(tanh[i] - std::tanh(v)) <= 3e-7 * std::fabs(std::tanh(v)));
        if (!std::isfinite(v)) continue;
        REQUIRE(std::fabs(silu[i] - v / (1 + std::exp(-v))) <= 5e-7 * std::fabs(v / (1 + std::exp(-v))) + 1e-36);
        // for large negative x the true value is the difference of nearly equal numbers: absolute there
        REQUIRE(std::fabs(gelu[i] - v * 0.5 * std::erfc(-v / std::numbers::sqrt2)) <= 4e-7 * std::fabs(v) + 1e-45);
      }
      for (const Activation a : {Activation::gelu, Activation::silu, Activation::tanh}) {
        float bad = not_a_number;
        table.rows.activate(a, &bad, 1);
        CHECK(std::isnan(bad));
      }
    }
  }

  TEST_CASE("codes and 16-bit floats, in every table") {
    Numbers numbers(4);
    std::vector<float> x = {0,      1,        -1,        65504,        65520,          1e-8F,         6e-8F,
                            -3e-5F, infinity, -infinity, not_a_number, 1.00048828125F, 1.0009765625F, 3.0e38F};
    for (int i = 0; i < 2000; i++) x.push_back(numbers.normal() * std::pow(10.0F, static_cast<float>(numbers.below(20)) - 10));
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (const int64_t n : {int64_t{0}, int64_t{1}, int64_t{7}, int64_t{17}, static_cast<int64_t>(x.size())}) {
        std::vector<uint16_t> half(static_cast<size_t>(n) + 1, 9), brain = half;
        table.rows.to_f16(x.data(), n, half.data());
        table.rows.to_bf16(x.data(), n, brain.data());
        std::vector<float> from_half(static_cast<size_t>(n) + 1, 9.0F), from_brain = from_half;
        table.rows.from_f16(half.data(), n, from_half.data());
        table.rows.from_bf16(brain.data(), n, from_brain.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) {
          CAPTURE(x[i]);
          if (std::isnan(x[i])) {
            REQUIRE(std::isnan(from_half[i]));
            REQUIRE(std::isnan(from_brain[i]));
            continue;
          }
          REQUIRE(half[i] == f32_to_f16(x[i]));
          REQUIRE(brain[i] == f32_to_bf16(x[i]));
          REQUIRE(from_half[i] == f16_to_f32(half[i]));
          REQUIRE(from_brain[i] == bf16_to_f32(brain[i]));
        }
        CHECK(half.back() == 9);
        CHECK(from_half.back() == 9.0F);
      }
      for (int64_t n = 0; n < 70; n++) {
        const std::vector<float> v = numbers.normals(n, 50);
        std::vector<uint8_t> codes(static_cast<size_t>(n) + 1, 77);
        table.rows.quantise_u8(v.data(), n, 0.5F, codes.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) REQUIRE(std::fabs(codes[i] - 128 - v[i] * 0.5) <= 0.5 + 1e-4);
        CHECK(codes.back() == 77);
        std::vector<int32_t> dot(static_cast<size_t>(n)), sums(static_cast<size_t>(n));
        for (auto& d : dot) d = static_cast<int32_t>(numbers.below(2'000'000'000) - 1'000'000'000);
        for (auto& s : sums) s = static_cast<int32_t>(numbers.below(8'000'000) - 4'000'000);
        std::vector<float> out(static_cast<size_t>(n) + 1, 3.0F);
        table.rows.dequantise(dot.data(), n, 128, sums.data(), 0.25F, v.data(), out.data());
        for (size_t i = 0; i < static_cast<size_t>(n); i++) {
          const double want = (static_cast<double>(dot[i]) - 128.0 * sums[i]) * 0.25 * v[i];
          REQUIRE(std::fabs(out[i] - want) <= 3e-7 * std::fabs(want));
        }
        CHECK(out.back() == 3.0F);
      }
    }
  }
}
