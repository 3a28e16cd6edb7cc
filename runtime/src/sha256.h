// SHA-256 (FIPS 180-4).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dipgo::impl {

class Sha256 {
 public:
    void update(const void* data, std::size_t bytes);

    // The digest in lower-case hexadecimal. Ends this object's use.
    std::string hexdigest();

 private:
    static constexpr std::size_t BLOCK = 64;

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<std::uint8_t, BLOCK> pending_{};
    std::size_t held_ = 0;
    std::uint64_t total_ = 0;
};

std::string sha256(std::string_view text);

}  // namespace dipgo::impl
