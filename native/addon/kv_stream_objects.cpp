// The JavaScript classes that turn a Kv into the records of a stream and back.
#include <algorithm>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "addon/args.h"
#include "addon/device_jobs.h"
#include "addon/engine_objects.h"
#include "addon/kernel_input.h"
#include "addon/kv_objects.h"
#include "addon/operand_object.h"
#include "addon/typed_arrays.h"
#include "core/large_memory.h"
#include "device/piece.h"

namespace latentwire::addon {
namespace {

// { part, from, to, channels }
Napi::Object place_of(Napi::Env env, const KvTile& tile) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("part", static_cast<double>(tile.part));
  out.Set("from", static_cast<double>(tile.first));
  out.Set("to", static_cast<double>(tile.first + tile.count));
  out.Set("channels", tile.rows.channels);
  return out;
}

// A writer is no constant: it gathers what the root is made of. Its records are asked for one after the other.
struct SharedWriter {
  std::shared_ptr<KvWriter> writer;
  std::shared_ptr<const DeviceContent> source;  // of pieces, if it writes content on the device
};

// Some chunks of content on the device, brought to the host for a writer.
class KvPieceObject : public OperandObject<KvPieceObject, KvPiece> {
 public:
  static constexpr const char* class_name = "KvPiece";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7670'6365};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->kv_piece_class; }

  static Napi::Function define(Napi::Env env) { return DefineClass(env, class_name, {InstanceMethod<&KvPieceObject::dispose>("dispose")}); }

  explicit KvPieceObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  static Job::ToValue value_of(Shared piece) { return wrap(std::move(piece)); }
  const Shared& piece(Napi::Env env) const { return shared(env); }

 private:
  void dispose(const Napi::CallbackInfo&) { release(); }
};

class KvWriterObject : public OperandObject<KvWriterObject, SharedWriter> {
 public:
  static constexpr const char* class_name = "KvWriter";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7677'7274};

