#include "kv/wire.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kv/bytes.h"

namespace latentwire {
namespace {

constexpr uint32_t kind_of(const char (&name)[5]) noexcept {
  return static_cast<uint32_t>(name[0]) | static_cast<uint32_t>(name[1]) << 8 | static_cast<uint32_t>(name[2]) << 16 |
         static_cast<uint32_t>(name[3]) << 24;
}
constexpr uint32_t magic = kind_of("LWKV");
constexpr uint32_t head = kind_of("HEAD");
constexpr uint32_t entries_kind = kind_of("ENTR");
constexpr uint32_t tile_kind = kind_of("TILE");
constexpr uint32_t sign = kind_of("SIGN");
constexpr uint32_t root = kind_of("ROOT");
constexpr uint32_t must_understand = 1;
constexpr uint32_t with_codecs = 3;  // and there are codecs
constexpr size_t root_bytes = 16;

uint64_t check_of(const uint8_t* bytes, size_t size) { return digest_of(bytes, size).low; }

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
  put(&at, check_of(out, sealed_bytes));
}

Blake3Digest blake3_of(const void* bytes, size_t size) { return blake3({static_cast<const std::byte*>(bytes), size}); }

Blake3Digest sealed_leaf_of(const uint8_t* header, const uint8_t* payload, size_t bytes) {
  const Blake3Digest digest = blake3_of(payload, bytes);
  uint8_t both[sealed_bytes + sizeof digest];
  std::memcpy(both, header, sealed_bytes);
  std::memcpy(both + sealed_bytes, digest.data(), sizeof digest);
  return blake3_of(both, sizeof both);
}

Blake3Digest seal_of(const std::vector<Blake3Digest>& leaves) { return blake3_of(leaves.data(), leaves.size() * sizeof(Blake3Digest)); }

Status no_manifest() { return Status::fail(Code::kv_format, "the stream does not begin with its manifest"); }

int64_t latents_in(const int32_t* tokens, int64_t count) { return std::count(tokens, tokens + count, row_entry); }

}  // namespace

Digest128 root_of(std::vector<Digest128> leaves) {
  if (leaves.empty()) return {};
  while (leaves.size() > 1) {
    size_t parents = 0;
    for (size_t i = 0; i < leaves.size(); i += 2) {
      const bool alone = i + 1 == leaves.size();
      const uint64_t children[4] = {leaves[i].low, leaves[i].high, alone ? 0 : leaves[i + 1].low, alone ? 0 : leaves[i + 1].high};
      leaves[parents++] = alone ? leaves[i] : digest_of(children, sizeof children);
    }
    leaves.resize(parents);
  }
  return leaves.front();
}

// ------------------------------------------------------------------------------------------------------------------------------ writing

Status check_codecs(const PartCodecs& codecs, const CacheLayout& layout) {
  if (!codecs.empty() && codecs.size() != layout.parts.size())
    return Status::fail(Code::invalid_argument, "another number of codecs than keys and values of layers");
  for (size_t part = 0; part < codecs.size(); part++) {
    if (codecs[part] == nullptr) continue;
    // codecs that were fitted know parts by their places in the model
    if (!layout.numbers.empty()) return Status::fail(Code::invalid_argument, "content of some layers only travels without a codec");
    if (Status status = codecs[part]->fits(layout, static_cast<int64_t>(part)); !status.ok()) return status;
  }
  return {};
}

KvWriter::KvWriter(std::shared_ptr<const KvContent> content, KvManifest manifest, bool sealed, int64_t entries, PartCodecs codecs)
    : content_(std::move(content)), segments_(content_->segments), entries_(entries), codecs_(std::move(codecs)) {
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
  count_latents();
  return {};
}

Status KvWriter::append(KvPiece next) {
  const int64_t begin = rows_here();
  const int64_t end = begin + next.rows.count;
  if (begin == end || begin % chunk_entries != 0 || (end % chunk_entries != 0 && end != entries_) || end > content_->size())
    return Status::fail(Code::invalid_argument, "a piece must begin and end where chunks do");
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
  provided_.merge(provided);
  return {};
}

int64_t KvWriter::rows_here() const noexcept {
  int64_t count = 0;
  for (const KvSegment& segment : segments_) count += segment.count;
  return count;
}

int64_t KvWriter::ready() const noexcept {
  const int64_t here = rows_here();
  return here == entries_ ? records() : 1 + here / chunk_entries * records_a_chunk();
}

