// The stream of records: what goes in comes out in pieces of any size, and whatever is cut, flipped, forged or foreign is refused by its
// name. The numbers in the titles are those of the conformance list of KV transfer.
#include <doctest/doctest.h>

#include <fstream>
#include <iterator>
#include <limits>

#include "kv_support.h"

namespace latentwire {
namespace {

using namespace test;

Status feed_all(KvReader* reader, const std::vector<uint8_t>& bytes, size_t piece) {
  for (size_t at = 0; at < bytes.size(); at += piece) {
    // a copy of its own size, so that a sanitizer sees a read past the end
    const std::vector<uint8_t> copy(bytes.begin() + static_cast<ptrdiff_t>(at),
                                    bytes.begin() + static_cast<ptrdiff_t>(std::min(bytes.size(), at + piece)));
    if (Status status = reader->feed(copy.data(), copy.size()); !status.ok()) return status;
  }
  return {};
}

void check_same(const KvContent& a, const KvContent& b) {
  CHECK(a.layout == b.layout);
  CHECK(a.tokens == b.tokens);
  CHECK(a.positions == b.positions);
  CHECK(a.rows == b.rows);
  for (int64_t part = 0; part < static_cast<int64_t>(a.layout.parts.size()); part++) CHECK(rows_of(a, part) == rows_of(b, part));
}

// A record of ours with a header that says what it should not; seals it again.
std::vector<uint8_t> resealed(std::vector<uint8_t> bytes, size_t at) {
  const uint64_t check = digest_of(bytes.data() + at, 40).low;
  std::memcpy(bytes.data() + at + 40, &check, sizeof check);
  return bytes;
}
template <typename T>
std::vector<uint8_t> with(std::vector<uint8_t> bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

Code code_of(const std::vector<uint8_t>& bytes, const CacheLayout& layout, int64_t max_entries = 2048) {
  KvReader reader(expectation_of(layout, max_entries));
  if (Status status = feed_all(&reader, bytes, bytes.size() + 1); !status.ok()) return status.code;
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  return reader.finish(&content, &manifest).code;
}

}  // namespace

TEST_CASE("1. content comes back bit for bit, in pieces of any size, from segments of any cut") {
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0}) {
    for (const int64_t n : {0, 1, 5, 255, 256, 257, 600}) {
      const KvContent whole = content_of(layout_of(2, format), n);
      KvContent cut = whole;
      if (n > 4) REQUIRE(whole.slice(0, 3).concat(whole.slice(3, n), &cut).ok());
      const std::vector<uint8_t> bytes = stream_of(cut);
      CHECK(bytes == stream_of(whole));
      for (const size_t piece : {size_t{13}, size_t{4096}, bytes.size()}) {
        KvReader reader(expectation_of(whole.layout));
        REQUIRE(feed_all(&reader, bytes, piece).ok());
        CHECK(reader.done());
        std::shared_ptr<const KvContent> content;
        KvManifest manifest;
        REQUIRE(reader.finish(&content, &manifest).ok());
        check_same(*content, whole);
        CHECK(manifest == manifest_of(whole.layout, n));
      }
    }
  }
}

TEST_CASE("2. a stream cut at any byte is truncated, and nothing comes of it") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16, 32), 5);
  const std::vector<uint8_t> bytes = stream_of(whole);
  for (size_t size = 0; size < bytes.size(); size++) {
    const std::vector<uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(size));
    CHECK(code_of(cut, whole.layout) == Code::kv_truncated);
  }
  CHECK(code_of(bytes, whole.layout) == Code::ok);
}

TEST_CASE("3. every single bit that is flipped, in headers, tables and rows, is a checksum error") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16, 32), 6);
  const std::vector<uint8_t> bytes = stream_of(whole);
  for (size_t bit = 0; bit < bytes.size() * 8; bit++) {
    std::vector<uint8_t> flipped = bytes;
    flipped[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    CHECK(code_of(flipped, whole.layout) == Code::kv_checksum);
  }
}

TEST_CASE("4. bytes after the end are refused") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16), 3);
  std::vector<uint8_t> bytes = stream_of(whole);
  bytes.push_back(0);
  CHECK(code_of(bytes, whole.layout) == Code::kv_format);
}

