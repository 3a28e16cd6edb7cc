#include "engines.h"

#include <algorithm>
#include <atomic>
#include <future>
#include <map>
#include <thread>

#include "engine_cache.h"
#include "error.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace dipgo::impl {
namespace {

struct Provider {
    const char* name;       // a target's
    const char* execution;  // ONNX Runtime's
};
constexpr Provider PROVIDERS[] = {{"cpu", "CPUExecutionProvider"}, {"cuda", "CUDAExecutionProvider"}};
constexpr int SAME_AS_REQUESTED = 1;
constexpr int ERRORS_ONLY = 3;
constexpr int LARGE_BYTES = 256 * 1024;
constexpr std::size_t MOST_AT_ONCE = 4;  // engines opened: each needs memory of its own meanwhile

// ONNX Runtime's environment. There is one in a process, and it stays: threads may use it until the end.
Ort::Env& environment() {
    static Ort::Env* const made = [] {
        const OrtApi* api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
        if (api == nullptr) {
            throw backend_error("the ONNX Runtime that is loaded is too old")
                .available({onnxruntime_version()})
                .mend("install version 1." + std::to_string(ORT_API_VERSION) + " or newer");
        }
        Ort::InitApi(api);
        return new Ort::Env(ORT_LOGGING_LEVEL_ERROR, "dipgo");
    }();
    return *made;
}

// One arena for the activations of all sessions, which grows by what is asked for.
void register_shared_arena() {
    static const bool registered = [] {
        const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
        const Ort::ArenaCfg arena(0, SAME_AS_REQUESTED, -1, -1);
        try {
            environment().CreateAndRegisterAllocator(memory, arena);
        } catch (const Ort::Exception&) {
            return false;  // the program around this library has registered one of its own, which serves as well
        }
        return true;
    }();
    static_cast<void>(registered);
}

// Have every large buffer go back to the system when it is freed: glibc keeps those below the largest ever freed.
void return_freed_memory() {
#ifdef __GLIBC__
    static const int done = mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
    static_cast<void>(done);
#endif
}

// Give back what is free now. Opening an engine frees as much as the weights in its loops' bodies take, which ONNX
// Runtime packs before it finds them packed, and glibc keeps that.
void trim_heap() {
#ifdef __GLIBC__
    malloc_trim(0);
#endif
}

void append_provider(Ort::SessionOptions& options, const std::string& provider) {
    const auto known = std::find_if(std::begin(PROVIDERS), std::end(PROVIDERS),
                                    [&](const Provider& row) { return provider == row.name; });
    if (known == std::end(PROVIDERS)) {
        throw backend_error("unknown execution provider " + quoted(provider)).available({"cpu", "cuda"});
    }
    const std::vector<std::string> available = Ort::GetAvailableProviders();
    if (std::find(available.begin(), available.end(), known->execution) == available.end()) {
        throw backend_error(std::string("the ONNX Runtime that is loaded has no ") + known->execution)
            .available(available)
            .mend("load one that has it, or load the plan with the provider \"cpu\"");
    }
    if (provider == "cuda") options.AppendExecutionProvider_CUDA(OrtCUDAProviderOptions{});
}

Ort::SessionOptions session_options(const LoadOptions& chosen, std::size_t engines, bool prepacked) {
    environment();
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(chosen.threads);
    options.SetInterOpNumThreads(1);
    options.SetExecutionMode(ORT_SEQUENTIAL);
    options.SetGraphOptimizationLevel(prepacked ? ORT_DISABLE_ALL : ORT_ENABLE_ALL);
    options.SetLogSeverityLevel(ERRORS_ONLY);
    options.DisableMemPattern();
    if (chosen.memory == DIPGO_MEMORY_LOW) {
        return_freed_memory();
        options.DisableCpuMemArena();
    } else {
        register_shared_arena();
        options.AddConfigEntry("session.use_env_allocators", "1");
    }
    options.AddConfigEntry("session.use_device_allocator_for_initializers", "1");
    if (engines > 1) options.AddConfigEntry("session.force_spinning_stop", "1");
    append_provider(options, chosen.provider);
    return options;
}

// How many engines are opened at once. Opening one is work for one core, and the more of it the more weights it has,
// though they are packed.
std::size_t opened_at_once(const LoadOptions& options) {
    if (options.provider != "cpu" || options.memory == DIPGO_MEMORY_LOW) return 1;
    const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
    return std::min(options.threads > 0 ? static_cast<std::size_t>(options.threads) : cores, MOST_AT_ONCE);
}

// Calls `work` with every index below `count`, from so many `threads`. What it throws, once all have ended, is thrown.
template <class Work>
void for_each_index(std::size_t count, std::size_t threads, const Work& work) {
    std::atomic<std::size_t> next{0};
    std::vector<std::future<void>> running;
    for (std::size_t thread = 0; thread < threads; ++thread) {
        running.push_back(std::async(std::launch::async, [&] {
            for (std::size_t index; (index = next++) < count;) work(index);
        }));
    }
    for (std::future<void>& each : running) each.get();
}

ONNXTensorElementDataType element_type(dipgo_dtype dtype) {
    switch (dtype) {
        case DIPGO_FLOAT16: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
        case DIPGO_FLOAT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        case DIPGO_FLOAT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE;
        case DIPGO_INT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
        case DIPGO_UINT8: return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
        case DIPGO_INT32: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
        case DIPGO_INT64: return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
        case DIPGO_BOOL: return ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
}

// The buffer as ONNX Runtime sees it: nothing is copied.
Ort::Value wrapped(const Buffer& buffer) {
    static const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
    const TensorSpec& spec = *buffer.spec;
    return Ort::Value::CreateTensor(memory, buffer.data, spec.bytes, spec.shape.data(), spec.shape.size(),
                                    element_type(spec.dtype));
}

Ort::Session open_session(const std::string& name, const std::string& file, const Ort::SessionOptions& options) {
    try {
        return Ort::Session(environment(), file.c_str(), options);
    } catch (const Ort::Exception& error) {
        throw backend_error("ONNX Runtime refuses the engine " + quoted(name) + ": " + error.what()).where(file);
    }
}

}  // namespace

const char* onnxruntime_version() { return OrtGetApiBase()->GetVersionString(); }

void BoundRun::bind_input(const std::string& name, const Buffer& buffer) {
    values_.push_back(wrapped(buffer));
    binding_.BindInput(name.c_str(), values_.back());
    if (resend_) resent_.push_back(name);
}

void BoundRun::bind_output(const std::string& name, const Buffer& buffer) {
    values_.push_back(wrapped(buffer));
    binding_.BindOutput(name.c_str(), values_.back());
}

void BoundRun::operator()(const Ort::RunOptions& options) {
    try {
        for (std::size_t i = 0; i < resent_.size(); ++i) binding_.BindInput(resent_[i].c_str(), values_[i]);
        session_->Run(options, binding_);
    } catch (const Ort::Exception& error) {
        throw backend_error("the engine " + quoted(name_) + " failed: " + error.what());
    }
}

EngineSession::EngineSession(const std::string& name, const std::string& file, const Ort::SessionOptions& options,
                             std::vector<std::string> inputs, std::vector<std::string> outputs, bool on_device)
    : name_(name),
      on_device_(on_device),
      session_(open_session(name, file, options)),
      inputs_(std::move(inputs)),
      outputs_(std::move(outputs)) {
    const Ort::AllocatorWithDefaultOptions allocator;
    for (std::size_t i = 0; i < session_.GetInputCount(); ++i) {
        graph_inputs_.emplace_back(session_.GetInputNameAllocated(i, allocator).get());
    }
    for (std::size_t i = 0; i < session_.GetOutputCount(); ++i) {
        graph_outputs_.emplace_back(session_.GetOutputNameAllocated(i, allocator).get());
    }
    check_names("inputs", inputs_, graph_inputs_);
    check_names("outputs", outputs_, graph_outputs_);
}

BoundRun EngineSession::bind(const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) {
    const auto position = [](const std::vector<std::string>& names, const std::string& name) {
        return static_cast<std::size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    };
    BoundRun run(session_, name_, on_device_);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        check_type(inputs_[i], session_.GetInputTypeInfo(position(graph_inputs_, inputs_[i])), *inputs[i].spec);
        run.bind_input(inputs_[i], inputs[i]);
    }
    for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (outputs[i].data == nullptr) continue;
        check_type(outputs_[i], session_.GetOutputTypeInfo(position(graph_outputs_, outputs_[i])), *outputs[i].spec);
        run.bind_output(outputs_[i], outputs[i]);
    }
    return run;
}

