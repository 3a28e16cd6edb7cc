// libdipgo for C++17: the handles of dipgo.h as move-only objects, its failures as exceptions. Header-only; everything
// dipgo.h says of ownership and threads holds here.
//
//     dipgo::Plan plan("tiny.dipgo");
//     dipgo::Session session = plan.session();
//     dipgo::ImageOptions options;
//     options.seed = 7;
//     std::vector<float> latents = session.denoise({dipgo::array("encoder_hidden_states", text, {2, 77, 64})}, options);
#ifndef DIPGO_DIPGO_HPP
#define DIPGO_DIPGO_HPP

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "dipgo/dipgo.h"

namespace dipgo {

// A call that failed. `what()` says what happened, where, what was available and how to mend it.
class Error : public std::runtime_error {
 public:
    explicit Error(dipgo_status status) : std::runtime_error(dipgo_last_error()), status_(status) {}

    dipgo_status status() const { return status_; }

 private:
    dipgo_status status_;
};

inline void check(dipgo_status status) {
    if (status != DIPGO_OK) throw Error(status);
}

template <class Number>
constexpr dipgo_dtype dtype_of() {
    if constexpr (std::is_same_v<Number, float>) return DIPGO_FLOAT32;
    if constexpr (std::is_same_v<Number, double>) return DIPGO_FLOAT64;
    if constexpr (std::is_same_v<Number, std::int64_t>) return DIPGO_INT64;
    if constexpr (std::is_same_v<Number, std::int32_t>) return DIPGO_INT32;
    if constexpr (std::is_same_v<Number, std::uint8_t>) return DIPGO_UINT8;
    if constexpr (std::is_same_v<Number, std::int8_t>) return DIPGO_INT8;
    if constexpr (std::is_same_v<Number, bool>) return DIPGO_BOOL;
}

// What a plan reads or writes: a name, a type, a shape.
struct Tensor {
    std::string name;
    dipgo_dtype dtype;
    std::vector<std::int64_t> shape;

    std::size_t bytes() const {
        const dipgo_tensor described{name.c_str(), dtype, shape.size(), shape.data(), nullptr};
        return dipgo_tensor_bytes(&described);
    }
};

// An array of the caller's, who keeps its data alive.
struct Array {
    Tensor tensor;
    const void* data;

    dipgo_tensor view() const {
        return {tensor.name.c_str(), tensor.dtype, tensor.shape.size(), tensor.shape.data(), data};
    }
};

// Throws std::invalid_argument where the shape is not that of so many values.
template <class Number>
Array array(std::string name, const std::vector<Number>& values, std::vector<std::int64_t> shape) {
    Array made{{std::move(name), dtype_of<Number>(), std::move(shape)}, values.data()};
    if (made.tensor.bytes() != values.size() * sizeof(Number)) {
        throw std::invalid_argument(made.tensor.name + ": the shape does not fit the number of values");
    }
    return made;
}

// How a bundle is loaded: see dipgo_plan_params.
struct LoadOptions {
    int threads = 0;
    dipgo_memory memory = DIPGO_MEMORY_BALANCED;
    dipgo_verify verify = DIPGO_VERIFY_FULL;
    std::string provider{};  // empty: what the bundle was built for
    dipgo_shape shape{};     // zeros: the largest
};

// What one image is made of besides its conditions: see dipgo_image_params.
struct ImageOptions {
    std::uint64_t seed = 0;
    std::optional<double> guidance_scale{};
    std::optional<Array> latents{};
    std::optional<std::vector<Array>> draws{};
};

// Both are called in the thread that makes the image, and must not throw.
struct Callbacks {
    std::function<void(std::size_t call, std::size_t calls)> progress{};
    std::function<bool()> should_abort{};
};

class Session;

class Plan {
 public:
    explicit Plan(const std::string& path, const LoadOptions& options = {}) {
        dipgo_plan_params params = dipgo_plan_default_params();
        params.threads = options.threads;
        params.memory = options.memory;
        params.verify = options.verify;
        params.provider = options.provider.empty() ? nullptr : options.provider.c_str();
        params.shape = options.shape;
        dipgo_plan* plan = nullptr;
        check(dipgo_plan_load(path.c_str(), &params, &plan));
        handle_.reset(plan);
    }

    dipgo_plan_info info() const {
        dipgo_plan_info info{};
        info.size = sizeof info;
        check(dipgo_plan_get_info(get(), &info));
        return info;
    }

    std::vector<Tensor> tensors(dipgo_role role) const {
        std::vector<Tensor> found(dipgo_plan_tensor_count(get(), role));
        for (std::size_t i = 0; i < found.size(); ++i) {
            dipgo_tensor tensor{};
            check(dipgo_plan_get_tensor(get(), role, i, &tensor));
            found[i] = {tensor.name, tensor.dtype, {tensor.shape, tensor.shape + tensor.rank}};
        }
        return found;
    }

    // The only tensor of a role. Throws Error where there is none.
    Tensor tensor(dipgo_role role) const {
        dipgo_tensor tensor{};
        check(dipgo_plan_get_tensor(get(), role, 0, &tensor));
        return {tensor.name, tensor.dtype, {tensor.shape, tensor.shape + tensor.rank}};
    }

    // All shapes of the bundle, this plan's first.
    std::vector<dipgo_shape> shapes() const {
        std::vector<dipgo_shape> found(dipgo_plan_shape_count(get()));
        for (std::size_t i = 0; i < found.size(); ++i) check(dipgo_plan_get_shape(get(), i, &found[i]));
        return found;
    }

    // The plan of another shape: see dipgo_plan_select.
    Plan select(const dipgo_shape& shape) const {
        dipgo_plan* selected = nullptr;
        check(dipgo_plan_select(get(), &shape, &selected));
        return Plan(selected);
    }

