// The C ABI of native/include/latentwire/backend.h over the CUDA runtime and the kernels of this folder: streams, events and memory of its
// own pool, and for each kernel the change from the ABI's arguments to its own, with a workspace in the order of the stream.
#include "latentwire/backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "device.h"
#include "gemm.h"
#include "memory.h"

struct latent_stream {
  int device;
  cudaStream_t stream;
};
struct latent_event {
  int device;
  cudaEvent_t event;
};

namespace {

namespace cuda = latentwire::cuda;

// Below it there is no SASS in this library and no PTX that could become any.
constexpr int least_capability = 75;
// Freed memory that a pool keeps for the next allocation instead of giving it back to the driver.
constexpr uint64_t kept_bytes = uint64_t{256} << 20;
constexpr int most_devices = 64;

// --- Errors ----------------------------------------------------------------------------------------------------------------------------

latent_result result_of(cudaError_t error) noexcept {
  switch (error) {
    case cudaSuccess:
      return latent_ok;
    case cudaErrorInvalidValue:
    case cudaErrorNotSupported:
    case cudaErrorInvalidDevice:
      return latent_invalid;
    case cudaErrorMemoryAllocation:
      return latent_out_of_memory;
    case cudaErrorInsufficientDriver:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return latent_no_driver;
    case cudaErrorNoDevice:
      return latent_no_device;
    // these stay with the context: every later call would answer the same
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorHardwareStackError:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorDevicesUnavailable:
    case cudaErrorCudartUnloading:
    case cudaErrorExternalDevice:
    case cudaErrorMpsConnectionFailed:
    case cudaErrorUnknown:
      return latent_lost;
    default:
      return latent_failed;
  }
}

int tell(latent_result result, const char* what, const char* text, char* why, size_t n) noexcept {
  if (n > 0) std::snprintf(why, n, "%s: %s", what, text);
  return result;
}

// The ABI's answer. An error that does not stay is cleared, so that the next launch does not take it for its own.
int answer(cudaError_t error, const char* what, char* why, size_t n) noexcept {
  if (error == cudaSuccess) return latent_ok;
  static_cast<void>(cudaGetLastError());
  return tell(result_of(error), what, cudaGetErrorString(error), why, n);
}

#define LATENT_TRY(call, what)                                                                         \
  do {                                                                                                 \
    if (const cudaError_t error_ = (call); error_ != cudaSuccess) return answer(error_, what, why, n); \
  } while (false)

// --- Devices ---------------------------------------------------------------------------------------------------------------------------

int probe(int32_t* devices, char* why, size_t n) noexcept {
  *devices = 0;
  int driver = 0;
  int runtime = 0;
  static_cast<void>(cudaDriverGetVersion(&driver));
  static_cast<void>(cudaRuntimeGetVersion(&runtime));
  int count = 0;
  if (const cudaError_t error = cudaGetDeviceCount(&count); error != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    if (driver == 0) {
      if (n > 0) std::snprintf(why, n, "no CUDA driver (runtime %d): %s", runtime, cudaGetErrorString(error));
      return latent_no_driver;
    }
    if (n > 0) std::snprintf(why, n, "driver %d, runtime %d: %s", driver, runtime, cudaGetErrorString(error));
    return result_of(error) == latent_no_driver ? latent_no_driver : latent_no_device;
  }
  int oldest = 0;
  for (int device = 0; device < count; device++) {
    int major = 0;
    int minor = 0;
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess) break;
    if (cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) break;
    oldest = 10 * major + minor;
    // devices are numbered from 0 on, so the usable ones are those before the first that is not
    if (oldest < least_capability) break;
    *devices = device + 1;
  }
  if (*devices > 0) return latent_ok;
  static_cast<void>(cudaGetLastError());
  if (n > 0) {
    std::snprintf(why, n, "no usable device among %d (compute capability %d.%d, needed %d.%d)", count, oldest / 10, oldest % 10,
                  least_capability / 10, least_capability % 10);
  }
  return latent_no_device;
}

