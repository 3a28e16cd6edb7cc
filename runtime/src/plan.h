// A plan as it is read from a bundle. Tensors and engines are numbers here; the names are for messages and for the
// outside. dipgo_compile/program.py describes the instructions, schema/README.md the file.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "dipgo/dipgo.h"
#include "integrity.h"

namespace dipgo::impl {

using Index = std::size_t;
inline constexpr Index NONE = static_cast<Index>(-1);
inline constexpr Index PROLOGUE = NONE;  // the call of a run that comes before all calls
inline constexpr std::size_t MAX_RANK = 8;       // axes of a tensor
inline constexpr std::int64_t MAX_UPSCALING = 64;  // pixels of a latent, along an axis
inline constexpr double DEFAULT_GUIDANCE_SCALE = 7.5;

struct TensorSpec {
    std::string name;
    dipgo_dtype dtype = DIPGO_FLOAT32;
    std::vector<std::int64_t> shape;
    std::uint64_t bytes = 0;
};

struct Tensor {
    TensorSpec spec;
    bool constant = false;     // in constants.bin, otherwise in the arena
    std::uint64_t offset = 0;  // bytes
    std::uint64_t room = 0;    // in the arena, bytes
    Index first = 0, last = 0;  // the instructions between which it is live, both inclusive
};

struct Engine {
    std::string name, file;
    std::vector<std::string> inputs, outputs;
};

struct Slice {
    std::size_t axis;
    std::int64_t start, stop;
};

struct Term {
    Index value;
    double constant, guidance;  // the coefficient is constant + guidance * guidance scale
    std::vector<Slice> view;
};

// Of a guided batch, where the halves are computed one after the other.
enum class Half { BOTH, UNCOND, COND };

struct Run {
    Index engine, call;
    std::vector<Index> inputs, outputs;  // an output that nobody reads is NONE
    Half half = Half::BOTH;
};

struct Combine {
    std::vector<Term> terms;
    Index output;
};

using Instruction = std::variant<Run, Combine>;

struct Call {
    double timestep;
    Index sample;  // NONE where no run of this call reads it
    std::vector<Index> noise_preds;  // one, or under split guidance one for each half
};

// What is given by one name from outside: a program input, or under split guidance one for each half of the batch.
struct Condition {
    TensorSpec spec;
    std::vector<Index> inputs;
};

struct Interface {
    std::string sample;  // the denoiser's keyword
    std::vector<Condition> conditions;
    std::vector<Index> draws;
    Index latents = NONE;
    Index image_latents = NONE;  // the input of the condition that the denoiser doesn't read, but the first combine
    dipgo_guidance guidance = DIPGO_UNGUIDED;
    bool split = false;  // the halves of a guided batch are computed one after the other

    bool is_image(const Condition& condition) const { return condition.inputs.front() == image_latents; }
};

// An ONNX file beside the plan's own: the text encoder, the image decoder.
struct Part {
    std::string file;
    std::vector<TensorSpec> inputs, outputs;
};

// What is denoised together: so many images, and height and width of their latents.
struct Shape {
    std::uint64_t images = 1, height = 1, width = 1;

    // That of an array (images, channels, ..., height, width); axes that are not there count 1.
    static Shape of(const std::vector<std::int64_t>& latents);

    std::string text() const;
    bool operator==(const Shape& other) const { return key() == other.key(); }
    bool operator<(const Shape& other) const { return key() < other.key(); }

 private:
    std::tuple<std::uint64_t, std::uint64_t, std::uint64_t> key() const { return {images, height, width}; }
};

struct Plan {
    std::string provider;
    std::vector<Tensor> tensors;
    std::vector<Engine> engines;
    std::vector<Instruction> instructions;
    std::vector<Call> calls;
    std::vector<double> timesteps;
    std::vector<Index> inputs;
    Index output = NONE;
    Interface interface;
    std::uint64_t arena_bytes = 0;
    FileRecords files;
    std::optional<Part> text_encoder, image_decoder;
    std::string tokenizer;  // a file, or empty
    double guidance_scale = DEFAULT_GUIDANCE_SCALE;
    // What a host sends in a call and what it gets, where a call reads a sample: both halves of a guided batch, whether
    // the plan reads both or one for both.
    std::optional<TensorSpec> host_sample, host_noise_pred;

    // Of plan.json: the plan files of the other shapes, and the pixels of a latent along an axis.
    std::vector<std::pair<Shape, std::string>> shapes;
    std::uint64_t upscaling = 1;
    // What plans of one bundle have in common, as canonical JSON.
    std::string model, schedule, names, around;

    Shape shape() const { return Shape::of(spec(interface.latents).shape); }
    const TensorSpec& spec(Index tensor) const { return tensors[tensor].spec; }
};

// How many images are made together: the batch of the latents.
std::size_t images_together(const Plan& plan);

// The tensor that the first reading call takes, and whose type all samples have; NONE where no call reads one.
Index sample_of(const Plan& plan);

// The leading axis; 1 where there is none.
std::size_t batch_of(const TensorSpec& spec);

// So many of them, one behind the other along the batch, which is the leading axis.
TensorSpec repeated(TensorSpec spec, std::size_t times);

std::size_t item_bytes(dipgo_dtype dtype);
const char* dtype_name(dipgo_dtype dtype);
std::optional<dipgo_dtype> dtype_of(const std::string& name);

// "(1, 4, 8, 8)"
std::string shape_text(const std::vector<std::int64_t>& shape);

// Calls `each` with the tensors that an instruction reads.
template <class Each>
void for_reads(const Instruction& instruction, Each each) {
    if (const Run* run = std::get_if<Run>(&instruction)) {
        for (const Index tensor : run->inputs) each(tensor);
    } else {
        for (const Term& term : std::get<Combine>(instruction).terms) each(term.value);
    }
}

// Calls `each` with the tensors that an instruction defines.
template <class Each>
void for_writes(const Instruction& instruction, Each each) {
    if (const Run* run = std::get_if<Run>(&instruction)) {
        for (const Index tensor : run->outputs) {
            if (tensor != NONE) each(tensor);
        }
    } else {
        each(std::get<Combine>(instruction).output);
    }
}

}  // namespace dipgo::impl
