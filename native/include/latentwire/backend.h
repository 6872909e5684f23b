// The C ABI between the addon and an accelerator's library: one exported function gives one constant table of functions. The CUDA backend
// (cuda/) and its stand-in on the CPU (cuda/mock/) implement it, native/device calls it, and nothing else knows it.
//
// Every function returns a latent_result and, where that is not latent_ok, writes what happened to `why` (at most `n` bytes with the zero).
// None throws. Work on a stream begins in the order of the calls and ends some time later; what is said of a device's memory holds for
// work on that stream. Any thread may call any function, but a stream belongs to one thread at a time.
#ifndef LATENTWIRE_BACKEND_H
#define LATENTWIRE_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "latentwire/backend_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

// Raised whenever anything below changes.
#define LATENT_BACKEND_ABI 2

typedef enum latent_result {
  latent_ok = 0,
  latent_invalid = 1,        // an argument that no kernel takes; nothing was begun
  latent_out_of_memory = 2,  // of the device or pinned; everything else goes on
  latent_no_driver = 3,      // of probe
  latent_no_device = 4,      // of probe
  latent_failed = 5,         // this call failed, the device can be used on
  latent_lost = 6            // the device answers no more in this process
} latent_result;

typedef struct latent_stream latent_stream;
typedef struct latent_event latent_event;

typedef struct latent_device_info {
  char name[64];
  int32_t major;  // compute capability
  int32_t minor;
  int32_t processors;  // streaming multiprocessors
  int32_t driver;      // version that the driver supports, 1000 major + 10 minor
  int32_t runtime;     // that the backend was built with
  uint64_t memory;     // bytes
} latent_device_info;

typedef struct latent_memory_info {
  uint64_t free_bytes;   // of the device, for everyone on it
  uint64_t total_bytes;  // of the device
  uint64_t used_bytes;   // allocated through this backend in this process
} latent_memory_info;

typedef enum latent_direction { latent_to_device = 0, latent_to_host = 1, latent_on_device = 2 } latent_direction;

// Memory of the device that another process may open, by the 64 bytes of its handle.
typedef struct latent_shared_handle {
  uint8_t bytes[64];
} latent_shared_handle;

typedef struct latent_backend_v1 {
  uint32_t abi;       // LATENT_BACKEND_ABI
  uint32_t size;      // of this struct
  const char* name;   // "cuda"
  const char* build;  // version, compiler and processors, for people

  // How many devices can be used. latent_no_driver and latent_no_device say why there is none.
  int (*probe)(int32_t* devices, char* why, size_t n);
  int (*device_info)(int32_t device, latent_device_info* out, char* why, size_t n);
  int (*memory_info)(int32_t device, latent_memory_info* out, char* why, size_t n);
  // The device whose memory lies at this address, whoever in the process allocated it; -1: the host's.
  int (*memory_device)(const void* memory, int32_t* device, char* why, size_t n);

  int (*stream_open)(int32_t device, latent_stream** out, char* why, size_t n);
  // Waits for the work of the stream first.
  int (*stream_close)(latent_stream* stream, char* why, size_t n);
  // Until the work so far has ended; memory that it freed can be had again then.
  int (*stream_wait)(latent_stream* stream, char* why, size_t n);
  int (*event_open)(int32_t device, latent_event** out, char* why, size_t n);
  int (*event_close)(latent_event* event, char* why, size_t n);
  // The event happens when the work of the stream so far has ended.
  int (*event_record)(latent_event* event, latent_stream* stream, char* why, size_t n);
  // The calling thread sleeps until it happens; at once if it was never recorded. Tells of work that failed.
  int (*event_wait)(latent_event* event, char* why, size_t n);

  // At a multiple of 256. The memory is there for work on the stream that is begun after this call, and until `release`.
  int (*allocate)(latent_stream* stream, uint64_t bytes, void** out, char* why, size_t n);
  // Without a stream: at once, when nothing uses it any more.
  int (*release)(latent_stream* stream, void* memory, char* why, size_t n);
  // Host memory that the device reads and writes directly.
  int (*pin)(uint64_t bytes, void** out, char* why, size_t n);
  int (*unpin)(void* memory, char* why, size_t n);
  // Host memory should be pinned; of other memory, the call may last as long as the copy.
  int (*copy)(latent_stream* stream, void* to, const void* from, uint64_t bytes, int32_t direction, char* why, size_t n);
  // Sets bytes.
  int (*fill)(latent_stream* stream, void* memory, int32_t value, uint64_t bytes, char* why, size_t n);

  // Memory of its own kind, which this and other processes of the machine may open by its handle, as long as its owner has not released it.
  // `share_open` gives an address in the calling process and how many bytes are there; latent_invalid for a handle of nothing.
  int (*share_allocate)(int32_t device, uint64_t bytes, void** out, latent_shared_handle* handle, char* why, size_t n);
  int (*share_release)(void* memory, char* why, size_t n);
  int (*share_open)(int32_t device, const latent_shared_handle* handle, void** out, uint64_t* bytes, char* why, size_t n);
  int (*share_close)(void* memory, char* why, size_t n);

  // Kernels. What they need beside their arguments they allocate in the order of the stream.
  uint64_t (*packed_bytes)(int32_t storage, int64_t outputs, int64_t depth);
  int (*pack)(latent_stream* stream, const latent_pack_args* args, char* why, size_t n);
  int (*cosine)(latent_stream* stream, const latent_cosine_args* args, char* why, size_t n);
  int (*projection)(latent_stream* stream, const latent_projection_args* args, char* why, size_t n);
  int (*codeword)(latent_stream* stream, const latent_codeword_args* args, char* why, size_t n);
  int (*thought)(latent_stream* stream, const latent_thought_args* args, char* why, size_t n);
  int (*quantise)(latent_stream* stream, const latent_tile_args* args, char* why, size_t n);
  int (*dequantise)(latent_stream* stream, const latent_tile_args* args, char* why, size_t n);
  int (*hadamard)(latent_stream* stream, const latent_hadamard_args* args, char* why, size_t n);
  int (*copy_cells)(latent_stream* stream, const latent_cell_args* args, char* why, size_t n);
  int (*copy_transposed_cells)(latent_stream* stream, const latent_transposed_cell_args* args, char* why, size_t n);
  int (*rope_shift)(latent_stream* stream, const latent_rope_args* args, char* why, size_t n);
  int (*find_non_finite)(latent_stream* stream, const latent_finite_args* args, char* why, size_t n);
  int (*digest)(latent_stream* stream, const latent_digest_args* args, char* why, size_t n);
} latent_backend_v1;

// Exported by the library: const latent_backend_v1* latent_backend_entry_v1(void). The table lives as long as the library.
typedef const latent_backend_v1* (*latent_backend_entry)(void);

#ifdef __cplusplus
}
#endif

#endif
