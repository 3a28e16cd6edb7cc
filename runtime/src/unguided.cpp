#include "unguided.h"

#include <algorithm>
#include <iterator>

namespace dipgo::impl {
namespace {

bool is_guided(const Plan& plan) {
    return std::any_of(plan.instructions.begin(), plan.instructions.end(), [](const Instruction& instruction) {
        const Combine* combine = std::get_if<Combine>(&instruction);
        return combine != nullptr && std::any_of(combine->terms.begin(), combine->terms.end(),
                                                 [](const Term& term) { return term.guidance != 0; });
    });
}

// The first term stays where all would go: a combination has one.
std::optional<Combine> without_zeros(const Instruction& instruction) {
    const Combine* combine = std::get_if<Combine>(&instruction);
    if (combine == nullptr) return std::nullopt;
    Combine shorter{{}, combine->output};
    std::copy_if(combine->terms.begin(), combine->terms.end(), std::back_inserter(shorter.terms),
                 [](const Term& term) { return term.constant + term.guidance * UNGUIDED_SCALE != 0; });
    if (shorter.terms.size() == combine->terms.size()) return std::nullopt;
    if (shorter.terms.empty()) shorter.terms.push_back(combine->terms.front());
    return shorter;
}

}  // namespace

std::vector<Remains> unguided(const Plan& plan) {
    const bool guided = is_guided(plan);
    std::vector<Remains> left(plan.instructions.size(), Remains{!guided, std::nullopt});
    if (!guided) return left;
    std::vector<bool> live(plan.tensors.size());
    live[plan.output] = true;
    const auto read = [&](Index tensor) { live[tensor] = true; };
    for (Index at = plan.instructions.size(); at-- > 0;) {
        const Instruction& instruction = plan.instructions[at];
        Remains& remains = left[at];
        for_writes(instruction, [&](Index tensor) { remains.needed = remains.needed || live[tensor]; });
        if (!remains.needed) continue;
        remains.shorter = without_zeros(instruction);
        remains.shorter ? for_reads(*remains.shorter, read) : for_reads(instruction, read);
    }
    return left;
}

}  // namespace dipgo::impl
