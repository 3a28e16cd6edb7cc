// The C interface: arguments are checked, exceptions become a status and a message.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "bundle.h"
#include "dipgo/dipgo.h"
#include "error.h"
#include "noise.h"
#include "session.h"

using namespace dipgo::impl;

struct dipgo_plan {
    std::shared_ptr<Loaded> loaded;
    std::shared_ptr<LoadedShapes> shapes;  // loaded's among them
};

struct dipgo_session {
    Session session;
};

namespace {

thread_local std::string last_error;

dipgo_status failed(dipgo_status status, const char* message) noexcept {
    try {
        last_error = message;
    } catch (...) {  // no memory for it: the status has to do
        last_error.clear();
    }
    return status;
}

// Runs the body of a function; whatever it throws becomes a status.
template <class Body>
dipgo_status guarded(Body body) noexcept {
    try {
        body();
        return DIPGO_OK;
    } catch (const Error& error) {
        return failed(error.status(), error.what());
    } catch (const std::bad_alloc&) {
        return failed(DIPGO_ERROR_MEMORY, "not enough memory");
    } catch (const Ort::Exception& error) {
        return failed(DIPGO_ERROR_BACKEND, error.what());
    } catch (const std::exception& error) {
        return failed(DIPGO_ERROR_INTERNAL, error.what());
    } catch (...) {
        return failed(DIPGO_ERROR_INTERNAL, "an unknown exception");
    }
}

template <class Pointer>
Pointer* needed(Pointer* given, const char* name) {
    if (given == nullptr) throw input_error(std::string(name) + " is NULL");
    return given;
}

// A structure of the caller's, who may know fewer fields than this library, over the defaults. NULL: the defaults.
template <class Params>
Params adopted(const Params* given, Params values) {
    if (given == nullptr) return values;
    if (given->size < sizeof given->size || given->size > sizeof values) {
        throw input_error("a parameter structure of " + std::to_string(given->size) + " bytes is not known here")
            .mend("begin with the function that gives its defaults, and load a libdipgo as new as the headers");
    }
    std::memcpy(&values, given, given->size);
    return values;
}

// The other direction: as much of a structure as the caller has room for.
template <class Info>
void hand_out(Info values, Info* wanted) {
    const std::size_t size = std::min(needed(wanted, "the structure")->size, sizeof values);
    if (size < sizeof values.size) throw input_error("the structure has no size").mend("set its field `size`");
    values.size = wanted->size;
    std::memcpy(wanted, &values, size);
}

LoadOptions load_options(const dipgo_plan_params& params, const Plan& plan) {
    LoadOptions options;
    if (params.threads < 0) {
        throw input_error(std::to_string(params.threads) + " threads cannot compute anything").mend("use 1 or more, or 0");
    }
    if (params.memory < DIPGO_MEMORY_LOW || params.memory > DIPGO_MEMORY_FAST) {
        throw input_error("there is no such memory mode").available({"low", "balanced", "fast"});
    }
    options.threads = params.threads;
    options.memory = params.memory;
    options.contents = params.verify == DIPGO_VERIFY_FULL;
    options.provider = params.provider == nullptr ? plan.provider : params.provider;
    return options;
}

std::vector<const TensorSpec*> tensors_of(const Plan& plan, dipgo_role role) {
    std::vector<const TensorSpec*> found;
    const auto add = [&](Index tensor) { found.push_back(&plan.spec(tensor)); };
    const Interface& interface = plan.interface;
    switch (role) {
        case DIPGO_LATENTS: add(interface.latents); break;
        case DIPGO_CONDITION:
            for (const Condition& condition : interface.conditions) found.push_back(&condition.spec);
            break;
        case DIPGO_DRAW: std::for_each(interface.draws.begin(), interface.draws.end(), add); break;
        case DIPGO_OUTPUT: add(plan.output); break;
        case DIPGO_SAMPLE:
            if (plan.host_sample) found.push_back(&*plan.host_sample);
            break;
        case DIPGO_NOISE_PRED:
            if (plan.host_noise_pred) found.push_back(&*plan.host_noise_pred);
            break;
        case DIPGO_TOKENS:
            if (plan.text_encoder) found.push_back(&plan.text_encoder->inputs.front());
            break;
        case DIPGO_PIXELS:
            if (plan.image_decoder) found.push_back(&plan.image_decoder->outputs.front());
            break;
    }
    return found;
}

}  // namespace

