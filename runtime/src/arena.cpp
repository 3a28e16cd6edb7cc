#include "arena.h"

#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "error.h"

namespace dipgo::impl {
namespace {

constexpr std::uint64_t ALIGNMENT = 64;  // bytes: a cache line, and the widest vector load

// The machine's memory: a kernel grants more, and ends the process once it is written to.
std::uint64_t physical_bytes() {
    return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

Arena::Arena(std::uint64_t bytes) {
    const std::uint64_t rounded = (bytes / ALIGNMENT + 1) * ALIGNMENT;
    if (rounded < physical_bytes()) {
        data_.reset(static_cast<std::uint8_t*>(std::aligned_alloc(ALIGNMENT, rounded)));
    }
    if (data_ == nullptr) {
        throw Error(DIPGO_ERROR_MEMORY, "an arena of " + std::to_string(bytes) + " bytes cannot be had")
            .mend("build the bundle for smaller or fewer images, or free sessions that are not used");
    }
    std::memset(data_.get(), 0, rounded);
}

void Arena::Free::operator()(std::uint8_t* memory) const { std::free(memory); }

}  // namespace dipgo::impl
