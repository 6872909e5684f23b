// Runs a fuzz target without libFuzzer, for compilers that lack it: replays every corpus file given, then seeded
// mutations of them. Usage: <target> [mutations a file] <file or folder>…
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size);

namespace {

using Bytes = std::vector<uint8_t>;

// Numbers at which length and count checks go wrong.
constexpr uint64_t kEdges[] = {0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0xffffffff, 0x7fffffffffffffff, 0xffffffffffffffff};

void mutate(Bytes* bytes, std::mt19937* engine) {
  const auto below = [&](size_t limit) { return limit == 0 ? 0 : (*engine)() % limit; };
  if (bytes->empty()) bytes->push_back(0);
  const size_t at = below(bytes->size());
  switch (below(6)) {
    case 0:
      (*bytes)[at] ^= static_cast<uint8_t>(1u << below(8));
      break;
    case 1:
      (*bytes)[at] = static_cast<uint8_t>((*engine)());
      break;
    case 2: {
      const uint64_t edge = kEdges[below(std::size(kEdges))];
      const size_t width = std::min<size_t>(size_t{1} << below(4), bytes->size() - at);
      for (size_t i = 0; i < width; ++i) (*bytes)[at + i] = static_cast<uint8_t>(edge >> 8 * i);
      break;
    }
    case 3:
      bytes->resize(at);
      break;
    case 4:
      bytes->erase(bytes->begin() + static_cast<ptrdiff_t>(at),
                   bytes->begin() + static_cast<ptrdiff_t>(at + below(std::min<size_t>(bytes->size() - at, 16))));
      break;
    default: {
      const size_t length = below(std::min<size_t>(bytes->size() - at, 64));
      const Bytes part(bytes->begin() + static_cast<ptrdiff_t>(at), bytes->begin() + static_cast<ptrdiff_t>(at + length));
      bytes->insert(bytes->begin() + static_cast<ptrdiff_t>(below(bytes->size())), part.begin(), part.end());
    }
  }
}

// A copy of exactly the right size, so that a sanitizer sees a read past the end.
void run(const Bytes& bytes) {
  const Bytes exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

}  // namespace

int main(int count, char** arguments) {
  int first = 1;
  long mutations = 1000;
  if (count > 2 && std::string(arguments[1]).find_first_not_of("0123456789") == std::string::npos) {
    mutations = std::atol(arguments[1]);
    first = 2;
  }
  std::vector<std::filesystem::path> files;
  for (int i = first; i < count; ++i) {
    if (!std::filesystem::is_directory(arguments[i])) {
      files.emplace_back(arguments[i]);
      continue;
    }
    for (const auto& entry : std::filesystem::directory_iterator(arguments[i])) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  if (files.empty()) {
    std::fprintf(stderr, "usage: %s [mutations a file] <file or folder>...\n", arguments[0]);
    return 2;
  }
  std::mt19937 engine(1);
  for (const std::filesystem::path& path : files) {
    std::ifstream stream(path, std::ios::binary);
    const Bytes original{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    run(original);
    for (long i = 0; i < mutations; ++i) {
      Bytes bytes = original;
      for (uint32_t steps = 1 + engine() % 4; steps > 0; --steps) mutate(&bytes, &engine);
      run(bytes);
    }
  }
  std::printf("%zu corpus files, %ld mutations each\n", files.size(), mutations);
  return 0;
}
