// The JavaScript classes of keys and values outside of a cache: content, its writer and its reader.
#pragma once

#include <memory>

#include "addon/env_jobs.h"
#include "addon/napi_setup.h"
#include "device/content.h"
#include "kv/content.h"
#include "kv/reader.h"
#include "kv/segment.h"
#include "kv/writer.h"

namespace latentwire {
class Pool;
}

namespace latentwire::addon {

// Exports kvWriter, and defines the classes behind the objects that it, pools and sequences make.
void init_kv(Napi::Env env, Napi::Object exports);
void init_kv_object(Napi::Env env, Napi::Object exports);
void init_kv_segment(Napi::Env env, Napi::Object exports);
void init_kv_codec(Napi::Env env, Napi::Object exports);
void init_device_kv(Napi::Env env, Napi::Object exports);

// Resolves to a new Kv object.
Job::ToValue kv_value(std::shared_ptr<const KvContent> content);
// The content of a Kv object; throws ERR_LATENT_INVALID_ARGUMENT, or ERR_LATENT_DISPOSED.
std::shared_ptr<const KvContent> kv_of(const Napi::Value& value);
// The same of content on the device, whose class is DeviceKv.
Job::ToValue device_kv_value(std::shared_ptr<const DeviceContent> content);
// Throws ERR_LATENT_INVALID_ARGUMENT for what is no such object; `is_device_kv` asks.
std::shared_ptr<const DeviceContent> device_kv_of(const Napi::Value& value);
bool is_device_kv(const Napi::Value& value);

// Facts of a content: what lies where decides nothing.
Napi::Object kv_info(Napi::Env env, const KvContent& content);
SegmentNonce nonce_of(const Napi::Value& value);
// Resolves to { kv, notes }.
Job::ToValue with_notes(Job::ToValue kv, KvManifest::Fields notes);

// [name, value] pairs as fields of a manifest, and back.
KvManifest::Fields fields_of(const Napi::Value& pairs, const char* name);
Napi::Array pairs_of(Napi::Env env, const KvManifest::Fields& fields);

// A codec by what JavaScript has for it: the name of a built-in one, a Kvtc, { outside: name } for one that JavaScript itself encodes and
// decodes with, or null for none, which is nullptr. And an array of them.
std::shared_ptr<const KvCodec> codec_of(const Napi::Value& value);
PartCodecs codecs_of(const Napi::Value& list);

// fitKvtc(samples: Kv[], identity, bits: Float64Array [2 * layers]) -> job of Kvtc
Napi::Value fit_kvtc(const Napi::CallbackInfo& call, const std::shared_ptr<Pool>& pool);

Napi::Object wrap_kv_reader(Napi::Env env, KvExpectation expected);

// open(name, nonce) of a pool -> job of { kv, notes }
Napi::Value open_segment(const Napi::CallbackInfo& call, KvExpectation expected);
// openDeviceKv(identity, handle, nonce) of a pool -> job of { kv, notes }, a DeviceKv
Napi::Value open_device_segment(const Napi::CallbackInfo& call, KvExpectation expected);

}  // namespace latentwire::addon
