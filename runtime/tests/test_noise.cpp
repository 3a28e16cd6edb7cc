// The generator's stream is the one of init_genrand, and draws follow each other as torch's do. That the numbers are
// torch's is tested from Python.
#include "noise.h"

#include <cmath>
#include <vector>

#include "check.h"

using dipgo::impl::NoiseGenerator;

std::vector<float> drawn(NoiseGenerator& generator, std::size_t count) {
    std::vector<float> noise(count);
    generator.draw(noise.data(), count);
    return noise;
}

int main() {
    {  // torch.manual_seed(0); torch.randn(16)[:4]
        NoiseGenerator generator(0);
        const std::vector<float> noise = drawn(generator, 16);
        const float expected[] = {-1.1258398f, -1.1523602f, -0.2505786f, -0.4338788f};
        for (int i = 0; i < 4; ++i) CHECK(std::abs(noise[i] - expected[i]) < 1e-6f);
    }
    {  // only the low 32 bits of a seed count
        NoiseGenerator one(7), other(7 + (std::uint64_t{1} << 32));
        CHECK(drawn(one, 20) == drawn(other, 20));
    }
    {  // a single number leaves the second of its pair to the next draw of few numbers
        NoiseGenerator whole(3), parts(3);
        const std::vector<float> three = drawn(whole, 3);
        const float first = drawn(parts, 1)[0], second = drawn(parts, 1)[0], third = drawn(parts, 1)[0];
        CHECK(three == (std::vector<float>{first, second, third}));
    }
    {  // a block that isn't full replaces the end by numbers drawn anew
        NoiseGenerator full(5), more(5);
        const std::vector<float> block = drawn(full, 16), rest = drawn(more, 18);
        CHECK(std::equal(rest.begin(), rest.begin() + 2, block.begin()));
        CHECK(rest[2] != block[2]);
    }
}
