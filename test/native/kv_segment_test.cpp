// Content in memory that processes share: whole and unchangeable there, refused here if anything is not as it was said.
#include "kv/segment.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "kv/llama_state.h"
#include "kv_support.h"
#if defined(__linux__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace latentwire {
namespace {

using namespace test;

constexpr SegmentNonce nonce = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};

#if defined(__linux__)

std::shared_ptr<const SealedMemory> shared(const KvContent& content) {
  std::shared_ptr<const SealedMemory> memory;
  REQUIRE(share_content(content, manifest_of(content.layout), nonce, nullptr, &memory).ok());
  return memory;
}

Code open_code(const SealedName& name, const KvExpectation& expected, const SegmentNonce& drawn = nonce) {
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  return open_content(name, drawn, expected, &content, &manifest).code;
}

std::string path_of(const SealedName& name) { return "/proc/self/fd/" + std::to_string(name.descriptor); }

// The bytes of a segment, to be spoilt.
std::shared_ptr<uint8_t> bytes_of(const SealedMemory& memory) {
  std::shared_ptr<uint8_t> bytes(new uint8_t[memory.name().bytes], std::default_delete<uint8_t[]>());
  REQUIRE(::pread(static_cast<int>(memory.name().descriptor), bytes.get(), memory.name().bytes, 0) ==
          static_cast<ssize_t>(memory.name().bytes));
  return bytes;
}

Code read_code(const std::shared_ptr<const uint8_t>& bytes, size_t size, const KvExpectation& expected) {
  std::shared_ptr<const KvContent> content;
  KvManifest manifest;
  return read_segment(bytes, size, nonce, expected, &content, &manifest).code;
}

#endif

}  // namespace

#if defined(__linux__)

TEST_CASE("a segment holds what the content held, as llama.cpp reads it, and longer than whoever shared it") {
  for (const RowFormat format : {RowFormat::f32, RowFormat::f16, RowFormat::bf16, RowFormat::q8_0, RowFormat::q4_0}) {
    for (const int64_t n : {0, 1, 5, 257}) {
      const CacheLayout layout = layout_of(3, format, 64, format == RowFormat::q8_0 ? 32 : 0);
      const KvContent whole = content_of(layout, n, 7);
      KvContent sent = whole;
      // of several pieces
      if (n > 3) REQUIRE(whole.slice(0, 3).concat(whole.slice(3, n), &sent).ok());
      auto memory = shared(sent);
      std::shared_ptr<const KvContent> content;
      KvManifest manifest;
      REQUIRE(open_content(memory->name(), nonce, expectation_of(layout), &content, &manifest).ok());
      memory.reset();
      CHECK(manifest == manifest_of(layout, n));
      CHECK(content->tokens == whole.tokens);
      CHECK(content->positions == whole.positions);
      CHECK(content->rows == whole.rows);
      CHECK(content->layout == layout);
      for (int64_t part = 0; part < 6; part++) CHECK(rows_of(*content, part) == rows_of(whole, part));
      CHECK(require_finite(*content, nullptr).ok());
      // rows of 2 bytes lie at even addresses
      for (const uint8_t* part : content->segments.front().parts) CHECK(reinterpret_cast<uintptr_t>(part) % 2 == 0);
      // the state is one that the strict reader takes
      StateGeometry geometry;
      geometry.max_cells = 2048;
      if (n > 0) {
        REQUIRE(learn_geometry(content->state.bytes.get(), content->state.size, n, &geometry).ok());
        geometry.max_cells = 2048;
        StateSummary summary;
        CHECK(inspect_state(content->state.bytes.get(), content->state.size, geometry, &summary).ok());
        CHECK(summary.positions.front() == whole.positions);
      }
    }
  }
}

