// The scanner of ONNX files for the places of their weights: any bytes are refused with an Error, or scanned.
#include <cstddef>
#include <cstdint>

#include "error.h"
#include "onnx_locations.h"

using namespace dipgo::impl;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        external_locations(data, size, "engine.onnx");
    } catch (const Error&) {
    }
    return 0;
}