TEST_CASE("5. another model, and another number of layers or channels") {
  const CacheLayout layout = layout_of(2, RowFormat::f16);
  const std::vector<uint8_t> bytes = stream_of(content_of(layout, 3));
  KvExpectation other = expectation_of(layout);
  other.manifest.identity[1].second = "another";
  KvReader reader(other);
  const Status status = feed_all(&reader, bytes, 100);
  CHECK(status.code == Code::kv_model_mismatch);
  CHECK(status.message.find("weights") != std::string::npos);
  KvExpectation more = expectation_of(layout);
  more.manifest.identity.emplace_back("zeal", "1");
  KvReader asks_more(more);
  CHECK(feed_all(&asks_more, bytes, 100).code == Code::kv_model_mismatch);
  CHECK(code_of(bytes, layout_of(3, RowFormat::f16)) == Code::kv_layout);
  CHECK(code_of(bytes, layout_of(2, RowFormat::f16, 32)) == Code::kv_layout);
  // another format is converted at the import
  CHECK(code_of(bytes, layout_of(2, RowFormat::q8_0)) == Code::ok);
}

TEST_CASE("10. positions outside of any context, and tokens outside of the vocabulary") {
  for (const int32_t position : {-1, INT32_MIN, INT32_MAX}) {
    KvContent content = content_of(layout_of(1, RowFormat::f16), 3);
    content.positions[1] = position;
    CHECK(code_of(stream_of(content), content.layout) == Code::kv_position);
  }
  for (const int32_t token : {-2, 97, INT32_MAX}) {
    KvContent content = content_of(layout_of(1, RowFormat::f16), 3);
    content.tokens[1] = token;
    CHECK(code_of(stream_of(content), content.layout) == Code::kv_format);
  }
  KvContent missing = content_of(layout_of(1, RowFormat::f16), 3);
  missing.rows.assign(4, 1.0F);
  missing.tokens[0] = row_entry;
  CHECK(code_of(stream_of(missing), missing.layout) == Code::ok);
  missing.rows[2] = std::numeric_limits<float>::infinity();
  CHECK(code_of(stream_of(missing), missing.layout) == Code::non_finite);
}

TEST_CASE("11. lengths that no content of this context can have") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16), 300);
  const std::vector<uint8_t> bytes = stream_of(whole);
  CHECK(code_of(bytes, whole.layout, 299) == Code::kv_limit);
  CHECK(code_of(bytes, whole.layout, 300) == Code::ok);
  const size_t manifest = preamble_bytes;
  for (const uint64_t length : {uint64_t{1} << 21, uint64_t{1} << 40, UINT64_MAX})
    CHECK(code_of(resealed(with(bytes, manifest + 16, length), manifest), whole.layout) == Code::kv_limit);
  const size_t entries = manifest + record_header_bytes + write_manifest(manifest_of(whole.layout)).size();
  CHECK(code_of(resealed(with(bytes, entries + 16, uint64_t{1} << 40), entries), whole.layout) == Code::kv_format);
  CHECK(code_of(resealed(with(bytes, entries + 12, uint32_t{257}), entries), whole.layout) == Code::kv_format);
  CHECK(code_of(resealed(with(bytes, entries + 8, uint32_t{1}), entries), whole.layout) == Code::kv_format);
  CHECK(code_of(resealed(with(bytes, entries + 8, uint32_t{1} << 30), entries), whole.layout) == Code::kv_format);
}

