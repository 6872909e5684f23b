{
  "variables": {
    "core_sources": [
      "native/core/cpu_features.cpp",
      "native/core/dtype.cpp",
      "native/core/tensor.cpp",
      "native/core/thread_pool.cpp"
    ],
    "kernels_sources": [
      "native/kernels/codebook.cpp",
      "native/kernels/cosine.cpp",
      "native/kernels/digest.cpp",
      "native/kernels/latent_step.cpp",
      "native/kernels/packed_matrix.cpp",
      "native/kernels/product.cpp",
      "native/kernels/project.cpp",
      "native/kernels/scalar.cpp",
      "native/kernels/stats.cpp",
      "native/kernels/table.cpp",
      "native/kernels/thought.cpp",
      "native/kernels/tile.cpp",
      "native/kernels/token_table.cpp"
    ],
    "avx2_sources": ["native/kernels/avx2.cpp"],
    "avx2_cflags": ["-mavx2", "-mfma", "-mf16c"],
    "avx512_sources": ["native/kernels/avx512.cpp"],
    "avx512_cflags": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mprefer-vector-width=512", "-Wno-unknown-warning-option", "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
    "avx512_vnni_sources": ["native/kernels/avx512_vnni.cpp"],
    "avx512_vnni_cflags": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni", "-mprefer-vector-width=512", "-Wno-unknown-warning-option", "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
    "avx512_bf16_sources": ["native/kernels/avx512_bf16.cpp"],
    "avx512_bf16_cflags": ["-mavx2", "-mfma", "-mf16c", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16", "-mprefer-vector-width=512", "-Wno-unknown-warning-option", "-Wno-maybe-uninitialized", "-Wno-uninitialized"],
    "neon_sources": ["native/kernels/neon.cpp"],
    "neon_cflags": ["-march=armv8-a"],
    "neon_dotprod_sources": ["native/kernels/neon_dotprod.cpp"],
    "neon_dotprod_cflags": ["-march=armv8.2-a+dotprod"],
    "neon_i8mm_sources": ["native/kernels/neon_i8mm.cpp"],
    "neon_i8mm_cflags": ["-march=armv8.2-a+i8mm"],
    "neon_bf16_sources": ["native/kernels/neon_bf16.cpp"],
    "neon_bf16_cflags": ["-march=armv8.2-a+bf16"],
    "kv_sources": [
      "native/kv/llama_state.cpp"
    ],
    "fit_sources": [
      "native/fit/alignment.cpp",
      "native/fit/decompose.cpp",
      "native/fit/gcca.cpp",
      "native/fit/gram.cpp",
      "native/fit/kmeans.cpp",
      "native/fit/logistic.cpp",
      "native/fit/procrustes.cpp",
      "native/fit/quantiles.cpp",
      "native/fit/ridge.cpp"
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
      "native/addon/anchors_object.cpp",
      "native/addon/args.cpp",
      "native/addon/codebook_object.cpp",
      "native/addon/diagnostics.cpp",
      "native/addon/distribution_object.cpp",
      "native/addon/engine_objects.cpp",
      "native/addon/env_jobs.cpp",
      "native/addon/errors.cpp",
      "native/addon/fit_input.cpp",
      "native/addon/fit_objects.cpp",
      "native/addon/fit_result.cpp",
      "native/addon/kernel_input.cpp",
      "native/addon/kernel_objects.cpp",
      "native/addon/linear_fits.cpp",
      "native/addon/model_object.cpp",
      "native/addon/moments_object.cpp",
      "native/addon/pool_object.cpp",
      "native/addon/projection_object.cpp",
      "native/addon/row_fits.cpp",
      "native/addon/sequence_object.cpp",
      "native/addon/stats_functions.cpp",
      "native/addon/tensor_object.cpp",
      "native/addon/thought_object.cpp",
      "native/addon/tile_object.cpp",
      "native/addon/token_table_object.cpp"
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
