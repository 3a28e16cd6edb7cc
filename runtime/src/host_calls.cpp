#include "host_calls.h"

#include <algorithm>

#include "error.h"

namespace dipgo::impl {
namespace {

Error uncut(Index call, const std::string& problem) {
    return bundle_error("the program cannot be cut at its calls: call " + std::to_string(call) + " " + problem)
        .mend("denoise whole images, or build the bundle again");
}

// What denoiser calls read and answer with. The combinations among it are the calls', between their runs; all others,
// those that define samples included, are the scheduler's.
std::vector<bool> call_values(const Plan& plan) {
    std::vector<bool> samples(plan.tensors.size()), needed(plan.tensors.size());
    for (const Call& call : plan.calls) {
        if (call.sample != NONE) samples[call.sample] = true;
        for (const Index noise_pred : call.noise_preds) needed[noise_pred] = true;
    }
    for (Index at = plan.instructions.size(); at-- > 0;) {
        const Combine* combine = std::get_if<Combine>(&plan.instructions[at]);
        if (combine != nullptr && (!needed[combine->output] || samples[combine->output])) continue;
        for_reads(plan.instructions[at], [&](Index read) { needed[read] = true; });
    }
    return needed;
}

}  // namespace

std::vector<std::vector<HostStep>> host_calls(const Plan& plan) {
    const Index sample = sample_of(plan);
    if (sample == NONE) throw bundle_error("no call of the program reads a sample").mend(REBUILD);
    std::vector<std::vector<HostStep>> steps(plan.calls.size());
    std::vector<Index> first_use(plan.tensors.size(), NONE);  // of a sample: the call
    std::vector<Index> answers(plan.tensors.size(), 0);       // of a noise prediction: the first call that gives it
    for (Index i = plan.calls.size(); i-- > 0;) {
        const Call& call = plan.calls[i];
        if (call.sample != NONE) first_use[call.sample] = i;
        for (const Index noise_pred : call.noise_preds) answers[noise_pred] = i;
    }
    std::vector<Index> since = first_use;  // the first call to have a value; NONE: no host has it
    for (Index i = 0; i < plan.tensors.size(); ++i) {
        if (plan.tensors[i].constant && since[i] == NONE) since[i] = 0;
    }
    const auto take = [&](Index tensor) { steps[first_use[tensor]].push_back({HostStep::TAKE, tensor}); };
    for (const Index input : plan.inputs) {
        if (first_use[input] != NONE) take(input);
        if (since[input] == NONE) since[input] = 0;
    }
    const std::vector<bool> needed = call_values(plan);
    const std::size_t halves = plan.calls.front().noise_preds.size();
    std::vector<std::vector<Index>> held(plan.calls.size(), std::vector<Index>(halves, NONE));
    Index current = 0;
    for (Index at = 0; at < plan.instructions.size(); ++at) {
        const Instruction& instruction = plan.instructions[at];
        Index call = 0;
        if (const Run* run = std::get_if<Run>(&instruction)) {
            if (run->call != PROLOGUE) call = run->call;
        } else {
            const Index output = std::get<Combine>(instruction).output;
            if (first_use[output] != NONE) take(output);
            if (first_use[output] != NONE || !needed[output]) continue;  // the host's
            call = std::max(current, answers[output]);
            for_reads(instruction, [&](Index read) {
                if (since[read] != NONE) call = std::max(call, since[read]);
            });
        }
        for_reads(instruction, [&](Index read) {
            if (since[read] == NONE || since[read] > call) {
                throw uncut(call, "reads " + quoted(plan.spec(read).name) + ", which no host supplies");
            }
        });
        if (call < current) throw uncut(call, "runs after a later one");
        current = call;
        steps[call].push_back({HostStep::FOLLOW, at});
        for_writes(instruction, [&](Index written) {
            since[written] = call;
            for (std::size_t half = 0; half < halves; ++half) {
                if (written != plan.calls[call].noise_preds[half]) continue;
                steps[call].push_back({HostStep::GIVE, written, half});
                held[call][half] = written;
            }
        });
    }
    for (Index i = 0; i < plan.calls.size(); ++i) {
        for (std::size_t half = 0; half < halves; ++half) {
            const Index wanted = plan.calls[i].noise_preds[half];
            if (held[i][half] == NONE && i > 0) held[i][half] = held[i - 1][half];
            if (held[i][half] != wanted) {
                throw uncut(i, "does not answer with " + quoted(plan.spec(wanted).name));
            }
        }
    }
    return steps;
}

}  // namespace dipgo::impl