TEST_CASE("23. sealed memory can be changed by nobody, not even by whoever made it") {
  const CacheLayout layout = layout_of(1, RowFormat::f16);
  const auto memory = shared(content_of(layout, 9));
  const SealedName& name = memory->name();
  const int own = static_cast<int>(name.descriptor);
  const uint8_t byte = 1;
  const auto refused = [&](int descriptor) {
    CHECK(::pwrite(descriptor, &byte, 1, 0) == -1);
    CHECK(errno == EPERM);
    CHECK(::ftruncate(descriptor, 0) == -1);
    CHECK(::ftruncate(descriptor, static_cast<off_t>(name.bytes) + 1) == -1);
    CHECK(::fallocate(descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 4096) == -1);
    CHECK(::mmap(nullptr, name.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0) == MAP_FAILED);
  };
  refused(own);
  const int again = ::open(path_of(name).c_str(), O_RDWR | O_CLOEXEC);
  if (again >= 0) {
    refused(again);
    ::close(again);
  }
  CHECK(open_code(name, expectation_of(layout)) == Code::ok);
}

TEST_CASE("memory that is not what was meant is not mapped") {
  const CacheLayout layout = layout_of(1, RowFormat::f16);
  const KvExpectation expected = expectation_of(layout);
  auto memory = shared(content_of(layout, 9));
  const SealedName name = memory->name();
  CHECK(open_code(name, expected) == Code::ok);
  const auto with = [&](auto change) {
    SealedName other = name;
    change(&other);
    return open_code(other, expected);
  };
  CHECK(with([](SealedName* n) { n->inode++; }) == Code::kv_unreachable);
  CHECK(with([](SealedName* n) { n->device++; }) == Code::kv_unreachable);
  CHECK(with([](SealedName* n) { n->bytes++; }) == Code::kv_unreachable);
  CHECK(with([](SealedName* n) { n->bytes = 0; }) == Code::kv_unreachable);
  CHECK(with([](SealedName* n) { n->bytes = uint64_t{1} << 50; }) == Code::kv_limit);
  CHECK(with([](SealedName* n) { n->descriptor = 1'000'000; }) == Code::kv_unreachable);
  CHECK(with([](SealedName* n) { n->process = INT32_MAX; }) == Code::kv_unreachable);
  SegmentNonce other = nonce;
  other[15] ^= 1;
  CHECK(open_code(name, expected, other) == Code::kv_unreachable);

  // everything right but the seals, and things that are no memory
  const auto bytes = bytes_of(*memory);
  const auto named = [&](int descriptor) {
    struct stat facts {};
    REQUIRE(::fstat(descriptor, &facts) == 0);
    return SealedName{::getpid(), descriptor, facts.st_dev, facts.st_ino, static_cast<uint64_t>(facts.st_size)};
  };
  constexpr int all[] = {F_SEAL_WRITE, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_SEAL};
  for (const int missing : all) {
    const int open_memory = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    REQUIRE(::pwrite(open_memory, bytes.get(), name.bytes, 0) == static_cast<ssize_t>(name.bytes));
    CHECK(open_code(named(open_memory), expected) == Code::kv_unreachable);
    for (const int seal : all) {
      if (seal != missing) REQUIRE(::fcntl(open_memory, F_ADD_SEALS, seal) == 0);
    }
    CHECK(open_code(named(open_memory), expected) == Code::kv_unreachable);
    if (::fcntl(open_memory, F_ADD_SEALS, missing) == 0) CHECK(open_code(named(open_memory), expected) == Code::ok);
    ::close(open_memory);
  }
  char path[] = "/tmp/latentwire-segment-XXXXXX";
  const int file = ::mkstemp(path);
  REQUIRE(::pwrite(file, bytes.get(), name.bytes, 0) == static_cast<ssize_t>(name.bytes));
  CHECK(open_code(named(file), expected) == Code::kv_unreachable);
  ::close(file);
  ::unlink(path);
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  SealedName pipe = named(ends[0]);
  pipe.bytes = name.bytes;
  CHECK(open_code(pipe, expected) == Code::kv_unreachable);
  ::close(ends[0]);
  ::close(ends[1]);

  memory.reset();
  CHECK(open_code(name, expected) == Code::kv_unreachable);
}

