// The accelerator's loader and streams, with the mock backend in place of a device. What JavaScript sees of them is tested in test/unit.
#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <future>
#include <numeric>
#include <string>
#include <vector>

#include "device/backend.h"
#include "device/stream.h"
#include "mock_support.h"

using namespace latentwire;
using namespace latentwire::test;

namespace {

struct Opened {
  Opened() {
    REQUIRE(DeviceStream::create([]() -> const Backend& { return mock(); }, 0, &stream).ok());
  }
  ~Opened() { stream->close(); }

  Status run(DeviceStream::Issue issue) const {
    std::promise<Status> result;
    stream->submit(std::move(issue), [&](Status status) { result.set_value(std::move(status)); });
    return result.get_future().get();
  }

  std::shared_ptr<DeviceStream> stream;
};

std::vector<uint8_t> bytes_from(size_t count, int first) {
  std::vector<uint8_t> bytes(count);
  for (size_t i = 0; i < count; i++) bytes[i] = static_cast<uint8_t>(first + static_cast<int>(i * 7 % 251));
  return bytes;
}

}  // namespace

TEST_SUITE("device") {
  TEST_CASE("a backend is refused at the stage that fails, with the reason") {
    const Backend no_driver = load_backend(LATENTWIRE_MOCK, "libno-such-driver.so.1");
    CHECK(no_driver.api == nullptr);
    CHECK(no_driver.reason == "CUDA_NO_DRIVER");
    CHECK(no_driver.message.find("libno-such-driver.so.1") != std::string::npos);
    const Backend missing = load_backend("/nowhere/latentwire_cuda.so", "");
    CHECK(missing.reason == "CUDA_BACKEND_MISSING");
    CHECK(missing.message.find("/nowhere/latentwire_cuda.so") != std::string::npos);
    // a library, but not one of ours
    const Backend other = load_backend("libm.so.6", "libm.so.6");
    CHECK(other.reason == "CUDA_ABI_MISMATCH");
    {
      const Faults faults("no-device");
      const Backend none = load_backend(LATENTWIRE_MOCK, "");
      CHECK(none.reason == "CUDA_NO_DEVICE");
      CHECK(none.api == nullptr);
    }
    const Faults faults("no-driver");
    CHECK(load_backend(LATENTWIRE_MOCK, "").reason == "CUDA_NO_DRIVER");
  }

  TEST_CASE("a stream whose backend is not there tells every submitter") {
    static const Backend none = load_backend("/nowhere", "");
    std::shared_ptr<DeviceStream> stream;
    REQUIRE(DeviceStream::create([]() -> const Backend& { return none; }, 0, &stream).ok());
    for (int i = 0; i < 3; i++) {
      std::promise<Status> result;
      stream->submit([](DeviceStream&) { return Status{}; }, [&](Status status) { result.set_value(std::move(status)); });
      const Status status = result.get_future().get();
      CHECK(status.code == Code::device_unavailable);
      CHECK(status.message.find("CUDA_BACKEND_MISSING") != std::string::npos);
    }
    stream->close();
    Code after = Code::ok;
    stream->submit([](DeviceStream&) { return Status{}; }, [&](Status status) { after = status.code; });
    CHECK(after == Code::cancelled);
  }

  TEST_CASE("bytes come back as they went, in one part and in many") {
    REQUIRE(mock().api != nullptr);
    const Opened opened;
    for (const size_t size : {size_t{0}, size_t{1}, size_t{4097}, (size_t{4} << 20), (size_t{13} << 20) + 5}) {
      CAPTURE(size);
      const std::vector<uint8_t> sent = bytes_from(size, 3);
      std::vector<uint8_t> got(size, 0);
      std::shared_ptr<DeviceBuffer> buffer;
      CHECK(opened
                .run([&](DeviceStream& stream) {
                  if (Status s = stream.allocate(size, &buffer); !s.ok()) return s;
                  return stream.upload(buffer->data(), sent.data(), size, nullptr);
                })
                .ok());
      CHECK(opened.stream->device_bytes() == static_cast<int64_t>(size));
      CHECK(opened.run([&](DeviceStream& stream) { return stream.download(got.data(), buffer->data(), size, nullptr); }).ok());
      CHECK(got == sent);
      buffer.reset();
      CHECK(opened.stream->device_bytes() == 0);
    }
  }

  TEST_CASE("what a command lets go of on its way, its next step can have") {
    const Opened opened;
    const auto used = [](const DeviceStream& stream) {
      latent_memory_info info{};
      CHECK(DeviceStream::call(stream.api().stream_wait, stream.handle()).ok());
      CHECK(DeviceStream::call(stream.api().memory_info, stream.device(), &info).ok());
      return info.used_bytes;
    };
    REQUIRE(opened
                .run([&](DeviceStream& stream) {
                  const uint64_t before = used(stream);
                  std::shared_ptr<DeviceBuffer> room;
                  for (int pass = 0; pass < 5; pass++) {
                    room.reset();
                    if (Status status = stream.allocate(size_t{1} << 20, &room); !status.ok()) return status;
                    CHECK(used(stream) == before + (size_t{1} << 20));
                  }
                  return Status{};
                })
                .ok());
  }

  TEST_CASE("work is done in the order of its submission, however slow it is") {
    const Faults faults("slow 2");
    const Opened opened;
    std::vector<int> done;
    std::vector<std::future<void>> ends;
    std::shared_ptr<DeviceBuffer> buffer;
    int32_t seen[8] = {};
    for (int i = 0; i < 8; i++) {
      auto end = std::make_shared<std::promise<void>>();
      ends.push_back(end->get_future());
      opened.stream->submit(
          [&, i](DeviceStream& stream) {
            if (i == 0) {
              if (Status s = stream.allocate(sizeof(int32_t), &buffer); !s.ok()) return s;
            }
            // what the one before it wrote is what it reads
            if (i % 2 == 0) return DeviceStream::call(stream.api().fill, stream.handle(), buffer->as<void>(), i + 1, sizeof(int32_t));
            return stream.download(&seen[i], buffer->data(), sizeof(int32_t), nullptr);
          },
          [&done, i, end](const Status& status) {
            CHECK(status.ok());
            done.push_back(i);
            end->set_value();
          });
    }
    for (auto& end : ends) end.wait();
    std::vector<int> order(8);
    std::iota(order.begin(), order.end(), 0);
    CHECK(done == order);
    for (int i = 1; i < 8; i += 2) CHECK(seen[i] == i * 0x01010101);
  }

  TEST_CASE("without memory an allocation fails, and with some again it does not") {
    setenv("LATENTWIRE_MOCK_BYTES", "1000000", 1);
    const Opened opened;
    std::shared_ptr<DeviceBuffer> large;
    std::shared_ptr<DeviceBuffer> more;
    CHECK(opened.run([&](DeviceStream& stream) { return stream.allocate(900000, &large); }).ok());
    CHECK(opened.run([&](DeviceStream& stream) { return stream.allocate(900000, &more); }).code == Code::out_of_memory);
    CHECK(opened.run([&](DeviceStream& stream) { return stream.allocate(50000, &more); }).ok());
    // given back while nothing has waited for it yet
    large.reset();
    CHECK(opened.run([&](DeviceStream& stream) { return stream.allocate(900000, &large); }).ok());
    large.reset();
    more.reset();
    unsetenv("LATENTWIRE_MOCK_BYTES");
    const Faults faults("pin");
    std::vector<uint8_t> byte(1);
    CHECK(opened
              .run([&](DeviceStream& stream) {
                if (Status s = stream.allocate(1, &more); !s.ok()) return s;
                return stream.upload(more->data(), byte.data(), 1, nullptr);
              })
              .code == Code::out_of_memory);
  }

  TEST_CASE("a failed launch fails its job alone") {
    const Opened opened;
    std::shared_ptr<DeviceBuffer> x;
    const auto transform = [&](DeviceStream& stream) {
      if (Status s = stream.allocate(4 * sizeof(float), &x); !s.ok()) return s;
      if (Status s = DeviceStream::call(stream.api().fill, stream.handle(), x->as<void>(), 0, 4 * sizeof(float)); !s.ok()) return s;
      const latent_hadamard_args args{x->as<float>(), 1, 4, 4};
      return DeviceStream::call(stream.api().hadamard, stream.handle(), &args);
    };
    {
      const Faults faults("launch 1");
      CHECK(opened.run(transform).code == Code::device_failed);
      CHECK(opened.run(transform).ok());
    }
    CHECK(opened.run(transform).ok());
    x.reset();
  }

  TEST_CASE("a copy that is cancelled stops between its parts") {
    const Opened opened;
    const std::vector<uint8_t> bytes(size_t{64} << 20);
    std::atomic<bool> cancel{true};
    std::shared_ptr<DeviceBuffer> buffer;
    CHECK(opened
              .run([&](DeviceStream& stream) {
                if (Status s = stream.allocate(bytes.size(), &buffer); !s.ok()) return s;
                return stream.upload(buffer->data(), bytes.data(), bytes.size(), &cancel);
              })
              .code == Code::cancelled);
    buffer.reset();
  }

  TEST_CASE("memory that outlives its stream goes back all the same") {
    latent_memory_info before{};
    CHECK(DeviceStream::call(mock().api->memory_info, 0, &before).ok());
    std::shared_ptr<DeviceBuffer> buffer;
    DeviceStream::Slot slot;
    {
      const Opened opened;
      CHECK(opened
                .run([&](DeviceStream& stream) {
                  if (Status s = stream.slot(&slot); !s.ok()) return s;
                  return stream.allocate(1000, &buffer);
                })
                .ok());
    }
    buffer.reset();
    slot.reset();
    latent_memory_info after{};
    CHECK(DeviceStream::call(mock().api->memory_info, 0, &after).ok());
    CHECK(after.used_bytes == before.used_bytes);
  }

  TEST_CASE("shared memory is there for those who have it open, whatever its owner does") {
    const Opened opened;
    const std::vector<uint8_t> sent = bytes_from(5000, 9);
    std::vector<uint8_t> got(sent.size());
    latent_shared_handle handle{};
    std::shared_ptr<DeviceBuffer> shared;
    CHECK(opened
              .run([&](DeviceStream& stream) {
                if (Status s = stream.allocate_shared(sent.size(), &handle, &shared); !s.ok()) return s;
                return stream.upload(shared->data(), sent.data(), sent.size(), nullptr);
              })
              .ok());
    CHECK(opened.stream->device_bytes() == static_cast<int64_t>(sent.size()));
    const latent_backend_v1& api = *mock().api;
    void* memory = nullptr;
    uint64_t bytes = 0;
    const Opened other;
    CHECK(other.run([&](DeviceStream&) { return DeviceStream::call(api.share_open, 0, &handle, &memory, &bytes); }).ok());
    CHECK(bytes == sent.size());
    shared.reset();
    CHECK(opened.run([](DeviceStream&) { return Status{}; }).ok());  // by now it has been given back
    void* late = nullptr;
    CHECK(DeviceStream::call(api.share_open, 0, &handle, &late, &bytes).code == Code::invalid_argument);
    CHECK(other
              .run([&](DeviceStream& stream) {
                return stream.download(got.data(), static_cast<const std::byte*>(memory), got.size(), nullptr);
              })
              .ok());
    CHECK(got == sent);
    CHECK(DeviceStream::call(api.share_close, memory).ok());
    CHECK(DeviceStream::call(api.share_close, memory).code == Code::invalid_argument);
  }

  TEST_CASE("slots are apart from each other, and come again") {
    const Opened opened;
    std::vector<DeviceStream::Slot> slots(200);
    CHECK(opened
              .run([&](DeviceStream& stream) {
                for (auto& slot : slots) {
                  if (Status s = stream.slot(&slot); !s.ok()) return s;
                }
                return Status{};
              })
              .ok());
    for (size_t i = 0; i < slots.size(); i++) std::memset(slots[i].get(), static_cast<int>(i), DeviceStream::slot_bytes);
    bool apart = true;
    for (size_t i = 0; i < slots.size(); i++) {
      for (size_t b = 0; b < DeviceStream::slot_bytes; b++) apart = apart && slots[i].get()[b] == static_cast<std::byte>(i);
    }
    CHECK(apart);
    const int64_t pinned = opened.stream->pinned_bytes();
    slots.clear();
    DeviceStream::Slot again;
    CHECK(opened.run([&](DeviceStream& stream) { return stream.slot(&again); }).ok());
    CHECK(opened.stream->pinned_bytes() == pinned);
  }
}
