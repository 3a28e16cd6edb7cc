#include "combine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "plan.h"

namespace dipgo::impl {
namespace {

constexpr std::size_t CHUNK = 2048;    // elements: the output's stay in the first-level cache
constexpr std::size_t TOGETHER = 4;    // terms that are read in one pass

// out = [out +] c[0] * t[0] + ... + c[Terms - 1] * t[Terms - 1], in this order
template <class Number, std::size_t Terms, bool Add>
void pass(Number* __restrict out, const Number* const* t, const Number* c, std::size_t count) {
    const Number* __restrict t0 = t[0];
    const Number* __restrict t1 = Terms > 1 ? t[1] : t[0];
    const Number* __restrict t2 = Terms > 2 ? t[2] : t[0];
    const Number* __restrict t3 = Terms > 3 ? t[3] : t[0];
    const Number c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];
    for (std::size_t i = 0; i < count; ++i) {
        Number sum = c0 * t0[i];
        if constexpr (Add) sum = out[i] + sum;
        if constexpr (Terms > 1) sum = sum + c1 * t1[i];
        if constexpr (Terms > 2) sum = sum + c2 * t2[i];
        if constexpr (Terms > 3) sum = sum + c3 * t3[i];
        out[i] = sum;
    }
}

template <class Number, bool Add>
void pass(std::size_t terms, Number* out, const Number* const* t, const Number* c, std::size_t count) {
    switch (terms) {
        case 1: return pass<Number, 1, Add>(out, t, c, count);
        case 2: return pass<Number, 2, Add>(out, t, c, count);
        case 3: return pass<Number, 3, Add>(out, t, c, count);
        default: return pass<Number, 4, Add>(out, t, c, count);
    }
}

}  // namespace

Linear::Linear(dipgo_dtype dtype, std::vector<std::int64_t> shape, void* output, std::int64_t copies,
               std::vector<Operand> terms)
    : dtype_(dtype), output_(output), copies_(copies), terms_(std::move(terms)), outer_(std::move(shape)) {
    // Axes join the dense part, from the last one, for as long as every operand is dense in them.
    while (!outer_.empty()) {
        const std::size_t axis = outer_.size() - 1;
        const bool dense = std::all_of(terms_.begin(), terms_.end(), [&](const Operand& term) {
            return outer_[axis] == 1 || term.strides[axis] == static_cast<std::int64_t>(dense_);
        });
        if (!dense) break;
        dense_ *= static_cast<std::size_t>(outer_[axis]);
        outer_.pop_back();
    }
    for (const std::int64_t size : outer_) rows_ *= static_cast<std::size_t>(size);
}

void Linear::operator()(const double* coefficients) const {
    if (dtype_ == DIPGO_FLOAT32) {
        compute<float>(coefficients);
    } else {
        compute<double>(coefficients);
    }
}

template <class Number>
void Linear::compute(const double* coefficients) const {
    auto* const output = static_cast<Number*>(output_);
    std::int64_t at[MAX_RANK] = {};  // the row's place along the outer axes
    for (std::size_t row = 0; row < rows_; ++row) {
        for (std::size_t begin = 0; begin < dense_; begin += CHUNK) {
            Number* const out = output + row * dense_ + begin;
            const std::size_t count = std::min(CHUNK, dense_ - begin);
            for (std::size_t first = 0; first < terms_.size(); first += TOGETHER) {
                const std::size_t together = std::min(TOGETHER, terms_.size() - first);
                const Number* parts[TOGETHER] = {};
                Number factors[TOGETHER] = {};
                for (std::size_t i = 0; i < together; ++i) {
                    const Operand& term = terms_[first + i];
                    std::int64_t offset = static_cast<std::int64_t>(begin);
                    for (std::size_t axis = 0; axis < outer_.size(); ++axis) offset += at[axis] * term.strides[axis];
                    parts[i] = static_cast<const Number*>(term.data) + offset;
                    factors[i] = static_cast<Number>(coefficients[first + i]);
                }
                first == 0 ? pass<Number, false>(together, out, parts, factors, count)
                           : pass<Number, true>(together, out, parts, factors, count);
            }
        }
        for (std::size_t axis = outer_.size(); axis-- > 0 && ++at[axis] == outer_[axis];) at[axis] = 0;
    }
    const std::size_t sum = rows_ * dense_;
    for (std::int64_t copy = 1; copy <= copies_; ++copy) {
        std::memcpy(output + static_cast<std::size_t>(copy) * sum, output, sum * sizeof(Number));
    }
}

}  // namespace dipgo::impl
