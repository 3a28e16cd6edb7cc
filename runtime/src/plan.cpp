#include "plan.h"

#include <algorithm>

namespace dipgo::impl {
namespace {

struct DtypeRow {
    dipgo_dtype dtype;
    const char* name;
    std::size_t bytes;
};

constexpr DtypeRow DTYPES[] = {
    {DIPGO_FLOAT16, "float16", 2}, {DIPGO_FLOAT32, "float32", 4}, {DIPGO_FLOAT64, "float64", 8},
    {DIPGO_INT8, "int8", 1},       {DIPGO_UINT8, "uint8", 1},     {DIPGO_INT32, "int32", 4},
    {DIPGO_INT64, "int64", 8},     {DIPGO_BOOL, "bool", 1},
};

}  // namespace

Shape Shape::of(const std::vector<std::int64_t>& latents) {
    std::vector<std::int64_t> sizes = latents;
    if (sizes.size() < 3) sizes.insert(sizes.end(), 3, 1);
    const auto at = [&](std::size_t axis) { return static_cast<std::uint64_t>(sizes[axis]); };
    return {at(0), at(sizes.size() - 2), at(sizes.size() - 1)};
}

std::string Shape::text() const {
    return std::to_string(images) + "x" + std::to_string(height) + "x" + std::to_string(width);
}

std::size_t images_together(const Plan& plan) { return batch_of(plan.spec(plan.interface.latents)); }

Index sample_of(const Plan& plan) {
    const auto reads = [](const Call& call) { return call.sample != NONE; };
    const auto found = std::find_if(plan.calls.begin(), plan.calls.end(), reads);
    return found == plan.calls.end() ? NONE : found->sample;
}

std::size_t batch_of(const TensorSpec& spec) {
    return spec.shape.empty() ? 1 : static_cast<std::size_t>(spec.shape[0]);
}

TensorSpec repeated(TensorSpec spec, std::size_t times) {
    if (spec.shape.empty()) return spec;
    spec.shape[0] *= static_cast<std::int64_t>(times);
    spec.bytes *= times;
    return spec;
}

std::size_t item_bytes(dipgo_dtype dtype) {
    for (const DtypeRow& row : DTYPES) {
        if (row.dtype == dtype) return row.bytes;
    }
    return 0;
}

const char* dtype_name(dipgo_dtype dtype) {
    for (const DtypeRow& row : DTYPES) {
        if (row.dtype == dtype) return row.name;
    }
    return "an unknown type";
}

std::optional<dipgo_dtype> dtype_of(const std::string& name) {
    for (const DtypeRow& row : DTYPES) {
        if (name == row.name) return row.dtype;
    }
    return std::nullopt;
}

std::string shape_text(const std::vector<std::int64_t>& shape) {
    std::string text = "(";
    for (const std::int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
    return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace dipgo::impl