void EngineSession::check_names(const char* kind, const std::vector<std::string>& wanted,
                                std::vector<std::string> found) const {
    if (!std::is_permutation(wanted.begin(), wanted.end(), found.begin(), found.end())) {
        throw backend_error("the engine " + quoted(name_) + " does not have the " + kind +
                            " of the plan: " + joined(wanted))
            .available(found)
            .mend("build the bundle again");
    }
}

// An axis of unknown length is negative, and fits any.
void EngineSession::check_type(const std::string& tensor, const Ort::TypeInfo& type, const TensorSpec& spec) const {
    bool fits = type.GetONNXType() == ONNX_TYPE_TENSOR;
    if (fits) {
        const auto found = type.GetTensorTypeAndShapeInfo();
        const std::vector<std::int64_t> shape = found.GetShape();
        const auto same = [](std::int64_t theirs, std::int64_t ours) { return theirs < 0 || theirs == ours; };
        fits = found.GetElementType() == element_type(spec.dtype) &&
               std::equal(shape.begin(), shape.end(), spec.shape.begin(), spec.shape.end(), same);
    }
    if (!fits) {
        throw backend_error("the engine " + quoted(name_) + " has another " + quoted(tensor) + " than the plan's " +
                            quoted(spec.name) + ": " + dtype_name(spec.dtype) + shape_text(spec.shape))
            .mend(REBUILD);
    }
}