TEST_CASE("19. and 20. a lost sender: only the missing records are sent again, and another content is not taken for the rest") {
  const KvContent whole = content_of(layout_of(3, RowFormat::f16), 700);
  KvWriter writer(std::make_shared<const KvContent>(whole), manifest_of(whole.layout));
  const std::vector<uint8_t> bytes = stream_of(whole);
  for (const size_t percent : {0, 1, 25, 50, 75, 99}) {
    KvReader reader(expectation_of(whole.layout));
    const size_t cut = bytes.size() * percent / 100;
    REQUIRE(reader.feed(bytes.data(), cut).ok());
    std::shared_ptr<const KvContent> content;
    KvManifest manifest;
    CHECK(reader.finish(&content, &manifest).code == Code::kv_truncated);
    const std::vector<uint8_t> held = reader.held();
    reader.restart();
    size_t sent = 0;
    for (int64_t i = 0; i < writer.records(); i++) {
      const auto byte = static_cast<size_t>(i / 8);
      const bool has = i > 0 && i + 1 < writer.records() && byte < held.size() && (held[byte] >> (i % 8) & 1) == 1;
      const std::vector<uint8_t> one = record(writer, i);
      if (has) continue;
      sent += one.size();
      REQUIRE(reader.feed(one.data(), one.size()).ok());
    }
    REQUIRE(reader.finish(&content, &manifest).ok());
    check_same(*content, whole);
    // what was whole does not come again: a record at most was lost, besides manifest and root
    CHECK(sent <= bytes.size() - cut + static_cast<size_t>(writer.record_bytes(2)) + 2000);
    // a writer that passes over records makes the same root
    KvWriter passing(std::make_shared<const KvContent>(whole), manifest_of(whole.layout));
    for (int64_t i = 0; i + 1 < passing.records(); i++) REQUIRE(passing.pass_over(i).ok());
    CHECK(record(passing, passing.records() - 1) == record(writer, writer.records() - 1));
  }
  KvReader reader(expectation_of(whole.layout));
  REQUIRE(reader.feed(bytes.data(), bytes.size() / 2).ok());
  reader.restart();
  KvContent other = whole;
  other.tokens[0] = 5;
  const std::vector<uint8_t> foreign = stream_of(other);
  CHECK(reader.feed(foreign.data(), foreign.size()).code == Code::kv_format);
  // and what was held does not stand in the way of it for ever
  reader.restart();
  REQUIRE(reader.feed(foreign.data(), foreign.size()).ok());
  CHECK(reader.done());
  CHECK(reader.feed(foreign.data(), 1).code == Code::kv_format);
  CHECK(!reader.done());
  // whole records may come twice
  reader.restart();
  REQUIRE(reader.feed(foreign.data(), foreign.size() / 2).ok());
  reader.restart();
  CHECK(reader.feed(bytes.data(), bytes.size()).code == Code::kv_format);
  reader.restart();
  REQUIRE(reader.feed(bytes.data(), bytes.size() / 2).ok());
  reader.restart();
  REQUIRE(reader.feed(bytes.data(), bytes.size()).ok());
  CHECK(reader.done());
}

TEST_CASE("30. newer versions: a major one is refused, and so is a record that must be understood; others are passed over") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16), 3);
  const std::vector<uint8_t> bytes = stream_of(whole);
  std::vector<uint8_t> newer = with(bytes, 4, static_cast<uint16_t>(wire_major + 1));
  newer = with(newer, 8, digest_of(newer.data(), 8).low);
  CHECK(code_of(newer, whole.layout) == Code::kv_version);
  newer = with(newer, 4, uint16_t{0});
  newer = with(newer, 8, digest_of(newer.data(), 8).low);
  CHECK(code_of(newer, whole.layout) == Code::kv_version);
  // a flag that this version does not know changes what a record means
  for (const uint32_t flags : {0U, 2U, 4U, 5U, 7U})
    CHECK(code_of(resealed(with(bytes, preamble_bytes + 4, flags), preamble_bytes), whole.layout) == Code::kv_version);
  // and one that it knows is a lie where there are no codecs
  CHECK(code_of(resealed(with(bytes, preamble_bytes + 4, 3U), preamble_bytes), whole.layout) == Code::kv_format);
  std::vector<uint8_t> minor = with(bytes, 6, uint16_t{9});
  minor = with(minor, 8, digest_of(minor.data(), 8).low);
  CHECK(code_of(minor, whole.layout) == Code::ok);
  for (const uint32_t flags : {0U, 1U}) {
    std::vector<uint8_t> extra(record_header_bytes + 100, 7);
    std::memcpy(extra.data(), "NEWS", 4);
    std::memcpy(extra.data() + 4, &flags, 4);
    const uint64_t length = 100;
    std::memcpy(extra.data() + 16, &length, 8);
    extra = resealed(extra, 0);
    std::vector<uint8_t> with_extra = bytes;
    const auto behind = static_cast<ptrdiff_t>(preamble_bytes + record_header_bytes + write_manifest(manifest_of(whole.layout)).size());
    with_extra.insert(with_extra.begin() + behind, extra.begin(), extra.end());
    CHECK(code_of(with_extra, whole.layout) == (flags == 1 ? Code::kv_version : Code::ok));
  }
}

