// A plan's denoiser calls for a host that keeps its own scheduler: which steps of the program belong to each call, as
// dipgo_compile/running/host_calls.py cuts it. Of the program only what belongs to the calls is executed, the runs and
// the combinations between them; the host supplies what the scheduler's combinations would have computed. Values keep
// their places in the arena, so everything happens in the program's order: a sample is written where the combine that
// defines it stands. A host sends both halves of a guided batch, which are the same where the plan reads one for both;
// under split guidance it gets both predictions, one behind the other.
#pragma once

#include <vector>

#include "plan.h"

namespace dipgo::impl {

struct HostStep {
    enum Kind { FOLLOW, TAKE, GIVE } kind;
    Index index;  // FOLLOW: the instruction; TAKE: the tensor that gets the sample; GIVE: the noise prediction
    std::size_t half = 0;  // GIVE: which part of the answer it is
};

// The steps of every call, the prologue's being call 0's. Throws Error (bundle) where the program cannot be cut.
std::vector<std::vector<HostStep>> host_calls(const Plan& plan);

}  // namespace dipgo::impl