int device_info(int32_t device, latent_device_info* out, char* why, size_t n) noexcept {
  cudaDeviceProp properties{};
  LATENT_TRY(cudaGetDeviceProperties(&properties, device), "device properties");
  *out = {};
  std::snprintf(out->name, sizeof(out->name), "%.63s", properties.name);
  out->major = properties.major;
  out->minor = properties.minor;
  out->processors = properties.multiProcessorCount;
  out->memory = properties.totalGlobalMem;
  LATENT_TRY(cudaDriverGetVersion(&out->driver), "driver version");
  LATENT_TRY(cudaRuntimeGetVersion(&out->runtime), "runtime version");
  return latent_ok;
}

// A pool of our own, whose size and use are ours alone: others in this process use the device's default pool.
cudaError_t pool_of(int device, cudaMemPool_t* out) noexcept {
  static std::mutex mutex;
  static cudaMemPool_t pools[most_devices] = {};
  if (device < 0 || device >= most_devices) return cudaErrorInvalidDevice;
  const std::lock_guard lock(mutex);
  if (pools[device] == nullptr) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t made = nullptr;
    LATENT_CUDA_TRY(cudaMemPoolCreate(&made, &properties));
    uint64_t threshold = kept_bytes;
    if (const cudaError_t error = cudaMemPoolSetAttribute(made, cudaMemPoolAttrReleaseThreshold, &threshold); error != cudaSuccess) {
      static_cast<void>(cudaMemPoolDestroy(made));
      return error;
    }
    pools[device] = made;
  }
  *out = pools[device];
  return cudaSuccess;
}

int memory_info(int32_t device, latent_memory_info* out, char* why, size_t n) noexcept {
  *out = {};
  LATENT_TRY(cudaSetDevice(device), "device");
  size_t available = 0;
  size_t total = 0;
  LATENT_TRY(cudaMemGetInfo(&available, &total), "memory information");
  cudaMemPool_t pool = nullptr;
  LATENT_TRY(pool_of(device, &pool), "memory pool");
  uint64_t used = 0;
  LATENT_TRY(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used), "memory pool");
  out->free_bytes = available;
  out->total_bytes = total;
  out->used_bytes = used;
  return latent_ok;
}

int memory_device(const void* memory, int32_t* device, char* why, size_t n) noexcept {
  *device = -1;
  cudaPointerAttributes attributes{};
  LATENT_TRY(cudaPointerGetAttributes(&attributes, memory), "memory");
  if (attributes.type == cudaMemoryTypeDevice || attributes.type == cudaMemoryTypeManaged) *device = attributes.device;
  return latent_ok;
}

// --- Streams and events ----------------------------------------------------------------------------------------------------------------

int stream_open(int32_t device, latent_stream** out, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(device), "device");
  auto* made = new (std::nothrow) latent_stream{device, nullptr};
  if (made == nullptr) return tell(latent_out_of_memory, "stream", "no memory", why, n);
  if (const cudaError_t error = cudaStreamCreateWithFlags(&made->stream, cudaStreamNonBlocking); error != cudaSuccess) {
    delete made;
    return answer(error, "stream", why, n);
  }
  *out = made;
  return latent_ok;
}

int stream_wait(latent_stream* stream, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  LATENT_TRY(cudaStreamSynchronize(stream->stream), "stream");
  return latent_ok;
}

int stream_close(latent_stream* stream, char* why, size_t n) noexcept {
  const int waited = stream_wait(stream, why, n);
  const cudaError_t error = cudaStreamDestroy(stream->stream);
  delete stream;
  return waited != latent_ok ? waited : answer(error, "stream", why, n);
}

int event_open(int32_t device, latent_event** out, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(device), "device");
  auto* made = new (std::nothrow) latent_event{device, nullptr};
  if (made == nullptr) return tell(latent_out_of_memory, "event", "no memory", why, n);
  if (const cudaError_t error = cudaEventCreateWithFlags(&made->event, cudaEventDisableTiming | cudaEventBlockingSync);
      error != cudaSuccess) {
    delete made;
    return answer(error, "event", why, n);
  }
  *out = made;
  return latent_ok;
}

int event_close(latent_event* event, char* why, size_t n) noexcept {
  const cudaError_t error = cudaEventDestroy(event->event);
  delete event;
  return answer(error, "event", why, n);
}

int event_record(latent_event* event, latent_stream* stream, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  LATENT_TRY(cudaEventRecord(event->event, stream->stream), "event");
  return latent_ok;
}