uint32_t dipgo_api_version(void) { return DIPGO_API_VERSION; }

const char* dipgo_version(void) { return DIPGO_VERSION; }

const char* dipgo_onnxruntime_version(void) { return onnxruntime_version(); }

const char* dipgo_last_error(void) { return last_error.c_str(); }

const char* dipgo_status_name(dipgo_status status) {
    switch (status) {
        case DIPGO_OK: return "DIPGO_OK";
        case DIPGO_ERROR_INTERNAL: return "DIPGO_ERROR_INTERNAL";
        case DIPGO_ERROR_BUNDLE: return "DIPGO_ERROR_BUNDLE";
        case DIPGO_ERROR_BACKEND: return "DIPGO_ERROR_BACKEND";
        case DIPGO_ERROR_INPUT: return "DIPGO_ERROR_INPUT";
        case DIPGO_BUSY: return "DIPGO_BUSY";
        case DIPGO_ABORTED: return "DIPGO_ABORTED";
        case DIPGO_ERROR_MEMORY: return "DIPGO_ERROR_MEMORY";
    }
    return "unknown";
}

size_t dipgo_tensor_bytes(const dipgo_tensor* tensor) {
    if (tensor == nullptr || (tensor->shape == nullptr && tensor->rank != 0)) return 0;
    std::size_t bytes = item_bytes(tensor->dtype);
    for (std::size_t axis = 0; axis < tensor->rank; ++axis) {
        const std::int64_t size = tensor->shape[axis];
        if (size <= 0 || bytes > std::numeric_limits<std::size_t>::max() / static_cast<std::size_t>(size)) return 0;
        bytes *= static_cast<std::size_t>(size);
    }
    return bytes;
}

dipgo_plan_params dipgo_plan_default_params(void) {
    return {sizeof(dipgo_plan_params), 0, DIPGO_MEMORY_BALANCED, DIPGO_VERIFY_FULL, nullptr, {0, 0, 0}};
}

dipgo_status dipgo_plan_load(const char* path, const dipgo_plan_params* params, dipgo_plan** plan) {
    return guarded([&] {
        *needed(plan, "plan") = nullptr;
        const dipgo_plan_params chosen = adopted(params, dipgo_plan_default_params());
        Bundle bundle = open_bundle(needed(path, "path"), chosen.verify == DIPGO_VERIFY_FULL);
        const LoadOptions options = load_options(chosen, bundle.plan());
        const std::size_t shape = bundle.shapes().find(chosen.shape);
        auto shapes = std::make_shared<LoadedShapes>(std::move(bundle), options);
        *plan = new dipgo_plan{shapes->load(shape), std::move(shapes)};
    });
}

size_t dipgo_plan_shape_count(const dipgo_plan* plan) { return plan == nullptr ? 0 : plan->shapes->shapes().size(); }

dipgo_status dipgo_plan_get_shape(const dipgo_plan* plan, size_t index, dipgo_shape* shape) {
    return guarded([&] {
        const Shapes shapes = needed(plan, "plan")->shapes->shapes();
        if (index >= shapes.size()) {
            throw input_error("there is no shape " + std::to_string(index) + "; the bundle has " +
                              std::to_string(shapes.size()));
        }
        const std::size_t own = plan->loaded->bundle.at;  // comes first
        *needed(shape, "shape") = shapes.at(index == 0 ? own : index <= own ? index - 1 : index);
    });
}

dipgo_status dipgo_plan_select(const dipgo_plan* plan, const dipgo_shape* shape, dipgo_plan** selected) {
    return guarded([&] {
        *needed(selected, "selected") = nullptr;
        const std::shared_ptr<LoadedShapes>& shapes = needed(plan, "plan")->shapes;
        *selected = new dipgo_plan{shapes->load(shapes->shapes().find(*needed(shape, "shape"))), shapes};
    });
}

void dipgo_plan_free(dipgo_plan* plan) { delete plan; }

dipgo_status dipgo_plan_get_info(const dipgo_plan* plan, dipgo_plan_info* info) {
    return guarded([&] {
        const Loaded& loaded = *needed(plan, "plan")->loaded;
        const Plan& read = loaded.bundle.plan();
        dipgo_plan_info values{};
        values.images = images_together(read);
        values.calls = read.calls.size();
        values.timesteps = read.timesteps.data();
        values.guidance = read.interface.guidance;
        values.guidance_scale = read.guidance_scale;
        values.instructions = read.instructions.size();
        values.engines = read.engines.size();
        values.arena_bytes = read.arena_bytes;
        values.prepacked = loaded.engines.prepacked();
        values.has_text_encoder = read.text_encoder.has_value();
        values.has_image_decoder = read.image_decoder.has_value();
        values.tokenizer = loaded.tokenizer.empty() ? nullptr : loaded.tokenizer.c_str();
        values.split_guidance = read.interface.split;
        hand_out(values, info);
    });
}