Engines::Engines(const Bundle& bundle, const LoadOptions& options) : bundle_(bundle), options_(options) {
    std::optional<std::string> cache;
    if (options.provider == "cpu") cache = find_engine_cache(bundle, onnxruntime_version(), options.contents);
    prepacked_ = cache.has_value();
    std::size_t taking_turns = 0;
    for (const Plan& plan : *bundle.plans) taking_turns += plan.engines.size();
    const Ort::SessionOptions chosen = session_options(options, taking_turns, prepacked_);
    const std::vector<Engine>& engines = bundle.plan().engines;
    sessions_.resize(engines.size());
    for_each_index(engines.size(), opened_at_once(options), [&](std::size_t index) {
        const Engine& engine = engines[index];
        const std::string file = cache ? *cache + "/" + engine.file : bundle.file(engine.file);
        sessions_[index] = std::make_unique<EngineSession>(engine.name, file, chosen, engine.inputs, engine.outputs,
                                                           options.provider != "cpu");
    });
    trim_heap();
}

EngineSession& Engines::opened(std::unique_ptr<EngineSession>& session, const std::optional<Part>& part) {
    const std::lock_guard<std::mutex> lock(opening_);
    if (session == nullptr) {
        const auto names = [](const std::vector<TensorSpec>& specs) {
            std::vector<std::string> found;
            for (const TensorSpec& spec : specs) found.push_back(spec.name);
            return found;
        };
        session = std::make_unique<EngineSession>(part->file, bundle_.file(part->file),
                                                  session_options(options_, 1, false), names(part->inputs),
                                                  names(part->outputs), options_.provider != "cpu");
    }
    return *session;
}

}  // namespace dipgo::impl
