// Channels are whole blocks and rotations, so all rows are one long row, which passes in pieces that stay in the first-level cache.
#include "kv/rows.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>

#include "kernels/table.h"
#include "kv/finite.h"

namespace latentwire {
namespace {

constexpr int64_t piece_channels = largest_rotation;

NumberLayout numbers_of(RowFormat format) noexcept {
  using Number = NumberLayout::Number;
  const Number number = format == RowFormat::f32 ? Number::f32 : format == RowFormat::bf16 ? Number::bf16 : Number::f16;
  return {static_cast<uint32_t>(row_unit_bytes(format)), number, 1};
}

// Of `channels`.
int64_t bytes_of(RowFormat format, int64_t channels) noexcept { return channels / row_unit_columns(format) * row_unit_bytes(format); }

// The first channel of the first element or block of [n] that is not finite; `n` if there is none.
int64_t first_non_finite(RowFormat format, const uint8_t* at, int64_t n) noexcept {
  const NumberLayout layout = numbers_of(format);
  const int64_t columns = row_unit_columns(format);
  for (int64_t i = 0; i < n; i += piece_channels) {
    const int64_t end = std::min(i + piece_channels, n);
    if (all_finite(at + bytes_of(format, i), static_cast<uint64_t>(bytes_of(format, end - i)), layout)) continue;
    while (all_finite(at + bytes_of(format, i), layout.block_bytes, layout)) i += columns;
    return i;
  }
  return n;
}

void read_piece(RowFormat format, const uint8_t* in, int64_t n, float* out) noexcept {
  const Kernels& k = kernels();
  switch (format) {
    case RowFormat::f16:
      return k.rows.from_f16(reinterpret_cast<const uint16_t*>(in), n, out);
    case RowFormat::bf16:
      return k.rows.from_bf16(reinterpret_cast<const uint16_t*>(in), n, out);
    case RowFormat::q8_0:
      return k.blocks.decode_q8_0(in, n / 32, out);
    case RowFormat::q4_0:
      return k.blocks.decode_q4_0(in, n / 32, out);
    default:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  }
}

// The first channel of the first element or block that cannot be stored; `n` if there is none.
int64_t write_piece(RowFormat format, const float* in, int64_t n, uint8_t* out) noexcept {
  const Kernels& k = kernels();
  switch (format) {
    case RowFormat::q8_0:
      return k.blocks.encode_q8_0(in, n / 32, out) * 32;
    case RowFormat::q4_0:
      return k.blocks.encode_q4_0(in, n / 32, out) * 32;
    case RowFormat::f16:
      k.rows.to_f16(in, n, reinterpret_cast<uint16_t*>(out));
      break;
    case RowFormat::bf16:
      k.rows.to_bf16(in, n, reinterpret_cast<uint16_t*>(out));
      break;
    default:
      std::memcpy(out, in, static_cast<size_t>(n) * sizeof(float));
  }
  return first_non_finite(format, out, n);
}

void transform(float* x, int64_t n, int32_t rotation) noexcept {
  const auto hadamard = kernels().tiles.hadamard;
  for (int64_t i = 0; i < n; i += rotation) hadamard(x + i, rotation);
}

Status refuse(const CacheRows& to, int64_t channel) {
  return Status::fail(Code::non_finite, "row " + std::to_string(channel / to.channels) +
                                            " holds NaN, an infinity or a number too large for " + std::string(row_format_name(to.format)));
}

}  // namespace

Status check_rows(const CacheRows& rows) {
  const auto refuse = [](std::string why) { return Status::fail(Code::invalid_argument, std::move(why)); };
  if (rows.format > RowFormat::q4_0) return refuse("no cache has rows of " + std::string(row_format_name(rows.format)));
  if (rows.channels < 1 || rows.channels % row_unit_columns(rows.format) != 0)
    return refuse("rows of " + std::string(row_format_name(rows.format)) + " cannot have " + std::to_string(rows.channels) + " channels");
  if (rows.rotation == 0) return {};
  if (rows.rotation < 0 || rows.rotation > largest_rotation || !std::has_single_bit(static_cast<uint32_t>(rows.rotation)) ||
      rows.channels % rows.rotation != 0)
    return refuse("rotations of " + std::to_string(rows.rotation) + " channels do not divide rows of " + std::to_string(rows.channels));
  return {};
}

void decode(const CacheRows& from, const uint8_t* rows, int64_t count, float* out) noexcept {
  const int64_t all = count * from.channels;
  for (int64_t i = 0; i < all; i += piece_channels) {
    const int64_t n = std::min(piece_channels, all - i);
    read_piece(from.format, rows + bytes_of(from.format, i), n, out + i);
    if (from.rotation != 0) transform(out + i, n, from.rotation);
  }
}

Status encode(const CacheRows& to, const float* in, int64_t count, uint8_t* out) {
  const int64_t all = count * to.channels;
  alignas(64) float piece[piece_channels];
  for (int64_t i = 0; i < all; i += piece_channels) {
    const int64_t n = std::min(piece_channels, all - i);
    const float* from = in + i;
    if (to.rotation != 0) {
      std::copy_n(from, n, piece);
      transform(piece, n, to.rotation);
      from = piece;
    }
    if (const int64_t bad = write_piece(to.format, from, n, out + bytes_of(to.format, i)); bad < n) return refuse(to, i + bad);
  }
  return {};
}

Status transcode(const CacheRows& from, const CacheRows& to, const uint8_t* rows, int64_t count, uint8_t* out) {
  const int64_t all = count * from.channels;
  if (from == to) {
    std::memcpy(out, rows, static_cast<size_t>(count * from.row_bytes()));
    return {};
  }
  const bool same_rotation = from.rotation == to.rotation;
  alignas(64) float piece[piece_channels];
  for (int64_t i = 0; i < all; i += piece_channels) {
    const int64_t n = std::min(piece_channels, all - i);
    read_piece(from.format, rows + bytes_of(from.format, i), n, piece);
    if (!same_rotation && from.rotation != 0) transform(piece, n, from.rotation);
    if (!same_rotation && to.rotation != 0) transform(piece, n, to.rotation);
    if (const int64_t bad = write_piece(to.format, piece, n, out + bytes_of(to.format, i)); bad < n) return refuse(to, i + bad);
  }
  return {};
}

int64_t first_non_finite_row(const CacheRows& kind, const uint8_t* rows, int64_t count) noexcept {
  return first_non_finite(kind.format, rows, count * kind.channels) / kind.channels;
}

}  // namespace latentwire
