// The files that an ONNX model says its weights lie in. ONNX Runtime opens whatever stands there, so it is read here
// first: a bundle may come from anywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

namespace dipgo::impl {

// The `location` of every tensor with external data in an ONNX file's bytes. Throws Error (bundle) for bytes that are
// not the protocol buffers they have to be.
std::set<std::string> external_locations(const std::uint8_t* data, std::size_t bytes, const std::string& where);

}  // namespace dipgo::impl
