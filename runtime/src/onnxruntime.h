// ONNX Runtime's C++ interface. The library that is loaded may be older than the headers, so its functions are asked
// for by hand (engines.cpp) instead of before main.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT
