#include "kv/kvtc.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/product.h"
#include "kernels/table.h"
#include "kv/bytes.h"

namespace latentwire {
namespace {

constexpr uint32_t magic = 0x4354574c;  // "LWTC"
constexpr uint16_t major_version = 1;
constexpr uint16_t minor_version = 0;
constexpr size_t digest_bytes = sizeof(Blake3Digest);
constexpr size_t named_bytes = 16;  // of the digest, in the name
constexpr uint32_t no_rope = 0;
constexpr double largest_step = 1e30;

Blake3Digest blake3_of(const uint8_t* bytes, size_t size) { return blake3({reinterpret_cast<const std::byte*>(bytes), size}); }

std::string hex(const uint8_t* bytes, size_t size) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (size_t i = 0; i < size; i++) {
    text += digits[bytes[i] >> 4];
    text += digits[bytes[i] & 15];
  }
  return text;
}

bool whole_group(int64_t components, bool last) noexcept {
  return components == kvtc_group_components || (last && components > 0 && components < kvtc_group_components);
}

Status cut_off() { return Status::fail(Code::kv_truncated, "the file of the codec is cut off"); }
Status malformed(std::string why) { return Status::fail(Code::kv_format, "not a sound file of a codec: " + std::move(why)); }

std::vector<uint8_t> write_model(const KvtcModel& model) {
  ByteWriter writer;
  writer.put(magic);
  writer.put(major_version);
  writer.put(minor_version);
  write_fields(model.identity, &writer);
  writer.put(static_cast<uint32_t>(model.key_head));
  writer.put(static_cast<uint32_t>(model.ropes.size()));
  std::vector<const Rope*> distinct;
  std::vector<uint32_t> numbers;
  for (const auto& rope : model.ropes) {
    if (rope == nullptr) {
      numbers.push_back(no_rope);
      continue;
    }
    const auto found = std::find_if(distinct.begin(), distinct.end(), [&](const Rope* one) { return *one == *rope; });
    numbers.push_back(static_cast<uint32_t>(found - distinct.begin()) + 1);
    if (found == distinct.end()) distinct.push_back(rope.get());
  }
  writer.put(static_cast<uint32_t>(distinct.size()));
  for (const Rope* rope : distinct) {
    writer.put(static_cast<uint32_t>(rope->pairs == Rope::Pairs::norm));
    writer.put(static_cast<uint32_t>(rope->head_dim));
    writer.put(static_cast<uint32_t>(rope->rotated));
    writer.put_all(rope->frequencies);
  }
  writer.put_all(numbers);
  for (const KvtcPart& part : model.parts) {
    writer.put(static_cast<uint32_t>(part.channels));
    writer.put(static_cast<uint32_t>(part.groups.size()));
    for (const KvtcGroup& group : part.groups) {
      writer.put(static_cast<uint32_t>(group.components));
      writer.put(group.step);
      writer.put(static_cast<uint32_t>(group.table.symbols()));
      writer.put_all(group.table.frequencies());
    }
    writer.put_all(part.mean);
    writer.put_all(part.basis);
  }
  std::vector<uint8_t> bytes = writer.take();
  const Blake3Digest digest = blake3_of(bytes.data(), bytes.size());
  bytes.resize(bytes.size() + digest_bytes);
  std::memcpy(bytes.data() + bytes.size() - digest_bytes, digest.data(), digest_bytes);
  return bytes;
}

Status read_ropes(ByteReader* reader, uint32_t layers, KvtcModel* model) {
  uint32_t count = 0;
  if (!reader->read(&count)) return cut_off();
  if (count > layers) return malformed("more rotations than layers");
  std::vector<std::shared_ptr<const Rope>> distinct;
  for (uint32_t i = 0; i < count; i++) {
    uint32_t norm = 0;
    uint32_t head = 0;
    uint32_t rotated = 0;
    if (!reader->read(&norm) || !reader->read(&head) || !reader->read(&rotated)) return cut_off();
    if (norm > 1 || head == 0 || head > max_channels || rotated < 2 || rotated > head || rotated % 2 != 0)
      return malformed("a rotation of " + std::to_string(rotated) + " of " + std::to_string(head) + " channels");
    auto rope = std::make_shared<Rope>();
    rope->pairs = norm == 1 ? Rope::Pairs::norm : Rope::Pairs::neox;
    rope->head_dim = static_cast<int32_t>(head);
    rope->rotated = static_cast<int32_t>(rotated);
    if (!reader->read_all(rotated / 2, &rope->frequencies)) return cut_off();
    distinct.push_back(std::move(rope));
  }
  std::vector<uint32_t> numbers;
  if (!reader->read_all(layers, &numbers)) return cut_off();
  for (const uint32_t number : numbers) {
    if (number > count) return malformed("a layer with a rotation that is not there");
    model->ropes.push_back(number == no_rope ? nullptr : distinct[number - 1]);
  }
  return {};
}

Status read_part(ByteReader* reader, KvtcPart* part) {
  uint32_t channels = 0;
  uint32_t groups = 0;
  if (!reader->read(&channels) || !reader->read(&groups)) return cut_off();
  if (channels == 0 || channels > max_channels || groups > channels)
    return malformed("a part of " + std::to_string(channels) + " channels");
  part->channels = static_cast<int32_t>(channels);
  uint64_t rank = 0;
  for (uint32_t i = 0; i < groups; i++) {
    KvtcGroup group;
    uint32_t components = 0;
    uint32_t symbols = 0;
    std::vector<uint16_t> frequencies;
    if (!reader->read(&components) || !reader->read(&group.step) || !reader->read(&symbols)) return cut_off();
    rank += components;
    if (components == 0 || rank > channels) return malformed("more components than channels");
    // a table is larger than its frequencies, so a file must not have more of them than its components are worth
    if (!whole_group(components, i + 1 == groups)) return malformed("a group of " + std::to_string(components) + " components");
    if (symbols > SymbolTable::most_symbols) return malformed("too many symbols");
    if (!reader->read_all(symbols, &frequencies)) return cut_off();
    if (!group.table.assign(std::move(frequencies))) return malformed("frequencies that are none");
    group.components = static_cast<int32_t>(components);
    part->groups.push_back(std::move(group));
  }
  if (!reader->read_all(channels, &part->mean) || !reader->read_all(rank * channels, &part->basis)) return cut_off();
  return {};
}

}  // namespace

