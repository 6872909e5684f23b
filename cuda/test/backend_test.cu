// The C ABI and the addon's streams on a real device: what backend.cu adds to the kernels, which have tests of their own. Calls that the
// runtime is to refuse are left out under the sanitizers, which count them as findings.
#include <cmath>
#include <cstring>
#include <future>
#include <thread>

#include "device/stream.h"
#include "harness.h"
#include "latentwire/backend.h"

extern "C" const latent_backend_v1* latent_backend_entry_v1(void);

namespace {

using namespace latentwire::cuda::test;

char why[256];
const latent_backend_v1& api() { return *latent_backend_entry_v1(); }
void good(int result, const char* what) { expect(result == latent_ok, std::string(what) + ": " + why); }
#define LATENT_GOOD(name, ...) good(api().name(__VA_ARGS__, why, sizeof(why)), #name)

// A stream, and memory on it by whole arrays.
class Device {
 public:
  Device() { LATENT_GOOD(stream_open, 0, &stream_); }
  ~Device() { LATENT_GOOD(stream_close, stream_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  latent_stream* stream() const { return stream_; }
  void* room(size_t bytes) const {
    void* memory = nullptr;
    LATENT_GOOD(allocate, stream_, bytes, &memory);
    LATENT_GOOD(fill, stream_, memory, 0xFF, bytes);
    return memory;
  }
  template <class T>
  T* put(const std::vector<T>& values) const {
    void* memory = room(values.size() * sizeof(T));
    LATENT_GOOD(copy, stream_, memory, values.data(), values.size() * sizeof(T), latent_to_device);
    LATENT_GOOD(stream_wait, stream_);
    return static_cast<T*>(memory);
  }
  template <class T>
  std::vector<T> get(const void* memory, size_t count) const {
    std::vector<T> values(count);
    LATENT_GOOD(copy, stream_, values.data(), memory, count * sizeof(T), latent_to_host);
    LATENT_GOOD(stream_wait, stream_);
    return values;
  }

 private:
  latent_stream* stream_ = nullptr;
};

latent_matrix packed(const Device& device, const std::vector<float>& values, int64_t outputs, int64_t depth, bool unit) {
  latent_pack_args args{};
  args.source = device.put(values);
  args.outputs = outputs;
  args.depth = depth;
  args.output_stride = depth;
  args.depth_stride = 1;
  args.unit = unit ? 1 : 0;
  args.data = device.room(api().packed_bytes(latent_f32, outputs, depth));
  args.sums = static_cast<float*>(device.room(static_cast<size_t>(outputs) * 4));
  args.squares = static_cast<float*>(device.room(static_cast<size_t>(outputs) * 4));
  args.bad_output = device.put(std::vector<int32_t>{INT32_MAX});
  LATENT_GOOD(pack, device.stream(), &args);
  expect(device.get<int32_t>(args.bad_output, 1)[0] == INT32_MAX, "pack found a bad output");
  return {args.data, outputs, depth, args.sums, args.squares, latent_f32, 0};
}

double dot(const std::vector<float>& x, int64_t i, const std::vector<float>& y, int64_t j, int64_t depth) {
  double sum = 0;
  for (int64_t k = 0; k < depth; k++)
    sum += static_cast<double>(x[static_cast<size_t>(i * depth + k)]) * y[static_cast<size_t>(j * depth + k)];
  return sum;
}

LATENT_TEST(backend_tells_what_it_is) {
  expect(api().abi == LATENT_BACKEND_ABI && api().size == sizeof(latent_backend_v1), "the table has another size");
  int32_t devices = 0;
  LATENT_GOOD(probe, &devices);
  expect(devices > 0, "no device");
  latent_device_info info{};
  LATENT_GOOD(device_info, 0, &info);
  expect(std::strlen(info.name) > 0 && info.major >= 7 && info.processors > 0, "the device is not described");
  latent_memory_info memory{};
  LATENT_GOOD(memory_info, 0, &memory);
  expect(memory.total_bytes >= memory.free_bytes && memory.free_bytes > 0, "memory is not described");
  std::printf("backend %s %s on %s (%d.%d, driver %d)\n", api().name, api().build, info.name, info.major, info.minor, info.driver);
}

LATENT_TEST(backend_counts_memory_and_survives_its_end) {
  const Device device;
  latent_memory_info before{};
  LATENT_GOOD(memory_info, 0, &before);
  void* memory = device.room(1 << 20);
  latent_memory_info held{};
  LATENT_GOOD(memory_info, 0, &held);
  expect(held.used_bytes >= before.used_bytes + (1 << 20), "an allocation is not counted");
  if (!reduced()) {
    void* none = nullptr;
    expect(api().allocate(device.stream(), uint64_t{1} << 45, &none, why, sizeof(why)) == latent_out_of_memory, "32 TiB were allocated");
    expect(std::strstr(why, "bytes left on device") != nullptr, why);
  }
  LATENT_GOOD(release, device.stream(), memory);
  LATENT_GOOD(stream_wait, device.stream());
  const std::vector<float> values = {1, 2, 3};
  expect(device.get<float>(device.put(values), 3) == values, "copies fail after that");
}

LATENT_TEST(backend_refuses_bad_arguments_and_goes_on) {
  const Device device;
  latent_cosine_args bad{};
  bad.x = {nullptr, -1, 0, 17, 0};
  expect(api().cosine(device.stream(), &bad, why, sizeof(why)) == latent_invalid, "a nonsensical call was begun");
  expect(std::strlen(why) > 0, "it did not say why");
  if (!reduced()) {
    latent_stream* none = nullptr;
    expect(api().stream_open(4711, &none, why, sizeof(why)) != latent_ok, "a stream of device 4711 was opened");
  }
  latent_hadamard_args args{device.put(std::vector<float>{3, 1}), 1, 2, 2};
  LATENT_GOOD(hadamard, device.stream(), &args);
  const auto once = device.get<float>(args.x, 2);
  expect(std::abs(once[0] - 4 / std::sqrt(2.0F)) < 1e-6F && std::abs(once[1] - 2 / std::sqrt(2.0F)) < 1e-6F, "the transform is wrong");
}

LATENT_TEST(backend_products_through_the_abi) {
  const Device device;
  Random random(1);
  const int64_t n = 5, m = 37, depth = 129;
  const auto x = random.normals(n * depth);
  const auto a = random.normals(m * depth);
  const latent_rows rows{device.put(x), n, depth, latent_f32, 0};
  int32_t* bad = device.put(std::vector<int32_t>{INT32_MAX});

  latent_cosine_args cosine{};
  cosine.x = rows;
  cosine.anchors = packed(device, a, m, depth, true);
  cosine.r = static_cast<float*>(device.room(static_cast<size_t>(n * m) * 4));
  cosine.bad_row = bad;
  LATENT_GOOD(cosine, device.stream(), &cosine);
  std::vector<double> reference;
  for (int64_t i = 0; i < n; i++) {
    for (int64_t j = 0; j < m; j++)
      reference.push_back(dot(x, i, a, j, depth) / std::sqrt(dot(x, i, x, i, depth) * dot(a, j, a, j, depth)));
  }
  const auto r = device.get<float>(cosine.r, static_cast<size_t>(n * m));
  expect_close(r, reference, 1e-5, "cosines");

  cosine.k = 3;
  cosine.indices = static_cast<int32_t*>(device.room(static_cast<size_t>(n) * 12));
  cosine.values = static_cast<float*>(device.room(static_cast<size_t>(n) * 12));
  LATENT_GOOD(cosine, device.stream(), &cosine);
  const auto indices = device.get<int32_t>(cosine.indices, static_cast<size_t>(n) * 3);
  const auto values = device.get<float>(cosine.values, static_cast<size_t>(n) * 3);
  for (size_t i = 0; i < indices.size(); i++) {
    const size_t row = i / 3;
    const int32_t index = indices[i];
    expect(index >= 0 && index < m && std::abs(values[i] - r[row * static_cast<size_t>(m) + static_cast<size_t>(index)]) < 1e-6F,
           "a best anchor has another value");
    expect(i % 3 == 0 || values[i] <= values[i - 1], "the best are not in order");
  }

  latent_projection_args projection{};
  projection.x = rows;
  projection.first = packed(device, a, m, depth, false);
  projection.first_bias = device.put(std::vector<float>(static_cast<size_t>(m), 0.5F));
  projection.y = static_cast<float*>(device.room(static_cast<size_t>(n * m) * 4));
  projection.bad_row = bad;
  projection.norm = latent_rms;
  projection.activation = latent_silu;
  projection.epsilon = 1e-6F;
  LATENT_GOOD(projection, device.stream(), &projection);
  reference.clear();
  for (int64_t i = 0; i < n; i++) {
    const double factor = 1 / std::sqrt(dot(x, i, x, i, depth) / static_cast<double>(depth) + 1e-6);
    for (int64_t j = 0; j < m; j++) {
      const double z = dot(x, i, a, j, depth) * factor + 0.5;
      reference.push_back(z / (1 + std::exp(-z)));
    }
  }
  expect_close(device.get<float>(projection.y, static_cast<size_t>(n * m)), reference, 1e-5, "projection");

  latent_codeword_args codeword{rows, packed(device, a, m, depth, false), static_cast<int32_t*>(device.room(static_cast<size_t>(n) * 4)),
                                static_cast<float*>(device.room(static_cast<size_t>(n) * 4)), bad};
  LATENT_GOOD(codeword, device.stream(), &codeword);
  const auto nearest = device.get<int32_t>(codeword.indices, static_cast<size_t>(n));
  for (int64_t i = 0; i < n; i++) {
    int64_t best = 0;
    const auto distance = [&](int64_t j) { return dot(x, i, x, i, depth) + dot(a, j, a, j, depth) - 2 * dot(x, i, a, j, depth); };
    for (int64_t j = 1; j < m; j++) best = distance(j) < distance(best) ? j : best;
    expect(nearest[static_cast<size_t>(i)] == best, "another codeword is nearer");
  }
  expect(device.get<int32_t>(bad, 1)[0] == INT32_MAX, "a sound row was called bad");
}

LATENT_TEST(backend_thoughts_tiles_cells_through_the_abi) {
  const Device device;
  Random random(2);
  const int64_t count = 1000, width = 64;
  const auto table = random.normals(count * width);
  const auto logits = random.normals(count, 3);
  latent_thought_args thought{};
  thought.table = device.put(table);
  thought.count = count;
  thought.width = width;
  thought.row_bytes = width * 4;
  thought.logits = device.put(logits);
  thought.batch = 1;
  thought.top_p = 1;
  thought.mix = 1;
  thought.temperature = 1;
  thought.noise_amount = 1;
  thought.norm = -1;
  thought.out = static_cast<float*>(device.room(static_cast<size_t>(width) * 4));
  thought.stats = static_cast<latent_thought_stats*>(device.room(sizeof(latent_thought_stats)));
  thought.faults = static_cast<int32_t*>(device.room(4));
  LATENT_GOOD(thought, device.stream(), &thought);
  double total = 0;
  std::vector<double> mix(static_cast<size_t>(width));
  size_t largest = 0;
  for (size_t v = 0; v < logits.size(); v++) {
    const double weight = std::exp(static_cast<double>(logits[v]));
    total += weight;
    largest = logits[v] > logits[largest] ? v : largest;
    for (size_t k = 0; k < mix.size(); k++) mix[k] += weight * table[v * mix.size() + k];
  }
  for (double& v : mix) v /= total;
  expect_close(device.get<float>(thought.out, static_cast<size_t>(width)), mix, 1e-5, "mix");
  const auto stats = device.get<latent_thought_stats>(thought.stats, 1)[0];
  expect(device.get<int32_t>(thought.faults, 1)[0] == latent_no_fault, "a sound row has a fault");
  expect(stats.argmax == static_cast<int32_t>(largest) && std::abs(stats.max_p - std::exp(logits[largest]) / total) < 1e-6, "statistics");

  const int64_t rows = 8, columns = 256;
  const auto numbers = random.normals(rows * columns);
  latent_tile_part part{device.put(numbers), static_cast<uint8_t*>(device.room(static_cast<size_t>(rows * columns))),
                        device.room(static_cast<size_t>(rows) * 4), nullptr};
  latent_tile_args tiles{};
  tiles.parts = &part;
  tiles.part_count = 1;
  tiles.rows = rows;
  tiles.columns = columns;
  tiles.stride = columns;
  tiles.first_bad = static_cast<int64_t*>(device.room(8));
  tiles.code = latent_i8;
  tiles.scale = latent_scale_f16;
  tiles.group = 128;
  tiles.dtype = latent_f32;
  LATENT_GOOD(quantise, device.stream(), &tiles);
  expect(device.get<int64_t>(tiles.first_bad, 1)[0] == LATENT_NO_BAD_ROW, "a sound row has no codes");
  part.numbers = device.room(numbers.size() * 4);
  LATENT_GOOD(dequantise, device.stream(), &tiles);
  const std::vector<double> reference(numbers.begin(), numbers.end());
  expect_close(device.get<float>(part.numbers, numbers.size()), reference, 2e-2, "tiles");

  const std::vector<int32_t> cells = {7, 0, 3};
  latent_cell_part move{device.put(numbers), device.room(cells.size() * static_cast<size_t>(columns) * 4)};
  const latent_cell_args gather{&move, 1, 3, columns * 4, columns * 4, columns * 4, device.put(cells), nullptr};
  LATENT_GOOD(copy_cells, device.stream(), &gather);
  const auto gathered = device.get<float>(move.to, cells.size() * static_cast<size_t>(columns));
  for (size_t i = 0; i < gathered.size(); i++) {
    const size_t from =
        static_cast<size_t>(cells[i / static_cast<size_t>(columns)]) * static_cast<size_t>(columns) + i % static_cast<size_t>(columns);
    if (gathered[i] != numbers[from]) return fail("cells were gathered from elsewhere");
  }

  void* keys = device.put(numbers);
  latent_rope_args rope{&keys, 1,         device.put(std::vector<double>(16, 0.1)), nullptr, nullptr, rows, 8, columns, latent_neox, 32,
                        32,    latent_f32};
  for (const int32_t shift : {5, -5}) {
    rope.shifts = device.put(std::vector<int32_t>(static_cast<size_t>(rows), shift));
    LATENT_GOOD(rope_shift, device.stream(), &rope);
    if (shift == 5) expect(device.get<float>(keys, numbers.size()) != numbers, "nothing was turned");
  }
  expect_close(device.get<float>(keys, numbers.size()), reference, 1e-5, "keys turned and back");

  std::vector<uint8_t> bytes(3 * 256, 1);
  bytes[600] = 2;
  const latent_digest_args digest{device.put(bytes), 3, 256, 256, static_cast<uint64_t*>(device.room(48))};
  LATENT_GOOD(digest, device.stream(), &digest);
  const auto digests = device.get<uint64_t>(digest.digests, 6);
  expect(digests[0] == digests[2] && digests[1] == digests[3] && digests[0] != digests[4], "digests");
}

LATENT_TEST(backend_shares_memory_by_a_handle) {
  void* memory = nullptr;
  latent_shared_handle handle{};
  LATENT_GOOD(share_allocate, 0, 1 << 16, &memory, &handle);
  bool named = false;
  for (const uint8_t byte : handle.bytes) named = named || byte != 0;
  expect(named, "the handle is empty");
  // this process, too, may open it, and has it until it closes it
  void* opened = nullptr;
  uint64_t bytes = 0;
  LATENT_GOOD(share_open, 0, &handle, &opened, &bytes);
  expect(opened == memory && bytes == 1 << 16, "another memory was opened");
  LATENT_GOOD(share_release, memory);
  void* late = nullptr;
  if (!reduced()) expect(api().share_open(0, &handle, &late, &bytes, why, sizeof(why)) == latent_invalid, "released memory was opened");
  LATENT_GOOD(share_close, opened);
}

// The addon's own streams, two at once, with copies through pinned memory in several parts.
LATENT_TEST(streams_of_the_addon_on_a_device) {
  using latentwire::Backend;
  using latentwire::DeviceBuffer;
  using latentwire::DeviceStream;
  using latentwire::Status;
  static const Backend backend{&api(), "", 1, "", ""};
  const size_t size = reduced() ? size_t{5} << 20 : size_t{70} << 20;
  const auto round_trip = [size](int seed) {
    std::shared_ptr<DeviceStream> stream;
    if (!DeviceStream::create([]() -> const Backend& { return backend; }, 0, &stream).ok()) return std::string("no stream");
    const auto run = [&](DeviceStream::Issue issue) {
      std::promise<Status> result;
      stream->submit(std::move(issue), [&](Status status) { result.set_value(std::move(status)); });
      return result.get_future().get();
    };
    std::vector<uint8_t> sent(size);
    for (size_t i = 0; i < size; i++) sent[i] = static_cast<uint8_t>((i * 31 + static_cast<size_t>(seed)) >> 3);
    std::vector<uint8_t> got(size);
    std::shared_ptr<DeviceBuffer> buffer;
    DeviceStream::Slot slot;
    std::string problem;
    const Status status = run([&](DeviceStream& own) {
      if (Status s = own.allocate(size, &buffer); !s.ok()) return s;
      if (Status s = own.upload(buffer->data(), sent.data(), size, nullptr); !s.ok()) return s;
      if (Status s = own.download(got.data(), buffer->data(), size, nullptr); !s.ok()) return s;
      if (Status s = own.slot(&slot); !s.ok()) return s;
      return DeviceStream::call(own.api().copy, own.handle(), slot.get(), buffer->as<void>(), DeviceStream::slot_bytes, latent_to_host);
    });
    if (!status.ok()) problem = status.message;
    if (problem.empty() && got != sent) problem = "other bytes came back";
    if (problem.empty() && std::memcmp(slot.get(), sent.data(), DeviceStream::slot_bytes) != 0) problem = "another slot came back";
    if (!reduced()) {
      std::shared_ptr<DeviceBuffer> huge;
      const Status refused = run([&](DeviceStream& own) { return own.allocate(size_t{1} << 45, &huge); });
      if (refused.code != latentwire::Code::out_of_memory) problem = "32 TiB were allocated";
    }
    buffer.reset();
    if (stream->device_bytes() != 0) problem = "memory is still held";
    slot.reset();
    stream->close();
    return problem;
  };
  auto other = std::async(std::launch::async, round_trip, 1);
  const std::string first = round_trip(2);
  const std::string second = other.get();
  expect(first.empty(), first);
  expect(second.empty(), second);
}

}  // namespace