void KvWriter::count_latents() {
  const int64_t chunks = content_->size() == entries_ ? chunks_of(entries_) : content_->size() / chunk_entries;
  for (auto chunk = static_cast<int64_t>(latents_.size()) - 1; chunk < chunks; chunk++) {
    const int64_t first = chunk * chunk_entries;
    const int64_t count = std::min(chunk_entries, content_->size() - first);
    latents_.push_back(latents_.back() + latents_in(content_->tokens.data() + first, count));
  }
}

int64_t KvWriter::payload_bytes(int64_t record) const noexcept {
  if (record == 0) return static_cast<int64_t>(manifest_.size());
  if (record == records() - 1) return root_bytes;
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
  const uint32_t kind = record == 0 ? head : is_root ? root : within == 0 ? entries_kind : tile_kind;
  const auto size = static_cast<size_t>(bytes);
  const bool encoded = record == 0 ? !codecs_.empty() : codec_of(record) != nullptr;
  put_header(kind, encoded ? with_codecs : must_understand, static_cast<uint32_t>(first), static_cast<uint32_t>(part), payload, size, out);
  if (is_root) return;
  const auto leaf = static_cast<size_t>(record);
  leaves_[leaf] = digest_of(out, sealed_bytes);
  if (!sealed_leaves_.empty()) sealed_leaves_[leaf] = sealed_leaf_of(out, payload, size);
}

Blake3Digest KvWriter::seal() const { return seal_of(sealed_leaves_); }

std::vector<uint8_t> signature_record(const std::vector<uint8_t>& signature) {
  std::vector<uint8_t> record(record_header_bytes + signature.size());
  put_header(sign, 0, 0, 0, signature.data(), signature.size(), record.data());
  uint8_t* at = record.data() + record_header_bytes;
  put(&at, signature.data(), signature.size());
  return record;
}

