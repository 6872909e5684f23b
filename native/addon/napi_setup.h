// The one place that includes napi.h, so that every file sees the same configuration.
#pragma once

#include <napi.h>

#if !defined(NAPI_CPP_EXCEPTIONS) || !defined(NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS)
#error "build with NAPI_CPP_EXCEPTIONS and NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"
#endif
