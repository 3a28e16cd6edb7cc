// Engines as ONNX Runtime sessions, opened with the options of dipgo_compile/backends/onnxruntime.py, which says why
// they are as they are.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "bundle.h"
#include "onnxruntime.h"

namespace dipgo::impl {

struct LoadOptions {
    int threads = 0;  // 0: ONNX Runtime's choice
    dipgo_memory memory = DIPGO_MEMORY_BALANCED;
    bool contents = true;  // whether files that a backend keeps beside a bundle are hashed
    std::string provider;  // "cpu", "cuda"
};

// A tensor's memory, which outlives whatever uses it.
struct Buffer {
    const TensorSpec* spec;
    void* data;
};

// A run with fixed buffers: it reads its inputs as they then are, and fills its outputs.
class BoundRun {
 public:
    // With `resend`, inputs are bound anew before each run: ONNX Runtime copies an input to a device when it is bound,
    // and only then.
    BoundRun(Ort::Session& session, std::string name, bool resend)
        : session_(&session), name_(std::move(name)), resend_(resend), binding_(session) {}

    // Inputs come before outputs.
    void bind_input(const std::string& name, const Buffer& buffer);
    void bind_output(const std::string& name, const Buffer& buffer);

    // Throws Error (backend). Nothing is allocated here; ONNX Runtime takes its activations from the arena.
    void operator()(const Ort::RunOptions& options);

 private:
    Ort::Session* session_;
    std::string name_;
    bool resend_;
    Ort::IoBinding binding_;
    std::vector<Ort::Value> values_;
    std::vector<std::string> resent_;  // the inputs that the first of the values are bound to again
};

// One ONNX file. Runs of several threads may overlap.
class EngineSession {
 public:
    // Throws Error: ONNX Runtime refuses the file, or its inputs and outputs aren't the ones named.
    EngineSession(const std::string& name, const std::string& file, const Ort::SessionOptions& options,
                  std::vector<std::string> inputs, std::vector<std::string> outputs, bool on_device);

    // Buffers are in the order of the names; an output without data is not wanted. Throws Error (bundle) where the
    // engine's tensors have another type or shape.
    BoundRun bind(const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs);

 private:
    void check_names(const char* kind, const std::vector<std::string>& wanted, std::vector<std::string> found) const;
    void check_type(const std::string& tensor, const Ort::TypeInfo& type, const TensorSpec& spec) const;

    std::string name_;
    bool on_device_;
    Ort::Session session_;
    std::vector<std::string> inputs_, outputs_;
    std::vector<std::string> graph_inputs_, graph_outputs_;  // in the graph's order
};

// All engines of a bundle's shape.
class Engines {
 public:
    Engines(const Bundle& bundle, const LoadOptions& options);

    EngineSession& operator[](Index engine) { return *sessions_[engine]; }
    bool prepacked() const { return prepacked_; }

    // A file beside the plan's own, opened at the first use, from any thread.
    EngineSession& text_encoder() { return opened(encoder_, bundle_.plan().text_encoder); }
    EngineSession& image_decoder() { return opened(decoder_, bundle_.plan().image_decoder); }

 private:
    EngineSession& opened(std::unique_ptr<EngineSession>& session, const std::optional<Part>& part);

    const Bundle& bundle_;
    LoadOptions options_;
    bool prepacked_ = false;
    std::vector<std::unique_ptr<EngineSession>> sessions_;
    std::mutex opening_;
    std::unique_ptr<EngineSession> encoder_, decoder_;
};

// The version of the ONNX Runtime that is loaded, such as "1.32.0".
const char* onnxruntime_version();

}  // namespace dipgo::impl
