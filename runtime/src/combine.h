// A linear combination of tensors, `output = sum(coefficients[i] * term)`, with the rounding of the Python runtime:
// coefficients are rounded to the output's type, products are added one after the other, and a product is rounded
// before it is added (the library is compiled without contraction to fused multiply-adds).
#pragma once

#include <cstdint>
#include <vector>

#include "dipgo/dipgo.h"

namespace dipgo::impl {

// An operand: where its first element is, and the distance between neighbours along each axis, in elements.
struct Operand {
    const void* data;
    std::vector<std::int64_t> strides;
};

class Linear {
 public:
    // `output` is dense, of `shape`; the sum is then copied `copies` times behind it. It overlaps no operand.
    // float32 or float64.
    Linear(dipgo_dtype dtype, std::vector<std::int64_t> shape, void* output, std::int64_t copies,
           std::vector<Operand> terms);

    // `coefficients` has one for each term. Allocates nothing.
    void operator()(const double* coefficients) const;

 private:
    template <class Number>
    void compute(const double* coefficients) const;

    dipgo_dtype dtype_;
    void* output_;
    std::int64_t copies_;
    std::vector<Operand> terms_;
    std::vector<std::int64_t> outer_;  // the axes around the dense part
    std::size_t dense_ = 1;            // elements that lie side by side in every operand
    std::size_t rows_ = 1;             // product of `outer_`
};

}  // namespace dipgo::impl
