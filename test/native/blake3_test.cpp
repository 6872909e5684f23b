// BLAKE3 against its published test vectors and against the tree and the compression function written down plainly, in every table that
// this processor runs.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "kernels/blake3.h"
#include "kernels/table.h"
#include "kernels_support.h"

using namespace latentwire;
using latentwire::testing::Numbers;

namespace {

// The first 32 bytes of what test_vectors.json of BLAKE3-team/BLAKE3 has for inputs of these lengths: byte i is i modulo 251.
struct Vector {
  size_t length;
  std::string_view hash;
  std::string_view keyed;
};
constexpr std::array vectors = std::to_array<Vector>({
    {0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
     "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"},
    {1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213",
     "6d7878dfff2f485635d39013278ae14f1454b8c0a3a2d34bc1ab38228a80c95b"},
    {1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11",
     "c951ecdf03288d0fcc96ee3413563d8a6d3589547f2c2fb36d9786470f1b9d6e"},
    {1024, "42214739f095a406f3fc83deb889744ac00df831c10daa55189b5d121c855af7",
     "75c46f6f3d9eb4f55ecaaee480db732e6c2105546f1e675003687c31719c7ba4"},
    {1025, "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444",
     "357dc55de0c7e382c900fd6e320acc04146be01db6a8ce7210b7189bd664ea69"},
    {2048, "e776b6028c7cd22a4d0ba182a8bf62205d2ef576467e838ed6f2529b85fba24a",
     "879cf1fa2ea0e79126cb1063617a05b6ad9d0b696d0d757cf053439f60a99dd1"},
    {2049, "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030",
     "9f29700902f7c86e514ddc4df1e3049f258b2472b6dd5267f61bf13983b78dd5"},
    {3072, "b98cb0ff3623be03326b373de6b9095218513e64f1ee2edd2525c7ad1e5cffd2",
     "044a0e7b172a312dc02a4c9a818c036ffa2776368d7f528268d2e6b5df191770"},
    {3073, "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3",
     "68dede9bef00ba89e43f31a6825f4cf433389fedae75c04ee9f0cf16a427c95a"},
    {4096, "015094013f57a5277b59d8475c0501042c0b642e531b0a1c8f58d2163229e969",
     "befc660aea2f1718884cd8deb9902811d332f4fc4a38cf7c7300d597a081bfc0"},
    {4097, "9b4052b38f1c5fc8b1f9ff7ac7b27cd242487b3d890d15c96a1c25b8aa0fb995",
     "00df940cd36bb9fa7cbbc3556744e0dbc8191401afe70520ba292ee3ca80abbc"},
    {5120, "9cadc15fed8b5d854562b26a9536d9707cadeda9b143978f319ab34230535833",
     "2c493e48e9b9bf31e0553a22b23503c0a3388f035cece68eb438d22fa1943e20"},
    {5121, "628bd2cb2004694adaab7bbd778a25df25c47b9d4155a55f8fbd79f2fe154cff",
     "6ccf1c34753e7a044db80798ecd0782a8f76f33563accaddbfbb2e0ea4b2d024"},
    {6144, "3e2e5b74e048f3add6d21faab3f83aa44d3b2278afb83b80b3c35164ebeca205",
     "3d6b6d21281d0ade5b2b016ae4034c5dec10ca7e475f90f76eac7138e9bc8f1d"},
    {6145, "f1323a8631446cc50536a9f705ee5cb619424d46887f3c376c695b70e0f0507f",
     "9ac301e9e39e45e3250a7e3b3df701aa0fb6889fbd80eeecf28dbc6300fbc539"},
    {7168, "61da957ec2499a95d6b8023e2b0e604ec7f6b50e80a9678b89d2628e99ada77a",
     "b42835e40e9d4a7f42ad8cc04f85a963a76e18198377ed84adddeaecacc6f3fc"},
    {7169, "a003fc7a51754a9b3c7fae0367ab3d782dccf28855a03d435f8cfe74605e7817",
     "ed9b1a922c046fdb3d423ae34e143b05ca1bf28b710432857bf738bcedbfa511"},
    {8192, "aae792484c8efe4f19e2ca7d371d8c467ffb10748d8a5a1ae579948f718a2a63",
     "dc9637c8845a770b4cbf76b8daec0eebf7dc2eac11498517f08d44c8fc00d58a"},
    {8193, "bab6c09cb8ce8cf459261398d2e7aef35700bf488116ceb94a36d0f5f1b7bc3b",
     "954a2a75420c8d6547e3ba5b98d963e6fa6491addc8c023189cc519821b4a1f5"},
    {16384, "f875d6646de28985646f34ee13be9a576fd515f76b5b0a26bb324735041ddde4",
     "9e9fc4eb7cf081ea7c47d1807790ed211bfec56aa25bb7037784c13c4b707b0d"},
    {31744, "62b6960e1a44bcc1eb1a611a8d6235b6b4b78f32e7abc4fb4c6cdcce94895c47",
     "efa53b389ab67c593dba624d898d0f7353ab99e4ac9d42302ee64cbf9939a419"},
    {102400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085",
     "1c35d1a5811083fd7119f5d5d1ba027b4d01c0c6c49fb6ff2cf75393ea5db4a7"},
});
constexpr std::string_view vector_key = "whats the Elvish word for friend";

std::string hex(const Blake3Digest& digest) {
  std::string text;
  for (const uint8_t byte : digest) {
    text += "0123456789abcdef"[byte >> 4];
    text += "0123456789abcdef"[byte & 15];
  }
  return text;
}

Blake3Key key_of(std::string_view text) {
  Blake3Key key;
  std::copy_n(text.begin(), key.size(), key.begin());
  return key;
}

// As the specification has it: one block after the other, and the tree by recursion.
using Value = std::array<uint32_t, 8>;

Value plain_compress(const Value& h, const uint8_t* block, size_t length, uint64_t counter, uint32_t flags) {
  constexpr std::array<size_t, 16> permutation = {2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};
  std::array<uint32_t, 16> m{}, v{};
  for (size_t i = 0; i < length; i++) m[i / 4] |= static_cast<uint32_t>(block[i]) << (8 * (i % 4));
  std::copy(h.begin(), h.end(), v.begin());
  std::copy_n(std::begin(blake3_initial), 4, v.begin() + 8);
  v[12] = static_cast<uint32_t>(counter);
  v[13] = static_cast<uint32_t>(counter >> 32);
  v[14] = static_cast<uint32_t>(length);
  v[15] = flags;
  const auto turn = [](uint32_t x, int n) { return x >> n | x << (32 - n); };
  const auto mix = [&](size_t a, size_t b, size_t c, size_t d, uint32_t x, uint32_t y) {
    v[a] += v[b] + x;
    v[d] = turn(v[d] ^ v[a], 16);
    v[c] += v[d];
    v[b] = turn(v[b] ^ v[c], 12);
    v[a] += v[b] + y;
    v[d] = turn(v[d] ^ v[a], 8);
    v[c] += v[d];
    v[b] = turn(v[b] ^ v[c], 7);
  };
  for (int round = 0; round < 7; round++) {
    for (size_t i = 0; i < 4; i++) mix(i, 4 + i, 8 + i, 12 + i, m[2 * i], m[2 * i + 1]);
    for (size_t i = 0; i < 4; i++) mix(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4, m[8 + 2 * i], m[9 + 2 * i]);
    std::array<uint32_t, 16> next{};
    for (size_t i = 0; i < 16; i++) next[i] = m[permutation[i]];
    m = next;
  }
  Value out{};
  for (size_t i = 0; i < 8; i++) out[i] = v[i] ^ v[i + 8];
  return out;
}

Value plain_tree(const Value& key, uint32_t mode, const uint8_t* data, size_t bytes, uint64_t counter, uint32_t root) {
  if (bytes <= 1024) {
    Value h = key;
    for (size_t at = 0; at == 0 || at < bytes; at += 64) {
      const bool last = at + 64 >= bytes;
      h = plain_compress(h, data + at, std::min<size_t>(64, bytes - at), counter, mode | (at == 0 ? 1 : 0) | (last ? 2 | root : 0));
    }
    return h;
  }
  size_t left = 1024;
  while (2 * left < bytes) left *= 2;
  std::array<uint8_t, 64> both;
  const Value a = plain_tree(key, mode, data, left, counter, 0);
  const Value b = plain_tree(key, mode, data + left, bytes - left, counter + left / 1024, 0);
  std::memcpy(both.data(), a.data(), 32);
  std::memcpy(both.data() + 32, b.data(), 32);
  return plain_compress(key, both.data(), 64, 0, mode | 4 | root);
}

Blake3Digest plain(const uint8_t* data, size_t bytes, const Blake3Key* key) {
  Value words{};
  std::memcpy(words.data(), key != nullptr ? static_cast<const void*>(key->data()) : blake3_initial, 32);
  const Value value = plain_tree(words, key != nullptr ? 16 : 0, data, bytes, 0, 8);
  Blake3Digest digest;
  std::memcpy(digest.data(), value.data(), 32);
  return digest;
}

std::vector<uint8_t> random_bytes(Numbers& numbers, size_t n) {
  std::vector<uint8_t> bytes(n);
  for (uint8_t& b : bytes) b = static_cast<uint8_t>(numbers.below(256));
  return bytes;
}

std::span<const std::byte> part(const std::vector<uint8_t>& bytes, size_t from, size_t n) {
  return std::as_bytes(std::span(bytes)).subspan(from, n);
}

}  // namespace

