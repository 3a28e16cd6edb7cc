// What is written is read back; what is no array is refused.
#include "npy.h"

#include <sstream>

#include "check.h"

int main() {
    const dipgo::Tensor tensors[] = {
        {"a", DIPGO_FLOAT32, {2, 3}}, {"b", DIPGO_INT64, {5}}, {"c", DIPGO_UINT8, {}}, {"d", DIPGO_BOOL, {1, 1, 4}}};
    for (const dipgo::Tensor& tensor : tensors) {
        std::vector<std::uint8_t> data(tensor.bytes());
        for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint8_t>(i + 1);
        std::stringstream stream;
        npy::write(stream, tensor, data.data());
        CHECK_EQUAL(stream.str().find('\n') % 64, 63u);  // data begins at a multiple of 64 bytes
        const npy::File file = npy::read(stream, tensor.name);
        CHECK(file.data == data && file.tensor.shape == tensor.shape);
        CHECK_EQUAL(file.tensor.dtype, tensor.dtype);
    }
    const auto refused = [](const std::string& header, const std::string& data) {
        std::stringstream stream;
        stream << "\x93NUMPY" << '\1' << '\0' << static_cast<char>(header.size()) << '\0' << header << data;
        return message_of([&] { npy::read(stream, "x"); });
    };
    const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
    CHECK_EQUAL(refused(good, "12345678"), "");
    CHECK_EQUAL(refused(good, "1234567"), "the file ends too early");
    CHECK(contains(refused("{'descr': '>f4', 'fortran_order': False, 'shape': (2,), }", "12345678"), ">f4"));
    CHECK(contains(refused("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }", "12345678"), "Fortran"));
    CHECK(contains(refused("{'shape': (2,), }", "12345678"), "not understood"));
    CHECK(contains(refused("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }", ""), "too large"));
}
