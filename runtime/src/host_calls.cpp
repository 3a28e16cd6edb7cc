#include "host_calls.h"

#include <algorithm>

#include "error.h"

namespace dipgo::impl {
namespace {

Error uncut(Index call, const std::string& problem) {
    return bundle_error("the program cannot be cut at its calls: call " + std::to_string(call) + " " + problem)
        .mend("denoise whole images, or build the bundle again");
}

bool alike(const TensorSpec& one, const TensorSpec& other) {
    return one.dtype == other.dtype && one.shape == other.shape;
}

}  // namespace

Index sample_of(const Plan& plan) {
    const auto reads = [](const Call& call) { return call.sample != NONE; };
    const auto found = std::find_if(plan.calls.begin(), plan.calls.end(), reads);
    return found == plan.calls.end() ? NONE : found->sample;
}

std::vector<std::vector<HostStep>> host_calls(const Plan& plan) {
    const Index sample = sample_of(plan);
    if (sample == NONE) throw bundle_error("no call of the program reads a sample").mend(REBUILD);
    std::vector<std::vector<HostStep>> steps(plan.calls.size());
    std::vector<Index> first_use(plan.tensors.size(), NONE);
    for (Index i = plan.calls.size(); i-- > 0;) {
        const Call& call = plan.calls[i];
        const bool fits = alike(plan.spec(call.noise_pred), plan.spec(plan.calls[0].noise_pred)) &&
                          (call.sample == NONE || alike(plan.spec(call.sample), plan.spec(sample)));
        if (!fits) throw uncut(i, "has a sample or a noise prediction of another shape");
        if (call.sample != NONE) first_use[call.sample] = i;
    }
    std::vector<bool> known(plan.tensors.size());
    for (Index i = 0; i < plan.tensors.size(); ++i) known[i] = plan.tensors[i].constant;
    const auto take = [&](Index tensor) {
        if (first_use[tensor] == NONE) return;
        steps[first_use[tensor]].push_back({HostStep::TAKE, tensor});
        known[tensor] = true;
    };
    for (const Index input : plan.inputs) {
        known[input] = true;
        take(input);
    }
    std::vector<Index> held(plan.calls.size(), NONE);
    Index current = 0;
    for (Index at = 0; at < plan.instructions.size(); ++at) {
        const Run* run = std::get_if<Run>(&plan.instructions[at]);
        if (run == nullptr) {
            take(std::get<Combine>(plan.instructions[at]).output);
            continue;
        }
        const Index call = run->call == PROLOGUE ? 0 : run->call;
        for (const Index input : run->inputs) {
            if (!known[input]) throw uncut(call, "reads " + quoted(plan.spec(input).name) + ", which no host supplies");
        }
        if (call < current) throw uncut(call, "runs after a later one");
        current = call;
        steps[call].push_back({HostStep::RUN, at});
        for (const Index output : run->outputs) {
            if (output == NONE) continue;
            known[output] = true;
            if (output != plan.calls[call].noise_pred) continue;
            steps[call].push_back({HostStep::GIVE, output});
            held[call] = output;
        }
    }
    for (Index i = 0; i < plan.calls.size(); ++i) {
        if (held[i] == NONE && i > 0) held[i] = held[i - 1];
        if (held[i] != plan.calls[i].noise_pred) {
            throw uncut(i, "does not answer with " + quoted(plan.spec(plan.calls[i].noise_pred).name));
        }
    }
    return steps;
}

}  // namespace dipgo::impl
