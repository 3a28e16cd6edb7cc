#include "plan_fields.h"

namespace dipgo::impl {
namespace {

constexpr std::size_t MAX_RANK = 64;  // numpy's

}  // namespace

std::string plain_name(const Field& field, const std::string& name) {
    if (!is_plain(name)) {
        throw field.error(quoted(name) + " is not a plain file name: files lie in the bundle itself");
    }
    return name;
}

std::string file_of(const Field& field, const FileRecords& files) {
    const std::string name = plain_name(field, field.text());
    if (files.count(name) == 0) throw field.error("there is no file called " + quoted(name));
    return name;
}

TensorSpec read_spec(const Field& item) {
    TensorSpec spec;
    spec.name = item.get("name").text();
    const Field type = item.get("dtype");
    const auto dtype = dtype_of(type.text());
    if (!dtype) throw type.error("there is no element type called " + quoted(type.text()));
    spec.dtype = *dtype;
    const Field shape = item.get("shape");
    std::uint64_t count = 1;
    for (const Field& size : shape.items()) {
        const std::uint64_t length = size.integer();
        spec.shape.push_back(static_cast<std::int64_t>(length));
        const bool fits = length == 0 || count <= MAX_INT / length;
        count = fits ? count * length : MAX_INT + 1;  // stays too large, unless an axis is empty
    }
    if (count > MAX_INT || spec.shape.size() > MAX_RANK) {
        throw shape.error("a tensor of shape " + shape_text(spec.shape) + " cannot be meant");
    }
    spec.bytes = count * item_bytes(spec.dtype);
    return spec;
}

}  // namespace dipgo::impl
