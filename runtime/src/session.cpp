#include "session.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

#include "error.h"
#include "noise.h"
#include "unguided.h"
#include "verifier.h"

namespace dipgo::impl {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

std::uint64_t arena_end(const Plan& plan) {
    std::uint64_t end = 0;
    for (const Tensor& tensor : plan.tensors) {
        if (!tensor.constant) end = std::max(end, tensor.offset + tensor.room);
    }
    return end;
}

std::vector<std::int64_t> dense_strides(const std::vector<std::int64_t>& shape) {
    std::vector<std::int64_t> strides(shape.size(), 1);
    for (std::size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
    return strides;
}

// The given array, of exactly the wanted dtype and shape.
const void* checked(const char* name, const TensorSpec& wanted, const dipgo_tensor& given) {
    if (given.data == nullptr || (given.shape == nullptr && given.rank != 0)) {
        throw input_error(std::string(name) + " has no data or no shape");
    }
    if (!std::equal(given.shape, given.shape + given.rank, wanted.shape.begin(), wanted.shape.end())) {
        const std::vector<std::int64_t> shape(given.shape, given.shape + given.rank);
        throw input_error(std::string(name) + " has shape " + shape_text(shape) + ", the plan was compiled for " +
                          shape_text(wanted.shape))
            .mend("pass that shape, or build a bundle for this one");
    }
    if (given.dtype != wanted.dtype) {
        throw input_error(std::string(name) + " is " + dtype_name(given.dtype) + ", the plan takes " +
                          dtype_name(wanted.dtype))
            .mend("convert it");
    }
    return given.data;
}

void check_room(const char* name, const void* memory, std::size_t bytes, const TensorSpec& wanted) {
    if (memory == nullptr || bytes != wanted.bytes) {
        throw input_error(std::string("the memory for ") + name + " has " + std::to_string(memory == nullptr ? 0 : bytes) +
                          " bytes and needs " + std::to_string(wanted.bytes));
    }
}

}  // namespace

class Session::Claim {
 public:
    explicit Claim(Session& session) : session_(session) {
        const std::lock_guard<std::mutex> lock(session_.state_);
        if (session_.working_) {
            throw Error(DIPGO_BUSY, "this session is at work in another thread")
                .mend("take one per thread: dipgo_session_create");
        }
        session_.working_ = true;
    }

    ~Claim() {
        const std::lock_guard<std::mutex> lock(session_.state_);
        session_.working_ = false;
        if (session_.aborted_.exchange(false)) session_.options_.UnsetTerminate();
    }

    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

