// Where an ONNX file's weights lie is found wherever a tensor can be, and damage is refused.
#include "onnx_locations.h"

#include "check.h"

using dipgo::impl::external_locations;

// A number as protocol buffers have it: seven bits in a byte, the lowest first.
std::string varint(std::size_t number) {
    std::string bytes;
    for (; number >= 128; number /= 128) bytes += static_cast<char>(number % 128 + 128);
    return bytes + static_cast<char>(number);
}

// A field of bytes: its number, its length, its content.
std::string field(std::size_t number, const std::string& content) {
    return varint(number * 8 + 2) + varint(content.size()) + content;
}

std::set<std::string> locations(const std::string& model) {
    return external_locations(reinterpret_cast<const std::uint8_t*>(model.data()), model.size(), "m.onnx");
}

std::string tensor(const std::string& location) {
    return field(8, "name") + field(13, field(1, "offset") + field(2, "64")) + field(13, field(2, location) + field(1, "location"));
}

int main() {
    using Found = std::set<std::string>;
    const std::string initializer = field(5, tensor("weights.bin"));
    CHECK(locations(field(7, initializer)) == Found{"weights.bin"});
    CHECK(locations("") == Found{});
    CHECK(locations("\x08\x09" + field(7, field(2, "graph") + initializer)) == Found{"weights.bin"});  // ir_version

    const std::string node = field(1, field(5, field(5, tensor("../a"))));            // a Constant
    const std::string branch = field(1, field(5, field(6, field(5, tensor("/b")))));  // in the graph of an If
    const std::string sparse = field(15, field(1, tensor("c")) + field(2, tensor("d")));
    CHECK(locations(field(7, node + branch + sparse)) == (Found{"../a", "/b", "c", "d"}));
    CHECK(locations(field(25, field(7, field(5, field(10, tensor("e")))))) == Found{"e"});  // in a function
    CHECK(locations(field(20, field(1, initializer))) == Found{"weights.bin"});            // for training

    const std::string whole = field(7, initializer);
    for (std::size_t size = 1; size < whole.size(); ++size) {
        CHECK(contains(message_of([&] { locations(whole.substr(0, size)); }), "is not an ONNX model"));
    }
    CHECK(contains(message_of([] { locations("\x3b"); }), "unknown type"));
    CHECK(contains(message_of([] { locations(std::string(20, '\xff')); }), "more than 64 bits"));
    CHECK(contains(message_of([] { locations("\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"); }), "ends too early"));
    std::string deep = initializer;
    for (int i = 0; i < 40; ++i) deep = field(1, field(5, field(6, deep)));
    CHECK(contains(message_of([&] { locations(field(7, deep)); }), "nested too deeply"));
}
