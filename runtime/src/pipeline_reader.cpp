#include "pipeline_reader.h"

#include <algorithm>
#include <map>
#include <set>

#include "canonical_json.h"
#include "plan_fields.h"

namespace dipgo::impl {
namespace {

constexpr const char *INPUT_IDS = "input_ids", *LATENTS = "latents", *PIXELS = "pixels";
constexpr std::int64_t RGB = 3;

std::vector<TensorSpec> read_specs(const Field& list) {
    std::vector<TensorSpec> specs;
    std::set<std::string> names;
    for (const Field& item : list.items()) {
        specs.push_back(read_spec(item));
        const std::string& name = specs.back().name;
        if (!names.insert(name).second) throw item.error("the tensor " + quoted(name) + " is listed twice");
    }
    return specs;
}

Part read_part(const Field& item, const FileRecords& files) {
    return {file_of(item.get("file"), files), read_specs(item.get("inputs")), read_specs(item.get("outputs"))};
}

bool alike(const TensorSpec& one, const TensorSpec& other) {
    return one.dtype == other.dtype && one.shape == other.shape;
}

Part read_encoder(const Field& item, const Plan& plan) {
    Part part = read_part(item, plan.files);
    std::map<std::string, const TensorSpec*> conditions;
    for (const Condition& condition : plan.interface.conditions) {
        if (!plan.interface.is_image(condition)) conditions.emplace(condition.spec.name, &condition.spec);
    }
    const auto given = [&](const auto& condition) {
        const TensorSpec& wanted = *condition.second;
        return std::any_of(part.outputs.begin(), part.outputs.end(), [&](const TensorSpec& output) {
            return output.name == wanted.name && alike(output, wanted);
        });
    };
    if (part.outputs.size() != conditions.size() || !std::all_of(conditions.begin(), conditions.end(), given)) {
        throw item.get("outputs").error("the text encoder does not give the conditions of the program");
    }
    const bool one = part.inputs.size() == 1;
    if (!one || part.inputs[0].name != INPUT_IDS || part.inputs[0].dtype != DIPGO_INT64 ||
        part.inputs[0].shape.size() != 2) {
        throw item.get("inputs").error("a text encoder reads input_ids, int64 of two dimensions, alone");
    }
    const std::int64_t rows = part.inputs[0].shape[0];
    const auto fits = [&](const auto& condition) {
        const std::vector<std::int64_t>& shape = condition.second->shape;
        return !shape.empty() && shape[0] == rows;
    };
    if (conditions.empty() || !std::all_of(conditions.begin(), conditions.end(), fits)) {
        throw item.get("inputs").error(std::to_string(rows) + " rows of ids are not one for each sample");
    }
    return part;
}

// Whether (images, height, width, RGB) is (images, channels, h, w), each axis some whole number of times as long.
bool is_upscaled(const std::vector<std::int64_t>& latents, const std::vector<std::int64_t>& pixels) {
    if (latents.size() != 4 || pixels[0] != latents[0] || pixels[3] != RGB) return false;
    for (int axis = 1; axis <= 2; ++axis) {
        const std::int64_t large = pixels[axis], small = latents[axis + 1];
        if (small == 0 || large % small != 0 || large / small < 1 || large / small > MAX_UPSCALING) return false;
    }
    return true;
}

Part read_decoder(const Field& item, const Plan& plan) {
    Part part = read_part(item, plan.files);
    const TensorSpec& latents = plan.spec(plan.output);
    if (part.inputs.size() != 1 || part.inputs[0].name != LATENTS || !alike(part.inputs[0], latents)) {
        throw item.get("inputs").error(std::string("an image decoder reads latents, ") + dtype_name(latents.dtype) +
                                       shape_text(latents.shape) + ", alone");
    }
    if (part.outputs.size() != 1 || part.outputs[0].name != PIXELS || part.outputs[0].dtype != DIPGO_UINT8 ||
        part.outputs[0].shape.size() != 4) {
        throw item.get("outputs").error("an image decoder gives pixels, uint8 of four dimensions, alone");
    }
    if (!is_upscaled(latents.shape, part.outputs[0].shape)) {
        throw item.get("outputs").error("pixels of shape " + shape_text(part.outputs[0].shape) +
                                        " are not images of latents " + shape_text(latents.shape));
    }
    return part;
}

}  // namespace

void read_pipeline(const Field& item, Plan& plan) {
    const Field encoder = item.get("text_encoder"), tokenizer = item.get("tokenizer");
    if (encoder.null() != tokenizer.null()) {
        throw item.error("a text encoder and a tokenizer need each other: there is only one of them");
    }
    if (!encoder.null()) {
        plan.text_encoder = read_encoder(encoder, plan);
        const std::uint64_t length = tokenizer.get("length").integer(1);
        if (static_cast<std::int64_t>(length) != plan.text_encoder->inputs[0].shape[1]) {
            throw tokenizer.get("length").error("the text encoder does not read " + std::to_string(length) +
                                                " ids a prompt");
        }
        plan.tokenizer = file_of(tokenizer.get("file"), plan.files);
    }
    plan.image_decoder = read_decoder(item.get("image_decoder"), plan);
    plan.guidance_scale = item.get("guidance_scale").number();
    const Json classes = item.has("classes") ? item.get("classes").value() : Json::object();
    plan.around = canonical_json(Json{encoder.null(), tokenizer.value(), plan.guidance_scale, classes});
    if (item.has("classes")) {
        for (const auto& member : item.get("classes").members()) member.second.integer();
    }
}

}  // namespace dipgo::impl