int64_t KvtcPart::rank() const noexcept {
  int64_t sum = 0;
  for (const KvtcGroup& group : groups) sum += group.components;
  return sum;
}

void turn_keys(const Rope* rope, const int32_t* positions, bool back, float* numbers, int64_t count, int64_t channels) {
  if (rope == nullptr) return;
  std::vector<int32_t> shifts(positions, positions + count);
  if (back) std::transform(shifts.begin(), shifts.end(), shifts.begin(), [](int32_t position) { return -position; });
  rotate(*rope, shifts.data(), numbers, count, channels / rope->head_dim);
}

Status Kvtc::make(KvtcModel model, std::shared_ptr<const Kvtc>* out) {
  const auto refuse = [](const char* why) { return Status::fail(Code::invalid_argument, std::string("the fit of a codec ") + why); };
  if (model.parts.empty() || model.parts.size() != 2 * model.ropes.size() || model.ropes.size() > max_layers)
    return refuse("has another number of parts than its layers");
  if (model.key_head < 1) return refuse("has no heads");
  auto made = std::make_shared<Kvtc>();
  for (size_t i = 0; i < model.parts.size(); i++) {
    const KvtcPart& part = model.parts[i];
    const Rope* rope = i % 2 == 0 ? model.ropes[i / 2].get() : nullptr;
    const auto channels = static_cast<size_t>(part.channels);
    const auto rank = static_cast<size_t>(part.rank());
    if (rope != nullptr && (part.channels % rope->head_dim != 0 || rope->frequencies.size() * 2 != static_cast<size_t>(rope->rotated) ||
                            !std::all_of(rope->frequencies.begin(), rope->frequencies.end(), [](double f) { return std::isfinite(f); })))
      return refuse("has a rotation that does not fit its keys");
    if (part.channels < 1 || part.mean.size() != channels || part.basis.size() != rank * channels || rank > channels)
      return refuse("has a part of the wrong size");
    if (!std::all_of(part.mean.begin(), part.mean.end(), [](float x) { return std::isfinite(x); }))
      return refuse("has a mean that is not finite");
    for (const KvtcGroup& group : part.groups) {
      if (!whole_group(group.components, &group == &part.groups.back())) return refuse("has a group of the wrong size");
      if (!(group.step > 0) || static_cast<double>(group.step) > largest_step || group.table.symbols() % 2 == 0)
        return refuse("has a group without a step or a middle");
    }
    Maps& maps = made->maps_.emplace_back();
    if (rank == 0) continue;
    const PackedMatrix::Source source{Dtype::f16, part.basis.data(), static_cast<int64_t>(rank), part.channels, part.channels, 1};
    if (Status status = PackedMatrix::pack(source, Dtype::f32, {}, &maps.to); !status.ok()) return status;
    if (Status status = PackedMatrix::pack(source.transposed(), Dtype::f32, {}, &maps.from); !status.ok()) return status;
  }
  made->file_ = write_model(model);
  made->name_ = "kvtc-" + hex(made->file_.data() + made->file_.size() - digest_bytes, named_bytes);
  made->model_ = std::move(model);
  *out = std::move(made);
  return {};
}

