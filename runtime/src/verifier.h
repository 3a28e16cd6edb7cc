// Checks of a program and of its memory, by the rules of dipgo_compile/verifier.py.
#pragma once

#include "plan.h"

namespace dipgo::impl {

// Throws Error (bundle) unless the program is well formed:
//
// 1. Every value is defined once, before it is read.
// 2. Every run belongs to a call that exists; the prologue's come first.
// 3. Views lie inside their values, and a combination's terms have one shape that its output repeats.
// 4. A call's sample and noise prediction exist; the noise prediction is there when the call ends, made of samples and
//    of what runs gave until then.
void verify_program(const Plan& plan);

// Throws Error (bundle) unless every value has room of its own for as long as it is needed.
// The arena is no larger than that takes.
void verify_memory(const Plan& plan);

// Throws Error (bundle) unless the outside can give and take what the program reads and answers with:
//
// 1. Every input is given once: as the latents, a condition or a draw.
// 2. Latents, draws and the output are float32 and have one shape, which begins with the number of images.
// 3. The samples of all calls have one type and shape, and so have the noise predictions.
void verify_interface(const Plan& plan);

// Throws Error (bundle) unless `other` can stand beside the plan of plan.json, as its plan for `shape`:
//
// 1. It is for that shape, and knows of no shapes itself.
// 2. Its values fit into an arena made for the first.
// 3. It is the same loop: model, schedule and interface are the first's, and so are the dtypes and numbers of axes of
//    what is given; what surrounds the loop, if anything does, is told the same things.
void verify_shapes(const Plan& first, const Shape& shape, const Plan& other);

// The shape of a term's view of its value. Throws Error (bundle) where it lies outside.
std::vector<std::int64_t> view_shape(const Term& term, const TensorSpec& spec);

}  // namespace dipgo::impl
