// dipgo-run: denoise with a bundle, without Python. Arrays come from .npy files and go into one.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "dipgo/dipgo.hpp"
#include "npy.h"

namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr const char* USAGE = R"(usage: dipgo-run BUNDLE [options]

Denoises one batch and writes the final latents.

  --condition NAME=FILE   an array for each of the plan's conditions (see --describe)
  --latents FILE          the initial noise, of unit variance; otherwise drawn from --seed
  --draw FILE             the unit noise of a stochastic scheduler, once for each draw, in order
  --seed N                of what is not given (default: 0)
  --guidance-scale X      default: the bundle's own
  -o, --output FILE       where the latents go
  --repeat N              make the same image N times, and print where the time went
  --json FILE             write that as JSON ("-": to standard output)
  --threads N             that compute one engine together (default: the physical cores)
  --memory MODE           low, balanced or fast (default: balanced)
  --verify WHAT           full or sizes (default: full)
  --provider NAME         cpu or cuda (default: what the bundle was built for)
  --images N              of a bundle for several shapes: how many together (default: of the largest)
  --size HEIGHTxWIDTH     of a bundle for several shapes: how large (default: the largest)
  --describe              print what the plan reads and writes, as JSON, and end

All FILEs but that of --json are numpy's .npy.
)";

struct Arguments {
    std::string bundle, output, latents, json;
    std::vector<std::pair<std::string, std::string>> conditions;  // name, file
    std::vector<std::string> draws;
    dipgo::LoadOptions load;
    dipgo::ImageOptions image;
    int repeat = 1;
    bool describe = false;
};

struct UsageError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class Value>
Value chosen(const std::string& option, const std::string& text, const std::vector<std::pair<std::string, Value>>& of) {
    std::string names;
    for (const auto& [name, value] : of) {
        if (name == text) return value;
        names += " " + name;
    }
    throw UsageError(option + " takes one of:" + names);
}

double number(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const double value = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') throw UsageError(option + " takes a number, not " + text);
    return value;
}

std::uint64_t count(const std::string& option, const std::string& text) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || text.front() == '-') throw UsageError(option + " takes a count, not " + text);
    return value;
}

std::size_t positive(const std::string& option, const std::string& text) {
    const std::uint64_t value = count(option, text);
    if (value == 0) throw UsageError(option + " takes a positive count");
    return value;
}

Arguments parse(const std::vector<std::string>& words) {
    Arguments parsed;
    for (std::size_t i = 0; i < words.size(); ++i) {
        const std::string& word = words[i];
        const auto next = [&]() -> const std::string& {
            if (++i == words.size()) throw UsageError(word + " needs a value");
            return words[i];
        };
        if (word == "--condition") {
            const std::string& given = next();
            const std::size_t mark = given.find('=');
            if (mark == std::string::npos) throw UsageError("--condition takes NAME=FILE, not " + given);
            parsed.conditions.emplace_back(given.substr(0, mark), given.substr(mark + 1));
        } else if (word == "--latents") {
            parsed.latents = next();
        } else if (word == "--draw") {
            parsed.draws.push_back(next());
        } else if (word == "--seed") {
            parsed.image.seed = count(word, next());
        } else if (word == "--guidance-scale") {
            parsed.image.guidance_scale = number(word, next());
        } else if (word == "-o" || word == "--output") {
            parsed.output = next();
        } else if (word == "--repeat") {
            parsed.repeat = static_cast<int>(std::clamp<std::uint64_t>(count(word, next()), 1, 1'000'000));
        } else if (word == "--json") {
            parsed.json = next();
        } else if (word == "--threads") {
            parsed.load.threads = static_cast<int>(std::min<std::uint64_t>(count(word, next()), 4096));
        } else if (word == "--memory") {
            parsed.load.memory = chosen<dipgo_memory>(
                word, next(),
                {{"low", DIPGO_MEMORY_LOW}, {"balanced", DIPGO_MEMORY_BALANCED}, {"fast", DIPGO_MEMORY_FAST}});
        } else if (word == "--verify") {
            parsed.load.verify =
                chosen<dipgo_verify>(word, next(), {{"full", DIPGO_VERIFY_FULL}, {"sizes", DIPGO_VERIFY_SIZES}});
        } else if (word == "--provider") {
            parsed.load.provider = next();
        } else if (word == "--images") {
            parsed.load.shape.images = positive(word, next());
        } else if (word == "--size") {
            const std::string& given = next();
            const std::size_t mark = given.find('x');
            if (mark == std::string::npos) throw UsageError("--size takes HEIGHTxWIDTH, not " + given);
            parsed.load.shape.height = positive(word, given.substr(0, mark));
            parsed.load.shape.width = positive(word, given.substr(mark + 1));
        } else if (word == "--describe") {
            parsed.describe = true;
        } else if (word.front() == '-' || !parsed.bundle.empty()) {
            throw UsageError("there is no option " + word);
        } else {
            parsed.bundle = word;
        }
    }
    if (parsed.bundle.empty()) throw UsageError("which bundle?");
    return parsed;
}

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

Json spread(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return {{"min", values.front()}, {"median", values[values.size() / 2]}, {"max", values.back()}};
}