Status Kvtc::read(const uint8_t* bytes, size_t size, std::shared_ptr<const Kvtc>* out) {
  if (size < 8 + digest_bytes) return cut_off();
  const size_t body = size - digest_bytes;
  ByteReader reader(bytes, body);
  uint32_t first = 0;
  uint16_t major = 0;
  uint16_t minor = 0;
  reader.read(&first);
  reader.read(&major);
  reader.read(&minor);
  if (first != magic) return malformed("it begins with something else");
  if (major != major_version || minor != minor_version)
    return Status::fail(Code::kv_version, "a codec's file of version " + std::to_string(major) + "." + std::to_string(minor) +
                                              "; this package reads version 1.0");
  const Blake3Digest digest = blake3_of(bytes, body);
  if (std::memcmp(digest.data(), bytes + body, digest_bytes) != 0)
    return Status::fail(Code::kv_checksum, "the file of the codec does not match its digest: it was damaged, or cut off");
  KvtcModel model;
  if (Status status = read_fields(&reader, &model.identity); !status.ok()) return status;
  uint32_t head = 0;
  uint32_t layers = 0;
  if (!reader.read(&head) || !reader.read(&layers)) return cut_off();
  if (head == 0 || head > max_channels || layers == 0 || layers > max_layers)
    return Status::fail(Code::kv_limit,
                        "a codec for " + std::to_string(layers) + " layers with heads of " + std::to_string(head) + " channels");
  model.key_head = static_cast<int32_t>(head);
  if (Status status = read_ropes(&reader, layers, &model); !status.ok()) return status;
  model.parts.resize(2 * size_t{layers});
  for (KvtcPart& part : model.parts) {
    if (Status status = read_part(&reader, &part); !status.ok()) return status;
  }
  if (reader.left() != 0) return malformed("bytes behind its end");
  std::shared_ptr<const Kvtc> made;
  Status status = make(std::move(model), &made);
  if (status.code == Code::invalid_argument || status.code == Code::non_finite) return malformed(status.message);
  if (!status.ok()) return status;
  // one way to write each fit, so that a name is that of one file
  if (made->file_.size() != size || std::memcmp(made->file_.data(), bytes, size) != 0) return malformed("it is written differently");
  *out = std::move(made);
  return {};
}

size_t Kvtc::bytes() const noexcept {
  size_t sum = file_.size();
  for (const Maps& maps : maps_) {
    if (maps.to != nullptr) sum += maps.to->bytes() + maps.from->bytes();
  }
  for (const KvtcPart& part : model_.parts) sum += part.mean.size() * sizeof(float) + part.basis.size() * sizeof(uint16_t);
  return sum;
}

