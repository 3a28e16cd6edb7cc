// What is left of a program at guidance scale 1, where a prediction is the conditional one: terms whose coefficient is
// exactly 0 there are left out, and then whatever the latents no longer depend on.
// dipgo_compile/running/unguided.py says why.
#pragma once

#include <optional>
#include <vector>

#include "plan.h"

namespace dipgo::impl {

inline constexpr double UNGUIDED_SCALE = 1.0;

struct Remains {
    bool needed = false;             // at all
    std::optional<Combine> shorter;  // in place of a combination that loses terms
};

// For each instruction. Without guidance, that is everything.
std::vector<Remains> unguided(const Plan& plan);

}  // namespace dipgo::impl