    // A session may outlive its plan.
    Session session(Callbacks callbacks = {}) const;

    const dipgo_plan* get() const { return handle_.get(); }

 private:
    explicit Plan(dipgo_plan* handle) : handle_(handle) {}

    struct Free {
        void operator()(dipgo_plan* plan) const { dipgo_plan_free(plan); }
    };
    std::unique_ptr<dipgo_plan, Free> handle_;
};

class Session {
 public:
    explicit Session(const Plan& plan, Callbacks callbacks = {})
        : callbacks_(std::make_unique<Callbacks>(std::move(callbacks))),
          conditions_(plan.tensors(DIPGO_CONDITION)),
          output_(plan.tensor(DIPGO_OUTPUT)) {
        if (!plan.tensors(DIPGO_NOISE_PRED).empty()) noise_pred_ = plan.tensor(DIPGO_NOISE_PRED);
        if (!plan.tensors(DIPGO_PIXELS).empty()) pixels_ = plan.tensor(DIPGO_PIXELS);
        dipgo_session_params params = dipgo_session_default_params();
        params.data = callbacks_.get();
        if (callbacks_->progress) {
            params.progress = [](void* data, std::size_t call, std::size_t calls) {
                static_cast<Callbacks*>(data)->progress(call, calls);
            };
        }
        if (callbacks_->should_abort) {
            params.should_abort = [](void* data) { return static_cast<Callbacks*>(data)->should_abort() ? 1 : 0; };
        }
        dipgo_session* session = nullptr;
        check(dipgo_session_create(plan.get(), &params, &session));
        handle_.reset(session);
    }

    // The final latents, of the shape of DIPGO_OUTPUT. Plans whose latents are not float32: use dipgo.h.
    std::vector<float> denoise(const std::vector<Array>& conditions, const ImageOptions& options = {}) {
        const std::vector<dipgo_tensor> given = views(conditions);
        const std::vector<dipgo_tensor> draws = options.draws ? views(*options.draws) : std::vector<dipgo_tensor>{};
        const dipgo_tensor latents = options.latents ? options.latents->view() : dipgo_tensor{};
        const dipgo_tensor none{};  // an empty list still is a list
        dipgo_image_params image = dipgo_image_default_params();
        image.conditions = given.data();
        image.condition_count = given.size();
        if (options.latents) image.latents = &latents;
        if (options.draws) image.draws = draws.empty() ? &none : draws.data();
        image.draw_count = draws.size();
        image.seed = options.seed;
        if (options.guidance_scale) image.guidance_scale = *options.guidance_scale;
        std::vector<float> result(output_.bytes() / sizeof(float));
        check(dipgo_session_denoise(get(), &image, result.data(), result.size() * sizeof(float)));
        return result;
    }

    // The noise prediction of one denoiser call; conditions are read by call 0.
    std::vector<float> run_call(std::size_t call, const Array& sample, const std::vector<Array>& conditions = {}) {
        const std::vector<dipgo_tensor> given = views(conditions);
        const dipgo_tensor view = sample.view();
        std::vector<float> result(noise_pred_.bytes() / sizeof(float));
        check(dipgo_session_run_call(get(), call, &view, given.data(), given.size(), result.data(),
                                     result.size() * sizeof(float)));
        return result;
    }

    // Token ids, of the shape of DIPGO_TOKENS, to the bytes of every condition, in the plan's order.
    std::vector<std::vector<std::uint8_t>> encode(const Array& tokens) {
        const dipgo_tensor view = tokens.view();
        std::vector<std::vector<std::uint8_t>> encoded;
        std::vector<void*> places;
        for (const Tensor& condition : conditions_) encoded.emplace_back(condition.bytes());
        for (std::vector<std::uint8_t>& bytes : encoded) places.push_back(bytes.data());
        check(dipgo_session_encode(get(), &view, places.data(), places.size()));
        return encoded;
    }

    // Final latents to RGB bytes, of the shape of DIPGO_PIXELS.
    std::vector<std::uint8_t> decode(const std::vector<float>& latents) {
        const Array given = array("latents", latents, output_.shape);
        const dipgo_tensor view = given.view();
        std::vector<std::uint8_t> result(pixels_.bytes());
        check(dipgo_session_decode(get(), &view, result.data(), result.size()));
        return result;
    }

    void reset() { check(dipgo_session_reset(get())); }

    // From any thread.
    void abort() { check(dipgo_session_abort(get())); }

    dipgo_times times() {
        dipgo_times times{};
        times.size = sizeof times;
        check(dipgo_session_get_times(get(), &times));
        return times;
    }

    dipgo_session* get() const { return handle_.get(); }

 private:
    static std::vector<dipgo_tensor> views(const std::vector<Array>& arrays) {
        std::vector<dipgo_tensor> found;
        for (const Array& array : arrays) found.push_back(array.view());
        return found;
    }

    struct Free {
        void operator()(dipgo_session* session) const { dipgo_session_free(session); }
    };

    std::unique_ptr<Callbacks> callbacks_;  // stays where it is when the session moves
    std::unique_ptr<dipgo_session, Free> handle_;
    std::vector<Tensor> conditions_;
    Tensor output_{}, noise_pred_{}, pixels_{};
};

inline Session Plan::session(Callbacks callbacks) const { return Session(*this, std::move(callbacks)); }

// What torch draws from a seed on a CPU: see dipgo_noise.
inline std::vector<float> noise(std::uint64_t seed, std::size_t count) {
    std::vector<float> result(count);
    check(dipgo_noise(seed, &count, 1, result.data()));
    return result;
}

}  // namespace dipgo

#endif