int event_wait(latent_event* event, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(event->device), "device");
  LATENT_TRY(cudaEventSynchronize(event->event), "event");
  return latent_ok;
}

// --- Memory ----------------------------------------------------------------------------------------------------------------------------

int allocate(latent_stream* stream, uint64_t bytes, void** out, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  cudaMemPool_t pool = nullptr;
  LATENT_TRY(pool_of(stream->device, &pool), "memory pool");
  if (const cudaError_t error = cudaMallocFromPoolAsync(out, bytes, pool, stream->stream); error != cudaSuccess) {
    if (error != cudaErrorMemoryAllocation) return answer(error, "allocation", why, n);
    static_cast<void>(cudaGetLastError());
    if (n > 0) std::snprintf(why, n, "no %llu bytes left on device %d", static_cast<unsigned long long>(bytes), stream->device);
    return latent_out_of_memory;
  }
  return latent_ok;
}

int release(latent_stream* stream, void* memory, char* why, size_t n) noexcept {
  if (stream != nullptr) LATENT_TRY(cudaSetDevice(stream->device), "device");
  LATENT_TRY(cudaFreeAsync(memory, stream == nullptr ? nullptr : stream->stream), "release");
  return latent_ok;
}

int pin(uint64_t bytes, void** out, char* why, size_t n) noexcept {
  LATENT_TRY(cudaHostAlloc(out, bytes, cudaHostAllocPortable), "pinned memory");
  return latent_ok;
}

int unpin(void* memory, char* why, size_t n) noexcept {
  LATENT_TRY(cudaFreeHost(memory), "pinned memory");
  return latent_ok;
}

int copy(latent_stream* stream, void* to, const void* from, uint64_t bytes, int32_t direction, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  const cudaMemcpyKind kind = direction == latent_to_device ? cudaMemcpyHostToDevice
                              : direction == latent_to_host ? cudaMemcpyDeviceToHost
                                                            : cudaMemcpyDeviceToDevice;
  LATENT_TRY(cudaMemcpyAsync(to, from, bytes, kind, stream->stream), "copy");
  return latent_ok;
}

int fill(latent_stream* stream, void* memory, int32_t value, uint64_t bytes, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  LATENT_TRY(cudaMemsetAsync(memory, value, bytes, stream->stream), "fill");
  return latent_ok;
}

static_assert(sizeof(latent_shared_handle) == sizeof(cudaIpcMemHandle_t));

// What this process shares: the driver opens no handle in the process that made it. Memory that is open here is freed when it is closed.
struct Shared {
  latent_shared_handle handle;
  void* memory;
  uint64_t bytes;
  int opened;
  bool released;
};
std::mutex shared_mutex;
auto& shared = *new std::vector<Shared>;  // never destroyed: streams may go on while the process exits

// Frees what is released and open no more; with the lock.
cudaError_t free_shared(void* memory) noexcept {
  const auto found = std::find_if(shared.begin(), shared.end(), [memory](const Shared& one) { return one.memory == memory; });
  if (found == shared.end()) return cudaErrorInvalidValue;
  if (!found->released || found->opened > 0) return cudaSuccess;
  shared.erase(found);
  return cudaFree(memory);
}

int share_allocate(int32_t device, uint64_t bytes, void** out, latent_shared_handle* handle, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(device), "device");
  void* memory = nullptr;
  LATENT_TRY(cudaMalloc(&memory, bytes), "shared memory");
  cudaIpcMemHandle_t made{};
  if (const cudaError_t error = cudaIpcGetMemHandle(&made, memory); error != cudaSuccess) {
    static_cast<void>(cudaFree(memory));
    return answer(error, "handle of shared memory", why, n);
  }
  std::memcpy(handle->bytes, &made, sizeof(made));
  try {
    const std::lock_guard lock(shared_mutex);
    shared.push_back({*handle, memory, bytes, 0, false});
  } catch (const std::bad_alloc&) {
    static_cast<void>(cudaFree(memory));
    return tell(latent_out_of_memory, "shared memory", "no memory", why, n);
  }
  *out = memory;
  return latent_ok;
}

int share_release(void* memory, char* why, size_t n) noexcept {
  const std::lock_guard lock(shared_mutex);
  for (Shared& one : shared) one.released = one.released || one.memory == memory;
  LATENT_TRY(free_shared(memory), "shared memory");
  return latent_ok;
}

