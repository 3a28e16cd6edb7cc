// The shapes that one bundle serves, and their names, as dipgo_compile/shapes.py has them.
#pragma once

#include <string>
#include <vector>

#include "error.h"
#include "plan.h"

namespace dipgo::impl {

// Shapes count latents; what is asked for, and every message, counts what `build` was given: `upscaling` times as many.
class Shapes {
 public:
    Shapes(std::vector<Shape> all, std::uint64_t upscaling) : all_(std::move(all)), upscaling_(upscaling) {}

    std::size_t size() const { return all_.size(); }
    dipgo_shape at(std::size_t index) const;

    // The first that fits; 0 leaves a field open. Throws Error (input), naming what there is.
    std::size_t find(const dipgo_shape& asked) const;

    // "1 to 4 images of 512x512 or 768x512"
    std::string text() const;

 private:
    std::vector<Shape> all_;
    std::uint64_t upscaling_;
};

}  // namespace dipgo::impl
