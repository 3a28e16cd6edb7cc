// The sentences of tests/shapes/test_shape_names.py: both runtimes name shapes alike.
#include "check.h"
#include "shapes.h"

using dipgo::impl::Shape;
using dipgo::impl::Shapes;

namespace {

Shapes grid(const std::vector<std::uint64_t>& images, const std::vector<Shape>& sizes, std::uint64_t upscaling) {
    std::vector<Shape> all;
    for (const Shape& size : sizes) {
        for (const std::uint64_t count : images) {
            all.push_back(size);
            all.back().images = count;
        }
    }
    return Shapes(all, upscaling);
}

Shape shape(std::uint64_t images, std::uint64_t height, std::uint64_t width) {
    Shape made;
    made.images = images;
    made.height = height;
    made.width = width;
    return made;
}

}  // namespace

int main() {
    const Shape square = shape(1, 64, 64), tall = shape(1, 96, 64), wide = shape(1, 64, 96);
    CHECK_EQUAL(grid({1}, {square}, 8).text(), "1 image of 512x512");
    CHECK_EQUAL(grid({4, 3, 2, 1}, {tall, square}, 8).text(), "1 to 4 images of 512x512 or 768x512");
    CHECK_EQUAL(grid({1, 2}, {square, wide, tall}, 8).text(), "1 or 2 images of 512x512, 512x768 or 768x512");
    CHECK_EQUAL(grid({8, 1, 2}, {square}, 8).text(), "1, 2 or 8 images of 512x512");
    CHECK_EQUAL(grid({1}, {shape(1, 8, 8)}, 1).text(), "1 image of 8x8 latents");
    CHECK_EQUAL(Shapes({shape(4, 64, 64), shape(1, 96, 96)}, 8).text(), "1 image of 768x768; 4 images of 512x512");

    const Shapes shapes = grid({4, 2}, {tall, square}, 8);
    CHECK_EQUAL(shapes.find({0, 0, 0}), 0u);
    CHECK_EQUAL(shapes.find({2, 0, 0}), 1u);
    CHECK_EQUAL(shapes.find({2, 512, 512}), 3u);
    const auto refused = [&](const dipgo_shape& asked) { return message_of([&] { shapes.find(asked); }); };
    CHECK(contains(refused({5, 0, 0}), "no plan for 5 images\n"));
    CHECK(contains(refused({1, 8, 0}), "no plan for 1 image of 8xany width\n"));
    CHECK(contains(refused({0, 8, 9}), "no plan for 8x9\n"));
    CHECK(contains(refused({0, 8, 9}), "available: 2 or 4 images of 512x512 or 768x512\n"));

    CHECK(Shape::of({2, 4, 8, 9}) == shape(2, 8, 9));
    CHECK(Shape::of({2, 4, 5, 8, 9}) == shape(2, 8, 9));
    CHECK(Shape::of({2}) == shape(2, 1, 1));
    CHECK_EQUAL(shape(2, 8, 9).text(), "2x8x9");
}
