// Lifetimes and places in the arena, on small plans: what the corpus of whole bundles reaches only by chance.
#include "verifier.h"

#include "check.h"

using namespace dipgo::impl;

Tensor place(std::uint64_t offset, std::uint64_t bytes, Index first, Index last) {
    Tensor tensor;
    tensor.spec = {"t", DIPGO_FLOAT32, {static_cast<std::int64_t>(bytes / 4)}, bytes};
    tensor.offset = offset, tensor.room = bytes, tensor.first = first, tensor.last = last;
    return tensor;
}

Combine copy(Index from, Index to) { return {{{from, 1.0, 0.0, {}}}, to}; }

// x0 -> x1 -> x2, where x2 may take the place of x0.
Plan chain() {
    Plan plan;
    plan.tensors = {place(0, 64, 0, 0), place(64, 64, 0, 1), place(0, 64, 1, 2)};
    for (Index i = 0; i < 3; ++i) plan.tensors[i].spec.name = "x" + std::to_string(i);
    plan.instructions = {copy(0, 1), copy(1, 2)};
    plan.inputs = {0};
    plan.output = 2;
    plan.interface.latents = 0;
    return plan;
}

template <class Change>
std::string refused(Change change) {
    Plan plan = chain();
    change(plan);
    return message_of([&] {
        verify_program(plan);
        verify_memory(plan);
        verify_interface(plan);
    });
}

int main() {
    CHECK_EQUAL(refused([](Plan&) {}), "");
    CHECK(contains(refused([](Plan& p) { p.instructions = {copy(1, 2), copy(0, 1)}; }), "'x1' is read before it is defined"));
    CHECK(contains(refused([](Plan& p) { p.instructions = {copy(0, 1), copy(0, 1)}; }), "'x1' is defined twice"));
    CHECK(contains(refused([](Plan& p) { p.output = 1, p.instructions.pop_back(); }), "places without a value: x2"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].last = 2; }), "'x1' is needed from 0 to 1, planned from 0 to 2"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].room = 128; }), "128 bytes of room and needs 64"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].offset = 96; }), "lies unaligned, at 96"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].offset = 0; }), "are alive together and overlap"));
    CHECK(contains(refused([](Plan& p) { p.tensors[2].offset = 64; }), "are alive together and overlap"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].spec.dtype = DIPGO_FLOAT64; }), "differ in shape or dtype"));
    CHECK(contains(refused([](Plan& p) { p.tensors[1].spec.shape = {15}; }), "cannot fill 'x1' (15,)"));
    CHECK_EQUAL(refused([](Plan& p) { p.calls = {{1.0, 0, {2}}}; }), "");  // a combination of the call's own sample
    CHECK(contains(refused([](Plan& p) { p.calls = {{2.0, NONE, {2}}, {1.0, 0, {2}}}; }),
                   "of call 0 is not computed by then"));
    CHECK(contains(refused([](Plan& p) {
              p.tensors[1].spec.dtype = p.tensors[0].spec.dtype = p.tensors[2].spec.dtype = DIPGO_INT32;
          }),
          "combines float32 and float64"));

    CHECK(contains(refused([](Plan& p) { p.arena_bytes = 4096; }), "4096 bytes, and values in the first 128 only"));
    CHECK(contains(refused([](Plan& p) { p.interface.conditions = {{p.spec(0), {0}}}; }),
                   "does not give every input of the program once"));
    CHECK(contains(refused([](Plan& p) { p.inputs.clear(); }), "is read before it is defined"));

    // Split guidance: x2 = x1 = x0 answers for one half, x1 for the other.
    const auto split = [](Plan& p) {
        p.interface.split = true;
        p.interface.guidance = DIPGO_UNCOND_COND;
        p.calls = {{1.0, 0, {1, 2}}};
    };
    CHECK_EQUAL(refused(split), "");
    CHECK(contains(refused([&](Plan& p) { split(p), p.calls[0].noise_preds = {2}; }), "answers with 1 noise predictions"));
    CHECK(contains(refused([&](Plan& p) { split(p), p.interface.split = false; }), "answers with 2 noise predictions"));

    std::vector<Term> terms = {{0, 1.0, 0.0, {{0, 0, 8}}}, {0, 1.0, 0.0, {{0, 8, 16}}}};
    CHECK_EQUAL(refused([&](Plan& p) { p.instructions[0] = Combine{terms, 1}; }), "");  // repeated to fill x1
    terms[1].view = {{0, 9, 16}};
    CHECK(contains(refused([&](Plan& p) { p.instructions[0] = Combine{terms, 1}; }), "differ in shape"));
    terms[1].view = {{0, 9, 17}};
    CHECK(contains(refused([&](Plan& p) { p.instructions[0] = Combine{terms, 1}; }), "a view lies outside 'x0'"));
    terms[1].view = {{1, 0, 1}};
    CHECK(contains(refused([&](Plan& p) { p.instructions[0] = Combine{terms, 1}; }), "a view lies outside 'x0'"));
}
