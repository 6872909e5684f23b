#include "kv/rans.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

namespace latentwire {
namespace {

constexpr uint32_t lowest_state = 1U << 16;
constexpr uint32_t slot_mask = SymbolTable::total - 1;

}  // namespace

bool SymbolTable::assign(std::vector<uint16_t> frequencies) {
  if (frequencies.empty() || frequencies.size() > most_symbols) return false;
  uint32_t sum = 0;
  for (const uint16_t frequency : frequencies) {
    if (frequency == 0) return false;
    sum += frequency;
  }
  if (sum != total) return false;
  frequencies_ = std::move(frequencies);
  starts_.clear();
  slots_.clear();
  for (size_t symbol = 0; symbol < frequencies_.size(); symbol++) {
    starts_.push_back(static_cast<uint16_t>(slots_.size()));
    slots_.insert(slots_.end(), frequencies_[symbol], static_cast<uint8_t>(symbol));
  }
  return true;
}

std::vector<uint16_t> frequencies_of(const std::vector<int64_t>& counts) {
  const int64_t all = std::max<int64_t>(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 1);
  std::vector<uint16_t> frequencies;
  int64_t left = SymbolTable::total;
  for (const int64_t count : counts) {
    frequencies.push_back(static_cast<uint16_t>(std::max<int64_t>(1, (count * SymbolTable::total + all / 2) / all)));
    left -= frequencies.back();
  }
  while (left != 0) {
    uint16_t& largest = *std::max_element(frequencies.begin(), frequencies.end());
    // many symbols of frequency 1 may owe more than one of them has
    const int64_t change = left > 0 ? left : std::max<int64_t>(left, -(largest / 2));
    largest = static_cast<uint16_t>(largest + change);
    left -= change;
  }
  return frequencies;
}

void RansEncoder::put(const SymbolTable& table, uint32_t symbol) {
  const uint32_t frequency = table.frequency(symbol);
  const uint64_t limit = uint64_t{frequency} << (32 - SymbolTable::frequency_bits);
  if (state_ >= limit) {
    words_.push_back(static_cast<uint16_t>(state_));
    state_ >>= 16;
  }
  state_ = (state_ / frequency << SymbolTable::frequency_bits) + state_ % frequency + table.start(symbol);
}

int64_t RansEncoder::finish(uint8_t* out) const {
  std::memcpy(out, &state_, sizeof state_);
  uint8_t* at = out + sizeof state_;
  for (auto word = words_.rbegin(); word != words_.rend(); ++word, at += sizeof *word) std::memcpy(at, &*word, sizeof *word);
  return at - out;
}

RansDecoder::RansDecoder(const uint8_t* bytes, int64_t size) : at_(bytes), end_(bytes + size) {
  sound_ = size >= static_cast<int64_t>(sizeof state_);
  if (!sound_) return;
  std::memcpy(&state_, bytes, sizeof state_);
  at_ += sizeof state_;
  sound_ = state_ >= lowest_state;
}

uint32_t RansDecoder::get(const SymbolTable& table) noexcept {
  const uint32_t slot = state_ & slot_mask;
  const uint32_t symbol = table.symbol_at(slot);
  state_ = table.frequency(symbol) * (state_ >> SymbolTable::frequency_bits) + slot - table.start(symbol);
  if (state_ < lowest_state) {
    uint16_t word = 0;
    if (end_ - at_ >= 2) {
      std::memcpy(&word, at_, sizeof word);
      at_ += sizeof word;
    } else {
      sound_ = false;
    }
    state_ = state_ << 16 | word;
  }
  return symbol;
}

}  // namespace latentwire
