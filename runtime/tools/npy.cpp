#include "npy.h"

#include <cstring>
#include <fstream>
#include <regex>
#include <stdexcept>

namespace npy {
namespace {

constexpr char MAGIC[] = "\x93NUMPY";
constexpr std::size_t MAGIC_BYTES = 6, ALIGNMENT = 64;
constexpr std::size_t MAX_HEADER = 1 << 16;
constexpr std::uint64_t MAX_BYTES = std::uint64_t{1} << 40;

struct Descr {
    dipgo_dtype dtype;
    const char* text;
};
constexpr Descr DESCRS[] = {{DIPGO_FLOAT16, "<f2"}, {DIPGO_FLOAT32, "<f4"}, {DIPGO_FLOAT64, "<f8"},
                            {DIPGO_INT8, "|i1"},    {DIPGO_UINT8, "|u1"},   {DIPGO_INT32, "<i4"},
                            {DIPGO_INT64, "<i8"},   {DIPGO_BOOL, "|b1"}};

std::string taken(std::istream& stream, std::size_t count) {
    std::string bytes(count, '\0');
    if (!stream.read(bytes.data(), static_cast<std::streamsize>(count))) throw std::runtime_error("the file ends too early");
    return bytes;
}

std::size_t little_endian(const std::string& bytes) {
    std::size_t number = 0;
    for (std::size_t i = bytes.size(); i-- > 0;) number = number << 8 | static_cast<std::uint8_t>(bytes[i]);
    return number;
}

std::string header_of(std::istream& stream) {
    if (taken(stream, MAGIC_BYTES) != MAGIC) throw std::runtime_error("it is not a .npy file");
    const int major = taken(stream, 2).front();
    const std::size_t length = little_endian(taken(stream, major == 1 ? 2 : 4));
    if (length > MAX_HEADER) throw std::runtime_error("its header is too long");
    return taken(stream, length);
}

std::vector<std::int64_t> shape_of(const std::string& list) {
    static const std::regex number("[0-9]{1,15}");
    std::vector<std::int64_t> shape;
    for (std::sregex_iterator at(list.begin(), list.end(), number), end; at != end; ++at) {
        shape.push_back(std::stoll(at->str()));
    }
    return shape;
}

}  // namespace

File read(std::istream& stream, const std::string& name) {
    static const std::regex descr("'descr': *'([^']*)'"), order("'fortran_order': *False"), shape("'shape': *\\(([^)]*)\\)");
    const std::string header = header_of(stream);
    std::smatch type, sizes;
    if (!std::regex_search(header, type, descr) || !std::regex_search(header, sizes, shape)) {
        throw std::runtime_error("its header is not understood: " + header);
    }
    if (!std::regex_search(header, order)) throw std::runtime_error("it is in Fortran's order: save it in C order");
    for (const Descr& known : DESCRS) {
        if (type[1] != known.text) continue;
        File file{{name, known.dtype, shape_of(sizes[1])}, {}};
        if (file.tensor.bytes() > MAX_BYTES) throw std::runtime_error("it is too large");
        file.data.resize(file.tensor.bytes());
        stream.read(reinterpret_cast<char*>(file.data.data()), static_cast<std::streamsize>(file.data.size()));
        if (!stream) throw std::runtime_error("the file ends too early");
        return file;
    }
    throw std::runtime_error("a plan has no values of its type, " + type[1].str());
}

File read(const std::string& path, const std::string& name) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error(path + ": cannot be read");
    try {
        return read(stream, name);
    } catch (const std::exception& error) {
        throw std::runtime_error(path + ": " + error.what());
    }
}

void write(std::ostream& stream, const dipgo::Tensor& tensor, const void* data) {
    std::string shape, descr;
    for (const std::int64_t size : tensor.shape) shape += std::to_string(size) + ", ";
    for (const Descr& known : DESCRS) {
        if (known.dtype == tensor.dtype) descr = known.text;
    }
    std::string header = "{'descr': '" + descr + "', 'fortran_order': False, 'shape': (" + shape + "), }";
    const std::size_t before = MAGIC_BYTES + 4;  // two bytes of version, two of length
    header.append(ALIGNMENT - 1 - (before + header.size()) % ALIGNMENT, ' ');
    header += '\n';
    stream.write(MAGIC, MAGIC_BYTES);
    stream.put(1).put(0);
    stream.put(static_cast<char>(header.size() & 0xff)).put(static_cast<char>(header.size() >> 8));
    stream << header;
    stream.write(static_cast<const char*>(data), static_cast<std::streamsize>(tensor.bytes()));
    if (!stream) throw std::runtime_error("cannot be written");
}

void write(const std::string& path, const dipgo::Tensor& tensor, const void* data) {
    std::ofstream stream(path, std::ios::binary);
    try {
        write(stream, tensor, data);
        stream.close();
        if (!stream) throw std::runtime_error("cannot be written");
    } catch (const std::exception& error) {
        throw std::runtime_error(path + ": " + error.what());
    }
}

}  // namespace npy