// The bytes from `memory` on that belong to its allocation, by the driver: the runtime has no such call.
cudaError_t bytes_behind(void* memory, uint64_t* bytes) noexcept {
  using GetRange = int (*)(unsigned long long* base, size_t* size, unsigned long long address);
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  LATENT_CUDA_TRY(cudaGetDriverEntryPointByVersion("cuMemGetAddressRange", &function, 12000, cudaEnableDefault, &found));
  if (function == nullptr || found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  unsigned long long base = 0;
  size_t size = 0;
  const auto address = reinterpret_cast<unsigned long long>(memory);
  if (reinterpret_cast<GetRange>(function)(&base, &size, address) != 0) return cudaErrorInvalidValue;
  *bytes = base + size - address;
  return cudaSuccess;
}

int share_open(int32_t device, const latent_shared_handle* handle, void** out, uint64_t* bytes, char* why, size_t n) noexcept {
  {
    const std::lock_guard lock(shared_mutex);
    for (Shared& one : shared) {
      if (one.released || std::memcmp(one.handle.bytes, handle->bytes, sizeof(handle->bytes)) != 0) continue;
      one.opened++;
      *out = one.memory;
      *bytes = one.bytes;
      return latent_ok;
    }
  }
  LATENT_TRY(cudaSetDevice(device), "device");
  cudaIpcMemHandle_t given{};
  std::memcpy(&given, handle->bytes, sizeof(given));
  if (const cudaError_t error = cudaIpcOpenMemHandle(out, given, cudaIpcMemLazyEnablePeerAccess); error != cudaSuccess) {
    const int result = answer(error, "handle of shared memory", why, n);
    return result == latent_lost || result == latent_out_of_memory ? result : latent_invalid;
  }
  if (const cudaError_t error = bytes_behind(*out, bytes); error != cudaSuccess) {
    static_cast<void>(cudaIpcCloseMemHandle(*out));
    return answer(error, "size of shared memory", why, n);
  }
  return latent_ok;
}

int share_close(void* memory, char* why, size_t n) noexcept {
  {
    const std::lock_guard lock(shared_mutex);
    for (Shared& one : shared) {
      if (one.memory != memory) continue;
      one.opened--;
      LATENT_TRY(free_shared(memory), "shared memory");
      return latent_ok;
    }
  }
  LATENT_TRY(cudaIpcCloseMemHandle(memory), "shared memory");
  return latent_ok;
}

// --- Kernels ---------------------------------------------------------------------------------------------------------------------------

#define LATENT_SAME(ours, theirs) static_assert(static_cast<int>(ours) == static_cast<int>(theirs))
LATENT_SAME(latent_bf16, cuda::Dtype::bf16);
LATENT_SAME(latent_l1, cuda::Similarity::l1);
LATENT_SAME(latent_layer, cuda::Norm::layer);
LATENT_SAME(latent_tanh, cuda::Activation::tanh);
LATENT_SAME(latent_residual, cuda::Rescale::residual);
LATENT_SAME(latent_row_q6_K, cuda::RowFormat::q6_K);
LATENT_SAME(latent_dirichlet, cuda::ThoughtNoise::dirichlet);
LATENT_SAME(latent_bad_sum, cuda::ThoughtFault::bad_sum);
LATENT_SAME(latent_i4_zero, cuda::TileCode::i4_zero);
LATENT_SAME(latent_scale_ue8m0, cuda::TileScale::ue8m0);
LATENT_SAME(latent_norm_pairs, cuda::RopePairs::norm);
#undef LATENT_SAME
static_assert(sizeof(latent_thought_stats) == sizeof(cuda::ThoughtStats) && sizeof(cuda::ThoughtFault) == sizeof(int32_t));
static_assert(sizeof(latent_tile_part) == sizeof(cuda::TilePart) && sizeof(latent_cell_part) == sizeof(cuda::CellPart));
static_assert(cuda::no_bad_row == LATENT_NO_BAD_ROW && sizeof(cuda::Digest128) == 2 * sizeof(uint64_t));

cuda::Dtype dtype_of(int32_t dtype) noexcept { return static_cast<cuda::Dtype>(dtype); }
cuda::Rows rows_of(const latent_rows& x) noexcept { return {dtype_of(x.dtype), x.data, x.count, x.stride}; }
cuda::PackedMatrix matrix_of(const latent_matrix& m) noexcept { return {dtype_of(m.dtype), m.data, m.outputs, m.depth, m.sums, m.squares}; }

// Whether a workspace can be computed of these: what else may be wrong with them, the kernels find.
bool sound(const latent_rows& x) noexcept {
  return x.count >= 0 && x.count <= INT32_MAX && x.stride >= 0 && x.dtype >= latent_f32 && x.dtype <= latent_bf16;
}
bool sound(const latent_matrix& m) noexcept {
  return m.data == nullptr || (m.outputs > 0 && m.outputs <= INT32_MAX && m.depth > 0 && m.depth <= INT32_MAX);
}
int refuse(const char* what, char* why, size_t n) noexcept { return tell(latent_invalid, what, "sizes that no kernel takes", why, n); }

template <class Args>
using Launch = cudaError_t (*)(const Args&, cudaStream_t) noexcept;

template <class Args>
int launch(latent_stream* stream, const Args& args, Launch<Args> kernel, const char* what, char* why, size_t n) noexcept {
  LATENT_TRY(cudaSetDevice(stream->device), "device");
  LATENT_TRY(kernel(args, stream->stream), what);
  return latent_ok;
}

// With `bytes` of workspace, which is free again for what is launched after it.
template <class Args>
int launch_with(latent_stream* stream, Args args, size_t bytes, Launch<Args> kernel, const char* what, char* why, size_t n) noexcept {
  void* workspace = nullptr;
  if (bytes > 0) {
    if (const int result = allocate(stream, bytes, &workspace, why, n); result != latent_ok) return result;
  }
  args.workspace = workspace;
  if constexpr (requires { args.workspace_bytes; }) args.workspace_bytes = bytes;
  const int result = launch(stream, args, kernel, what, why, n);
  if (workspace == nullptr) return result;
  char ignored[64];
  const int released = release(stream, workspace, result == latent_ok ? why : ignored, result == latent_ok ? n : sizeof(ignored));
  return result != latent_ok ? result : released;
}

uint64_t packed_bytes(int32_t storage, int64_t outputs, int64_t depth) noexcept {
  return cuda::packed_bytes(dtype_of(storage), outputs, depth);
}

int pack(latent_stream* stream, const latent_pack_args* given, char* why, size_t n) noexcept {
  cuda::PackArgs args;
  args.dtype = dtype_of(given->dtype);
  args.source = given->source;
  args.outputs = given->outputs;
  args.depth = given->depth;
  args.output_stride = given->output_stride;
  args.depth_stride = given->depth_stride;
  args.shift = given->shift;
  args.depth_scale = given->depth_scale;
  args.unit = given->unit != 0;
  args.storage = dtype_of(given->storage);
  args.data = given->data;
  args.sums = given->sums;
  args.squares = given->squares;
  args.vector = given->vector;
  args.offset = given->offset;
  args.projected = given->projected;
  args.bad_output = given->bad_output;
  return launch<cuda::PackArgs>(stream, args, cuda::pack, "pack", why, n);
}

int cosine(latent_stream* stream, const latent_cosine_args* given, char* why, size_t n) noexcept {
  if (!sound(given->x) || !sound(given->anchors) || !sound(given->whitening) || given->k < 0) return refuse("similarities", why, n);
  cuda::CosineArgs args;
  args.x = rows_of(given->x);
  args.anchors = matrix_of(given->anchors);
  args.similarity = static_cast<cuda::Similarity>(given->similarity);
  args.whitening = matrix_of(given->whitening);
  args.mean = given->mean;
  args.centre = given->centre;
  args.scale = given->scale;
  args.r = given->r;
  args.stride = given->anchors.outputs;
  args.k = given->k;
  args.indices = given->indices;
  args.values = given->values;
  args.bad_row = given->bad_row;
  return launch_with<cuda::CosineArgs>(stream, args, cuda::cosine_workspace(args), cuda::cosine, "similarities", why, n);
}

int projection(latent_stream* stream, const latent_projection_args* given, char* why, size_t n) noexcept {
  if (!sound(given->x) || !sound(given->first) || !sound(given->second)) return refuse("projection", why, n);
  cuda::ProjectionArgs args;
  args.x = rows_of(given->x);
  args.norm = static_cast<cuda::Norm>(given->norm);
  args.epsilon = given->epsilon;
  args.first = matrix_of(given->first);
  args.first_bias = given->first_bias;
  args.activation = static_cast<cuda::Activation>(given->activation);
  args.second = matrix_of(given->second);
  args.second_bias = given->second_bias;
  args.rescale = static_cast<cuda::Rescale>(given->rescale);
  args.target_norm = given->target_norm;
  args.y = given->y;
  args.stride = given->second.data != nullptr ? given->second.outputs : given->first.outputs;
  args.bad_row = given->bad_row;
  return launch_with<cuda::ProjectionArgs>(stream, args, cuda::projection_workspace(args), cuda::projection, "projection", why, n);
}

int codeword(latent_stream* stream, const latent_codeword_args* given, char* why, size_t n) noexcept {
  if (!sound(given->x) || !sound(given->codewords)) return refuse("nearest codeword", why, n);
  cuda::CodewordArgs args;
  args.x = rows_of(given->x);
  args.codewords = matrix_of(given->codewords);
  args.indices = given->indices;
  args.distances = given->distances;
  args.bad_row = given->bad_row;
  return launch_with<cuda::CodewordArgs>(stream, args, cuda::codeword_workspace(args), cuda::codeword, "nearest codeword", why, n);
}

int thought(latent_stream* stream, const latent_thought_args* given, char* why, size_t n) noexcept {
  const auto extent = [](int64_t size) { return size >= 0 && size <= INT32_MAX; };
  if (!extent(given->batch) || !extent(given->count) || !extent(given->width) || !extent(given->top_k))
    return refuse("thought step", why, n);
  cuda::ThoughtArgs args;
  args.table = {static_cast<cuda::RowFormat>(given->format), given->table, given->count, given->width, given->row_bytes};
  args.batch = given->batch;
  args.dtype = dtype_of(given->dtype);
  args.logits = given->logits;
  args.logit_stride = given->count;
  args.masked = given->masked;
  args.token = given->token;
  args.mix = given->mix;
  args.extra = given->extra;
  args.temperature = given->temperature;
  args.top_k = given->top_k;
  args.top_p = given->top_p;
  args.noise = static_cast<cuda::ThoughtNoise>(given->noise);
  args.noise_amount = given->noise_amount;
  args.unit_mix = given->unit_mix != 0;
  args.norm = given->norm;
  args.tokens = given->tokens;
  args.extras = given->extras;
  args.draws = given->draws;
  args.out = given->out;
  args.stats = reinterpret_cast<cuda::ThoughtStats*>(given->stats);
  args.ids = given->ids;
  args.weights = given->weights;
  args.faults = reinterpret_cast<cuda::ThoughtFault*>(given->faults);
  return launch_with<cuda::ThoughtArgs>(stream, args, cuda::thought_workspace(args), cuda::thought_steps, "thought step", why, n);
}

cuda::TileArgs tiles_of(const latent_tile_args& given) noexcept {
  cuda::TileArgs args;
  args.format = {static_cast<cuda::TileCode>(given.code), static_cast<cuda::TileScale>(given.scale), given.group};
  args.dtype = dtype_of(given.dtype);
  args.rows = given.rows;
  args.columns = given.columns;
  args.stride = given.stride;
  args.cells = given.cells;
  args.parts = reinterpret_cast<const cuda::TilePart*>(given.parts);
  args.part_count = given.part_count;
  args.first_bad = given.first_bad;
  return args;
}

int quantise(latent_stream* stream, const latent_tile_args* given, char* why, size_t n) noexcept {
  return launch<cuda::TileArgs>(stream, tiles_of(*given), cuda::quantise, "tiles", why, n);
}

int dequantise(latent_stream* stream, const latent_tile_args* given, char* why, size_t n) noexcept {
  return launch<cuda::TileArgs>(stream, tiles_of(*given), cuda::dequantise, "tiles", why, n);
}

int hadamard(latent_stream* stream, const latent_hadamard_args* given, char* why, size_t n) noexcept {
  const cuda::HadamardArgs args{given->x, given->rows, given->columns, given->columns, given->block};
  return launch<cuda::HadamardArgs>(stream, args, cuda::hadamard, "Hadamard transform", why, n);
}

int copy_cells(latent_stream* stream, const latent_cell_args* given, char* why, size_t n) noexcept {
  cuda::CellArgs args;
  args.count = given->count;
  args.row_bytes = given->row_bytes;
  args.from_stride = given->from_stride;
  args.to_stride = given->to_stride;
  args.from_cells = given->from_cells;
  args.to_cells = given->to_cells;
  args.parts = reinterpret_cast<const cuda::CellPart*>(given->parts);
  args.part_count = given->part_count;
  return launch<cuda::CellArgs>(stream, args, cuda::copy_cells, "cells", why, n);
}

int copy_transposed_cells(latent_stream* stream, const latent_transposed_cell_args* given, char* why, size_t n) noexcept {
  cuda::TransposedCellArgs args;
  args.count = given->count;
  args.channels = given->channels;
  args.element_bytes = given->element_bytes;
  args.channel_stride = given->channel_stride;
  args.row_stride = given->row_stride;
  args.cells = given->cells;
  args.scatter = given->scatter != 0;
  args.parts = reinterpret_cast<const cuda::CellPart*>(given->parts);
  args.part_count = given->part_count;
  return launch<cuda::TransposedCellArgs>(stream, args, cuda::copy_transposed_cells, "cells", why, n);
}

int rope_shift(latent_stream* stream, const latent_rope_args* given, char* why, size_t n) noexcept {
  if (given->count < 0 || given->count > INT32_MAX || given->rotated < 0) return refuse("rotation", why, n);
  cuda::RopeArgs args;
  args.pairs = static_cast<cuda::RopePairs>(given->pairs);
  args.head_dim = given->head_dim;
  args.rotated = given->rotated;
  args.frequencies = given->frequencies;
  args.shifts = given->shifts;
  args.cells = given->cells;
  args.count = given->count;
  args.heads = given->heads;
  args.stride = given->stride;
  args.dtype = dtype_of(given->dtype);
  args.rows = given->rows;
  args.part_count = given->part_count;
  return launch_with<cuda::RopeArgs>(stream, args, cuda::rope_workspace(args), cuda::rope_shift, "rotation", why, n);
}

int digest(latent_stream* stream, const latent_digest_args* given, char* why, size_t n) noexcept {
  const cuda::DigestArgs args{given->data, given->count, given->bytes, given->stride, reinterpret_cast<cuda::Digest128*>(given->digests)};
  return launch<cuda::DigestArgs>(stream, args, cuda::digest_tiles, "digests", why, n);
}

int find_non_finite(latent_stream* stream, const latent_finite_args* given, char* why, size_t n) noexcept {
  const cuda::FiniteArgs args{
      static_cast<cuda::RowFormat>(given->format), given->parts, given->part_count, given->rows, given->row_bytes, given->first_bad};
  return launch<cuda::FiniteArgs>(stream, args, cuda::find_non_finite, "finite numbers", why, n);
}

#define LATENT_TEXT(x) #x
#define LATENT_NUMBER(x) LATENT_TEXT(x)

constexpr latent_backend_v1 table = {
    LATENT_BACKEND_ABI,
    sizeof(latent_backend_v1),
    "cuda",
    LATENTWIRE_VERSION ", nvcc " LATENT_NUMBER(__CUDACC_VER_MAJOR__) "." LATENT_NUMBER(__CUDACC_VER_MINOR__) ", " LATENT_CUDA_SASS,
    probe,
    device_info,
    memory_info,
    memory_device,
    stream_open,
    stream_close,
    stream_wait,
    event_open,
    event_close,
    event_record,
    event_wait,
    allocate,
    release,
    pin,
    unpin,
    copy,
    fill,
    share_allocate,
    share_release,
    share_open,
    share_close,
    packed_bytes,
    pack,
    cosine,
    projection,
    codeword,
    thought,
    quantise,
    dequantise,
    hadamard,
    copy_cells,
    copy_transposed_cells,
    rope_shift,
    find_non_finite,
    digest,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) const latent_backend_v1* latent_backend_entry_v1(void) { return &table; }