 private:
    Session& session_;
};

std::shared_ptr<Loaded> LoadedShapes::load(std::size_t shape) {
    const std::lock_guard<std::mutex> lock(loading_);
    std::shared_ptr<Loaded> loaded = loaded_[shape].lock();
    if (loaded == nullptr) {
        Bundle bundle = bundle_;
        bundle.at = shape;
        loaded = std::make_shared<Loaded>(std::move(bundle), options_);
        loaded_[shape] = loaded;
    }
    return loaded;
}

Session::Session(std::shared_ptr<Loaded> loaded, const Callbacks& callbacks)
    : loaded_(std::move(loaded)), callbacks_(callbacks), arena_(arena_end(plan())) {
    prepare_all();
    if (loaded_->options.memory == DIPGO_MEMORY_FAST) warm_up();
}

void Session::prepare_all() {
    const std::vector<Remains> left = unguided(plan());
    std::vector<bool> begun(plan().calls.size()), begun_unguided(plan().calls.size());
    const auto add = [&](std::vector<Step>& steps, Step step, const Instruction& instruction, std::vector<bool>& calls) {
        const Run* run = std::get_if<Run>(&instruction);
        if (run != nullptr && run->call != PROLOGUE && !calls[run->call]) {
            calls[run->call] = true;
            step.begins = run->call;
        }
        steps.push_back(step);
    };
    for (Index at = 0; at < left.size(); ++at) {
        const Instruction& instruction = plan().instructions[at];
        const Step step = prepare(instruction);
        add(steps_, step, instruction, begun);
        if (!left[at].needed) continue;
        add(unguided_, left[at].shorter ? prepare(*left[at].shorter) : step, instruction, begun_unguided);
    }
}

void Session::denoise(const dipgo_image_params& image, void* latents, std::size_t bytes) {
    const Claim claim(*this);
    next_call_ = 0;  // whatever a host was at is overwritten
    check_room("the latents", latents, bytes, plan().spec(plan().output));
    if (!std::isnan(image.guidance_scale) && plan().interface.guidance == DIPGO_UNGUIDED) {
        throw input_error("a guidance scale was given, but the bundle was built without guidance")
            .mend("build it with guidance, or leave the scale out");
    }
    feed_conditions(image.conditions, image.condition_count, IMAGE);
    feed_noise(image);
    const double scale = std::isnan(image.guidance_scale) ? plan().guidance_scale : image.guidance_scale;
    set_guidance(scale);
    times_ = {};
    const auto start = Clock::now();
    for (const Step& step : scale == UNGUIDED_SCALE ? unguided_ : steps_) {
        stop_if_asked();
        if (step.begins != NONE && callbacks_.progress != nullptr) {
            callbacks_.progress(callbacks_.data, step.begins, plan().calls.size());
        }
        follow(step);
    }
    stop_if_asked();
    times_.seconds = seconds_since(start);
    std::memcpy(latents, data(plan().output), bytes);
}

void Session::run_call(std::size_t call, const dipgo_tensor* sample, const dipgo_tensor* conditions, std::size_t count,
                       void* noise_pred, std::size_t bytes) {
    const Claim claim(*this);
    if ((call != 0 && call != next_call_) || call >= plan().calls.size()) {
        throw input_error("call " + std::to_string(call) + " cannot run now: the next is " +
                          std::to_string(next_call_) + ", or 0 for a new image");
    }
    if (sample == nullptr) throw input_error("there is no sample");
    if (host_.empty()) {
        auto cut = host_calls(plan());
        host_sample_ = Arena(plan().spec(sample_of(plan())).bytes);
        host_noise_pred_ = Arena(plan().host_noise_pred->bytes);
        host_ = std::move(cut);
    }
    next_call_ = 0;  // should anything fail, the image has to start again
    check_room("the noise prediction", noise_pred, bytes, *plan().host_noise_pred);
    feed_sample(*sample);
    if (call == 0) feed_conditions(conditions, count, HOST);
    times_ = {};
    const auto start = Clock::now();
    for (const HostStep& step : host_[call]) {
        stop_if_asked();
        switch (step.kind) {
            case HostStep::FOLLOW: follow(steps_[step.index]); break;
            case HostStep::TAKE:
                std::memcpy(data(step.index), host_sample_.at(0), plan().spec(step.index).bytes);
                break;
            case HostStep::GIVE: {
                const std::uint64_t half = plan().spec(step.index).bytes;
                std::memcpy(host_noise_pred_.at(step.half * half), data(step.index), half);
                break;
            }
        }
    }
    stop_if_asked();
    times_.seconds = seconds_since(start);
    std::memcpy(noise_pred, host_noise_pred_.at(0), bytes);
    next_call_ = call + 1;
}

void Session::encode(const dipgo_tensor* tokens, void* const* conditions, std::size_t count) {
    const Claim claim(*this);
    if (!plan().text_encoder) {
        throw input_error("the bundle has no text encoder").mend("build it with --pipeline");
    }
    const Part& part = *plan().text_encoder;
    const std::vector<Condition>& wanted = plan().interface.conditions;
    if (tokens == nullptr) throw input_error("there are no token ids");
    if (conditions == nullptr || count != wanted.size()) {
        throw input_error("the text encoder gives " + std::to_string(wanted.size()) + " conditions, there is room for " +
                          std::to_string(conditions == nullptr ? 0 : count));
    }
    std::vector<Buffer> outputs;
    for (const TensorSpec& output : part.outputs) {
        const auto place = std::find_if(wanted.begin(), wanted.end(),
                                        [&](const Condition& condition) { return condition.spec.name == output.name; });
        void* const memory = conditions[place - wanted.begin()];
        if (memory == nullptr) throw input_error("there is no memory for " + output.name);
        outputs.push_back({&output, memory});
    }
    const TensorSpec& input = part.inputs.front();
    void* const ids = const_cast<void*>(checked("the token ids", input, *tokens));
    BoundRun run = loaded_->engines.text_encoder().bind({{&input, ids}}, outputs);
    compute(run);
}

void Session::decode(const dipgo_tensor* latents, void* pixels, std::size_t bytes) {
    const Claim claim(*this);
    if (!plan().image_decoder) {
        throw input_error("the bundle has no image decoder").mend("build it with --pipeline");
    }
    const TensorSpec &input = plan().image_decoder->inputs.front(), &output = plan().image_decoder->outputs.front();
    if (latents == nullptr) throw input_error("there are no latents");
    check_room("the pixels", pixels, bytes, output);
    void* const values = const_cast<void*>(checked("the latents", input, *latents));
    BoundRun run = loaded_->engines.image_decoder().bind({{&input, values}}, {{&output, pixels}});
    compute(run);
}

void Session::reset() {
    const Claim claim(*this);
    next_call_ = 0;
}

void Session::abort() {
    const std::lock_guard<std::mutex> lock(state_);
    if (!working_) return;
    aborted_ = true;
    options_.SetTerminate();
}

Times Session::times() {
    const Claim claim(*this);
    return times_;
}

void* Session::data(Index index) const {
    const Tensor& tensor = plan().tensors[index];
    if (!tensor.constant) return arena_.at(tensor.offset);
    // ONNX Runtime takes inputs by mutable pointers and doesn't write to them.
    return const_cast<std::uint8_t*>(loaded_->bundle.constants->data()) + tensor.offset;
}

Buffer Session::buffer(Index tensor) const { return {&plan().spec(tensor), data(tensor)}; }

Session::Step Session::prepare(const Instruction& instruction) {
    if (const Run* run = std::get_if<Run>(&instruction)) {
        runs_.push_back(bound(*run));
        return {true, runs_.size() - 1, NONE, NONE};
    }
    const auto& combine = std::get<Combine>(instruction);
    const Index first = coefficients_.size();
    for (const Term& term : combine.terms) {
        if (term.guidance != 0) guided_.push_back({coefficients_.size(), term.constant, term.guidance});
        coefficients_.push_back(term.constant);
    }
    combines_.push_back(linear(combine));
    return {false, combines_.size() - 1, NONE, first};
}

BoundRun Session::bound(const Run& run) const {
    std::vector<Buffer> inputs, outputs;
    for (const Index tensor : run.inputs) inputs.push_back(buffer(tensor));
    for (const Index tensor : run.outputs) outputs.push_back(tensor == NONE ? Buffer{nullptr, nullptr} : buffer(tensor));
    try {
        return loaded_->engines[run.engine].bind(inputs, outputs);
    } catch (const Ort::Exception& error) {
        throw backend_error("the engine " + quoted(plan().engines[run.engine].name) + " cannot be bound: " + error.what());
    }
}

Linear Session::linear(const Combine& combine) const {
    const TensorSpec& output = plan().spec(combine.output);
    std::vector<Operand> operands;
    for (const Term& term : combine.terms) {
        const TensorSpec& spec = plan().spec(term.value);
        const std::vector<std::int64_t> strides = dense_strides(spec.shape);
        std::vector<std::int64_t> starts(spec.shape.size());
        for (const Slice& part : term.view) starts[part.axis] = part.start;
        std::int64_t offset = 0;
        for (std::size_t axis = 0; axis < starts.size(); ++axis) offset += starts[axis] * strides[axis];
        const auto bytes = static_cast<std::size_t>(offset) * item_bytes(spec.dtype);
        operands.push_back({static_cast<const std::uint8_t*>(data(term.value)) + bytes, strides});
    }
    std::vector<std::int64_t> shape = view_shape(combine.terms.front(), plan().spec(combine.terms.front().value));
    const std::int64_t copies = output.shape[0] / shape[0] - 1;
    return Linear(output.dtype, std::move(shape), data(combine.output), copies, std::move(operands));
}

// Compute every engine once, on whatever lies in the arena.
void Session::warm_up() {
    std::vector<bool> warm(plan().engines.size());
    Index at = 0;
    for (const Instruction& instruction : plan().instructions) {
        const Run* run = std::get_if<Run>(&instruction);
        if (run == nullptr) continue;
        if (!warm[run->engine]) compute(runs_[at]);
        warm[run->engine] = true;
        ++at;
    }
}

void Session::feed(Index tensor, const dipgo_tensor& given) {
    const TensorSpec& spec = plan().spec(tensor);
    std::memcpy(data(tensor), checked(spec.name.c_str(), spec, given), spec.bytes);
}

void Session::feed_conditions(const dipgo_tensor* conditions, std::size_t count, Reader reader) {
    const Interface& interface = plan().interface;
    const dipgo_tensor* const end = conditions == nullptr ? nullptr : conditions + count;
    const auto wanted = [&](const Condition& condition) { return reader == IMAGE || !interface.is_image(condition); };
    std::size_t found = 0;
    for (const Condition& condition : interface.conditions) {
        const auto named = [&](const dipgo_tensor& given) {
            return given.name != nullptr && condition.spec.name == given.name;
        };
        const dipgo_tensor* const given = std::find_if(conditions, end, named);
        if (!wanted(condition) || given == end) continue;
        const auto* at = static_cast<const std::uint8_t*>(checked(condition.spec.name.c_str(), condition.spec, *given));
        for (const Index half : condition.inputs) {
            const std::uint64_t bytes = plan().spec(half).bytes;
            std::memcpy(data(half), at, bytes);
            at += bytes;
        }
        ++found;
    }
    const auto all = std::count_if(interface.conditions.begin(), interface.conditions.end(), wanted);
    if (found == static_cast<std::size_t>(all) && end - conditions == all) return;
    std::vector<std::string> given, names;
    for (const dipgo_tensor* at = conditions; at != end; ++at) given.emplace_back(at->name == nullptr ? "?" : at->name);
    for (const Condition& condition : interface.conditions) {
        if (wanted(condition)) names.push_back(condition.spec.name);
    }
    throw input_error("the conditions given are not those of the plan: " + (given.empty() ? "none" : joined(given)))
        .available(names)
        .mend("pass each of these by its name, and no other");
}

// Under split guidance, or where the halves share what they have in common, the plan reads one half, for both.
void Session::feed_sample(const dipgo_tensor& sample) {
    const std::string& name = plan().interface.sample;
    const TensorSpec& spec = *plan().host_sample;
    const auto* first = static_cast<const std::uint8_t*>(checked(name.c_str(), spec, sample));
    const std::uint64_t half = plan().spec(sample_of(plan())).bytes;
    for (std::uint64_t at = half; at < spec.bytes; at += half) {
        if (std::memcmp(first + at, first, half) == 0) continue;
        const bool split = plan().interface.split;
        throw input_error("the halves of " + name + " differ, and the plan reads one for both")
            .mend(std::string("pass the same samples twice, or build the bundle ") +
                  (split ? "without --split-guidance" : "with --disable-pass share_halves"));
    }
    std::memcpy(host_sample_.at(0), first, half);
}

// What isn't given is drawn, by a generator for each image: the initial noise, then the scheduler's draws.
void Session::feed_noise(const dipgo_image_params& image) {
    const Interface& interface = plan().interface;
    if (image.draws != nullptr && image.draw_count != interface.draws.size()) {
        throw input_error("the plan takes " + std::to_string(interface.draws.size()) + " noise draws, " +
                          std::to_string(image.draw_count) + " were given");
    }
    if (image.latents != nullptr) feed(interface.latents, *image.latents);
    for (std::size_t i = 0; image.draws != nullptr && i < image.draw_count; ++i) {
        feed(interface.draws[i], image.draws[i]);
    }
    const std::size_t images = images_together(plan());
    for (std::size_t i = 0; i < images && (image.latents == nullptr || image.draws == nullptr); ++i) {
        NoiseGenerator generator(image.seed + i);
        const auto draw = [&](Index tensor) {
            const TensorSpec& spec = plan().spec(tensor);
            if (spec.dtype != DIPGO_FLOAT32 || spec.shape.empty() || spec.shape[0] != std::int64_t(images)) {
                throw input_error(spec.name + " cannot be drawn from a seed").mend("pass it");
            }
            const std::size_t count = spec.bytes / sizeof(float) / images;
            generator.draw(static_cast<float*>(data(tensor)) + i * count, count);
        };
        if (image.latents == nullptr) draw(interface.latents);
        if (image.draws == nullptr) std::for_each(interface.draws.begin(), interface.draws.end(), draw);
    }
}

void Session::set_guidance(double scale) {
    for (const GuidedCoefficient& entry : guided_) {
        coefficients_[entry.at] = entry.constant + entry.guidance * scale;
    }
}

void Session::follow(const Step& step) {
    ++times_.instructions;
    if (!step.run) return combines_[step.at](coefficients_.data() + step.coefficients);
    ++times_.runs;
    const auto start = Clock::now();
    compute(runs_[step.at]);
    times_.engine_seconds += seconds_since(start);
}

void Session::compute(BoundRun& run) {
    try {
        run(options_);
    } catch (const Error&) {
        stop_if_asked();  // ONNX Runtime gives up when it is told to
        throw;
    }
}

void Session::stop_if_asked() {
    const bool asked = callbacks_.should_abort != nullptr && callbacks_.should_abort(callbacks_.data) != 0;
    if (asked || aborted_) throw Error(DIPGO_ABORTED, "the image was aborted").mend("denoise again: the session is usable");
}

}  // namespace dipgo::impl