TEST_SUITE("kernels") {
  TEST_CASE("blake3: published vectors") {
    std::vector<uint8_t> bytes(vectors.back().length);
    for (size_t i = 0; i < bytes.size(); i++) bytes[i] = static_cast<uint8_t>(i % 251);
    const Blake3Key key = key_of(vector_key);
    for (const Vector& one : vectors) {
      CAPTURE(one.length);
      CHECK(hex(blake3(part(bytes, 0, one.length))) == one.hash);
      CHECK(hex(blake3(part(bytes, 0, one.length), key)) == one.keyed);
    }
    CHECK(blake3({}) == blake3(part(bytes, 0, 0)));
  }

  TEST_CASE("blake3: every kind of length and any address, against the specification") {
    Numbers numbers(71);
    const std::vector<uint8_t> bytes = random_bytes(numbers, (size_t{1} << 20) + 40000);
    const Blake3Key key = key_of(std::string_view(reinterpret_cast<const char*>(bytes.data()), 32));
    std::vector<size_t> lengths;
    // around blocks and chunks, then around every number of chunks that leaves another number of lanes or levels over
    for (const size_t near : {2, 64, 128, 1024, 2048, 3072, 8192, 16384, 17408})
      for (size_t n = near - 2; n < near + 3; n++) lengths.push_back(n);
    for (size_t chunks = 1; chunks < 40; chunks++) lengths.push_back(1024 * chunks + static_cast<size_t>(numbers.below(1024)));
    for (const int64_t groups : {1, 2, 3, 4})
      for (const int64_t beyond : {-1024, -1, 0, 1, 1024, 1025, 3333})
        lengths.push_back(static_cast<size_t>(groups * (256 << 10) + beyond));
    for (const size_t n : lengths) {
      CAPTURE(n);
      const size_t from = static_cast<size_t>(numbers.below(70));
      REQUIRE(blake3(part(bytes, from, n)) == plain(bytes.data() + from, n, nullptr));
      REQUIRE(blake3(part(bytes, from, n), key) == plain(bytes.data() + from, n, &key));
    }
    // one bit anywhere
    std::vector<uint8_t> other(bytes.begin(), bytes.begin() + 300000);
    const Blake3Digest before = blake3(part(other, 0, other.size()));
    for (int round = 0; round < 20; round++) {
      const auto at = static_cast<size_t>(numbers.below(static_cast<int64_t>(other.size())));
      other[at] ^= static_cast<uint8_t>(1 << numbers.below(8));
      CHECK(blake3(part(other, 0, other.size())) != before);
      other[at] = bytes[at];
    }
  }

  TEST_CASE("blake3: any number of inputs at once, in every table") {
    Numbers numbers(72);
    const std::vector<uint8_t> bytes = random_bytes(numbers, 40 * 1024 + 3);
    Value key{};
    std::memcpy(key.data(), bytes.data(), 32);
    for (const Kernels& table : all_kernels()) {
      CAPTURE(isa_name(table.isa));
      for (int64_t count = 0; count < 36; count++) {
        CAPTURE(count);
        for (const int64_t blocks : {1, 2, 16}) {
          const uint8_t* data = bytes.data() + 3;
          // the counter passes from its low word to the high one
          const uint64_t counter = 0xFFFF'FFF0U, step = blocks == 1 ? 0 : 1;
          std::vector<uint8_t> want(static_cast<size_t>(count) * 32), got(want.size() + 32, 0xA5);
          for (int64_t i = 0; i < count; i++) {
            Value h = key;
            for (int64_t b = 0; b < blocks; b++) {
              const uint32_t flags = 16U | (b == 0 ? 1U : 0U) | (b == blocks - 1 ? 2U : 0U);
              h = plain_compress(h, data + 64 * (i * blocks + b), 64, counter + static_cast<uint64_t>(i) * step, flags);
            }
            std::memcpy(want.data() + 32 * i, h.data(), 32);
          }
          const Blake3Inputs inputs{data, count, blocks, key.data(), counter, step, 16, 1, 2};
          table.blake3.hash(inputs, got.data());
          REQUIRE(std::equal(want.begin(), want.end(), got.begin()));
          REQUIRE(std::all_of(got.end() - 32, got.end(), [](uint8_t byte) { return byte == 0xA5; }));
          // over its own input
          std::vector<uint8_t> own(data, data + 64 * count * blocks);
          table.blake3.hash({own.data(), count, blocks, key.data(), counter, step, 16, 1, 2}, own.data());
          REQUIRE(std::equal(want.begin(), want.end(), own.begin()));
        }
      }
      for (uint32_t length = 0; length <= 64; length++) {
        std::array<uint8_t, 64> block{};
        std::copy_n(bytes.begin(), length, block.begin());
        Value value = key;
        table.blake3.compress(value.data(), block.data(), length, uint64_t{5} << 32 | length, 11);
        REQUIRE(value == plain_compress(key, bytes.data(), length, uint64_t{5} << 32 | length, 11));
      }
    }
  }
}
