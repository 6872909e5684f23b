// The one place that includes napi.h: every file of the addon must see it with the same settings.
#pragma once

// 9: the newest version that Node 20.19 has.
#ifndef NAPI_VERSION
#define NAPI_VERSION 9
#endif
#if NAPI_VERSION != 9
#error "the addon is written for Node-API 9"
#endif
#ifndef NAPI_CPP_EXCEPTIONS
#define NAPI_CPP_EXCEPTIONS
#endif
// The net below `translate`: another exception than Napi::Error becomes a JavaScript one instead of ending the process.
#ifndef NODE_ADDON_API_CPP_EXCEPTIONS_ALL
#define NODE_ADDON_API_CPP_EXCEPTIONS_ALL
#endif
// A worker that is being terminated cannot throw into JavaScript any more; without this, the C++ exception would end the process instead.
#ifndef NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#endif

#include <napi.h>
