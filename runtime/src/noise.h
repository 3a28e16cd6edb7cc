// The unit noise that torch draws from a seed on a CPU, to within two float32 roundings. dipgo_compile/drawing/noise.py gives
// the same numbers bit for bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>

namespace dipgo::impl {

class NoiseGenerator {
 public:
    explicit NoiseGenerator(std::uint64_t seed) : engine_(static_cast<std::uint32_t>(seed)) {}

    // What the next torch.randn of `count` numbers gives. Allocates nothing.
    void draw(float* noise, std::size_t count);

 private:
    void draw_block(float* noise);
    float draw_single();
    double uniform();

    std::mt19937 engine_;
    std::optional<float> spare_;  // the second of a pair
};

}  // namespace dipgo::impl
