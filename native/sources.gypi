{
  "variables": {
    "core_sources": [
      "native/core/cpu_features.cpp",
      "native/core/dtype.cpp",
      "native/core/tensor.cpp",
      "native/core/thread_pool.cpp"
    ],
    "kernels_sources": [
      "native/kernels/latent_step.cpp"
    ],
    "kv_sources": [
      "native/kv/llama_state.cpp"
    ],
    "fit_sources": [
      "native/fit/alignment.cpp"
    ],
    "engine_sources": [
      "native/engine/gguf_file.cpp",
      "native/engine/model.cpp",
      "native/engine/pool.cpp",
      "native/engine/request.cpp",
      "native/engine/runtime.cpp",
      "native/engine/sampler.cpp"
    ],
    "addon_sources": [
      "native/addon/addon.cpp",
      "native/addon/args.cpp",
      "native/addon/diagnostics.cpp",
      "native/addon/engine_objects.cpp",
      "native/addon/env_jobs.cpp",
      "native/addon/errors.cpp",
      "native/addon/model_object.cpp",
      "native/addon/pool_object.cpp",
      "native/addon/sequence_object.cpp",
      "native/addon/tensor_object.cpp"
    ],
    "glibc_compat_sources": [
      "native/compat/glibc.cpp"
    ],
    "common_defines": ["NAPI_VERSION=9", "NODE_ADDON_API_DISABLE_DEPRECATED", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS", "EIGEN_MPL2_ONLY"],
    "unix_cflags": ["-fvisibility=hidden", "-fvisibility-inlines-hidden", "-ffunction-sections", "-fdata-sections", "-fno-math-errno"],
    "unix_warnings": ["-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wnon-virtual-dtor", "-Woverloaded-virtual", "-Werror"],
    "linux_ldflags": ["-Wl,--gc-sections", "-Wl,--exclude-libs,ALL", "-Wl,-z,relro,-z,now"],
    "msvc_cflags": ["/W4", "/WX", "/permissive-", "/utf-8"]
  }
}
