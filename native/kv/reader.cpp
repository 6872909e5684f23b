#include "kv/reader.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "kv/bytes.h"

namespace latentwire {
namespace {

Status no_manifest() { return Status::fail(Code::kv_format, "the stream does not begin with its manifest"); }

}  // namespace

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
  if (wire::latents_in(tokens.data(), static_cast<int64_t>(tokens.size())) * dimension != static_cast<int64_t>(rows.size()))
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
  return expected_.sealed ? wire::sealed_leaf_of(sealed_header_, payload, bytes) : Blake3Digest{};
}

Blake3Digest KvReader::seal() const {
  std::vector<Blake3Digest> leaves{sealed_manifest_leaf_};
  for (const Chunk& chunk : chunks_) leaves.insert(leaves.end(), chunk.sealed_leaves.begin(), chunk.sealed_leaves.end());
  return wire::seal_of(leaves);
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
      target_ = std::copy_n(piece, count, target_);
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
    case wire::head_kind:
      return take_manifest();
    case wire::entries_kind:
      return take_entries();
    case wire::tile_kind:
      return take_encoded();
    case wire::sign_kind:
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
  if (check != wire::check_of(gathered_.data(), 8))
    return Status::fail(Code::kv_checksum, "not a KV stream, or its first bytes are damaged");
  if (first != wire::magic) return Status::fail(Code::kv_format, "not a KV stream");
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
  if (check != wire::check_of(gathered_.data(), sealed_bytes)) return Status::fail(Code::kv_checksum, "the header of a record is damaged");
  leaf_ = digest_of(gathered_.data(), sealed_bytes);
  std::memcpy(sealed_header_, gathered_.data(), sealed_bytes);
  const bool known = header_.kind == wire::head_kind || header_.kind == wire::entries_kind || header_.kind == wire::tile_kind ||
                     header_.kind == wire::root_kind;
  const bool may_encode = header_.kind == wire::head_kind || header_.kind == wire::tile_kind;
  if (known ? header_.flags != wire::must_understand && !(may_encode && header_.flags == wire::with_codecs)
            : (header_.flags & wire::must_understand) != 0)
    return Status::fail(Code::kv_version, "a record that a newer version must have written");
  if (header_.kind == wire::sign_kind) {
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
  if (header_.kind == wire::tile_kind) return begin_tile();
  if (header_.kind == wire::entries_kind) return begin_entries();
  if (header_.first != 0 || header_.part != 0) return Status::fail(Code::kv_format, "a manifest or root with a place");
  if (header_.kind == wire::head_kind) {
    if (header_.bytes > max_manifest_bytes)
      return Status::fail(Code::kv_limit, "a manifest of " + std::to_string(header_.bytes) + " bytes");
  } else {
    if (!manifest_known_) return no_manifest();
    if (header_.bytes != wire::root_bytes) return Status::fail(Code::kv_format, "a root of " + std::to_string(header_.bytes) + " bytes");
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
  if (manifest.codecs.empty() != (header_.flags == wire::must_understand))
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
  if ((codec != nullptr) != (header_.flags == wire::with_codecs))
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
