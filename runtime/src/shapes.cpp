#include "shapes.h"

#include <algorithm>
#include <set>
#include <tuple>

namespace dipgo::impl {
namespace {

using Texts = std::vector<std::string>;

std::string alternatives(const Texts& texts) {
    std::string text = texts.front();
    for (std::size_t i = 1; i < texts.size(); ++i) text += (i + 1 == texts.size() ? " or " : ", ") + texts[i];
    return text;
}

std::string numbers(const std::set<std::uint64_t>& sorted) {
    const std::uint64_t first = *sorted.begin(), last = *sorted.rbegin();
    if (sorted.size() > 2 && last - first == sorted.size() - 1) {
        return std::to_string(first) + " to " + std::to_string(last);
    }
    Texts texts;
    for (const std::uint64_t number : sorted) texts.push_back(std::to_string(number));
    return alternatives(texts);
}

std::string counted(std::size_t images) { return std::to_string(images) + (images == 1 ? " image" : " images"); }

std::string asked_text(const dipgo_shape& asked) {
    const std::string count = asked.images == 0 ? "" : counted(asked.images);
    if (asked.height == 0 && asked.width == 0) return count;
    const auto side = [](std::size_t length, const char* name) {
        return length == 0 ? std::string("any ") + name : std::to_string(length);
    };
    return (count.empty() ? "" : count + " of ") + side(asked.height, "height") + "x" + side(asked.width, "width");
}

}  // namespace

dipgo_shape Shapes::at(std::size_t index) const {
    const Shape& shape = all_[index];
    return {shape.images, shape.height * upscaling_, shape.width * upscaling_};
}

std::size_t Shapes::find(const dipgo_shape& asked) const {
    const auto fits = [](std::size_t wanted, std::size_t found) { return wanted == 0 || wanted == found; };
    for (std::size_t i = 0; i < size(); ++i) {
        const dipgo_shape shape = at(i);
        if (fits(asked.images, shape.images) && fits(asked.height, shape.height) && fits(asked.width, shape.width)) {
            return i;
        }
    }
    throw input_error("the bundle has no plan for " + asked_text(asked))
        .available({text()})
        .mend("ask for one of these, or build a bundle for more: dipgo-compile build --batch A..B --size HEIGHTxWIDTH,...");
}

std::string Shapes::text() const {
    std::set<std::uint64_t> images;
    std::set<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t>> sizes;  // by their areas
    for (const Shape& shape : all_) {
        images.insert(shape.images);
        sizes.emplace(shape.height * shape.width, shape.height, shape.width);
    }
    if (images.size() * sizes.size() != all_.size()) {  // not every number of images in every size
        std::vector<Shape> sorted = all_;
        std::sort(sorted.begin(), sorted.end());
        std::string text;
        for (const Shape& shape : sorted) text += (text.empty() ? "" : "; ") + Shapes({shape}, upscaling_).text();
        return text;
    }
    Texts named;
    for (const auto& [area, height, width] : sizes) {
        named.push_back(std::to_string(height * upscaling_) + "x" + std::to_string(width * upscaling_));
    }
    return numbers(images) + (images == std::set<std::uint64_t>{1} ? " image of " : " images of ") +
           alternatives(named) + (upscaling_ == 1 ? " latents" : "");
}

}  // namespace dipgo::impl