Json described(const dipgo::Plan& plan) {
    static const char* const dtypes[] = {"", "float16", "float32", "float64", "int8", "uint8", "int32", "int64", "bool"};
    const dipgo_plan_info info = plan.info();
    Json shown{{"images", info.images},
               {"timesteps", std::vector<double>(info.timesteps, info.timesteps + info.calls)},
               {"guidance", nullptr},
               {"split_guidance", info.split_guidance != 0},
               {"guidance_scale", info.guidance_scale},
               {"instructions", info.instructions},
               {"engines", info.engines},
               {"arena_bytes", info.arena_bytes},
               {"prepacked", info.prepacked != 0}};
    if (info.guidance == DIPGO_UNCOND_COND) shown["guidance"] = {"uncond", "cond"};
    if (info.guidance == DIPGO_COND_UNCOND) shown["guidance"] = {"cond", "uncond"};
    shown["shapes"] = Json::array();
    for (const dipgo_shape& shape : plan.shapes()) {
        shown["shapes"].push_back({{"images", shape.images}, {"height", shape.height}, {"width", shape.width}});
    }
    const std::pair<const char*, dipgo_role> roles[] = {
        {"latents", DIPGO_LATENTS}, {"conditions", DIPGO_CONDITION}, {"draws", DIPGO_DRAW},
        {"output", DIPGO_OUTPUT},   {"tokens", DIPGO_TOKENS},        {"pixels", DIPGO_PIXELS}};
    for (const auto& [name, role] : roles) {
        shown[name] = Json::array();
        for (const dipgo::Tensor& tensor : plan.tensors(role)) {
            shown[name].push_back({{"name", tensor.name}, {"dtype", dtypes[tensor.dtype]}, {"shape", tensor.shape}});
        }
    }
    return shown;
}

void print(const std::string& file, const Json& document) {
    if (file == "-") {
        std::cout << document.dump(1) << '\n';
        return;
    }
    std::ofstream stream(file);
    stream << document.dump(1) << '\n';
    stream.close();
    if (!stream) throw std::runtime_error(file + ": cannot be written");
}

void run(const Arguments& arguments) {
    const auto start = Clock::now();
    const dipgo::Plan plan(arguments.bundle, arguments.load);
    const double load_seconds = seconds_since(start);
    if (arguments.describe) return print("-", described(plan));

    std::vector<npy::File> files;
    files.reserve(arguments.conditions.size() + arguments.draws.size() + 1);
    const auto loaded = [&](const std::string& file, const std::string& name) {
        return files.emplace_back(npy::read(file, name)).array();
    };
    dipgo::ImageOptions image = arguments.image;
    std::vector<dipgo::Array> conditions;
    for (const auto& [name, file] : arguments.conditions) conditions.push_back(loaded(file, name));
    if (!arguments.latents.empty()) image.latents = loaded(arguments.latents, "latents");
    if (!arguments.draws.empty()) image.draws.emplace();
    for (const std::string& file : arguments.draws) image.draws->push_back(loaded(file, "draw"));

    dipgo::Session session = plan.session();
    std::vector<float> latents;
    std::vector<double> seconds, engine_seconds, overhead;
    double first = 0;
    dipgo_times times{};
    for (int i = 0; i < arguments.repeat; ++i) {
        latents = session.denoise(conditions, image);
        times = session.times();
        if (i == 0) first = seconds_since(start);
        seconds.push_back(times.seconds);
        engine_seconds.push_back(times.engine_seconds);
        overhead.push_back(1e6 * (times.seconds - times.engine_seconds) / static_cast<double>(times.instructions));
    }
    if (!arguments.output.empty()) npy::write(arguments.output, plan.tensor(DIPGO_OUTPUT), latents.data());
    const Json report{{"bundle", arguments.bundle},
                      {"onnxruntime", dipgo_onnxruntime_version()},
                      {"prepacked", plan.info().prepacked != 0},
                      {"repeat", arguments.repeat},
                      {"instructions", times.instructions},
                      {"runs", times.runs},
                      {"load_seconds", load_seconds},
                      {"first_image_seconds", first},
                      {"seconds_per_batch", spread(seconds)},
                      {"seconds_in_onnxruntime", spread(engine_seconds)},
                      {"overhead_microseconds_per_instruction", spread(overhead)}};
    if (!arguments.json.empty()) {
        print(arguments.json, report);
    } else if (arguments.repeat > 1) {
        std::printf("%.3f ms a batch (median of %d), %.3f ms of it in ONNX Runtime; %.2f us an instruction around it\n",
                    1e3 * report["seconds_per_batch"]["median"].get<double>(), arguments.repeat,
                    1e3 * report["seconds_in_onnxruntime"]["median"].get<double>(),
                    report["overhead_microseconds_per_instruction"]["median"].get<double>());
    }
}

}  // namespace

// The exit status is the library's status, 1 for files that can't be read or written, 2 for wrong options.
int main(int count, char** words) {
    try {
        const std::vector<std::string> given(words + 1, words + count);
        if (std::find(given.begin(), given.end(), "--help") != given.end()) {
            std::fputs(USAGE, stdout);
            return 0;
        }
        run(parse(given));
        return 0;
    } catch (const UsageError& error) {
        std::fprintf(stderr, "dipgo-run: %s\n\n%s", error.what(), USAGE);
        return 2;
    } catch (const dipgo::Error& error) {
        std::fprintf(stderr, "dipgo-run: %s\n", error.what());
        return error.status();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "dipgo-run: %s\n", error.what());
        return 1;
    }
}
