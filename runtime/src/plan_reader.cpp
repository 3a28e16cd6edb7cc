#include "plan_reader.h"

#include <algorithm>
#include <set>
#include <unordered_map>

#include "canonical_json.h"
#include "pipeline_reader.h"
#include "plan_fields.h"
#include "sha256.h"

namespace dipgo::impl {
namespace {

constexpr const char* FORMAT = "dipgo.plan";
constexpr std::uint64_t MAJOR = 1;
constexpr std::uint64_t MAX_MACS = std::uint64_t{1} << 63;
constexpr std::size_t HALVES = 2;

using Names = std::unordered_map<std::string, Index>;

Index named(const Field& field, const Names& known, const std::string& kind) {
    const auto found = known.find(field.text());
    if (found == known.end()) throw field.error("there is no " + kind + " called " + quoted(field.text()));
    return found->second;
}

void check_within(const Field& item, std::uint64_t offset, std::uint64_t bytes, std::uint64_t size,
                  const std::string& place) {
    if (offset + bytes > size) {
        throw item.get("offset").error("bytes " + std::to_string(offset) + " to " + std::to_string(offset + bytes) +
                                       " lie outside " + place + ", which has " + std::to_string(size));
    }
}

Tensor read_tensor(const Field& item, std::uint64_t constants_bytes, std::uint64_t arena_bytes) {
    Tensor tensor;
    tensor.spec = read_spec(item);
    tensor.offset = item.get("offset").integer();
    const Field storage = item.get("storage");
    if (tensor.offset % item_bytes(tensor.spec.dtype) != 0) {
        throw item.get("offset").error("offset " + std::to_string(tensor.offset) + " is not aligned for " +
                                       dtype_name(tensor.spec.dtype));
    }
    if (storage.text() == "constants") {
        tensor.constant = true;
        check_within(item, tensor.offset, tensor.spec.bytes, constants_bytes, "constants.bin");
    } else if (storage.text() == "arena") {
        tensor.room = item.get("bytes").integer(tensor.spec.bytes);
        check_within(item, tensor.offset, tensor.room, arena_bytes, "the arena");
        tensor.first = item.get("first").integer();
        tensor.last = item.get("last").integer(tensor.first);
    } else {
        throw storage.error("unknown storage " + quoted(storage.text()) + ": arena and constants are known");
    }
    return tensor;
}

Engine read_engine(const Field& item, const FileRecords& files) {
    item.get("blocks").texts();
    if (item.has("macs")) item.get("macs").integer(0, MAX_MACS);
    return {item.get("name").text(), file_of(item.get("file"), files), item.get("inputs").texts(),
            item.get("outputs").texts()};
}

std::vector<Index> read_names(const Field& list, const Names& known, const std::string& kind) {
    std::vector<Index> found;
    for (const Field& item : list.items()) found.push_back(named(item, known, kind));
    return found;
}

Half read_half(const Field& field) {
    if (field.text() == "uncond") return Half::UNCOND;
    if (field.text() == "cond") return Half::COND;
    throw field.error("there is no half called " + quoted(field.text()));
}

Run read_run(const Field& item, const Names& tensors, const Names& engines, const std::vector<Engine>& listed) {
    Run run;
    run.engine = named(item.get("run"), engines, "engine");
    run.inputs = read_names(item.get("inputs"), tensors, "tensor");
    for (const Field& output : item.get("outputs").items()) {
        run.outputs.push_back(output.null() ? NONE : named(output, tensors, "tensor"));
    }
    const Engine& engine = listed[run.engine];
    if (run.inputs.size() != engine.inputs.size() || run.outputs.size() != engine.outputs.size()) {
        throw item.error("engine " + quoted(engine.name) + " has " + std::to_string(engine.inputs.size()) +
                         " inputs and " + std::to_string(engine.outputs.size()) + " outputs, the run names " +
                         std::to_string(run.inputs.size()) + " and " + std::to_string(run.outputs.size()));
    }
    run.call = item.get("call").integer();
    if (item.has("prologue") && item.get("prologue").boolean()) run.call = PROLOGUE;
    if (item.has("half")) run.half = read_half(item.get("half"));
    return run;
}

Term read_term(const Field& item, const Names& names, const std::vector<Tensor>& tensors) {
    Term term{named(item.get("value"), names, "tensor"), 0, 0, {}};
    const TensorSpec& spec = tensors[term.value].spec;
    if (item.has("view")) {
        for (const Field& part : item.get("view").items()) {
            std::vector<std::uint64_t> numbers;
            for (const Field& number : part.items()) numbers.push_back(number.integer());
            if (numbers.size() != 3) throw part.error("a view is [axis, start, stop]");
            const auto [axis, start, stop] = std::tuple(numbers[0], numbers[1], numbers[2]);
            if (axis >= spec.shape.size() || start >= stop ||
                stop > static_cast<std::uint64_t>(spec.shape[axis])) {
                throw part.error("the view lies outside " + quoted(spec.name) + " of shape " + shape_text(spec.shape));
            }
            term.view.push_back({axis, static_cast<std::int64_t>(start), static_cast<std::int64_t>(stop)});
        }
    }
    term.constant = item.get("constant").number();
    term.guidance = item.get("guidance").number();
    return term;
}

Instruction read_instruction(const Field& item, const Names& tensors, const Names& engines, const Plan& plan) {
    if (item.has("run") && item.has("combine")) throw item.error("an instruction is a run or a combine, not both");
    if (item.has("run")) return read_run(item, tensors, engines, plan.engines);
    if (!item.has("combine")) throw item.error("unknown instruction: run and combine are known");
    Combine combine;
    for (const Field& term : item.get("terms").items()) {
        combine.terms.push_back(read_term(term, tensors, plan.tensors));
    }
    if (combine.terms.empty()) throw item.get("terms").error("a combine needs at least one term");
    combine.output = named(item.get("combine"), tensors, "tensor");
    return combine;
}

Call read_call(const Field& item, const Names& tensors) {
    const Field sample = item.get("sample"), noise_pred = item.get("noise_pred");
    Call call{item.get("timestep").number(), sample.null() ? NONE : named(sample, tensors, "tensor"), {}};
    if (!noise_pred.list()) {
        call.noise_preds = {named(noise_pred, tensors, "tensor")};
    } else if (const std::size_t count = noise_pred.items().size(); count == HALVES) {
        call.noise_preds = read_names(noise_pred, tensors, "tensor");
    } else {
        throw noise_pred.error("a call has a noise prediction, or one for each half, not " + std::to_string(count));
    }
    return call;
}

dipgo_guidance read_guidance(const Field& field) {
    if (field.null()) return DIPGO_UNGUIDED;
    const std::vector<std::string> order = field.texts();
    if (order == std::vector<std::string>{"uncond", "cond"}) return DIPGO_UNCOND_COND;
    if (order == std::vector<std::string>{"cond", "uncond"}) return DIPGO_COND_UNCOND;
    throw field.error("the order of guidance is uncond, cond or the reverse, not " + joined(order));
}

// The program inputs that take a condition, in the order in which it holds them along its batch.
std::vector<std::string> inputs_of(const std::string& condition, const Interface& interface) {
    if (!interface.split) return {condition};
    const std::string uncond = condition + "@uncond", cond = condition + "@cond";
    if (interface.guidance == DIPGO_COND_UNCOND) return {cond, uncond};
    return {uncond, cond};
}

Condition read_condition(const Field& name, const Interface& interface, const Names& inputs, const Plan& plan) {
    Condition condition;
    const auto add = [&](const std::string& input) {
        const auto found = inputs.find(input);
        if (found == inputs.end()) throw name.error("there is no program input called " + quoted(input));
        condition.inputs.push_back(found->second);
    };
    const bool image = interface.image_latents != NONE && plan.spec(interface.image_latents).name == name.text();
    for (const std::string& input : image ? std::vector{name.text()} : inputs_of(name.text(), interface)) add(input);
    condition.spec = repeated(plan.spec(condition.inputs.front()), condition.inputs.size());
    condition.spec.name = name.text();
    return condition;
}

Interface read_interface(const Field& item, const Names& inputs, const Plan& plan) {
    item.get("timestep").text();
    Interface interface;
    interface.guidance = read_guidance(item.get("guidance"));
    interface.split = item.has("split_guidance") && item.get("split_guidance").boolean();
    if (interface.split && interface.guidance == DIPGO_UNGUIDED) {
        throw item.get("split_guidance").error("there is no guidance to be split");
    }
    interface.sample = item.get("sample").text();
    interface.latents = named(item.get("latents"), inputs, "program input");
    interface.draws = read_names(item.get("draws"), inputs, "program input");
    const std::vector<std::string> listed = item.get("conditions").texts();
    if (item.has("image_latents")) {
        const Field image = item.get("image_latents");
        interface.image_latents = named(image, inputs, "program input");
        if (std::find(listed.begin(), listed.end(), image.text()) == listed.end()) {
            throw image.error("there is no condition called " + quoted(image.text()));
        }
    }
    for (const Field& name : item.get("conditions").items()) {
        interface.conditions.push_back(read_condition(name, interface, inputs, plan));
    }
    return interface;
}

std::string read_provider(const Field& item) {
    if (item.has("backend")) item.get("backend").text();
    item.get("precision").text();
    return item.get("provider").text();
}

// The plan files of the other shapes.
void read_shapes(const Field& root, Plan& plan) {
    if (root.has("upscaling")) plan.upscaling = root.get("upscaling").integer(1, MAX_UPSCALING);
    if (!root.has("shapes")) return;
    std::set<Shape> known{plan.shape()};
    for (const Field& item : root.get("shapes").items()) {
        const Shape shape{item.get("images").integer(1), item.get("height").integer(1), item.get("width").integer(1)};
        if (!known.insert(shape).second) throw item.error("the shape " + shape.text() + " is listed twice");
        plan.shapes.emplace_back(shape, file_of(item.get("plan"), plan.files));
    }
}

// What this library has no use for, and another reader checks.
void check_rest(const Field& root) {
    root.get("naive_bytes").integer();
    const Field model = root.get("model"), schedule = root.get("schedule"), macs = root.get("macs");
    model.get("source").text();
    model.get("class").text();
    sha256_of(model.get("config_sha256"));
    model.get("config").mapping();
    schedule.get("class").text();
    schedule.get("num_inference_steps").integer(1);
    for (const Field& timestep : schedule.get("timesteps").items()) timestep.number();
    if (schedule.has("init_noise_sigma")) schedule.get("init_noise_sigma").number();
    macs.get("dense");
    macs.get("kept");
    for (const auto& member : macs.members()) member.second.integer(0, MAX_MACS);
    for (const Field& item : root.get("passes").items()) {
        item.get("name").text();
        item.get("modified").boolean();
        item.get("summary").text();
    }
}

}  // namespace

Json parse_document(std::string_view text, const std::string& where) {
    Json document = parse_json(text, where);
    const Field root(document, where + ": ");
    const Field format = root.get("format"), version = root.get("version"), stated = root.get("checksum");
    if (format.text() != FORMAT) {
        throw format.error("this is not a plan: the format is " + quoted(format.text()) + ", not " + quoted(FORMAT));
    }
    std::vector<std::uint64_t> numbers;
    for (const Field& number : version.items()) numbers.push_back(number.integer());
    if (numbers.size() != 2) throw version.error("a version is a major and a minor number");
    if (numbers[0] != MAJOR) {
        throw bundle_error("the plan has format version " + std::to_string(numbers[0]) +
                           "; this runtime reads version " + std::to_string(MAJOR))
            .where(where)
            .mend("update libdipgo, or build the bundle again with the version that is installed");
    }
    const std::string expected = stated.text();
    document.erase("checksum");
    if (sha256(canonical_json(document)) != expected) {
        throw bundle_error("the plan was altered after it was written: its checksum does not match")
            .where(where)
            .mend(REBUILD);
    }
    return document;
}

FileRecords read_files(const Json& document, const std::string& where) {
    FileRecords files;
    for (const auto& [name, record] : Field(document, where + ": ").get("files").members()) {
        files[plain_name(record, name)] = {record.get("bytes").integer(), sha256_of(record.get("sha256"))};
    }
    return files;
}

Plan read_plan(const Json& document, std::uint64_t constants_bytes, const std::string& where) {
    const Field root(document, where + ": ");
    Plan plan;
    plan.files = read_files(document, where);
    plan.arena_bytes = root.get("arena_bytes").integer();
    if (root.get("constants_bytes").integer() != constants_bytes) {
        throw root.get("constants_bytes").error("constants.bin has " + std::to_string(constants_bytes) + " bytes");
    }
    Names tensors, engines, inputs;
    for (const Field& item : root.get("tensors").items()) {
        plan.tensors.push_back(read_tensor(item, constants_bytes, plan.arena_bytes));
        const std::string& name = plan.tensors.back().spec.name;
        if (!tensors.emplace(name, tensors.size()).second) {
            throw item.error("the tensor " + quoted(name) + " is listed twice");
        }
    }
    for (const Field& item : root.get("engines").items()) {
        plan.engines.push_back(read_engine(item, plan.files));
        const std::string& name = plan.engines.back().name;
        if (!engines.emplace(name, engines.size()).second) {
            throw item.error("the engine " + quoted(name) + " is listed twice");
        }
    }
    plan.inputs = read_names(root.get("inputs"), tensors, "tensor");
    for (const Index input : plan.inputs) inputs.emplace(plan.spec(input).name, input);
    for (const Field& item : root.get("instructions").items()) {
        plan.instructions.push_back(read_instruction(item, tensors, engines, plan));
    }
    for (const Field& item : root.get("calls").items()) {
        plan.calls.push_back(read_call(item, tensors));
        plan.timesteps.push_back(plan.calls.back().timestep);
    }
    plan.output = named(root.get("output"), tensors, "tensor");
    if (plan.tensors[plan.output].constant) {
        throw root.get("output").error("there is no tensor in the arena called " + quoted(plan.spec(plan.output).name));
    }
    plan.interface = read_interface(root.get("interface"), inputs, plan);
    if (!plan.calls.empty()) {
        const std::vector<Index>& noise_preds = plan.calls.front().noise_preds;
        const Index sample = sample_of(plan);
        plan.host_noise_pred = repeated(plan.spec(noise_preds.front()), noise_preds.size());
        if (sample != NONE) {
            const TensorSpec& read = plan.spec(sample);
            plan.host_sample = repeated(read, batch_of(*plan.host_noise_pred) / batch_of(read));
        }
    }
    plan.provider = read_provider(root.get("target"));
    check_rest(root);
    if (root.has("pipeline")) read_pipeline(root.get("pipeline"), plan);
    read_shapes(root, plan);
    plan.model = canonical_json(root.get("model").value());
    plan.schedule = canonical_json(root.get("schedule").value());
    plan.names = canonical_json(root.get("interface").value());
    return plan;
}

}  // namespace dipgo::impl