  static Napi::FunctionReference& constructor(Napi::Env env) { return env.GetInstanceData<AddonData>()->kv_writer_class; }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceAccessor<&KvWriterObject::records>("records"),
                           InstanceMethod<&KvWriterObject::piece>("piece"),
                           InstanceMethod<&KvWriterObject::append>("append"),
                           InstanceMethod<&KvWriterObject::sizes>("sizes"),
                           InstanceMethod<&KvWriterObject::write>("write"),
                           InstanceMethod<&KvWriterObject::staging>("staging"),
                           InstanceMethod<&KvWriterObject::write_to>("writeTo"),
                           InstanceMethod<&KvWriterObject::pass_over>("passOver"),
                           InstanceMethod<&KvWriterObject::outside>("outside"),
                           InstanceMethod<&KvWriterObject::provide>("provide"),
                           InstanceMethod<&KvWriterObject::seal>("seal"),
                           InstanceMethod<&KvWriterObject::dispose>("dispose"),
                       });
  }

  explicit KvWriterObject(const Napi::CallbackInfo& info) : OperandObject(info) {}

  // kvWriter(kv, identity, notes, sealed, entries, codecs); of a DeviceKv it has no rows, and is given pieces
  static Napi::Value open(const Napi::CallbackInfo& call) {
    return translate(call.Env(), [&] {
      KvManifest manifest;
      manifest.identity = fields_of(call[1], "identity");
      manifest.notes = fields_of(call[2], "notes");
      SharedWriter made;
      if (is_device_kv(call[0])) made.source = device_kv_of(call[0]);
      // an alias: the log of what lies on the device
      const auto content = made.source == nullptr ? kv_of(call[0]) : std::shared_ptr<const KvContent>(made.source, &made.source->entries);
      const int64_t entries = require_int(call, 4, "entries", content->size(), std::numeric_limits<int32_t>::max());
      PartCodecs codecs = codecs_of(call[5]);
      check(check_codecs(codecs, content->layout));
      made.writer = std::make_shared<KvWriter>(content, std::move(manifest), require_bool(call, 3, "sealed"), entries, std::move(codecs));
      return Napi::Value(call.Env(), wrap(std::make_shared<const SharedWriter>(std::move(made)))(call.Env()));
    });
  }

 private:
  void dispose(const Napi::CallbackInfo&) { release(); }

  Napi::Value records(const Napi::CallbackInfo& call) {
    return Napi::Number::New(call.Env(), static_cast<double>(operand(call.Env()).writer->records()));
  }

  // piece(from, to) -> job of KvPiece, entries [from, to) of the content on the device that this is a writer of
  Napi::Value piece(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const SharedWriter& shared = operand(env);
    if (shared.source == nullptr) throw_invalid(env, "this is no writer of content on the device");
    const int64_t to = require_int(call, 1, "to", 1, shared.source->entries.size());
    const int64_t from = require_int(call, 0, "from", 0, to - 1);
    return translate(env, [&] {
      return Napi::Value(env,
                         start_on_device(env, [from, to, source = shared.source, writer = shared.writer](Job& job, DeviceStream& stream) {
                           auto made = std::make_shared<KvPiece>();
                           check(download_piece(stream, *source, writer->codecs(), from, to, &job.cancel_flag(), made.get()));
                           return KvPieceObject::value_of(std::move(made));
                         }));
    });
  }

  // append(kv or piece)
  void append(const Napi::CallbackInfo& call) {
    KvWriter& writer = *operand(call.Env()).writer;
    translate(call.Env(), [&] {
      const KvPieceObject* piece = KvPieceObject::from(call[0]);
      check(piece != nullptr ? writer.append(*piece->piece(call.Env())) : writer.append(*kv_of(call[0])));
    });
  }

  // -> Float64Array, bytes of each record that is ready, of encoded tiles the most that they can have
  Napi::Value sizes(const Napi::CallbackInfo& call) {
    const KvWriter& writer = *operand(call.Env()).writer;
    return translate(call.Env(), [&] {
      std::vector<double> bytes;
      const int64_t ready = writer.ready();
      for (int64_t i = 0; i < ready; i++) bytes.push_back(static_cast<double>(writer.record_bytes(i)));
      return array_with<double>(call.Env(), bytes);
    });
  }

  // write(from, to) -> job of a Buffer with records [from, to)
  Napi::Value write(const Napi::CallbackInfo& call) {
    const std::shared_ptr<KvWriter> writer = operand(call.Env()).writer;
    return start(call, *writer, [writer](int64_t from, int64_t to, const Job& job) -> Job::ToValue {
      size_t size = bytes_of(*writer, from, to);
      const std::shared_ptr<uint8_t> bytes = memory_of(size);
      size = write_records(*writer, from, to, bytes.get(), job);
      return [bytes, size](napi_env env) -> napi_value { return buffer_over(env, bytes, size); };
    });
  }

  // staging(bytes) -> a Buffer that records can be written to, again and again; its number is how many there were before. null where the
  // runtime has no Buffers over foreign memory.
  Napi::Value staging(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    operand(env);
    const auto bytes = static_cast<size_t>(require_int(call, 0, "bytes", 1, std::numeric_limits<int32_t>::max()));
    return translate(env, [&] {
      const std::shared_ptr<uint8_t> memory = memory_of(bytes);
      const Napi::Value buffer = buffer_over(env, memory, bytes);
      if (buffer.As<Napi::Buffer<uint8_t>>().Data() != memory.get()) return env.Null();
      staging_.push_back({memory, bytes});
      return buffer;
    });
  }

  // writeTo(staging, from, to) -> job of the bytes that records [from, to) took there. Whoever reads the Buffer has done so before.
  Napi::Value write_to(const Napi::CallbackInfo& call) {
    const std::shared_ptr<KvWriter> writer = operand(call.Env()).writer;
    const auto index = require_int(call, 0, "staging", 0, static_cast<int64_t>(staging_.size()) - 1);
    return start(
        call, *writer,
        [writer, to = staging_[static_cast<size_t>(index)]](int64_t from, int64_t end, const Job& job) -> Job::ToValue {
          if (bytes_of(*writer, from, end) > to.bytes) fail(Code::invalid_argument, "the records are larger than their staging");
          const size_t size = write_records(*writer, from, end, to.memory.get(), job);
          return [size](napi_env env) -> napi_value { return Napi::Number::New(env, static_cast<double>(size)); };
        },
        1);
  }

  static size_t bytes_of(const KvWriter& writer, int64_t from, int64_t to) {
    int64_t size = 0;
    for (int64_t record = from; record < to; record++) size += writer.record_bytes(record);
    return static_cast<size_t>(size);
  }

  static std::shared_ptr<uint8_t> memory_of(size_t bytes) {
    std::shared_ptr<uint8_t> memory = large_memory(bytes);
    if (memory == nullptr) fail(Code::out_of_memory, "no memory for " + std::to_string(bytes) + " bytes of records");
    return memory;
  }

  // -> bytes written
  static size_t write_records(KvWriter& writer, int64_t from, int64_t to, uint8_t* out, const Job& job) {
    uint8_t* at = out;
    for (int64_t record = from; record < to && !job.cancelled(); record++) {
      int64_t written = 0;
      check(writer.write(record, at, &written));
      at += written;
    }
    return static_cast<size_t>(at - out);
  }

  static Napi::Value buffer_over(napi_env env, const std::shared_ptr<uint8_t>& bytes, size_t size) {
    const auto release = [](Napi::BasicEnv, uint8_t*, std::shared_ptr<uint8_t>* memory) { delete memory; };
    return Napi::Buffer<uint8_t>::NewOrCopy(env, bytes.get(), size, release, new std::shared_ptr<uint8_t>(bytes));
  }

  // passOver(from, to) -> job: takes them into the root without writing them
  Napi::Value pass_over(const Napi::CallbackInfo& call) {
    const std::shared_ptr<KvWriter> writer = operand(call.Env()).writer;
    return start(call, *writer, [writer](int64_t from, int64_t to, const Job& job) -> Job::ToValue {
      for (int64_t record = from; record < to && !job.cancelled(); record++) check(writer->pass_over(record));
      return {};
    });
  }

  // outside(from, to) -> { record, part, from, to }[], the tiles among these records that JavaScript encodes
  Napi::Value outside(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const KvWriter& writer = *operand(env).writer;
    const int64_t to = require_int(call, 1, "to", 0, writer.records());
    const int64_t from = require_int(call, 0, "from", 0, to);
    return translate(env, [&] {
      const std::vector<int64_t> records = writer.outside_tiles(from, to);
      const Napi::Array list = Napi::Array::New(env, records.size());
      for (uint32_t i = 0; i < records.size(); i++) {
        Napi::Object tile = place_of(env, writer.tile_of(records[i]));
        tile.Set("record", static_cast<double>(records[i]));
        list.Set(i, tile);
      }
      return Napi::Value(list);
    });
  }

  // provide(record, bytes: Uint8Array): a tile that JavaScript has encoded, before it is written
  void provide(const Napi::CallbackInfo& call) {
    KvWriter& writer = *operand(call.Env()).writer;
    const int64_t record = require_int(call, 0, "record", 0, writer.records() - 1);
    translate(call.Env(), [&] {
      const auto bytes = std::make_shared<const std::vector<uint8_t>>(copy_array<uint8_t>(call[1], "bytes"));
      check(writer.provide(record, {std::shared_ptr<const uint8_t>(bytes, bytes->data()), static_cast<int64_t>(bytes->size())}));
    });
  }

  Napi::Value seal(const Napi::CallbackInfo& call) { return array_with<uint8_t>(call.Env(), operand(call.Env()).writer->seal()); }

  // `at`: the place of the argument `from`, before `to`.
  static Napi::Value start(const Napi::CallbackInfo& call, const KvWriter& writer,
                           std::function<Job::ToValue(int64_t from, int64_t to, const Job& job)> work, size_t at = 0) {
    const Napi::Env env = call.Env();
    const int64_t to = require_int(call, at + 1, "to", 0, writer.ready());
    const int64_t from = require_int(call, at, "from", 0, to);
    return {env, start_on_pool(env, *env.GetInstanceData<AddonData>()->jobs, std::make_shared<Job>(), nullptr,
                               [from, to, work = std::move(work)](Job& job) -> Job::ToValue {
                                 Job::ToValue made = work(from, to, job);
                                 if (job.cancelled()) fail(Code::cancelled, "the records were aborted");
                                 return made;
                               })};
  }

  struct Staging {
    std::shared_ptr<uint8_t> memory;
    size_t bytes = 0;
  };
  std::vector<Staging> staging_;
};

