// The interpreter of a plan. All memory is taken once: an arena, a bound run for every Run, a prepared combination for
// every Combine; an image then allocates nothing. Mirrors dipgo_compile/executor.py, the reference.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "arena.h"
#include "bundle.h"
#include "combine.h"
#include "engines.h"
#include "host_calls.h"

namespace dipgo::impl {

// A loaded plan, which its sessions keep alive: one shape of a bundle.
struct Loaded {
    Loaded(Bundle opened, const LoadOptions& chosen)
        : bundle(std::move(opened)),
          options(chosen),
          tokenizer(bundle.plan().tokenizer.empty() ? "" : bundle.file(bundle.plan().tokenizer)),
          engines(bundle, options) {}

    const Bundle bundle;
    const LoadOptions options;
    const std::string tokenizer;  // its path, or empty
    Engines engines;
};

// All shapes of a bundle, each loaded when it is asked for and while somebody uses it. Any thread.
class LoadedShapes {
 public:
    LoadedShapes(Bundle opened, const LoadOptions& options)
        : bundle_(std::move(opened)), options_(options), loaded_(bundle_.plans->size()) {}

    Shapes shapes() const { return bundle_.shapes(); }
    std::shared_ptr<Loaded> load(std::size_t shape);  // throws Error

 private:
    const Bundle bundle_;
    const LoadOptions options_;
    std::mutex loading_;
    std::vector<std::weak_ptr<Loaded>> loaded_;
};

struct Callbacks {
    dipgo_progress progress = nullptr;
    dipgo_should_abort should_abort = nullptr;
    void* data = nullptr;
};

struct Times {
    double seconds = 0, engine_seconds = 0;
    std::size_t runs = 0, instructions = 0;
};

class Session {
 public:
    Session(std::shared_ptr<Loaded> loaded, const Callbacks& callbacks);

    // See dipgo.h for these. They throw Error.
    void denoise(const dipgo_image_params& image, void* latents, std::size_t bytes);
    void run_call(std::size_t call, const dipgo_tensor* sample, const dipgo_tensor* conditions, std::size_t count,
                  void* noise_pred, std::size_t bytes);
    void encode(const dipgo_tensor* tokens, void* const* conditions, std::size_t count);
    void decode(const dipgo_tensor* latents, void* pixels, std::size_t bytes);
    void reset();
    void abort();
    Times times();

 private:
    struct Step {
        bool run;            // or a combine
        Index at;            // in runs_ or combines_
        Index begins;        // the call whose first instruction this is, or NONE
        Index coefficients;  // of a combine: where its first one lies
    };

    struct GuidedCoefficient {
        Index at;
        double constant, guidance;
    };

    class Claim;  // of the session, by one thread

    const Plan& plan() const { return loaded_->bundle.plan(); }
    void* data(Index tensor) const;
    Buffer buffer(Index tensor) const;

    Step prepare(const Instruction& instruction);
    void prepare_all();
    BoundRun bound(const Run& run) const;
    Linear linear(const Combine& combine) const;
    void warm_up();

    void feed(Index tensor, const dipgo_tensor& given);
    // A host makes its own samples, of image latents too, if there are any.
    enum Reader { IMAGE, HOST };
    void feed_conditions(const dipgo_tensor* conditions, std::size_t count, Reader reader);
    void feed_sample(const dipgo_tensor& sample);
    void feed_noise(const dipgo_image_params& image);
    void set_guidance(double scale);

    void follow(const Step& step);
    void compute(BoundRun& run);
    void stop_if_asked();

    std::shared_ptr<Loaded> loaded_;
    Callbacks callbacks_;
    Arena arena_;
    std::vector<BoundRun> runs_;
    std::vector<Linear> combines_;
    std::vector<Step> steps_;     // one for each instruction
    std::vector<Step> unguided_;  // what is left of them at guidance scale 1
    std::vector<double> coefficients_;
    std::vector<GuidedCoefficient> guided_;
    Ort::RunOptions options_;
    Times times_;

    // For hosts; made at the first call.
    std::vector<std::vector<HostStep>> host_;
    Arena host_sample_, host_noise_pred_;  // one half, and all; apart from the arena, where values are soon overwritten
    Index next_call_ = 0;

    std::mutex state_;     // of the next two
    bool working_ = false;
    std::atomic<bool> aborted_{false};
};

}  // namespace dipgo::impl
