// Digests of tiles whose digests xxHash 0.8 gave: byte i of a tile of n bytes is the upper byte of the i-th state of the generator
// s -> s * 6364136223846793005 + 1442695040888963407 that begins after n.
#include <memory>

#include "../memory.h"
#include "harness.h"

namespace {

using namespace latentwire::cuda;
using namespace latentwire::cuda::test;

struct Known {
  int64_t bytes;
  Digest128 digest;
};
const std::vector<Known>& known() {
  static const std::vector<Known> all = {
      {256, {0x5557CF0C70B7F142U, 0x1D875BF2829A548EU}},   {1024, {0x5B63567E2DE83C64U, 0x90B93E6B171D7BDBU}},
      {1040, {0xC7B5C72678A14BBAU, 0xA8A25214F72A2FDFU}},  {2048, {0xCCDD81367C6796CAU, 0x9E6965B37AC2BA91U}},
      {4160, {0x6376CA9CC9CC2947U, 0xE2EA90BB27DBF898U}},  {16384, {0xBB4FEABFB93156C0U, 0x1698547964E5BDACU}},
      {65552, {0x950761B40401DCA8U, 0x0D3274300F8FED87U}},
  };
  return all;
}

std::vector<uint8_t> tile_of(int64_t bytes) {
  std::vector<uint8_t> tile(static_cast<size_t>(bytes));
  auto state = static_cast<uint64_t>(bytes);
  for (uint8_t& byte : tile) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    byte = static_cast<uint8_t>(state >> 56);
  }
  return tile;
}

bool same(const Digest128& a, const Digest128& b) { return a.low == b.low && a.high == b.high; }

LATENT_TEST(digest_gives_what_xxhash_gives) {
  for (const Known& k : known()) {
    for (const int64_t count : {0, 1, 5}) {
      const int64_t stride = k.bytes + 16 * count;
      std::vector<uint8_t> data(static_cast<size_t>(stride * count), 0xA5);
      const std::vector<uint8_t> tile = tile_of(k.bytes);
      for (int64_t i = 0; i < count; i++) std::copy(tile.begin(), tile.end(), data.begin() + i * stride);
      const Buffer<uint8_t> buffer(data);
      const Buffer<Digest128> digests(count);
      const std::string what = std::to_string(count) + " tiles of " + std::to_string(k.bytes) + " bytes";
      run([&](cudaStream_t stream) { return digest_tiles({buffer.data(), count, k.bytes, stride, digests.data()}, stream); }, what);
      for (const Digest128& digest : digests.download()) expect(same(digest, k.digest), what);
    }
  }
}

LATENT_TEST(digest_changes_with_every_byte) {
  const int64_t bytes = 2064;
  const int64_t count = bytes + 1;
  std::vector<uint8_t> data;
  const std::vector<uint8_t> tile = tile_of(bytes);
  for (int64_t i = 0; i < count; i++) {
    data.insert(data.end(), tile.begin(), tile.end());
    if (i < bytes) data[static_cast<size_t>(i * bytes + i)] ^= 1;
  }
  const Buffer<uint8_t> buffer(data);
  const Buffer<Digest128> digests(count);
  run([&](cudaStream_t stream) { return digest_tiles({buffer.data(), count, bytes, bytes, digests.data()}, stream); }, "flipped bits");
  const std::vector<Digest128> all = digests.download();
  for (int64_t i = 0; i < bytes; i++)
    expect(!same(all[static_cast<size_t>(i)], all.back()), "byte " + std::to_string(i) + " does not matter");
}

LATENT_TEST(digest_refuses_what_no_kernel_takes) {
  expect(digest_tiles({nullptr, 1, 240, 256, nullptr}, nullptr) == cudaErrorInvalidValue, "short tiles");
  expect(digest_tiles({nullptr, 1, 264, 272, nullptr}, nullptr) == cudaErrorInvalidValue, "tiles of half units");
  expect(digest_tiles({nullptr, -1, 256, 256, nullptr}, nullptr) == cudaErrorInvalidValue, "a negative count");
}

LATENT_TEST(digest_is_independent_of_timing) {
  Random random(3000);
  std::vector<Case> cases;
  const int64_t count = reduced() ? 9 : 300;
  for (int c = 0; c < 3; c++) {
    std::vector<uint8_t> data(static_cast<size_t>(count * 4096));
    for (uint8_t& byte : data) byte = static_cast<uint8_t>(random.next());
    const auto buffer = std::make_shared<Buffer<uint8_t>>(data);
    const auto digests = std::make_shared<Buffer<Digest128>>(count);
    cases.push_back({[=] { digests->poison(); },
                     [=](cudaStream_t stream) {
                       return digest_tiles({buffer->data(), count, 4096, 4096, digests->data()}, stream);
                     },
                     [=] { return bytes_of(digests->download()); }});
  }
  expect_independent_of_timing(cases, "digests");
}

}  // namespace
