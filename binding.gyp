# Second build of the addon, with node-gyp (npm run build:gyp). It is never published: npm would run it on installation. The lists
# come from native/sources.gypi, shared with CMakeLists.txt; this file names no source.
{
  "includes": ["native/sources.gypi"],
  "target_defaults": {
    "defines": [
      "<@(common_defines)",
      "LATENTWIRE_VERSION=\"<!(node -p \"require('./package.json').version\")\""
    ],
    "include_dirs": ["native", "native/include"],
    "conditions": [
      ["OS != 'win'", {
        "cflags": ["<@(unix_cflags)", "<@(unix_warnings)"],
        # Others' headers as system headers: their warnings are not ours.
        "cflags_cc": [
          "-std=c++20",
          "-isystem<!(node -p \"require('path').resolve(require('node-addon-api').include_dir)\")",
          "-isystem<!(node -p \"process.env.LATENTWIRE_EIGEN || '/usr/include/eigen3'\")"
        ],
        # What node's common.gypi sets and this code must not have.
        "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
        "cflags!": ["-fno-exceptions"],
        "xcode_settings": {
          "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
          "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
          "GCC_SYMBOLS_PRIVATE_EXTERN": "YES",
          "OTHER_CPLUSPLUSFLAGS": ["<@(unix_cflags)"]
        }
      }, {
        "msvs_settings": {
          "VCCLCompilerTool": {
            "ExceptionHandling": 1,
            "AdditionalOptions": ["/std:c++20", "<@(msvc_cflags)"]
          }
        },
        "include_dirs": [
          "<!(node -p \"require('node-addon-api').include_dir\")",
          "<!(node -p \"process.env.LATENTWIRE_EIGEN || ''\")"
        ]
      }]
    ]
  },
  "targets": [
    {
      "target_name": "latentwire",
      "sources": [
        "<@(core_sources)",
        "<@(kernels_sources)",
        "<@(kv_sources)",
        "<@(fit_sources)",
        "<@(engine_sources)",
        "<@(device_sources)",
        "<@(addon_sources)"
      ],
      "conditions": [
        ["target_arch == 'x64'", { "dependencies": ["avx2", "avx512", "avx512_vnni", "avx512_bf16"] }],
        ["target_arch == 'arm64'", { "dependencies": ["neon", "neon_dotprod", "neon_i8mm", "neon_bf16"] }],
        ["OS == 'linux'", {
          "ldflags": [
            "<@(linux_ldflags)",
            "-static-libstdc++",
            "-Wl,--version-script=<(module_root_dir)/native/exports.map"
          ],
          "libraries": ["-ldl", "-lpthread"]
        }]
      ]
    }
  ],
  # One library an instruction set, for its flags.
  "conditions": [
    ["target_arch == 'x64'", {
      "targets": [
        { "target_name": "avx2", "type": "static_library", "sources": ["<@(avx2_sources)"], "cflags": ["<@(avx2_cflags)"] },
        { "target_name": "avx512", "type": "static_library", "sources": ["<@(avx512_sources)"], "cflags": ["<@(avx512_cflags)"] },
        { "target_name": "avx512_vnni", "type": "static_library", "sources": ["<@(avx512_vnni_sources)"], "cflags": ["<@(avx512_vnni_cflags)"] },
        { "target_name": "avx512_bf16", "type": "static_library", "sources": ["<@(avx512_bf16_sources)"], "cflags": ["<@(avx512_bf16_cflags)"] }
      ]
    }],
    ["target_arch == 'arm64'", {
      "targets": [
        { "target_name": "neon", "type": "static_library", "sources": ["<@(neon_sources)"], "cflags": ["<@(neon_cflags)"] },
        { "target_name": "neon_dotprod", "type": "static_library", "sources": ["<@(neon_dotprod_sources)"], "cflags": ["<@(neon_dotprod_cflags)"] },
        { "target_name": "neon_i8mm", "type": "static_library", "sources": ["<@(neon_i8mm_sources)"], "cflags": ["<@(neon_i8mm_cflags)"] },
        { "target_name": "neon_bf16", "type": "static_library", "sources": ["<@(neon_bf16_sources)"], "cflags": ["<@(neon_bf16_cflags)"] }
      ]
    }]
  ]
}