Status Kvtc::fits(const CacheLayout& layout, int64_t part) const {
  const auto p = static_cast<size_t>(part);
  if (layout.parts.size() != model_.parts.size() || layout.key_head != model_.key_head ||
      layout.parts[p].channels != model_.parts[p].channels)
    return Status::fail(Code::invalid_argument, "the codec '" + name_ + "' was fitted to a cache of another shape");
  return {};
}

int64_t Kvtc::most_inner_bytes(const KvTile& tile) const {
  return most_rans_bytes(tile.count * model_.parts[static_cast<size_t>(tile.part)].rank());
}

Status Kvtc::encode_inner(const KvTile& tile, float* numbers, uint8_t* out, int64_t* written) const {
  const auto p = static_cast<size_t>(tile.part);
  const KvtcPart& part = model_.parts[p];
  const int64_t rank = part.rank();
  turn_keys(rope_of(tile), tile.positions, true, numbers, tile.count, part.channels);
  std::vector<float> coordinates(static_cast<size_t>(tile.count * rank));
  if (rank > 0) {
    RowTreatment centred;
    centred.shift = part.mean.data();
    Status status = multiply({Dtype::f32, numbers, tile.count, part.channels, 0}, centred, *maps_[p].to, false, [&](const ProductTile& t) {
      for (int64_t i = 0; i < t.rows; i++)
        std::copy_n(t.values + i * t.stride, t.columns, coordinates.data() + (t.row + i) * rank + t.column);
    });
    if (!status.ok()) return status;
  }
  RansEncoder encoder;
  int64_t behind = rank;
  for (auto group = part.groups.rbegin(); group != part.groups.rend(); ++group) {
    const auto half = static_cast<float>(group->half());
    const float inverse = 1 / group->step;
    for (int64_t i = tile.count - 1; i >= 0; i--) {
      for (int64_t k = behind - 1; k >= behind - group->components; k--) {
        const float code = std::nearbyint(coordinates[static_cast<size_t>(i * rank + k)] * inverse);
        // numbers beyond f32 on the way here may have become NaN
        encoder.put(group->table, static_cast<uint32_t>((code > -half ? std::min(code, half) : -half) + half));
      }
    }
    behind -= group->components;
  }
  *written = encoder.finish(out);
  return {};
}

Status Kvtc::decode_inner(const KvTile& tile, const uint8_t* bytes, int64_t size, float* numbers) const {
  const auto p = static_cast<size_t>(tile.part);
  const KvtcPart& part = model_.parts[p];
  const int64_t rank = part.rank();
  std::vector<float> coordinates(static_cast<size_t>(tile.count * rank));
  RansDecoder decoder(bytes, size);
  int64_t before = 0;
  for (const KvtcGroup& group : part.groups) {
    const int32_t half = group.half();
    for (int64_t i = 0; i < tile.count; i++) {
      float* row = coordinates.data() + i * rank + before;
      for (int64_t k = 0; k < group.components; k++)
        row[k] = static_cast<float>(static_cast<int32_t>(decoder.get(group.table)) - half) * group.step;
    }
    before += group.components;
  }
  if (!decoder.ended()) return unsound_tile(tile, "no encoder has written");
  for (int64_t i = 0; i < tile.count; i++) std::copy(part.mean.begin(), part.mean.end(), numbers + i * part.channels);
  if (rank > 0) {
    Status status = multiply({Dtype::f32, coordinates.data(), tile.count, rank, 0}, {}, *maps_[p].from, false, [&](const ProductTile& t) {
      for (int64_t i = 0; i < t.rows; i++) {
        float* row = numbers + (t.row + i) * part.channels + t.column;
        kernels().rows.add(row, t.values + i * t.stride, t.columns, row);
      }
    });
    if (status.code == Code::non_finite) return unsound_tile(tile, "holds numbers too large");
    if (!status.ok()) return status;
  }
  turn_keys(rope_of(tile), tile.positions, false, numbers, tile.count, part.channels);
  return {};
}

}  // namespace latentwire
