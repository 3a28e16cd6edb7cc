#include "noise.h"

#include <cmath>

namespace dipgo::impl {
namespace {

constexpr std::size_t BLOCK = 16;  // numbers that torch makes together: eight pairs
constexpr std::size_t PAIRS = BLOCK / 2;
constexpr double TWO_PI = 6.283185307179586;

// Logarithm, cosine and sine are those of float64, rounded once: the same on every machine, whatever it offers for
// float32.
float log_of(float x) { return static_cast<float>(std::log(static_cast<double>(x))); }
float cos_of(float x) { return static_cast<float>(std::cos(static_cast<double>(x))); }
float sin_of(float x) { return static_cast<float>(std::sin(static_cast<double>(x))); }

}  // namespace

void NoiseGenerator::draw(float* noise, std::size_t count) {
    if (count < BLOCK) {
        for (std::size_t i = 0; i < count; ++i) noise[i] = draw_single();
        return;
    }
    // All uniform numbers come before the normal ones are made of them; a last, incomplete block is drawn anew.
    for (std::size_t i = 0; i < count; ++i) {
        noise[i] = static_cast<float>(engine_() & 0xffffffu) * 0x1p-24f;
    }
    for (std::size_t i = 0; i + BLOCK <= count; i += BLOCK) draw_block(noise + i);
    if (count % BLOCK != 0) {
        float* const last = noise + count - BLOCK;
        for (std::size_t i = 0; i < BLOCK; ++i) last[i] = static_cast<float>(engine_() & 0xffffffu) * 0x1p-24f;
        draw_block(last);
    }
}

// Box and Muller's transform of eight uniform numbers for the radius and eight for the angle.
void NoiseGenerator::draw_block(float* noise) {
    for (std::size_t i = 0; i < PAIRS; ++i) {
        const float radius = std::sqrt(-2.0f * log_of(1.0f - noise[i]));
        const float angle = static_cast<float>(TWO_PI) * noise[i + PAIRS];
        noise[i] = radius * cos_of(angle);
        noise[i + PAIRS] = radius * sin_of(angle);
    }
}

// Fewer than sixteen numbers are drawn in pairs, in float64; the second of a pair is kept for the next draw.
float NoiseGenerator::draw_single() {
    if (spare_) {
        const float kept = *spare_;
        spare_.reset();
        return kept;
    }
    const double angle = TWO_PI * uniform();
    const double radius = std::sqrt(-2.0 * std::log1p(-uniform()));
    spare_ = static_cast<float>(radius * std::sin(angle));
    return static_cast<float>(radius * std::cos(angle));
}

double NoiseGenerator::uniform() {
    const std::uint64_t high = engine_();
    const std::uint64_t bits = high << 32 | engine_();
    return static_cast<double>(bits & ((std::uint64_t{1} << 53) - 1)) * 0x1p-53;
}

}  // namespace dipgo::impl