TEST_CASE("records out of place: tiles before their entries, a stream without its manifest, a root over other records") {
  const KvContent whole = content_of(layout_of(1, RowFormat::f16), 300);
  KvWriter writer(std::make_shared<const KvContent>(whole), manifest_of(whole.layout));
  std::vector<std::vector<uint8_t>> records;
  for (int64_t i = 0; i < writer.records(); i++) records.push_back(record(writer, i));
  const auto joined = [&](std::vector<size_t> order) {
    std::vector<uint8_t> bytes;
    for (const size_t i : order) bytes.insert(bytes.end(), records[i].begin(), records[i].end());
    return bytes;
  };
  REQUIRE(records.size() == 8);
  CHECK(code_of(joined({0, 1, 2, 3, 4, 5, 6, 7}), whole.layout) == Code::ok);
  CHECK(code_of(joined({0, 4, 6, 5, 1, 3, 2, 7}), whole.layout) == Code::ok);
  CHECK(code_of(joined({0, 2, 1, 3, 4, 5, 6, 7}), whole.layout) == Code::kv_format);
  CHECK(code_of(joined({0, 1, 2, 3, 4, 5, 7}), whole.layout) == Code::kv_truncated);
  CHECK(code_of(joined({0, 1, 2, 3, 7}), whole.layout) == Code::kv_truncated);
  CHECK(code_of(joined({0, 4, 5, 6, 7}), whole.layout) == Code::kv_truncated);
  // a tile belongs to a chunk from its first entry on
  std::vector<uint8_t> shifted = joined({0, 1, 2, 3, 4});
  const size_t at = shifted.size();
  shifted.insert(shifted.end(), records[5].begin(), records[5].end());
  CHECK(code_of(resealed(with(shifted, at + 8, uint32_t{257}), at), whole.layout) == Code::kv_format);
  // the preamble is a part of the first record here
  std::vector<uint8_t> headless(records[0].begin(), records[0].begin() + preamble_bytes);
  headless.insert(headless.end(), records[1].begin(), records[1].end());
  CHECK(code_of(headless, whole.layout) == Code::kv_format);
  KvContent other = whole;
  other.tokens[0] = 5;
  KvWriter foreign(std::make_shared<const KvContent>(other), manifest_of(whole.layout));
  for (int64_t i = 0; i + 1 < foreign.records(); i++) record(foreign, i);
  records[7] = record(foreign, 7);
  CHECK(code_of(joined({0, 1, 2, 3, 4, 5, 6, 7}), whole.layout) == Code::kv_checksum);
}

TEST_CASE("a content that is still growing is written to the same bytes, and what is not whole yet is not ready") {
  for (const int64_t entries : {int64_t{1}, int64_t{256}, int64_t{257}, int64_t{700}, int64_t{1024}}) {
    const KvContent whole = content_of(layout_of(2, RowFormat::f16), entries);
    const std::vector<uint8_t> wanted = stream_of(whole);
    for (const int64_t step : {int64_t{1}, int64_t{255}, int64_t{256}, int64_t{600}}) {
      KvWriter writer(std::make_shared<const KvContent>(whole.slice(0, 0)), manifest_of(whole.layout), false, entries);
      CHECK(writer.ready() == 1);
      std::vector<uint8_t> bytes;
      int64_t next = 0;
      const auto write_ready = [&] {
        for (; next < writer.ready(); next++) {
          const std::vector<uint8_t> one = record(writer, next);
          bytes.insert(bytes.end(), one.begin(), one.end());
        }
      };
      for (int64_t at = 0; at < entries; at += step) {
        write_ready();
        CHECK(next == 1 + at / chunk_entries * 5);
        REQUIRE(writer.append(whole.slice(at, std::min(at + step, entries))).ok());
      }
      CHECK(writer.append(whole.slice(0, 1)).code == Code::kv_limit);
      write_ready();
      CHECK(next == writer.records());
      CHECK(bytes == wanted);
    }
  }
  const KvContent f16 = content_of(layout_of(2, RowFormat::f16), 10);
  KvWriter writer(std::make_shared<const KvContent>(f16), manifest_of(f16.layout), false, 20);
  CHECK(writer.append(content_of(layout_of(2, RowFormat::q8_0), 10)).code == Code::kv_layout);
  CHECK(writer.ready() == 1);
  CHECK(writer.append(f16).ok());
}

