// Engines as ONNX Runtime optimised and packed them for this processor, kept in BUNDLE/cache/KEY by
// dipgo_compile/backends/prepack.py. This library uses such a cache and doesn't make one.
#pragma once

#include <optional>
#include <string>

#include "bundle.h"

namespace dipgo::impl {

// The directory with the bundle's engines for this processor and this version of ONNX Runtime, if it is there, whole
// and, with `contents`, unaltered.
std::optional<std::string> find_engine_cache(const Bundle& bundle, const std::string& onnxruntime_version,
                                             bool contents);

}  // namespace dipgo::impl