class KvReaderObject : public TaggedWrap<KvReaderObject> {
 public:
  static constexpr const char* class_name = "KvReader";
  static constexpr napi_type_tag tag = {0x6c61'7465'6e74'7769, 0x7265'2e6b'7672'6472};

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, class_name,
                       {
                           InstanceMethod<&KvReaderObject::feed>("feed"),
                           InstanceMethod<&KvReaderObject::restart>("restart"),
                           InstanceMethod<&KvReaderObject::held>("held"),
                           InstanceMethod<&KvReaderObject::finish>("finish"),
                           InstanceAccessor<&KvReaderObject::done>("done"),
                           InstanceAccessor<&KvReaderObject::bytes>("bytes"),
                           InstanceAccessor<&KvReaderObject::tile_bytes>("tileBytes"),
                           InstanceMethod<&KvReaderObject::outside>("outside"),
                           InstanceMethod<&KvReaderObject::decoded>("decoded"),
                           InstanceMethod<&KvReaderObject::dispose>("dispose"),
                       });
  }

  // Only `wrap_kv_reader` makes one: it passes what is expected as an External.
  explicit KvReaderObject(const Napi::CallbackInfo& info) : TaggedWrap<KvReaderObject>(info) {
    if (info.Length() != 1 || !info[0].IsExternal() || !info[0].As<Napi::External<KvExpectation>>().CheckTypeTag(&external_tag))
      throw Napi::TypeError::New(info.Env(), "a KvReader comes from a pool");
    reader_ = std::make_unique<KvReader>(*info[0].As<Napi::External<KvExpectation>>().Data());
  }

  static constexpr napi_type_tag external_tag = {tag.lower, ~tag.upper};

 private:
  KvReader& reader(Napi::Env env) const {
    if (!reader_) throw_status(env, Status::fail(Code::disposed, "the KvReader is disposed"));
    return *reader_;
  }

  // feed(bytes: Uint8Array)
  void feed(const Napi::CallbackInfo& call) {
    KvReader& target = reader(call.Env());
    const std::span<uint8_t> bytes = require_array<uint8_t>(call[0], "bytes");
    translate(call.Env(), [&] { check(target.feed(bytes.data(), bytes.size())); });
  }

  void restart(const Napi::CallbackInfo& call) { reader(call.Env()).restart(); }
  void dispose(const Napi::CallbackInfo&) { reader_.reset(); }

  Napi::Value held(const Napi::CallbackInfo& call) { return array_with<uint8_t>(call.Env(), reader(call.Env()).held()); }
  Napi::Value done(const Napi::CallbackInfo& call) { return Napi::Boolean::New(call.Env(), reader(call.Env()).done()); }
  Napi::Value bytes(const Napi::CallbackInfo& call) {
    return Napi::Number::New(call.Env(), static_cast<double>(reader(call.Env()).payload_bytes()));
  }

  Napi::Value tile_bytes(const Napi::CallbackInfo& call) {
    return Napi::Number::New(call.Env(), static_cast<double>(reader(call.Env()).tile_bytes()));
  }

  // -> { codec, part, from, to, channels, bytes }, the first tile that JavaScript must decode, or null
  Napi::Value outside(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    const OutsideTile* tile = reader(env).outside();
    if (tile == nullptr) return env.Null();
    Napi::Object out = place_of(env, tile->tile);
    out.Set("codec", tile->codec);
    out.Set("bytes", array_with<uint8_t>(env, tile->bytes));
    return out;
  }

  // decoded(numbers: Float32Array): of that tile
  void decoded(const Napi::CallbackInfo& call) {
    KvReader& target = reader(call.Env());
    const std::span<float> numbers = require_array<float>(call[0], "numbers");
    translate(call.Env(), [&] { check(target.take_decoded(numbers.data(), static_cast<int64_t>(numbers.size()))); });
  }

  // -> { kv, notes: [name, value][], seal, signature }
  Napi::Value finish(const Napi::CallbackInfo& call) {
    const Napi::Env env = call.Env();
    return translate(env, [&] {
      std::shared_ptr<const KvContent> content;
      KvManifest manifest;
      const KvReader& from = reader(env);
      check(from.finish(&content, &manifest));
      Napi::Object out = Napi::Object::New(env);
      out.Set("kv", kv_value(std::move(content))(env));
      out.Set("notes", pairs_of(env, manifest.notes));
      out.Set("seal", array_with<uint8_t>(env, from.seal()));
      out.Set("signature", array_with<uint8_t>(env, from.signature()));
      return out;
    });
  }

  std::unique_ptr<KvReader> reader_;
};

