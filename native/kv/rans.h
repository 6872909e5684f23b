// Entropy coding by range asymmetric numeral systems (rANS, Duda 2013) with frequencies that both sides know: symbols of tables that change
// along the way, in 32 bits of state, 16 bits a step. What is decoded has the size that the caller asked for, whatever the bytes are.
#pragma once

#include <cstdint>
#include <vector>

namespace latentwire {

// Of one kind of symbol. Frequencies sum up to 4096; a symbol of frequency f takes 12 - log2 f bits.
class SymbolTable {
 public:
  static constexpr int frequency_bits = 12;
  static constexpr uint32_t total = 1U << frequency_bits;
  static constexpr int64_t most_symbols = 255;

  // False, and the table is of no use, unless there are 1 to `most_symbols` frequencies, none of them 0, that sum up to `total`.
  bool assign(std::vector<uint16_t> frequencies);

  const std::vector<uint16_t>& frequencies() const noexcept { return frequencies_; }
  int64_t symbols() const noexcept { return static_cast<int64_t>(frequencies_.size()); }
  uint32_t frequency(uint32_t symbol) const noexcept { return frequencies_[symbol]; }
  uint32_t start(uint32_t symbol) const noexcept { return starts_[symbol]; }
  uint8_t symbol_at(uint32_t slot) const noexcept { return slots_[slot]; }

 private:
  std::vector<uint16_t> frequencies_;
  std::vector<uint16_t> starts_;
  std::vector<uint8_t> slots_;  // [total]
};

// Frequencies from counts, each at least 1: rounded, with what rounding leaves taken from or given to the largest.
std::vector<uint16_t> frequencies_of(const std::vector<int64_t>& counts);

// The most bytes that so many symbols take.
constexpr int64_t most_rans_bytes(int64_t symbols) noexcept { return symbols * 13 / 8 + 8; }

// The last symbol goes in first, so that the first comes out first.
class RansEncoder {
 public:
  void put(const SymbolTable& table, uint32_t symbol);
  // Into most_rans_bytes of all symbols; how many bytes it took.
  int64_t finish(uint8_t* out) const;

 private:
  uint32_t state_ = 1U << 16;
  std::vector<uint16_t> words_;
};

class RansDecoder {
 public:
  RansDecoder(const uint8_t* bytes, int64_t size);
  // Some symbol of the table when the bytes have run out.
  uint32_t get(const SymbolTable& table) noexcept;
  // Whether all bytes were used, none were missing, and the state is that of a beginning encoder: bytes that no encoder wrote seldom get
  // here.
  bool ended() const noexcept { return sound_ && at_ == end_ && state_ == 1U << 16; }

 private:
  uint32_t state_ = 1U << 16;
  const uint8_t* at_;
  const uint8_t* end_;
  bool sound_ = true;
};

}  // namespace latentwire
