#include "kv/writer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

namespace latentwire {
namespace {

void put(uint8_t** at, const void* value, size_t bytes) {
  if (bytes > 0) std::memcpy(*at, value, bytes);
  *at += bytes;
}
template <typename T>
void put(uint8_t** at, T value) {
  put(at, &value, sizeof value);
}

// The header of a record, at `out`, for a payload with this digest.
void put_header(uint32_t kind, uint32_t flags, uint32_t first, uint32_t part, const uint8_t* payload, size_t bytes, uint8_t* out) {
  const Digest128 digest = digest_of(payload, bytes);
  uint8_t* at = out;
  put(&at, kind);
  put(&at, flags);
  put(&at, first);
  put(&at, part);
  put(&at, static_cast<uint64_t>(bytes));
  put(&at, digest.low);
  put(&at, digest.high);
  put(&at, wire::check_of(out, sealed_bytes));
}

}  // namespace

KvWriter::KvWriter(std::shared_ptr<const KvContent> content, KvManifest manifest, bool sealed, int64_t entries, PartCodecs codecs)
    : content_(std::move(content)), segments_(content_->segments), entries_(entries), codecs_(std::move(codecs)) {
  for (const KvSegment& segment : segments_) rows_here_ += segment.count;
  manifest.layout = content_->layout;
  manifest.entries = static_cast<uint64_t>(entries);
  manifest.codecs.clear();
  manifest.part_codecs.clear();
  for (const auto& codec : codecs_) {
    uint32_t number = 0;
    if (codec != nullptr) {
      const auto found = std::find(manifest.codecs.begin(), manifest.codecs.end(), codec->name());
      number = static_cast<uint32_t>(found - manifest.codecs.begin()) + 1;
      if (found == manifest.codecs.end()) manifest.codecs.push_back(codec->name());
    }
    manifest.part_codecs.push_back(number);
  }
  if (manifest.codecs.empty()) {
    manifest.part_codecs.clear();
    codecs_.clear();
  }
  manifest_ = write_manifest(manifest);
  leaves_.resize(static_cast<size_t>(records() - 1));
  if (sealed) sealed_leaves_.resize(leaves_.size());
  count_latents();
}

Status KvWriter::append(const KvContent& next) {
  if (next.size() > entries_ - content_->size()) {
    return Status::fail(Code::kv_limit,
                        std::to_string(content_->size() + next.size()) + " entries, but " + std::to_string(entries_) + " were announced");
  }
  auto joined = std::make_shared<KvContent>();
  if (Status status = content_->concat(next, joined.get()); !status.ok()) return status;
  content_ = std::move(joined);
  segments_ = content_->segments;
  rows_here_ = content_->size();
  count_latents();
  return {};
}

Status KvWriter::append(KvPiece next) {
  const int64_t begin = rows_here_;
  const int64_t end = begin + next.rows.count;
  const size_t parts = content_->layout.parts.size();
  if (next.first != begin || begin == end || begin % chunk_entries != 0 || (end % chunk_entries != 0 && end != entries_) ||
      end > content_->size())
    return Status::fail(Code::invalid_argument, "a piece must follow the one before it, and end where a chunk does");
  if (next.rows.parts.size() != parts || (!next.tiles.empty() && next.tiles.size() != parts))
    return Status::fail(Code::invalid_argument, "a piece of another layout");
  std::map<int64_t, EncodedTile> provided;
  for (size_t part = 0; part < next.tiles.size(); part++) {
    for (size_t i = 0; i < next.tiles[part].size(); i++) {
      const int64_t chunk = begin / chunk_entries + static_cast<int64_t>(i);
      provided[1 + chunk * records_a_chunk() + 1 + static_cast<int64_t>(part)] = std::move(next.tiles[part][i]);
    }
  }
  segments_.reserve(segments_.size() + 1);
  for (KvSegment& before : segments_) {
    before.owner.reset();
    std::fill(before.parts.begin(), before.parts.end(), nullptr);
  }
  segments_.push_back(std::move(next.rows));
  rows_here_ = end;
  provided_.merge(provided);
  return {};
}

int64_t KvWriter::ready() const noexcept { return rows_here_ == entries_ ? records() : 1 + rows_here_ / chunk_entries * records_a_chunk(); }

void KvWriter::count_latents() {
  const int64_t chunks = content_->size() == entries_ ? chunks_of(entries_) : content_->size() / chunk_entries;
  for (auto chunk = static_cast<int64_t>(latents_.size()) - 1; chunk < chunks; chunk++) {
    const int64_t first = chunk * chunk_entries;
    const int64_t count = std::min(chunk_entries, content_->size() - first);
    latents_.push_back(latents_.back() + wire::latents_in(content_->tokens.data() + first, count));
  }
}

int64_t KvWriter::payload_bytes(int64_t record) const noexcept {
  if (record == 0) return static_cast<int64_t>(manifest_.size());
  if (record == records() - 1) return wire::root_bytes;
  const int64_t chunk = (record - 1) / records_a_chunk();
  const int64_t part = part_of(record);
  const int64_t count = std::min(chunk_entries, entries_ - chunk * chunk_entries);
  if (const KvCodec* codec = codec_of(record)) {
    const auto found = provided_.find(record);
    return found == provided_.end() ? codec->most_bytes(tile_of(record)) : found->second.size;
  }
  if (part >= 0) return count * content_->layout.parts[static_cast<size_t>(part)].row_bytes();
  const auto c = static_cast<size_t>(chunk);
  return count * 8 + (latents_[c + 1] - latents_[c]) * content_->layout.dimension * 4;
}

int64_t KvWriter::part_of(int64_t record) const noexcept {
  return record <= 0 || record >= records() - 1 ? -1 : (record - 1) % records_a_chunk() - 1;
}

const KvCodec* KvWriter::codec_of(int64_t record) const noexcept {
  const int64_t part = part_of(record);
  return part < 0 || codecs_.empty() ? nullptr : codecs_[static_cast<size_t>(part)].get();
}

KvTile KvWriter::tile_of(int64_t record) const noexcept {
  const int64_t part = part_of(record);
  const int64_t first = (record - 1) / records_a_chunk() * chunk_entries;
  const int64_t count = std::min(chunk_entries, entries_ - first);
  return {content_->layout.parts[static_cast<size_t>(part)], part, first, count, entries_, content_->positions.data() + first};
}

std::vector<int64_t> KvWriter::outside_tiles(int64_t from, int64_t to) const {
  std::vector<int64_t> found;
  for (int64_t record = from; record < to; record++) {
    if (const KvCodec* codec = codec_of(record); codec != nullptr && codec->outside()) found.push_back(record);
  }
  return found;
}

Status KvWriter::provide(int64_t record, EncodedTile encoded) {
  const KvCodec* codec = codec_of(record);
  if (codec == nullptr || !codec->outside()) return Status::fail(Code::invalid_argument, "this record is not encoded outside");
  if (encoded.size > codec->most_bytes(tile_of(record)))
    return Status::fail(Code::kv_limit, "the codec '" + codec->name() + "' made a tile of " + std::to_string(encoded.size) +
                                            " bytes, more than a receiver takes");
  provided_[record] = std::move(encoded);
  return {};
}

template <typename Body>
void KvWriter::for_rows(const KvTile& tile, const Body& body) const {
  for_segments(segments_, tile.first, tile.first + tile.count, [&](const KvSegment& segment, int64_t first, int64_t count) {
    const uint8_t* rows = segment.parts[static_cast<size_t>(tile.part)];
    body(rows == nullptr ? nullptr : rows + first * tile.rows.row_bytes(), count);
  });
}

const uint8_t* KvWriter::rows_in_one_piece(const KvTile& tile) const {
  const uint8_t* rows = nullptr;
  int pieces = 0;
  for_rows(tile, [&](const uint8_t* at, int64_t) {
    rows = at;
    pieces++;
  });
  return pieces == 1 ? rows : nullptr;
}

Status KvWriter::encode(int64_t record, uint8_t* out, int64_t* written) {
  const KvCodec& codec = *codec_of(record);
  if (const auto found = provided_.find(record); found != provided_.end()) {
    const EncodedTile& encoded = found->second;
    std::copy_n(encoded.bytes.get(), encoded.size, out);
    *written = encoded.size;
    provided_.erase(found);
    return {};
  }
  if (codec.outside()) return Status::fail(Code::invalid_argument, "a tile of the codec '" + codec.name() + "' was not provided");
  const KvTile tile = tile_of(record);
  const uint8_t* rows = rows_in_one_piece(tile);
  std::vector<uint8_t> joined;
  if (rows == nullptr) {
    joined.resize(static_cast<size_t>(tile.count * tile.rows.row_bytes()));
    if (Status status = copy_rows(tile, joined.data()); !status.ok()) return status;
    rows = joined.data();
  }
  if (first_non_finite_row(tile.rows, rows, tile.count) != tile.count)
    return Status::fail(Code::non_finite, "keys or values of layer " + std::to_string(tile.part / 2) + " hold NaN or an infinity");
  return codec.encode(tile, rows, out, written);
}

int64_t KvWriter::record_bytes(int64_t record) const noexcept {
  return static_cast<int64_t>(record_header_bytes + (record == 0 ? preamble_bytes : 0)) + payload_bytes(record);
}

Status KvWriter::write_payload(int64_t record, uint8_t* out) const {
  uint8_t* at = out;
  if (record == 0) {
    put(&at, manifest_.data(), manifest_.size());
  } else if (record == records() - 1) {
    const Digest128 top = root_of(leaves_);
    put(&at, top.low);
    put(&at, top.high);
  } else if (part_of(record) >= 0) {
    return copy_rows(tile_of(record), out);
  } else {
    const int64_t chunk = (record - 1) / records_a_chunk();
    const int64_t first = chunk * chunk_entries;
    const auto numbers = static_cast<size_t>((std::min(first + chunk_entries, entries_) - first) * 4);
    put(&at, content_->tokens.data() + first, numbers);
    put(&at, content_->positions.data() + first, numbers);
    const auto c = static_cast<size_t>(chunk);
    const int64_t d = content_->layout.dimension;
    put(&at, content_->rows.data() + latents_[c] * d, static_cast<size_t>((latents_[c + 1] - latents_[c]) * d * 4));
  }
  return {};
}

Status KvWriter::copy_rows(const KvTile& tile, uint8_t* out) const {
  Status status;
  for_rows(tile, [&](const uint8_t* rows, int64_t count) {
    if (rows == nullptr)
      status = Status::fail(Code::invalid_argument, "the rows of a tile were let go before it was written");
    else
      put(&out, rows, static_cast<size_t>(count * tile.rows.row_bytes()));
  });
  return status;
}

void KvWriter::write_header(int64_t record, const uint8_t* payload, int64_t bytes, uint8_t* out) {
  const bool is_root = record == records() - 1;
  const int64_t within = record == 0 || is_root ? -1 : (record - 1) % records_a_chunk();
  const int64_t first = within < 0 ? 0 : (record - 1) / records_a_chunk() * chunk_entries;
  const int64_t part = within < 0 ? 0 : within == 0 ? std::min(chunk_entries, entries_ - first) : within - 1;
  const uint32_t kind = record == 0 ? wire::head_kind : is_root ? wire::root_kind : within == 0 ? wire::entries_kind : wire::tile_kind;
  const auto size = static_cast<size_t>(bytes);
  const bool encoded = record == 0 ? !codecs_.empty() : codec_of(record) != nullptr;
  put_header(kind, encoded ? wire::with_codecs : wire::must_understand, static_cast<uint32_t>(first), static_cast<uint32_t>(part), payload,
             size, out);
  if (is_root) return;
  const auto leaf = static_cast<size_t>(record);
  leaves_[leaf] = digest_of(out, sealed_bytes);
  if (!sealed_leaves_.empty()) sealed_leaves_[leaf] = wire::sealed_leaf_of(out, payload, size);
}

Blake3Digest KvWriter::seal() const { return wire::seal_of(sealed_leaves_); }

std::vector<uint8_t> signature_record(const std::vector<uint8_t>& signature) {
  std::vector<uint8_t> record(record_header_bytes + signature.size());
  put_header(wire::sign_kind, 0, 0, 0, signature.data(), signature.size(), record.data());
  uint8_t* at = record.data() + record_header_bytes;
  put(&at, signature.data(), signature.size());
  return record;
}

Status KvWriter::write(int64_t record, uint8_t* out, int64_t* written) {
  uint8_t* header = out;
  if (record == 0) {
    uint8_t* at = out;
    put(&at, wire::magic);
    put(&at, wire_major);
    put(&at, wire_minor);
    put(&at, wire::check_of(out, 8));
    header += preamble_bytes;
  }
  uint8_t* payload = header + record_header_bytes;
  int64_t bytes = payload_bytes(record);
  Status status = codec_of(record) == nullptr ? write_payload(record, payload) : encode(record, payload, &bytes);
  if (!status.ok()) return status;
  write_header(record, payload, bytes, header);
  *written = payload - out + bytes;
  return {};
}

Status KvWriter::pass_over(int64_t record) {
  int64_t bytes = payload_bytes(record);
  const bool has_rows = part_of(record) >= 0 && codec_of(record) == nullptr;
  const uint8_t* payload = has_rows ? rows_in_one_piece(tile_of(record)) : nullptr;
  std::vector<uint8_t> copy;
  if (payload == nullptr) {
    copy.resize(static_cast<size_t>(bytes));
    payload = copy.data();
    Status status = codec_of(record) == nullptr ? write_payload(record, copy.data()) : encode(record, copy.data(), &bytes);
    if (!status.ok()) return status;
  }
  uint8_t header[record_header_bytes];
  write_header(record, payload, bytes, header);
  return {};
}

}  // namespace latentwire
