// numpy's .npy files, as far as a plan's tensors need them: dense, in C order, little-endian.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "dipgo/dipgo.hpp"

namespace npy {

struct File {
    dipgo::Tensor tensor;
    std::vector<std::uint8_t> data;

    dipgo::Array array() const { return {tensor, data.data()}; }
};

// Read an array; `name` becomes the tensor's. Throws std::runtime_error.
File read(const std::string& path, const std::string& name);
File read(std::istream& stream, const std::string& name);

// Write an array. Throws std::runtime_error.
void write(const std::string& path, const dipgo::Tensor& tensor, const void* data);
void write(std::ostream& stream, const dipgo::Tensor& tensor, const void* data);

}  // namespace npy
