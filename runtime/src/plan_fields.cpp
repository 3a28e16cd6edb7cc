#include "plan_fields.h"

namespace dipgo::impl {
std::string plain_name(const Field& field, const std::string& name) {
    if (!is_plain(name)) {
        throw field.error(quoted(name) + " is not a plain file name: files lie in the bundle itself");
    }
    return name;
}

std::string sha256_of(const Field& field) {
    const std::string& digits = field.text();
    if (digits.size() != 64 || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
        throw field.error("a SHA-256 has 64 hexadecimal digits");
    }
    return digits;
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
    const std::vector<Field> axes = shape.items();
    if (axes.size() > MAX_RANK) {
        throw shape.error("a tensor has at most " + std::to_string(MAX_RANK) + " axes, not " +
                          std::to_string(axes.size()));
    }
    std::uint64_t count = 1;
    for (const Field& axis : axes) {
        const std::uint64_t length = axis.integer(1);
        spec.shape.push_back(static_cast<std::int64_t>(length));
        count = count <= MAX_INT / length ? count * length : MAX_INT + 1;
    }
    if (count > MAX_INT) throw shape.error("a tensor of shape " + shape_text(spec.shape) + " cannot be meant");
    spec.bytes = count * item_bytes(spec.dtype);
    return spec;
}

}  // namespace dipgo::impl