Status KvWriter::write(int64_t record, uint8_t* out, int64_t* written) {
  uint8_t* header = out;
  if (record == 0) {
    uint8_t* at = out;
    put(&at, magic);
    put(&at, wire_major);
    put(&at, wire_minor);
    put(&at, check_of(out, 8));
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

// ------------------------------------------------------------------------------------------------------------------------------ reading

Status check_expected(const KvManifest& sent, const KvExpectation& expected) {
  if (Status status = check_manifest(sent, expected.manifest); !status.ok()) return status;
  if (sent.entries <= static_cast<uint64_t>(expected.max_entries)) return {};
  return Status::fail(Code::kv_limit,
                      std::to_string(sent.entries) + " entries, more than the " + std::to_string(expected.max_entries) + " of the context");
}

Status check_entries(const std::vector<int32_t>& tokens, const std::vector<int32_t>& positions, const std::vector<float>& rows,
                     const KvExpectation& expected) {
  if (std::any_of(tokens.begin(), tokens.end(), [&](int32_t t) { return t < row_entry || t >= expected.vocabulary; }))
    return Status::fail(Code::kv_format, "tokens that the vocabulary lacks");
  if (std::any_of(positions.begin(), positions.end(), [](int32_t p) { return p < 0 || p == INT32_MAX; }))
    return Status::fail(Code::kv_position, "positions outside of any context");
  const int32_t dimension = expected.manifest.layout.dimension;
  const auto count = static_cast<int64_t>(rows.size()) / dimension;
  if (latents_in(tokens.data(), static_cast<int64_t>(tokens.size())) * dimension != static_cast<int64_t>(rows.size()))
    return Status::fail(Code::kv_format, "another number of latents than the entries have");
  if (first_non_finite_row({RowFormat::f32, dimension, 0}, reinterpret_cast<const uint8_t*>(rows.data()), count) != count)
    return Status::fail(Code::non_finite, "a latent holds NaN or an infinity");
  return {};
}

void KvReader::expect(State state, uint64_t bytes) {
  state_ = state;
  wanted_ = bytes;
  gathered_.clear();
}

void KvReader::restart() {
  done_ = false;
  signature_.clear();
  // what nobody could decode comes again
  for (const OutsideTile& one : outside_) {
    chunks_[static_cast<size_t>(one.tile.first / chunk_entries)].parts[static_cast<size_t>(one.tile.part)] = false;
    payload_bytes_ -= static_cast<int64_t>(one.bytes.size());
    tile_bytes_ -= static_cast<int64_t>(one.bytes.size());
  }
  outside_.clear();
  expect(State::preamble, preamble_bytes);
}

Blake3Digest KvReader::sealed_leaf(const uint8_t* payload, size_t bytes) const {
  return expected_.sealed ? sealed_leaf_of(sealed_header_, payload, bytes) : Blake3Digest{};
}

Blake3Digest KvReader::seal() const {
  std::vector<Blake3Digest> leaves{sealed_manifest_leaf_};
  for (const Chunk& chunk : chunks_) leaves.insert(leaves.end(), chunk.sealed_leaves.begin(), chunk.sealed_leaves.end());
  return seal_of(leaves);
}

Status KvReader::feed(const uint8_t* bytes, size_t size) {
  if (state_ == State::failed) return Status::fail(Code::kv_format, "this stream has already failed");
  ByteReader input(bytes, size);
  while (input.left() > 0) {
    if (done_) {
      done_ = false;
      state_ = State::failed;
      return Status::fail(Code::kv_format, "bytes after the end of the stream");
    }
    const uint64_t count = std::min<uint64_t>(wanted_, input.left());
    const uint8_t* piece = input.take(count);
    if (state_ == State::rows) {
      put(&target_, piece, static_cast<size_t>(count));
    } else if (state_ != State::skip) {
      gathered_.insert(gathered_.end(), piece, piece + count);
    }
    wanted_ -= count;
    // a record may be empty, and then nothing has to come for it to be whole
    while (wanted_ == 0 && !done_) {
      Status status;
      switch (state_) {
        case State::preamble:
          status = take_preamble();
          break;
        case State::header:
          status = take_header();
          break;
        case State::payload:
          if (digest_of(gathered_.data(), gathered_.size()) != header_.digest)
            status = Status::fail(Code::kv_checksum, "a record does not match its digest");
          else
            status = take_payload();
          break;
        case State::rows:
          status = end_tile();
          break;
        case State::skip:
          expect(State::header, record_header_bytes);
          break;
        case State::failed:
          break;
      }
      if (!status.ok()) {
        state_ = State::failed;
        return status;
      }
    }
  }
  return {};
}

Status KvReader::take_payload() {
  switch (header_.kind) {
    case head:
      return take_manifest();
    case entries_kind:
      return take_entries();
    case tile_kind:
      return take_encoded();
    case sign:
      signature_ = gathered_;
      expect(State::header, record_header_bytes);
      return {};
    default:
      return take_root();
  }
}

Status KvReader::take_preamble() {
  ByteReader reader(gathered_.data(), gathered_.size());
  uint32_t first = 0;
  uint16_t major = 0;
  uint16_t minor = 0;
  uint64_t check = 0;
  reader.read(&first);
  reader.read(&major);
  reader.read(&minor);
  reader.read(&check);
  if (check != check_of(gathered_.data(), 8)) return Status::fail(Code::kv_checksum, "not a KV stream, or its first bytes are damaged");
  if (first != magic) return Status::fail(Code::kv_format, "not a KV stream");
  if (major != wire_major)
    return Status::fail(Code::kv_version,
                        "a KV stream of version " + std::to_string(major) + "; this package reads version " + std::to_string(wire_major));
  expect(State::header, record_header_bytes);
  return {};
}

Status KvReader::take_header() {
  ByteReader reader(gathered_.data(), gathered_.size());
  uint64_t check = 0;
  reader.read(&header_.kind);
  reader.read(&header_.flags);
  reader.read(&header_.first);
  reader.read(&header_.part);
  reader.read(&header_.bytes);
  reader.read(&header_.digest.low);
  reader.read(&header_.digest.high);
  reader.read(&check);
  if (check != check_of(gathered_.data(), sealed_bytes)) return Status::fail(Code::kv_checksum, "the header of a record is damaged");
  leaf_ = digest_of(gathered_.data(), sealed_bytes);
  std::memcpy(sealed_header_, gathered_.data(), sealed_bytes);
  const bool known = header_.kind == head || header_.kind == entries_kind || header_.kind == tile_kind || header_.kind == root;
  const bool may_encode = header_.kind == head || header_.kind == tile_kind;
  if (known ? header_.flags != must_understand && !(may_encode && header_.flags == with_codecs) : (header_.flags & must_understand) != 0)
    return Status::fail(Code::kv_version, "a record that a newer version must have written");
  if (header_.kind == sign) {
    if (header_.flags != 0 || header_.first != 0 || header_.part != 0)
      return Status::fail(Code::kv_format, "a signature with a place or flags");
    if (!manifest_known_) return no_manifest();
    if (header_.bytes == 0 || header_.bytes > max_signature_bytes)
      return Status::fail(Code::kv_limit, "a signature of " + std::to_string(header_.bytes) + " bytes");
    if (!signature_.empty()) return Status::fail(Code::kv_format, "a second signature");
    expect(State::payload, header_.bytes);
    return {};
  }
  if (!known) {
    expect(State::skip, header_.bytes);
    return {};
  }
  if (header_.kind == tile_kind) return begin_tile();
  if (header_.kind == entries_kind) return begin_entries();
  if (header_.first != 0 || header_.part != 0) return Status::fail(Code::kv_format, "a manifest or root with a place");
  if (header_.kind == head) {
    if (header_.bytes > max_manifest_bytes)
      return Status::fail(Code::kv_limit, "a manifest of " + std::to_string(header_.bytes) + " bytes");
  } else {
    if (!manifest_known_) return no_manifest();
    if (header_.bytes != root_bytes) return Status::fail(Code::kv_format, "a root of " + std::to_string(header_.bytes) + " bytes");
  }
  expect(State::payload, header_.bytes);
  return {};
}

Status KvReader::another_content() {
  // what is held would refuse every other stream for ever
  forget();
  return Status::fail(Code::kv_format, "the stream goes on with another content");
}

void KvReader::forget() {
  manifest_known_ = false;
  chunks_.clear();
  codecs_.clear();
  outside_.clear();
  payload_bytes_ = 0;
  tile_bytes_ = 0;
}

Status KvReader::take_manifest() {
  KvManifest manifest;
  if (manifest_known_) {
    if (leaf_ != manifest_leaf_) return another_content();
  } else {
    if (Status status = read_manifest(gathered_.data(), gathered_.size(), &manifest); !status.ok()) return status;
    if (Status status = check_expected(manifest, expected_); !status.ok()) return status;
    if (Status status = resolve_codecs(manifest); !status.ok()) return status;
    manifest_ = std::move(manifest);
    chunks_.resize((manifest_.entries + chunk_entries - 1) / chunk_entries);
    manifest_leaf_ = leaf_;
    sealed_manifest_leaf_ = sealed_leaf(gathered_.data(), gathered_.size());
    manifest_known_ = true;
  }
  expect(State::header, record_header_bytes);
  return {};
}

Status KvReader::resolve_codecs(const KvManifest& manifest) {
  if (manifest.codecs.empty() != (header_.flags == must_understand))
    return Status::fail(Code::kv_format, "a manifest whose header says something else of its codecs");
  std::vector<std::shared_ptr<const KvCodec>> known;
  for (const std::string& name : manifest.codecs) {
    std::shared_ptr<const KvCodec> codec = built_in_codec(name);
    const auto own = std::find_if(expected_.codecs.begin(), expected_.codecs.end(), [&](const auto& one) { return one->name() == name; });
    if (codec == nullptr && own != expected_.codecs.end()) codec = *own;
    if (codec == nullptr) return Status::fail(Code::kv_codec, "it travels in the codec '" + name + "', which is not known here");
    known.push_back(std::move(codec));
  }
  PartCodecs codecs;
  for (const uint32_t number : manifest.part_codecs) codecs.push_back(number == 0 ? nullptr : known[number - 1]);
  if (Status status = check_codecs(codecs, manifest.layout); !status.ok()) return Status::fail(Code::kv_format, status.message);
  codecs_ = std::move(codecs);
  return {};
}

Status KvReader::begin_entries() {
  if (!manifest_known_) return no_manifest();
  const uint64_t first = header_.first;
  if (first % chunk_entries != 0 || first >= manifest_.entries)
    return Status::fail(Code::kv_format, "a chunk at the entry " + std::to_string(first));
  const uint64_t count = std::min<uint64_t>(chunk_entries, manifest_.entries - first);
  if (header_.part != count) return Status::fail(Code::kv_format, "a chunk of " + std::to_string(header_.part) + " entries");
  const uint64_t latent_bytes = static_cast<uint64_t>(manifest_.layout.dimension) * 4;
  if (header_.bytes < count * 8 || (header_.bytes - count * 8) % latent_bytes != 0 || (header_.bytes - count * 8) / latent_bytes > count)
    return Status::fail(Code::kv_format, "entries of another size than they announce");
  const Chunk& chunk = chunks_[first / chunk_entries];
  if (!chunk.known) {
    expect(State::payload, header_.bytes);
    return {};
  }
  if (chunk.leaves[0] != leaf_) return another_content();
  expect(State::skip, header_.bytes);
  return {};
}

Status KvReader::take_entries() {
  const auto count = static_cast<size_t>(header_.part);
  Chunk chunk;
  ByteReader reader(gathered_.data(), gathered_.size());
  const auto copy = [&](auto* out, size_t n) {
    out->resize(n);
    if (n > 0) std::memcpy(out->data(), reader.take(n * 4), n * 4);
  };
  copy(&chunk.tokens, count);
  copy(&chunk.positions, count);
  copy(&chunk.rows, reader.left() / 4);
  if (Status status = check_entries(chunk.tokens, chunk.positions, chunk.rows, expected_); !status.ok()) return status;
  if (Status status = allocate_segment(manifest_.layout, header_.part, &chunk.segment, &chunk.writable); !status.ok()) return status;
  chunk.parts.resize(manifest_.layout.parts.size());
  chunk.leaves.resize(1 + chunk.parts.size());
  chunk.leaves[0] = leaf_;
  chunk.sealed_leaves.resize(expected_.sealed ? chunk.leaves.size() : 0);
  if (expected_.sealed) chunk.sealed_leaves[0] = sealed_leaf(gathered_.data(), gathered_.size());
  chunk.known = true;
  chunks_[header_.first / chunk_entries] = std::move(chunk);
  payload_bytes_ += static_cast<int64_t>(gathered_.size());
  expect(State::header, record_header_bytes);
  return {};
}

Status KvReader::begin_tile() {
  const size_t index = header_.first / chunk_entries;
  const size_t part = header_.part;
  if (header_.first % chunk_entries != 0 || index >= chunks_.size() || !chunks_[index].known)
    return Status::fail(Code::kv_format, "a tile before the entries that it belongs to");
  Chunk& chunk = chunks_[index];
  if (part >= chunk.parts.size()) return Status::fail(Code::kv_format, "a tile of layer " + std::to_string(part / 2));
  const KvCodec* codec = codecs_.empty() ? nullptr : codecs_[part].get();
  if ((codec != nullptr) != (header_.flags == with_codecs))
    return Status::fail(Code::kv_format, "a tile whose header says something else of its codec than the manifest");
  const int64_t bytes = chunk.segment.count * manifest_.layout.parts[part].row_bytes();
  if (codec != nullptr && header_.bytes > static_cast<uint64_t>(codec->most_bytes(tile_at(header_.first, header_.part))))
    return Status::fail(Code::kv_format, "an encoded tile of " + std::to_string(header_.bytes) + " bytes, more than its codec writes");
  if (codec == nullptr && header_.bytes != static_cast<uint64_t>(bytes))
    return Status::fail(Code::kv_format, "a tile of " + std::to_string(header_.bytes) + " bytes, it must have " + std::to_string(bytes));
  if (chunk.parts[part]) {
    if (chunk.leaves[1 + part] != leaf_) return another_content();
    expect(State::skip, header_.bytes);
    return {};
  }
  if (codec != nullptr) {
    expect(State::payload, header_.bytes);
    return {};
  }
  target_ = chunk.writable[part];
  expect(State::rows, header_.bytes);
  return {};
}

KvTile KvReader::tile_at(int64_t first, int64_t part) const {
  const Chunk& chunk = chunks_[static_cast<size_t>(first / chunk_entries)];
  return {manifest_.layout.parts[static_cast<size_t>(part)],
          part,
          first,
          chunk.segment.count,
          static_cast<int64_t>(manifest_.entries),
          chunk.positions.data()};
}

Status KvReader::end_tile() {
  const uint8_t* rows = chunks_[header_.first / chunk_entries].writable[header_.part];
  if (digest_of(rows, static_cast<size_t>(header_.bytes)) != header_.digest)
    return Status::fail(Code::kv_checksum, "a tile does not match its digest");
  hold_tile(rows);
  return {};
}

void KvReader::hold_tile(const uint8_t* payload) {
  Chunk& chunk = chunks_[header_.first / chunk_entries];
  const size_t part = header_.part;
  chunk.parts[part] = true;
  chunk.leaves[1 + part] = leaf_;
  if (expected_.sealed) chunk.sealed_leaves[1 + part] = sealed_leaf(payload, static_cast<size_t>(header_.bytes));
  payload_bytes_ += static_cast<int64_t>(header_.bytes);
  tile_bytes_ += static_cast<int64_t>(header_.bytes);
  expect(State::header, record_header_bytes);
}

Status KvReader::take_encoded() {
  Chunk& chunk = chunks_[header_.first / chunk_entries];
  const KvCodec& codec = *codecs_[header_.part];
  const KvTile tile = tile_at(header_.first, header_.part);
  if (codec.outside()) {
    outside_.push_back({codec.name(), tile, gathered_});
  } else {
    Status status = codec.decode(tile, gathered_.data(), static_cast<int64_t>(gathered_.size()), chunk.writable[header_.part]);
    if (!status.ok()) return status;
  }
  hold_tile(gathered_.data());
  return {};
}

Status KvReader::take_decoded(const float* numbers, int64_t count) {
  if (outside_.empty()) return Status::fail(Code::invalid_argument, "no tile waits to be decoded");
  const KvTile& tile = outside_.front().tile;
  if (count != tile.numbers())
    return unsound_tile(tile, "became " + std::to_string(count) + " numbers, it must have " + std::to_string(tile.numbers()));
  uint8_t* rows = chunks_[static_cast<size_t>(tile.first / chunk_entries)].writable[static_cast<size_t>(tile.part)];
  if (!encode(tile.rows, numbers, tile.count, rows).ok()) return unsound_tile(tile, "became NaN or numbers too large");
  outside_.pop_front();
  return {};
}

Status KvReader::take_root() {
  std::vector<Digest128> leaves{manifest_leaf_};
  for (const Chunk& chunk : chunks_) {
    const bool whole = chunk.known && std::all_of(chunk.parts.begin(), chunk.parts.end(), [](bool held) { return held; });
    if (!whole) return Status::fail(Code::kv_truncated, "the stream ends without all of its records");
    leaves.insert(leaves.end(), chunk.leaves.begin(), chunk.leaves.end());
  }
  ByteReader reader(gathered_.data(), gathered_.size());
  Digest128 top;
  reader.read(&top.low);
  reader.read(&top.high);
  if (root_of(std::move(leaves)) != top) {
    forget();
    return Status::fail(Code::kv_checksum, "the records are not those that the root was made of");
  }
  done_ = true;
  return {};
}

Status KvReader::finish(std::shared_ptr<const KvContent>* content, KvManifest* manifest) const {
  if (!done_) return Status::fail(Code::kv_truncated, "the stream ended before its root");
  if (!outside_.empty()) return Status::fail(Code::kv_truncated, "a tile was not decoded");
  auto whole = std::make_shared<KvContent>();
  whole->layout = manifest_.layout;
  for (const Chunk& chunk : chunks_) {
    whole->tokens.insert(whole->tokens.end(), chunk.tokens.begin(), chunk.tokens.end());
    whole->positions.insert(whole->positions.end(), chunk.positions.begin(), chunk.positions.end());
    whole->rows.insert(whole->rows.end(), chunk.rows.begin(), chunk.rows.end());
    whole->segments.push_back(chunk.segment);
  }
  *content = std::move(whole);
  *manifest = manifest_;
  return {};
}

std::vector<uint8_t> KvReader::held() const {
  std::vector<bool> records{manifest_known_};
  for (const Chunk& chunk : chunks_) {
    records.push_back(chunk.known);
    records.insert(records.end(), chunk.parts.begin(), chunk.parts.end());
    if (!chunk.known) records.resize(records.size() + manifest_.layout.parts.size());
  }
  // what was not decoded must come again
  const size_t parts = manifest_.layout.parts.size();
  for (const OutsideTile& one : outside_)
    records[2 + static_cast<size_t>(one.tile.first / chunk_entries) * (1 + parts) + static_cast<size_t>(one.tile.part)] = false;
  std::vector<uint8_t> bits((records.size() + 7) / 8);
  for (size_t i = 0; i < records.size(); i++) {
    if (records[i]) bits[i / 8] |= static_cast<uint8_t>(1 << (i % 8));
  }
  return bits;
}

}  // namespace latentwire
