#include "verifier.h"

#include <algorithm>
#include <map>
#include <queue>
#include <set>
#include <tuple>

#include "error.h"

namespace dipgo::impl {
namespace {

constexpr std::uint64_t ALIGNMENT = 64;  // bytes

Error invalid(const std::string& problem) { return bundle_error("the plan is not valid: " + problem); }

Error invalid_at(Index instruction, const std::string& problem) {
    return invalid(problem).where("instruction " + std::to_string(instruction)).mend(REBUILD);
}

void verify_combine(const Combine& combine, const Plan& plan, Index at) {
    const TensorSpec& output = plan.spec(combine.output);
    const std::vector<std::int64_t> shape = view_shape(combine.terms.front(), plan.spec(combine.terms.front().value));
    for (const Term& term : combine.terms) {
        const TensorSpec& spec = plan.spec(term.value);
        if (spec.dtype != output.dtype || view_shape(term, spec) != shape) {
            throw invalid_at(at, "the terms of " + quoted(output.name) + " differ in shape or dtype");
        }
    }
    const bool same_rank = !shape.empty() && shape.size() == output.shape.size();
    if (!same_rank || !std::equal(shape.begin() + 1, shape.end(), output.shape.begin() + 1) || shape[0] == 0 ||
        output.shape[0] % shape[0] != 0) {
        throw invalid_at(at, "terms of shape " + shape_text(shape) + " cannot fill " + quoted(output.name) + " " +
                                 shape_text(output.shape));
    }
    if (output.dtype != DIPGO_FLOAT32 && output.dtype != DIPGO_FLOAT64) {
        throw invalid_at(at, "it combines " + std::string(dtype_name(output.dtype)) +
                                 "; this runtime combines float32 and float64");
    }
}

// The values that are alive at one instruction. None overlaps another, so only neighbours have to be looked at.
class Alive {
 public:
    explicit Alive(const Plan& plan) : plan_(plan) {}

    void add(Index added) {
        const Tensor& place = plan_.tensors[added];
        while (!expiring_.empty() && expiring_.top().first < place.first) {
            filled_.erase(plan_.tensors[expiring_.top().second].offset);
            expiring_.pop();
        }
        const std::uint64_t end = place.offset + place.room;
        const auto after = filled_.lower_bound(place.offset);
        if (after != filled_.begin()) {
            const Tensor& before = plan_.tensors[std::prev(after)->second];
            if (before.offset + before.room > place.offset) throw overlap(added, std::prev(after)->second);
        }
        if (after != filled_.end() && after->first < end) throw overlap(added, after->second);
        filled_.emplace(place.offset, added);
        expiring_.emplace(place.last, added);
    }

 private:
    Error overlap(Index one, Index other) const {
        return invalid(quoted(plan_.spec(one).name) + " and " + quoted(plan_.spec(other).name) +
                       " are alive together and overlap in the arena")
            .mend(REBUILD);
    }

    using Expiry = std::pair<Index, Index>;  // last instruction, tensor