size_t dipgo_plan_tensor_count(const dipgo_plan* plan, dipgo_role role) {
    std::size_t count = 0;
    guarded([&] { count = tensors_of(needed(plan, "plan")->loaded->bundle.plan(), role).size(); });
    return count;
}

dipgo_status dipgo_plan_get_tensor(const dipgo_plan* plan, dipgo_role role, size_t index, dipgo_tensor* tensor) {
    return guarded([&] {
        const auto found = tensors_of(needed(plan, "plan")->loaded->bundle.plan(), role);
        if (index >= found.size()) {
            throw input_error("there is no tensor " + std::to_string(index) + " of this role; the plan has " +
                              std::to_string(found.size()));
        }
        const TensorSpec& spec = *found[index];
        *needed(tensor, "tensor") = {spec.name.c_str(), spec.dtype, spec.shape.size(), spec.shape.data(), nullptr};
    });
}

dipgo_session_params dipgo_session_default_params(void) {
    return {sizeof(dipgo_session_params), nullptr, nullptr, nullptr};
}

dipgo_status dipgo_session_create(const dipgo_plan* plan, const dipgo_session_params* params, dipgo_session** session) {
    return guarded([&] {
        *needed(session, "session") = nullptr;
        const dipgo_session_params chosen = adopted(params, dipgo_session_default_params());
        const Callbacks callbacks{chosen.progress, chosen.should_abort, chosen.data};
        *session = new dipgo_session{Session(needed(plan, "plan")->loaded, callbacks)};
    });
}

void dipgo_session_free(dipgo_session* session) { delete session; }

dipgo_image_params dipgo_image_default_params(void) {
    const double unset = std::numeric_limits<double>::quiet_NaN();
    return {sizeof(dipgo_image_params), nullptr, 0, nullptr, nullptr, 0, 0, unset};
}

dipgo_status dipgo_session_denoise(dipgo_session* session, const dipgo_image_params* image, void* latents, size_t bytes) {
    return guarded([&] {
        const dipgo_image_params chosen = adopted(needed(image, "image"), dipgo_image_default_params());
        needed(session, "session")->session.denoise(chosen, latents, bytes);
    });
}

dipgo_status dipgo_session_run_call(dipgo_session* session, size_t call, const dipgo_tensor* sample,
                                    const dipgo_tensor* conditions, size_t condition_count, void* noise_pred,
                                    size_t bytes) {
    return guarded([&] {
        needed(session, "session")->session.run_call(call, sample, conditions, condition_count, noise_pred, bytes);
    });
}

dipgo_status dipgo_session_reset(dipgo_session* session) {
    return guarded([&] { needed(session, "session")->session.reset(); });
}

dipgo_status dipgo_session_abort(dipgo_session* session) {
    return guarded([&] { needed(session, "session")->session.abort(); });
}

dipgo_status dipgo_session_encode(dipgo_session* session, const dipgo_tensor* tokens, void* const* conditions,
                                  size_t condition_count) {
    return guarded([&] { needed(session, "session")->session.encode(tokens, conditions, condition_count); });
}

dipgo_status dipgo_session_decode(dipgo_session* session, const dipgo_tensor* latents, uint8_t* pixels, size_t bytes) {
    return guarded([&] { needed(session, "session")->session.decode(latents, pixels, bytes); });
}

dipgo_status dipgo_session_get_times(dipgo_session* session, dipgo_times* times) {
    return guarded([&] {
        const Times last = needed(session, "session")->session.times();
        hand_out(dipgo_times{0, last.seconds, last.engine_seconds, last.runs, last.instructions}, times);
    });
}

dipgo_status dipgo_noise(uint64_t seed, const size_t* counts, size_t draws, float* noise) {
    return guarded([&] {
        NoiseGenerator generator(seed);
        for (std::size_t i = 0; i < draws; ++i) {
            const std::size_t count = needed(counts, "counts")[i];
            generator.draw(needed(noise, "noise"), count);
            noise += count;
        }
    });
}
