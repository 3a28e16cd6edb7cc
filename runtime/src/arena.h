// Zeroed memory at a multiple of 64 bytes. Writing it once takes its pages from the kernel now, which costs about half
// a second per gigabyte, instead of during the first image.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace dipgo::impl {

class Arena {
 public:
    Arena() = default;
    explicit Arena(std::uint64_t bytes);  // throws Error (memory)

    std::uint8_t* at(std::uint64_t offset) const { return data_.get() + offset; }

 private:
    struct Free {
        void operator()(std::uint8_t* memory) const;
    };
    std::unique_ptr<std::uint8_t, Free> data_;
};

}  // namespace dipgo::impl
