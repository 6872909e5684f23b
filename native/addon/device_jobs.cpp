#include "addon/device_jobs.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>

#include "addon/addon.h"
#include "addon/device_tensor_object.h"
#include "addon/tensor_object.h"

namespace latentwire::addon {
namespace {

// The accelerator's library lies beside this one.
std::string folder_of_addon() {
  static const char anchor = 0;
  Dl_info self{};
  if (dladdr(&anchor, &self) == 0 || self.dli_fname == nullptr) return ".";
  const std::string file = self.dli_fname;
  const size_t slash = file.rfind('/');
  return slash == std::string::npos ? "." : file.substr(0, slash);
}

}  // namespace

const Backend& backend_of_process() { return process_backend(folder_of_addon()); }

std::shared_ptr<DeviceStream> device_stream_of(napi_env env) {
  AddonData& data = *Napi::Env(env).GetInstanceData<AddonData>();
  if (!data.device_stream) check(DeviceStream::create(backend_of_process, 0, &data.device_stream));
  return data.device_stream;
}

napi_value start_on_device(napi_env env, std::function<Job::ToValue(Job&, DeviceStream&)> issue) {
  AddonData& data = *Napi::Env(env).GetInstanceData<AddonData>();
  DeviceStream& stream = *device_stream_of(env);
  const auto job = std::make_shared<Job>();
  // whoever claims the job ends it: the stream that takes it up, or a cancel before that
  const auto claimed = std::make_shared<std::atomic<bool>>(false);
  napi_value handle = data.jobs->start(env, job, nullptr);
  job->set_on_cancel([claimed, weak = std::weak_ptr<Job>(job)] {
    if (claimed->exchange(true)) return;
    if (const auto queued = weak.lock()) queued->finish(Status::fail(Code::cancelled, "cancelled before it began"));
  });
  const auto value = std::make_shared<Job::ToValue>();
  const auto began = std::make_shared<bool>(false);
  stream.submit(
      // what `issue` holds goes with this function, when it is no longer read
      [job, claimed, began, value, issue = std::move(issue)](DeviceStream& own) -> Status {
        // no failure: nothing was launched that the stream would have to wait for
        if (claimed->exchange(true)) return {};
        *began = true;
        try {
          *value = issue(*job, own);
          return {};
        } catch (...) {
          return current_failure();
        }
      },
      [job, claimed, began, value](Status status) {
        // the device may never have been opened
        claimed->store(true);
        if (status.ok() && !*began) status = Status::fail(Code::cancelled, "cancelled before it began");
        job->finish(std::move(status), std::move(*value));
      });
  return handle;
}

DeviceUse device_use_of(napi_env env) {
  const AddonData& data = *Napi::Env(env).GetInstanceData<AddonData>();
  if (!data.device_stream) return {};
  return {data.device_stream->device_bytes(), data.device_stream->pinned_bytes()};
}

DeviceInput DeviceInput::of(const Napi::Value& value, const char* name, int64_t depth) {
  DeviceInput input;
  input.depth_ = depth;
  if (const auto tensor = device_tensor_of(value)) {
    const auto& shape = tensor->shape;
    if (shape.empty() || shape.size() > 2 || shape.back() != depth)
      throw_invalid(value.Env(), std::string(name) + " must have the shape [n, " + std::to_string(depth) + "], not " + shape_text(shape));
    if (!is_float(tensor->dtype)) throw_status(value.Env(), Status::fail(Code::dtype, std::string(name) + " must be f32, f16 or bf16"));
    input.dtype_ = tensor->dtype;
    input.count_ = tensor->size / depth;
    input.device_ = tensor;
    return input;
  }
  Input given = input_of(value, name, depth);
  translate(value.Env(), [&] { keep(&given); });
  input.dtype_ = given.rows.dtype;
  input.count_ = given.rows.count;
  input.host_ = given.tensor;
  return input;
}

latent_rows DeviceInput::rows(Job& job, DeviceStream& stream) {
  const std::byte* data = nullptr;
  if (device_) {
    data = device_->buffer->data();
  } else {
    check(stream.allocate(host_->bytes(), &uploaded_));
    check(stream.upload(uploaded_->data(), host_->data(), host_->bytes(), &job.cancel_flag()));
    data = uploaded_->data();
  }
  return {data, count_, depth_, static_cast<int32_t>(dtype_), 0};
}

std::shared_ptr<DeviceTensor> device_output(DeviceStream& stream, Dtype dtype, std::vector<int64_t> shape) {
  std::shared_ptr<DeviceTensor> made;
  check(DeviceTensor::create(stream, dtype, std::move(shape), &made));
  return made;
}

Job::ToValue placed(Job& job, DeviceStream& stream, std::shared_ptr<DeviceTensor> made, bool stays) {
  if (stays) return device_tensor_value(std::move(made));
  std::shared_ptr<Tensor> host;
  check(Tensor::create(made->dtype, made->shape, &host));
  check(stream.download(host->data(), made->buffer->data(), host->bytes(), &job.cancel_flag()));
  return tensor_value(std::move(host));
}

Job::ToValue placed_object(std::vector<std::pair<const char*, Job::ToValue>> values) {
  return [values = std::move(values)](napi_env env) -> napi_value {
    Napi::Object out = Napi::Object::New(env);
    for (const auto& [name, value] : values) out.Set(name, Napi::Value(env, value(env)));
    return out;
  };
}

Job::ToValue unless_bad(BadRow bad, Job::ToValue value) {
  return [bad = std::move(bad), value = std::move(value)](napi_env env) -> napi_value {
    if (const auto row = bad.row())
      throw Failure(Status::fail(Code::non_finite, "row " + std::to_string(*row) + " holds NaN or an infinity, or gives one"));
    return value(env);
  };
}

}  // namespace latentwire::addon
