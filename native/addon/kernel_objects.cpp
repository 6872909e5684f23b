#include "addon/kernel_objects.h"

#include <string>

#include "kernels/table.h"

namespace latentwire::addon {
namespace {

Napi::Value kernel_isa(const Napi::CallbackInfo& call) { return Napi::String::New(call.Env(), std::string(isa_name(kernels().isa))); }

}  // namespace

void init_kernels(Napi::Env env, Napi::Object exports) {
  init_anchors(env, exports);
  init_projection(env, exports);
  init_token_table(env, exports);
  init_thought(env, exports);
  init_tiles(env, exports);
  init_codebook(env, exports);
  init_stats(env, exports);
  init_transpose(env, exports);
  exports.Set("kernelIsa", Napi::Function::New<kernel_isa>(env, "kernelIsa"));
}

}  // namespace latentwire::addon