TEST_CASE("a segment of another model, or with more than the context, is refused") {
  const CacheLayout layout = layout_of(2, RowFormat::f16);
  const auto memory = shared(content_of(layout, 40));
  const SealedName& name = memory->name();
  KvExpectation expected = expectation_of(layout);
  CHECK(open_code(name, expected) == Code::ok);
  expected.max_entries = 39;
  CHECK(open_code(name, expected) == Code::kv_limit);
  expected = expectation_of(layout);
  expected.vocabulary = 20;
  CHECK(open_code(name, expected) == Code::kv_format);
  expected = expectation_of(layout);
  expected.manifest.identity.back().second = "another";
  CHECK(open_code(name, expected) == Code::kv_model_mismatch);
  CHECK(open_code(name, expectation_of(layout_of(3, RowFormat::f16))) == Code::kv_layout);
  // another format is no other content
  CHECK(open_code(name, expectation_of(layout_of(2, RowFormat::q8_0))) == Code::ok);
}

TEST_CASE("2. and 3. a segment that is cut off, goes on, or has any bit changed outside of its rows is refused or means something sound") {
  const CacheLayout layout = layout_of(2, RowFormat::f16, 32);
  const KvContent sent = content_of(layout, 11);
  const auto memory = shared(sent);
  const KvExpectation expected = expectation_of(layout);
  const size_t size = memory->name().bytes;
  const auto whole = bytes_of(*memory);
  REQUIRE(read_code(whole, size, expected) == Code::ok);
  for (size_t cut = 0; cut < size; cut++) {
    // in memory of just that size, so that a sanitizer sees a look behind its end
    std::shared_ptr<uint8_t> part(new uint8_t[cut], std::default_delete<uint8_t[]>());
    std::copy(whole.get(), whole.get() + cut, part.get());
    CHECK(read_code(part, cut, expected) == Code::kv_truncated);
    if (cut < 32) continue;
    // and says of itself that this is all
    const uint64_t says = cut;
    std::memcpy(part.get() + 24, &says, sizeof says);
    CHECK(read_code(part, cut, expected) != Code::ok);
  }
  std::shared_ptr<uint8_t> longer(new uint8_t[size + 1](), std::default_delete<uint8_t[]>());
  std::copy(whole.get(), whole.get() + size, longer.get());
  CHECK(read_code(longer, size + 1, expected) == Code::kv_format);
  for (size_t bit = 0; bit < 8 * size; bit++) {
    whole.get()[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
    std::shared_ptr<const KvContent> content;
    KvManifest manifest;
    if (read_segment(whole, size, nonce, expected, &content, &manifest).ok()) {
      // the notes, a token, a latent, or rows; never another shape, place or owner
      CHECK(content->size() == sent.size());
      StateGeometry geometry;
      geometry.layers = {{1, 64, 1, 64}, {1, 64, 1, 64}};
      geometry.max_cells = 2048;
      CHECK(content->state.size == state_bytes(geometry, 11));
      StateSummary summary;
      CHECK(locate_rows(content->state.bytes.get(), content->state.size, geometry, &summary).ok());
      CHECK(summary.positions.front() == content->positions);
    }
    whole.get()[bit / 8] ^= static_cast<uint8_t>(1 << (bit % 8));
  }
}

TEST_CASE("an operation that was aborted leaves no memory behind") {
  const KvContent content = content_of(layout_of(1, RowFormat::f16), 9);
  const std::atomic<bool> cancelled = true;
  std::shared_ptr<const SealedMemory> memory;
  const int before = ::dup(0);
  ::close(before);
  CHECK(share_content(content, manifest_of(content.layout), nonce, &cancelled, &memory).code == Code::cancelled);
  CHECK(memory == nullptr);
  const int after = ::dup(0);
  ::close(after);
  CHECK(after == before);
}

#else

TEST_CASE("where memory is not shared, that is said") {
  const KvContent content = content_of(layout_of(1, RowFormat::f16), 9);
  std::shared_ptr<const SealedMemory> memory;
  CHECK(share_content(content, manifest_of(content.layout), nonce, nullptr, &memory).code == Code::kv_unreachable);
  std::shared_ptr<const uint8_t> bytes;
  CHECK(map_sealed({1, 1, 1, 1, 1}, 100, &bytes).code == Code::kv_unreachable);
}

#endif

}  // namespace latentwire
