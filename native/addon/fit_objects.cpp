#include "addon/fit_objects.h"

namespace latentwire::addon {

void init_fits(Napi::Env env, Napi::Object exports) {
  init_moments(env, exports);
  init_distribution(env, exports);
  init_linear_fits(env, exports);
  init_row_fits(env, exports);
  init_spaces(env, exports);
}

}  // namespace latentwire::addon
