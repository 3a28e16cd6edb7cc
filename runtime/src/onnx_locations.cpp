#include "onnx_locations.h"

#include <string_view>

#include "error.h"

namespace dipgo::impl {
namespace {

constexpr int MAX_DEPTH = 64;  // of graphs in attributes of nodes of graphs

enum Message { MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE_TENSOR, FUNCTION, TRAINING, ENTRY };

struct Child {
    Message parent;
    std::uint64_t field;
    Message message;
};

// The fields of onnx.proto that lead to tensors.
constexpr Child CHILDREN[] = {
    {MODEL, 7, GRAPH},          {MODEL, 20, TRAINING},      {MODEL, 25, FUNCTION},
    {TRAINING, 1, GRAPH},       {TRAINING, 2, GRAPH},       {FUNCTION, 7, NODE},
    {FUNCTION, 11, ATTRIBUTE},  {GRAPH, 1, NODE},           {GRAPH, 5, TENSOR},
    {GRAPH, 15, SPARSE_TENSOR}, {NODE, 5, ATTRIBUTE},       {ATTRIBUTE, 5, TENSOR},
    {ATTRIBUTE, 6, GRAPH},      {ATTRIBUTE, 10, TENSOR},    {ATTRIBUTE, 11, GRAPH},
    {ATTRIBUTE, 22, SPARSE_TENSOR}, {ATTRIBUTE, 23, SPARSE_TENSOR}, {SPARSE_TENSOR, 1, TENSOR},
    {SPARSE_TENSOR, 2, TENSOR}, {TENSOR, 13, ENTRY},
};
constexpr std::uint64_t KEY = 1, VALUE = 2;  // of an entry

class Reader {
 public:
    explicit Reader(std::string where) : where_(std::move(where)) {}

    void read(Message message, std::string_view bytes, int depth) {
        if (depth > MAX_DEPTH) fail("graphs are nested too deeply");
        std::string_view key, value;
        while (!bytes.empty()) {
            const std::uint64_t tag = varint(bytes), field = tag >> 3;
            // Protocol buffers' own reader drops these bits, and sees another field.
            if (tag >> 32 != 0) fail("it has a field of an unknown number");
            switch (tag & 7) {
                case 0: varint(bytes); break;
                case 1: take(bytes, 8); break;
                case 5: take(bytes, 4); break;
                case 2: {
                    const std::string_view part = take(bytes, varint(bytes));
                    if (message == ENTRY && field == KEY) key = part;
                    if (message == ENTRY && field == VALUE) value = part;
                    for (const Child& child : CHILDREN) {
                        if (child.parent == message && child.field == field) read(child.message, part, depth + 1);
                    }
                    break;
                }
                default: fail("it has a field of an unknown type");
            }
        }
        if (message == ENTRY && key == "location") locations.emplace(value);
    }

    std::set<std::string> locations;

 private:
    [[noreturn]] void fail(const std::string& problem) const {
        throw bundle_error("this is not an ONNX model: " + problem).where(where_).mend(REBUILD);
    }

    std::string_view take(std::string_view& bytes, std::uint64_t count) const {
        if (count > bytes.size()) fail("it ends too early");
        const std::string_view taken = bytes.substr(0, count);
        bytes.remove_prefix(count);
        return taken;
    }

    std::uint64_t varint(std::string_view& bytes) const {
        std::uint64_t number = 0;
        for (int shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<std::uint8_t>(take(bytes, 1).front());
            number |= std::uint64_t{byte & 0x7fu} << shift;
            if (byte < 0x80) return number;
        }
        fail("it has a number of more than 64 bits");
    }

    std::string where_;
};

}  // namespace

std::set<std::string> external_locations(const std::uint8_t* data, std::size_t bytes, const std::string& where) {
    Reader reader(where);
    reader.read(MODEL, {reinterpret_cast<const char*>(data), bytes}, 0);
    return reader.locations;
}

}  // namespace dipgo::impl