// kvSignature(bytes) -> the record that carries them
Napi::Value signature(const Napi::CallbackInfo& call) {
  const std::span<const uint8_t> bytes = require_array<uint8_t>(call[0], "signature");
  return translate(call.Env(), [&] { return array_with<uint8_t>(call.Env(), signature_record({bytes.begin(), bytes.end()})); });
}

}  // namespace

KvManifest::Fields fields_of(const Napi::Value& pairs, const char* name) {
  const Napi::Env env = pairs.Env();
  const std::string wrong = std::string(name) + " must be an array of pairs of strings";
  if (!pairs.IsArray()) throw_invalid(env, wrong);
  const auto array = pairs.As<Napi::Array>();
  KvManifest::Fields fields;
  for (uint32_t i = 0; i < array.Length(); i++) {
    const Napi::Value pair = array.Get(i);
    if (!pair.IsArray()) throw_invalid(env, wrong);
    const Napi::Value key = pair.As<Napi::Array>().Get(0U);
    const Napi::Value value = pair.As<Napi::Array>().Get(1U);
    if (!key.IsString() || !value.IsString()) throw_invalid(env, wrong);
    fields.emplace_back(key.As<Napi::String>().Utf8Value(), value.As<Napi::String>().Utf8Value());
  }
  std::sort(fields.begin(), fields.end());
  const auto twice = std::adjacent_find(fields.begin(), fields.end(), [](const auto& a, const auto& b) { return a.first == b.first; });
  if (twice != fields.end()) throw_invalid(env, std::string(name) + " names " + twice->first + " twice");
  return fields;
}

