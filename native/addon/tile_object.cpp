// The JavaScript class of tile codecs, which work where the numbers are, and packed symbols and the Walsh-Hadamard transform beside it. A
// payload is one array of bytes: scales [rows, groups], minima [rows, groups] where there are any, codes [rows, code bytes].
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "addon/device_jobs.h"
#include "addon/device_tensor_object.h"
#include "addon/kernel_input.h"
#include "addon/kernel_objects.h"
#include "addon/operand_object.h"
#include "addon/tensor_object.h"
#include "kernels/tile.h"

namespace latentwire::addon {
namespace {

// An element costs about as much as so many multiplications of a product.
constexpr int64_t element_cost = 4;

int64_t payload_bytes(const TileFormat& format, int64_t rows, int64_t columns) noexcept { return rows * format.row_bytes(columns); }

// Where the parts of a payload begin.
template <typename Byte, typename Parts>
Parts parts_of(const TileFormat& format, int64_t rows, int64_t columns, Byte* payload) noexcept {
  const int64_t scales = rows * format.row_scale_bytes(columns);
  const int64_t minima = format.has_minima() ? scales : 0;
  return {payload + scales + minima, payload, format.has_minima() ? payload + scales : nullptr};
}
Tiles tiles_in(const TileFormat& format, int64_t rows, int64_t columns, uint8_t* payload) noexcept {
  return parts_of<uint8_t, Tiles>(format, rows, columns, payload);
}
ConstTiles tiles_in(const TileFormat& format, int64_t rows, int64_t columns, const uint8_t* payload) noexcept {
  return parts_of<const uint8_t, ConstTiles>(format, rows, columns, payload);
}

// The bytes of a payload, of a Uint8Array or of a Tensor of i8; `tensor` keeps the latter alive.
struct Payload {
  const uint8_t* data = nullptr;
  std::shared_ptr<Tensor> tensor;
};

bool is_aligned(const void* data, const TileFormat& format) noexcept {
  return reinterpret_cast<uintptr_t>(data) % static_cast<uintptr_t>(format.scale_bytes()) == 0;
}

// Throws Failure.
void copy_payload(Payload* payload, int64_t bytes) {
  check(Tensor::create(Dtype::i8, {bytes}, &payload->tensor));
  std::copy_n(payload->data, bytes, static_cast<uint8_t*>(payload->tensor->data()));
  payload->data = static_cast<const uint8_t*>(payload->tensor->data());
}

void refuse_size(napi_env env, int64_t size, int64_t bytes) {
  if (size != bytes)
    throw_invalid(env, "the payload has " + std::to_string(size) + " bytes, rows of this shape need " + std::to_string(bytes));
}

Payload payload_of(const Napi::Value& value, const TileFormat& format, int64_t bytes) {
  Payload payload;
  int64_t size = 0;
  if (std::span<uint8_t> array; array_of(value, &array)) {
    payload.data = array.data();
    size = static_cast<int64_t>(array.size());
  } else {
    if (TensorObject::from(value) == nullptr) {
      refuse_device_tensor(value, "the payload");
      throw_invalid(value.Env(), "the payload must be a Uint8Array or a Tensor");
    }
    payload.tensor = TensorObject::tensor_of(value, "the payload");
    if (payload.tensor->dtype() != Dtype::i8) throw_status(value.Env(), Status::fail(Code::dtype, "a payload is a tensor of i8"));
    payload.data = static_cast<const uint8_t*>(payload.tensor->data());
    size = payload.tensor->size();
  }
  refuse_size(value.Env(), size, bytes);
  // bytes from a network lie where they lie
  if (!is_aligned(payload.data, format)) translate(value.Env(), [&] { copy_payload(&payload, bytes); });
  return payload;
}

latent_tile_args device_arguments(const TileFormat& format, const latent_tile_part& part, Dtype dtype, int64_t rows,
                                  int64_t columns) noexcept {
  latent_tile_args args{};
  args.parts = &part;
  args.part_count = 1;
  args.rows = rows;
  args.columns = columns;
  args.stride = columns;
  args.code = static_cast<int32_t>(format.code);
  args.scale = static_cast<int32_t>(format.scale);
  args.group = static_cast<int32_t>(format.group);
  args.dtype = static_cast<int32_t>(dtype);
  return args;
}

latent_tile_part device_part(const TileFormat& format, int64_t rows, int64_t columns, const DeviceBuffer& payload,
                             const void* numbers) noexcept {
  const Tiles tiles = tiles_in(format, rows, columns, payload.as<uint8_t>());
  return {const_cast<void*>(numbers), tiles.codes, tiles.scales, tiles.minima};
}

// A job of the device: i8 [bytes] of rows that lie there.
napi_value quantise_on_device(napi_env env, std::shared_ptr<const TileFormat> format, DeviceInput input, int64_t columns) {
  return start_on_device(env, [format = std::move(format), input, columns](Job& job, DeviceStream& stream) mutable -> Job::ToValue {
    const int64_t rows = input.count();
    auto payload = device_output(stream, Dtype::i8, {payload_bytes(*format, rows, columns)});
    if (rows == 0) return device_tensor_value(std::move(payload));
    std::shared_ptr<DeviceBuffer> flag;
    DeviceStream::Slot slot;
    check(stream.allocate(sizeof(int64_t), &flag));
    check(stream.slot(&slot));
    const latent_tile_part part = device_part(*format, rows, columns, *payload->buffer, input.rows(job, stream).data);
    latent_tile_args args = device_arguments(*format, part, input.dtype(), rows, columns);
    args.first_bad = flag->as<int64_t>();
    check(DeviceStream::call(stream.api().quantise, stream.handle(), &args));
    check(DeviceStream::call(stream.api().copy, stream.handle(), slot.get(), flag->as<void>(), sizeof(int64_t), latent_to_host));
    return [slot, value = device_tensor_value(std::move(payload))](napi_env js) -> napi_value {
      int64_t bad = LATENT_NO_BAD_ROW;
      std::memcpy(&bad, slot.get(), sizeof(bad));
      if (bad != LATENT_NO_BAD_ROW) {
        fail(Code::non_finite, "row " + std::to_string(bad) + " holds NaN, an infinity or a number too large for the scale's type");
      }
      return value(js);
    };
  });
}

// A job of the device: [rows, columns] of a payload that lies there.
napi_value dequantise_on_device(napi_env env, std::shared_ptr<const TileFormat> format, std::shared_ptr<const DeviceTensor> payload,
                                int64_t rows, int64_t columns, Dtype dtype) {
  return start_on_device(
      env, [format = std::move(format), payload = std::move(payload), rows, columns, dtype](Job&, DeviceStream& stream) -> Job::ToValue {
        auto numbers = device_output(stream, dtype, {rows, columns});
        if (rows > 0) {
          const latent_tile_part part = device_part(*format, rows, columns, *payload->buffer, numbers->buffer->data());
          const latent_tile_args args = device_arguments(*format, part, dtype, rows, columns);
          check(DeviceStream::call(stream.api().dequantise, stream.handle(), &args));
        }
        return device_tensor_value(std::move(numbers));
      });
}

class TileCodecObject : public OperandObject<TileCodecObject, TileFormat> {
 public:
  static constexpr const char* class_name = "TileCodec";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e74'696c'6573};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->tile_codec_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&TileCodecObject::byte_length>("byteLength"),
                           InstanceMethod<&TileCodecObject::quantise_sync>("quantiseSync"),
                           InstanceMethod<&TileCodecObject::quantise_rows>("quantise"),
                           InstanceMethod<&TileCodecObject::dequantise_sync>("dequantiseSync"),
                           InstanceMethod<&TileCodecObject::dequantise_rows>("dequantise"),
                       });
  }

  explicit TileCodecObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // createTileCodec({ code, scale, group })
  static Napi::Value create(const Napi::CallbackInfo& call) {
    const Napi::Object given = require_object(call, 0, "options");
    auto format = std::make_shared<TileFormat>();
    format->code = choice_field<TileCode>(
        given, "code", "i8", {{"fp8", TileCode::fp8}, {"i8", TileCode::i8}, {"i4", TileCode::i4}, {"i4-zero", TileCode::i4_zero}});
    format->scale = choice_field<TileScale>(given, "scale", format->code == TileCode::fp8 ? "f32" : "f16",
                                            {{"f32", TileScale::f32}, {"f16", TileScale::f16}, {"ue8m0", TileScale::ue8m0}});
    format->group = int_field(given, "group", 32, 128, 128);
    if (!format->valid())
      throw_invalid(call.Env(), "a group has 32, 64 or 128 numbers; scales of fp8 are f32 or ue8m0, those of other codes f32 or f16");
    return {call.Env(), wrap(std::move(format))(call.Env())};
  }

 private:
  // byteLength(rows, columns)
  Napi::Value byte_length(const Napi::CallbackInfo& call) {
    const TileFormat& format = operand(call.Env());
    const int64_t rows = require_int(call, 0, "rows", 0, most_extent);
    return Napi::Number::New(call.Env(), static_cast<double>(payload_bytes(format, rows, require_int(call, 1, "columns", 1, most_extent))));
  }

  // quantiseSync(x, columns, payload)
  void quantise_sync(const Napi::CallbackInfo& call) {
    const TileFormat& format = operand(call.Env());
    const int64_t columns = require_int(call, 1, "columns", 1, most_extent);
    const Input input = input_of(call[0], "x", columns);
    const int64_t rows = input.rows.count;
    auto* payload = output_of<uint8_t>(call[2], "out", input, payload_bytes(format, rows, columns));
    if (rows > 0 && !is_aligned(payload, format))
      throw_invalid(call.Env(), "out must begin at a multiple of " + std::to_string(format.scale_bytes()) + " bytes in its buffer");
    translate(call.Env(), [&] { check(quantise(input.rows, columns, format, tiles_in(format, rows, columns, payload))); });
  }

  // quantise(x, columns) -> i8 [bytes]
  Napi::Value quantise_rows(const Napi::CallbackInfo& call) {
    const Shared format = shared(call.Env());
    const int64_t columns = require_int(call, 1, "columns", 1, most_extent);
    if (device_tensor_of(call[0])) {
      const DeviceInput given = DeviceInput::of(call[0], "x", columns);
      return {call.Env(), translate(call.Env(), [&] { return quantise_on_device(call.Env(), format, given, columns); })};
    }
    Input input = input_of(call[0], "x", columns);
    const int64_t rows = input.rows.count;
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> out;
      check(Tensor::create(Dtype::i8, {payload_bytes(*format, rows, columns)}, &out));
      return run(
          call, std::move(input), rows * columns * element_cost,
          [format, out, columns](const Rows& x, const std::atomic<bool>* cancel) {
            check(quantise(x, columns, *format, tiles_in(*format, x.count, columns, static_cast<uint8_t*>(out->data())), cancel));
          },
          tensor_value(out));
    });
  }

  // dequantiseSync(payload, rows, columns, out)
  void dequantise_sync(const Napi::CallbackInfo& call) {
    const TileFormat& format = operand(call.Env());
    const int64_t rows = require_int(call, 1, "rows", 0, most_extent);
    const int64_t columns = require_int(call, 2, "columns", 1, most_extent);
    const int64_t bytes = payload_bytes(format, rows, columns);
    const Payload payload = payload_of(call[0], format, bytes);
    const std::span<float> out = require_array<float>(call[3], "out", rows * columns);
    refuse_overlap(call.Env(), "out", std::as_bytes(out), "the payload",
                   {reinterpret_cast<const std::byte*>(payload.data), static_cast<size_t>(bytes)});
    translate(call.Env(), [&] {
      check(dequantise(format, tiles_in(format, rows, columns, payload.data), rows, columns, Dtype::f32, out.data(), columns));
    });
  }

  // dequantise(payload, rows, columns, dtype) -> [rows, columns]
  Napi::Value dequantise_rows(const Napi::CallbackInfo& call) {
    const Shared format = shared(call.Env());
    const int64_t rows = require_int(call, 1, "rows", 0, most_extent);
    const int64_t columns = require_int(call, 2, "columns", 1, most_extent);
    const int64_t bytes = payload_bytes(*format, rows, columns);
    const Dtype dtype = require_dtype(call, 3, "dtype");
    if (!is_float(dtype)) throw_status(call.Env(), Status::fail(Code::dtype, "rows become f32, f16 or bf16"));
    if (const auto given = device_tensor_of(call[0])) {
      if (given->dtype != Dtype::i8) throw_status(call.Env(), Status::fail(Code::dtype, "a payload is a tensor of i8"));
      refuse_size(call.Env(), given->size, bytes);
      return {call.Env(), translate(call.Env(), [&] { return dequantise_on_device(call.Env(), format, given, rows, columns, dtype); })};
    }
    auto payload = std::make_shared<Payload>(payload_of(call[0], *format, bytes));
    return translate(call.Env(), [&] {
      std::shared_ptr<Tensor> out;
      check(Tensor::create(dtype, {rows, columns}, &out));
      return run(
          call, rows * columns * element_cost,
          [=](const std::atomic<bool>* cancel) {
            check(dequantise(*format, tiles_in(*format, rows, columns, payload->data), rows, columns, dtype, out->data(), columns, cancel));
          },
          tensor_value(out),
          [=] {
            if (!payload->tensor) copy_payload(payload.get(), bytes);
          });
    });
  }
};