TEST_CASE("a seal covers every record, and a signature over it goes along without changing the content") {
  const KvContent whole = content_of(layout_of(2, RowFormat::q8_0), 300);
  const auto content = std::make_shared<const KvContent>(whole);
  KvWriter writer(content, manifest_of(whole.layout), true, whole.size());
  std::vector<std::vector<uint8_t>> records;
  for (int64_t i = 0; i < writer.records(); i++) records.push_back(record(writer, i));
  const std::vector<uint8_t> signature(64, 9);
  const std::vector<uint8_t> signed_by = signature_record(signature);
  const auto stream_with = [&](const std::vector<std::vector<uint8_t>>& extras) {
    std::vector<uint8_t> bytes;
    for (size_t i = 0; i < records.size(); i++) {
      if (i + 1 == records.size()) {
        for (const auto& extra : extras) bytes.insert(bytes.end(), extra.begin(), extra.end());
      }
      bytes.insert(bytes.end(), records[i].begin(), records[i].end());
    }
    return bytes;
  };
  const std::vector<uint8_t> bytes = stream_with({signed_by});
  for (const size_t piece : {size_t{7}, bytes.size()}) {
    KvReader reader(expectation_of(whole.layout, 2048, true));
    REQUIRE(feed_all(&reader, bytes, piece).ok());
    REQUIRE(reader.done());
    CHECK(reader.seal() == writer.seal());
    CHECK(reader.signature() == signature);
  }
  // who does not look at signatures reads the same
  CHECK(code_of(bytes, whole.layout) == Code::ok);
  CHECK(stream_with({}) == stream_of(whole));
  // what was passed over, and what had come before a break, is a part of it
  KvWriter passing(content, manifest_of(whole.layout), true, whole.size());
  for (int64_t i = 0; i + 1 < passing.records(); i++) REQUIRE(passing.pass_over(i).ok());
  CHECK(passing.seal() == writer.seal());
  KvReader broken(expectation_of(whole.layout, 2048, true));
  REQUIRE(broken.feed(bytes.data(), bytes.size() / 2).ok());
  broken.restart();
  REQUIRE(broken.feed(bytes.data(), bytes.size()).ok());
  CHECK(broken.seal() == writer.seal());
  CHECK(broken.signature() == signature);
  // any change of the content is another seal
  KvContent other = whole;
  other.positions[299]++;
  KvWriter foreign(std::make_shared<const KvContent>(other), manifest_of(whole.layout), true, whole.size());
  for (int64_t i = 0; i + 1 < foreign.records(); i++) REQUIRE(foreign.pass_over(i).ok());
  CHECK(foreign.seal() != writer.seal());
  CHECK(code_of(stream_with({signed_by, signed_by}), whole.layout) == Code::kv_format);
  CHECK(code_of(stream_with({signature_record(std::vector<uint8_t>(max_signature_bytes))}), whole.layout) == Code::ok);
  CHECK(code_of(stream_with({signature_record(std::vector<uint8_t>(max_signature_bytes + 1))}), whole.layout) == Code::kv_limit);
  CHECK(code_of(stream_with({signature_record({})}), whole.layout) == Code::kv_limit);
  for (const size_t field : {size_t{4}, size_t{8}, size_t{12}})
    CHECK(code_of(stream_with({resealed(with(signed_by, field, uint32_t{2}), 0)}), whole.layout) == Code::kv_format);
  std::vector<uint8_t> early(bytes.begin(), bytes.begin() + preamble_bytes);
  early.insert(early.end(), signed_by.begin(), signed_by.end());
  CHECK(code_of(early, whole.layout) == Code::kv_format);
  // a source that fails behind the root: what has come is kept, and the next stream may leave it out
  KvReader late(expectation_of(whole.layout, 2048, true));
  REQUIRE(late.feed(bytes.data(), bytes.size()).ok());
  late.restart();
  CHECK(!late.done());
  REQUIRE(late.feed(records.front().data(), records.front().size()).ok());
  REQUIRE(late.feed(records.back().data(), records.back().size()).ok());
  CHECK(late.done());
  CHECK(late.signature().empty());
  CHECK(late.seal() == writer.seal());
}

