// Combinations against a plain loop, with the same rounding: any number of terms, views along any axis, copies.
#include "combine.h"

#include <random>

#include "check.h"

using dipgo::impl::Linear;
using dipgo::impl::Operand;

// sum(c[i] * t[i]) element by element; `at` gives each term's element for an index of the output.
template <class Number, class At>
std::vector<Number> expected(std::size_t count, const std::vector<double>& c, At at) {
    std::vector<Number> sum(count);
    for (std::size_t i = 0; i < count; ++i) {
        for (std::size_t term = 0; term < c.size(); ++term) {
            const volatile Number product = static_cast<Number>(c[term]) * at(term, i);
            sum[i] = term == 0 ? product : sum[i] + product;
        }
    }
    return sum;
}

template <class Number>
void test_terms(dipgo_dtype dtype, std::size_t terms, std::int64_t count) {
    std::mt19937 random(static_cast<unsigned>(terms));
    std::normal_distribution<double> normal;
    std::vector<std::vector<Number>> values(terms, std::vector<Number>(count));
    std::vector<double> c(terms);
    std::vector<Operand> operands;
    for (std::size_t i = 0; i < terms; ++i) {
        c[i] = normal(random);
        for (Number& value : values[i]) value = static_cast<Number>(normal(random));
        operands.push_back({values[i].data(), {count, 1}});
    }
    std::vector<Number> output(2 * count, -1);
    Linear(dtype, {1, count}, output.data(), 1, operands)(c.data());
    const auto sum = expected<Number>(count, c, [&](std::size_t term, std::size_t i) { return values[term][i]; });
    CHECK(std::equal(sum.begin(), sum.end(), output.begin()));
    CHECK(std::equal(sum.begin(), sum.end(), output.begin() + count));
}

// A term that is (2, 3, 5)[:, 1:3, 2:4], one that is dense.
void test_views() {
    std::vector<float> large(2 * 3 * 5), dense(2 * 2 * 2), output(2 * 2 * 2);
    for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<float>(i);
    for (std::size_t i = 0; i < dense.size(); ++i) dense[i] = static_cast<float>(100 * i);
    const Linear linear(DIPGO_FLOAT32, {2, 2, 2}, output.data(), 0,
                        {{large.data() + 5 + 2, {15, 5, 1}}, {dense.data(), {4, 2, 1}}});
    const double c[] = {1.0, 0.5};
    linear(c);
    for (int i = 0; i < 2; ++i) {
        for (int j = 0; j < 2; ++j) {
            for (int k = 0; k < 2; ++k) {
                const int at = 4 * i + 2 * j + k;
                CHECK_EQUAL(output[at], static_cast<float>(15 * i + 5 * (j + 1) + k + 2 + 50 * at));
            }
        }
    }
}

int main() {
    for (std::size_t terms = 1; terms <= 11; ++terms) {
        for (const std::int64_t count : {1, 7, 2048, 5000}) {
            test_terms<float>(DIPGO_FLOAT32, terms, count);
            test_terms<double>(DIPGO_FLOAT64, terms, count);
        }
    }
    test_views();
    // A sum that a fused multiply-add would round differently: 1 - 2^-24 rounds to 1 - 2^-24, its square to 1 - 2^-23.
    const float near_one = 1.0f - 0x1p-24f, minus = -1.0f + 0x1p-23f;
    float output = 0;
    const double c[] = {1.0, static_cast<double>(near_one)};
    Linear(DIPGO_FLOAT32, {1}, &output, 0, {{&minus, {1}}, {&near_one, {1}}})(c);
    CHECK_EQUAL(output, 0.0f);
}