// hadamard(x: Float32Array, columns, block): in place
void hadamard_in_place(const Napi::CallbackInfo& call) {
  const std::span<float> x = require_array<float>(call[0], "x");
  const int64_t columns = require_int(call, 1, "columns", 1, most_extent);
  const int64_t block = require_int(call, 2, "block", 1, most_extent);
  const auto size = static_cast<int64_t>(x.size());
  if (size % columns != 0)
    throw_invalid(call.Env(), "x has " + std::to_string(size) + " numbers, which are no rows of " + std::to_string(columns));
  translate(call.Env(), [&] { check(hadamard(x.data(), size / columns, columns, columns, block)); });
}

// packBits(symbols: Uint16Array, bits, out: Uint8Array)
void pack_symbols(const Napi::CallbackInfo& call) {
  const std::span<uint16_t> symbols = require_array<uint16_t>(call[0], "symbols");
  const auto bits = static_cast<int>(require_int(call, 1, "bits", 1, 16));
  const auto count = static_cast<int64_t>(symbols.size());
  const std::span<uint8_t> out = require_array<uint8_t>(call[2], "out", packed_bytes(count, bits));
  refuse_overlap(call.Env(), "out", std::as_bytes(out), "symbols", std::as_bytes(symbols));
  pack_bits(symbols.data(), count, bits, out.data());
}

// unpackBits(packed: Uint8Array, bits, out: Uint16Array)
void unpack_symbols(const Napi::CallbackInfo& call) {
  const auto bits = static_cast<int>(require_int(call, 1, "bits", 1, 16));
  const std::span<uint16_t> out = require_array<uint16_t>(call[2], "out");
  const auto count = static_cast<int64_t>(out.size());
  const std::span<uint8_t> packed = require_array<uint8_t>(call[0], "packed", packed_bytes(count, bits));
  refuse_overlap(call.Env(), "out", std::as_bytes(out), "packed", std::as_bytes(packed));
  unpack_bits(packed.data(), count, bits, out.data());
}

}  // namespace

void init_tiles(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->tile_codec_class = Napi::Persistent(TileCodecObject::define(env));
  exports.Set("createTileCodec", Napi::Function::New<TileCodecObject::create>(env, "createTileCodec"));
  exports.Set("hadamard", Napi::Function::New<hadamard_in_place>(env, "hadamard"));
  exports.Set("packBits", Napi::Function::New<pack_symbols>(env, "packBits"));
  exports.Set("unpackBits", Napi::Function::New<unpack_symbols>(env, "unpackBits"));
}

}  // namespace latentwire::addon