Napi::Array pairs_of(Napi::Env env, const KvManifest::Fields& fields) {
  const Napi::Array array = Napi::Array::New(env, fields.size());
  for (uint32_t i = 0; i < fields.size(); i++) {
    const Napi::Array pair = Napi::Array::New(env, 2);
    pair.Set(0U, fields[i].first);
    pair.Set(1U, fields[i].second);
    array.Set(i, pair);
  }
  return array;
}

Napi::Object wrap_kv_reader(Napi::Env env, KvExpectation expected) {
  auto external = Napi::External<KvExpectation>::New(env, &expected);
  external.TypeTag(&KvReaderObject::external_tag);
  return env.GetInstanceData<AddonData>()->kv_reader_class.New({external});
}

void init_kv(Napi::Env env, Napi::Object exports) {
  init_kv_object(env, exports);
  init_kv_segment(env, exports);
  init_kv_codec(env, exports);
  init_device_kv(env, exports);
  KvWriterObject::constructor(env) = Napi::Persistent(KvWriterObject::define(env));
  KvPieceObject::constructor(env) = Napi::Persistent(KvPieceObject::define(env));
  env.GetInstanceData<AddonData>()->kv_reader_class = Napi::Persistent(KvReaderObject::define(env));
  exports.Set("kvSignature", Napi::Function::New<&signature>(env, "kvSignature"));
  exports.Set("kvWriter", Napi::Function::New<&KvWriterObject::open>(env, "kvWriter"));
}

}  // namespace latentwire::addon
