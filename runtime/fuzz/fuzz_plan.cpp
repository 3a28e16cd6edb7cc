// The reader of plan.json: any text is refused with an Error, or becomes a plan that the verifier accepts. A text
// with a wrong checksum goes on as if it were right, so that what lies behind it is reached.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "error.h"
#include "plan_reader.h"
#include "verifier.h"

using namespace dipgo::impl;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    constexpr std::uint64_t CONSTANTS_BYTES = 128;  // those of the corpus
    try {
        parse_document(text, "plan.json");
    } catch (const Error&) {
    }
    try {
        const Json document = parse_json(text, "plan.json");
        const Plan plan = read_plan(document, CONSTANTS_BYTES, "plan.json");
        verify_program(plan);
        verify_memory(plan);
        verify_interface(plan);
        verify_shapes(plan, plan.shape(), plan);
    } catch (const Error&) {
    }
    return 0;
}