TEST_CASE("some layers go under their numbers, which an older reader must not pass over") {
  CacheLayout all = layout_of(5, RowFormat::f16);
  all.parts[6].channels = 32;  // the keys of layer 3
  const KvContent whole = content_of(all, 300);
  KvContent some;
  REQUIRE(whole.select({1, 3}, &some).ok());
  CHECK(some.layout.numbers == std::vector<int32_t>{1, 3});
  for (const int64_t part : {0, 1, 2, 3}) CHECK(rows_of(some, part) == rows_of(whole, part < 2 ? part + 2 : part + 4));
  KvContent same;
  REQUIRE(whole.select({0, 1, 2, 3, 4}, &same).ok());
  CHECK(same.layout == whole.layout);
  KvContent fewer;
  REQUIRE(some.select({3}, &fewer).ok());
  CHECK(fewer.layout.numbers == std::vector<int32_t>{3});
  for (const std::vector<int32_t>& wrong : {std::vector<int32_t>{5}, {-1}, {2, 1}, {1, 1}})
    CHECK(whole.select(wrong, &same).code == Code::kv_layout);
  CHECK(some.select({2}, &same).code == Code::kv_layout);
  CHECK(some.concat(fewer, &same).code == Code::kv_layout);

  const std::vector<uint8_t> bytes = stream_of(some);
  KvReader reader(expectation_of(all));
  REQUIRE(feed_all(&reader, bytes, 4096).ok());
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  REQUIRE(reader.finish(&content, &manifest).ok());
  check_same(*content, some);
  const Status refused = require_all_layers(content->layout, 5);
  CHECK(refused.code == Code::kv_layout);
  CHECK(refused.message.find("0, 2, 4") != std::string::npos);
  CHECK(require_all_layers(whole.layout, 5).ok());

  // the kind is not that of whole content
  const std::vector<uint8_t> head = write_manifest(manifest_of(some.layout, 300));
  CHECK(head.front() == 2);
  CHECK(write_manifest(manifest_of(whole.layout, 300)).front() == 1);
  KvManifest read;
  for (size_t size = 0; size < head.size(); size++) {
    const std::vector<uint8_t> cut(head.begin(), head.begin() + static_cast<ptrdiff_t>(size));
    CHECK(read_manifest(cut.data(), cut.size(), &read).code == Code::kv_truncated);
  }
  constexpr size_t numbers = 4 + 8 + 12 + 4;
  const auto code_with = [&](size_t at, uint32_t value) {
    const std::vector<uint8_t> changed = with(head, at, value);
    const Status status = read_manifest(changed.data(), changed.size(), &read);
    return status.ok() ? check_manifest(read, manifest_of(all)).code : status.code;
  };
  CHECK(code_with(numbers, 1) == Code::ok);
  CHECK(code_with(numbers, 0) == Code::ok);
  CHECK(code_with(numbers, 3) == Code::kv_format);
  CHECK(code_with(numbers + 4, 0) == Code::kv_format);
  CHECK(code_with(numbers + 4, 0xffffffffU) == Code::kv_format);
  CHECK(code_with(numbers + 4, 5) == Code::kv_layout);
  CHECK(code_with(numbers + 4, 4) == Code::kv_layout);  // whose keys have more channels
  CHECK(code_with(0, 3) == Code::kv_version);
  // all layers under their numbers are no content of some
  KvManifest spelt = manifest_of(all);
  spelt.layout.numbers = {0, 1, 2, 3, 4};
  CHECK(check_manifest(spelt, manifest_of(all)).code == Code::kv_layout);
}

TEST_CASE("the format does not change: a stream of version 1, byte by byte") {
  CacheLayout layout = layout_of(2, RowFormat::f16, 32);
  layout.parts[1] = {RowFormat::q8_0, 32, 32};
  layout.parts[2].format = RowFormat::bf16;
  layout.parts[3] = {RowFormat::q4_0, 64, 0};
  const std::vector<uint8_t> bytes = stream_of(content_of(layout, 7, 3));
  std::ifstream file(std::string(LATENTWIRE_SOURCE_DIR) + "/test/fuzz/corpus/kv_stream/version-1", std::ios::binary);
  const std::vector<uint8_t> golden{std::istreambuf_iterator<char>(file), {}};
  CHECK(bytes == golden);
}

}  // namespace latentwire