    const Plan& plan_;
    std::map<std::uint64_t, Index> filled_;
    std::priority_queue<Expiry, std::vector<Expiry>, std::greater<>> expiring_;
};

void verify_disjoint(const Plan& plan) {
    std::vector<Index> opening;
    for (Index i = 0; i < plan.tensors.size(); ++i) {
        if (!plan.tensors[i].constant) opening.push_back(i);
    }
    std::stable_sort(opening.begin(), opening.end(),
                     [&](Index a, Index b) { return plan.tensors[a].first < plan.tensors[b].first; });
    Alive alive(plan);
    for (const Index tensor : opening) alive.add(tensor);
}

// The predictions of a call have the batch of its sample together, or a multiple of it.
void verify_batch(const Plan& plan, const Call& call) {
    const TensorSpec &sample = plan.spec(call.sample), &answer = plan.spec(call.noise_preds.front());
    const auto whole = static_cast<std::int64_t>(call.noise_preds.size());
    if (!sample.shape.empty() && !answer.shape.empty() && whole * answer.shape[0] % sample.shape[0] == 0) return;
    throw invalid(quoted(answer.name) + " " + shape_text(answer.shape) + " has another batch than its sample " +
                  quoted(sample.name) + " " + shape_text(sample.shape))
        .mend(REBUILD);
}

// Under split guidance every run is of a half, a call answers with a prediction for each, and the halves of a condition
// have one type and shape, with a batch. Otherwise no run is of a half, and a call has one prediction.
void verify_halves(const Plan& plan) {
    const bool split = plan.interface.split;
    const std::size_t wanted = split ? 2 : 1;
    for (Index at = 0; at < plan.instructions.size(); ++at) {
        const Run* run = std::get_if<Run>(&plan.instructions[at]);
        if (run != nullptr && (run->half == Half::BOTH) == split) {
            throw invalid_at(at, split ? "a run of no half" : "a run of a half, though guidance is not split");
        }
    }
    for (Index i = 0; i < plan.calls.size(); ++i) {
        const std::size_t count = plan.calls[i].noise_preds.size();
        if (count != wanted) {
            throw invalid("call " + std::to_string(i) + " answers with " + std::to_string(count) + " noise predictions")
                .mend(REBUILD);
        }
    }
    for (const Condition& condition : plan.interface.conditions) {
        const TensorSpec& first = plan.spec(condition.inputs.front());
        for (const Index input : condition.inputs) {
            const TensorSpec& half = plan.spec(input);
            if (half.dtype == first.dtype && half.shape == first.shape && (!split || !half.shape.empty())) continue;
            throw invalid("the halves of the condition " + quoted(condition.spec.name) +
                          " are not of one shape with a batch")
                .mend(REBUILD);
        }
    }
}

}  // namespace

std::vector<std::int64_t> view_shape(const Term& term, const TensorSpec& spec) {
    std::vector<std::int64_t> shape = spec.shape;
    for (const Slice& part : term.view) {
        if (part.axis >= shape.size() || part.start < 0 || part.start >= part.stop || part.stop > shape[part.axis]) {
            throw invalid("a view lies outside " + quoted(spec.name) + " " + shape_text(spec.shape)).mend(REBUILD);
        }
        shape[part.axis] = part.stop - part.start;
    }
    return shape;
}

void verify_program(const Plan& plan) {
    std::vector<bool> defined(plan.tensors.size());
    const Index never = plan.calls.size();
    std::vector<Index> call_of(plan.tensors.size(), never);  // from which call on a host has a value
    std::vector<bool> sample(plan.tensors.size());
    for (Index i = plan.calls.size(); i-- > 0;) {
        if (plan.calls[i].sample == NONE) continue;
        call_of[plan.calls[i].sample] = i;
        sample[plan.calls[i].sample] = true;
    }
    for (const Index input : plan.inputs) defined[input] = true;
    for (Index i = 0; i < plan.tensors.size(); ++i) {
        if (plan.tensors[i].constant) defined[i] = true;
    }
    bool in_prologue = true;
    for (Index at = 0; at < plan.instructions.size(); ++at) {
        const Instruction& instruction = plan.instructions[at];
        const Run* run = std::get_if<Run>(&instruction);
        in_prologue = in_prologue && run != nullptr && run->call == PROLOGUE;
        if (run != nullptr && !in_prologue) {
            if (run->call == PROLOGUE) throw invalid_at(at, "a run of the prologue does not come first");
            if (run->call >= plan.calls.size()) {
                throw invalid_at(at, "there is no call " + std::to_string(run->call));
            }
        }
        for_reads(instruction, [&](Index tensor) {
            if (!defined[tensor]) throw invalid_at(at, quoted(plan.spec(tensor).name) + " is read before it is defined");
        });
        Index latest = run == nullptr ? 0 : run->call;
        if (run == nullptr) for_reads(instruction, [&](Index tensor) { latest = std::max(latest, call_of[tensor]); });
        for_writes(instruction, [&](Index tensor) {
            if (defined[tensor]) throw invalid_at(at, quoted(plan.spec(tensor).name) + " is defined twice");
            defined[tensor] = true;
            if (run == nullptr && sample[tensor]) return;
            call_of[tensor] = in_prologue ? 0 : latest;
        });
        if (run == nullptr) verify_combine(std::get<Combine>(instruction), plan, at);
    }
    if (!defined[plan.output]) throw invalid("the output is not defined").mend(REBUILD);
    for (Index i = 0; i < plan.calls.size(); ++i) {
        const Call& call = plan.calls[i];
        for (const Index noise_pred : call.noise_preds) {
            if (call_of[noise_pred] <= i) continue;
            throw invalid("the noise prediction " + quoted(plan.spec(noise_pred).name) + " of call " +
                          std::to_string(i) + " is not computed by then")
                .mend(REBUILD);
        }
        if (call.sample != NONE && !defined[call.sample]) {
            throw invalid("the sample " + quoted(plan.spec(call.sample).name) + " of call " + std::to_string(i) +
                          " is not defined")
                .mend(REBUILD);
        }
    }
}

void verify_memory(const Plan& plan) {
    struct Lifetime {
        Index first = NONE, last = 0;
    };
    std::vector<Lifetime> needed(plan.tensors.size());
    for (const Index input : plan.inputs) needed[input] = {0, 0};
    for (Index at = 0; at < plan.instructions.size(); ++at) {
        for_writes(plan.instructions[at], [&](Index tensor) { needed[tensor] = {at, at}; });
        for_reads(plan.instructions[at], [&](Index tensor) { needed[tensor].last = at; });
    }
    needed[plan.output].last = plan.instructions.size();
    for (Index i = 0; i < plan.tensors.size(); ++i) {
        const Tensor& place = plan.tensors[i];
        const auto [first, last] = needed[i];
        const std::string name = quoted(place.spec.name);
        if ((first != NONE) == place.constant) {
            throw invalid("values without a place, or places without a value: " + place.spec.name).mend(REBUILD);
        }
        if (place.constant) continue;
        if (place.room != place.spec.bytes) {
            throw invalid(name + " has " + std::to_string(place.room) + " bytes of room and needs " +
                          std::to_string(place.spec.bytes))
                .mend(REBUILD);
        }
        if (place.offset % ALIGNMENT != 0) {
            throw invalid(name + " lies unaligned, at " + std::to_string(place.offset)).mend(REBUILD);
        }
        if (place.first != first || place.last != last) {
            throw invalid(name + " is needed from " + std::to_string(first) + " to " + std::to_string(last) +
                          ", planned from " + std::to_string(place.first) + " to " + std::to_string(place.last))
                .mend(REBUILD);
        }
    }
    verify_disjoint(plan);
    std::uint64_t end = 0;
    for (const Tensor& place : plan.tensors) {
        if (!place.constant) end = std::max(end, place.offset + place.room);
    }
    if (plan.arena_bytes > (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT) {
        throw invalid("the arena has " + std::to_string(plan.arena_bytes) + " bytes, and values in the first " +
                      std::to_string(end) + " only")
            .mend(REBUILD);
    }
}

void verify_interface(const Plan& plan) {
    const Interface& interface = plan.interface;
    std::vector<Index> given{interface.latents}, read = plan.inputs;
    for (const Condition& condition : interface.conditions) {
        given.insert(given.end(), condition.inputs.begin(), condition.inputs.end());
    }
    given.insert(given.end(), interface.draws.begin(), interface.draws.end());
    std::sort(given.begin(), given.end());
    std::sort(read.begin(), read.end());
    if (given != read || std::adjacent_find(given.begin(), given.end()) != given.end()) {
        throw invalid("the interface does not give every input of the program once").mend(REBUILD);
    }
    const TensorSpec& latents = plan.spec(interface.latents);
    const auto check_float = [&](Index tensor) {
        const TensorSpec& spec = plan.spec(tensor);
        if (spec.dtype != DIPGO_FLOAT32 || spec.shape != latents.shape || spec.shape.empty()) {
            throw invalid(quoted(spec.name) + " is " + dtype_name(spec.dtype) + shape_text(spec.shape) +
                          ", not float32" + shape_text(latents.shape))
                .mend(REBUILD);
        }
    };
    check_float(interface.latents);
    std::for_each(interface.draws.begin(), interface.draws.end(), check_float);
    check_float(plan.output);
    const TensorSpec *sample = nullptr, *noise_pred = nullptr;
    const auto check_alike = [&](const TensorSpec*& first, Index tensor) {
        const TensorSpec& spec = plan.spec(tensor);
        if (first == nullptr) first = &spec;
        if (spec.dtype != first->dtype || spec.shape != first->shape) {
            throw invalid(quoted(first->name) + " and " + quoted(spec.name) +
                          " of different calls differ in shape or dtype")
                .mend(REBUILD);
        }
    };
    for (const Call& call : plan.calls) {
        if (call.sample != NONE) check_alike(sample, call.sample);
        for (const Index answer : call.noise_preds) check_alike(noise_pred, answer);
        if (call.sample != NONE) verify_batch(plan, call);
    }
    verify_halves(plan);
}

void verify_shapes(const Plan& first, const Shape& shape, const Plan& other) {
    const std::string subject = "the plan for " + shape.text();
    if (!(other.shape() == shape) || !other.shapes.empty()) {
        throw invalid(subject + " is one for " + other.shape().text() + ", or has further plans").mend(REBUILD);
    }
    if (other.arena_bytes > first.arena_bytes) {
        throw invalid(subject + " takes an arena of " + std::to_string(other.arena_bytes) +
                      " bytes; the bundle's is made for " + std::to_string(first.arena_bytes))
            .mend(REBUILD);
    }
    const auto same = [&](const char* what, const std::string& here, const std::string& there) {
        if (here != there) throw invalid(subject + " has another " + what + " than plan.json").mend(REBUILD);
    };
    same("model", first.model, other.model);
    same("schedule", first.schedule, other.schedule);
    same("interface", first.names, other.names);
    same("pipeline", first.around, other.around);
    if (other.calls.size() != first.calls.size()) {
        throw invalid(subject + " has " + std::to_string(other.calls.size()) + " calls").mend(REBUILD);
    }
    const auto named = [](const TensorSpec& spec) { return std::tuple(spec.name, spec.dtype, spec.shape.size()); };
    std::set<std::tuple<std::string, dipgo_dtype, std::size_t>> here, there;
    for (const Index input : first.inputs) here.insert(named(first.spec(input)));
    for (const Index input : other.inputs) there.insert(named(other.spec(input)));
    if (here != there) {
        throw invalid("an input of " + subject + " has another dtype or number of axes").mend(REBUILD);
    }
}

}  // namespace dipgo::impl
