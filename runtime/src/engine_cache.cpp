#include "engine_cache.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "error.h"
#include "json_field.h"
#include "sha256.h"

namespace dipgo::impl {
namespace {

constexpr const char* MANIFEST = "manifest.json";
constexpr std::size_t KEY_LENGTH = 12;  // hexadecimal digits

std::string stripped(const std::string& text) {
    const char* blanks = " \t\r\n\v\f";
    const std::size_t begin = text.find_first_not_of(blanks);
    return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(blanks) - begin + 1);
}

// The processor's model and its instruction sets: kernels, and with them the layout of weights, depend on both.
std::string processor() {
    std::map<std::string, std::string> named;
    std::ifstream stream("/proc/cpuinfo");
    for (std::string line; std::getline(stream, line);) {
        const std::size_t colon = line.find(':');
        if (colon != std::string::npos) named[stripped(line.substr(0, colon))] = stripped(line.substr(colon + 1));
    }
    return named["model name"] + "\n" + named["flags"] + "\n" + named["Features"];
}

// The key of dipgo_compile/backends/prepack.py.
std::string cache_key(const std::vector<Plan>& plans, const std::string& onnxruntime_version) {
    std::string parts = onnxruntime_version + "\n" + processor();
    const FileRecords& files = plans.front().files;  // those of all shapes
    for (const Plan& plan : plans) {
        for (const Engine& engine : plan.engines) parts += "\n" + files.at(engine.file).sha256;
    }
    const auto weights = files.find(WEIGHTS);
    if (weights != files.end()) parts += "\n" + weights->second.sha256;
    return sha256(parts).substr(0, KEY_LENGTH);
}

FileRecords read_manifest(const std::string& directory) {
    const std::string file = directory + "/" + MANIFEST;
    const MappedFile text(path_within(directory, MANIFEST, "delete the cache"));
    const Json document = parse_json(text.text(), file);
    FileRecords records;
    for (const auto& [name, record] : Field(document, file + ": ").members()) {
        records[name] = {record.get("nbytes").integer(), record.get("sha256").text()};
    }
    return records;
}

}  // namespace

std::optional<std::string> find_engine_cache(const Bundle& bundle, const std::string& onnxruntime_version,
                                             bool contents) {
    const std::string parent = cache_directory(bundle.path);
    const std::string directory =
        parent + "/cpu-onnxruntime-" + onnxruntime_version + "-" + cache_key(*bundle.plans, onnxruntime_version);
    std::error_code ignored;
    if (parent.empty() || std::filesystem::is_symlink(directory, ignored)) return std::nullopt;
    std::set<std::string> wanted{WEIGHTS};
    for (const Plan& plan : *bundle.plans) {
        for (const Engine& engine : plan.engines) wanted.insert(engine.file);
    }
    try {
        const FileRecords records = read_manifest(directory);
        std::set<std::string> found;
        for (const auto& record : records) found.insert(record.first);
        if (found != wanted) return std::nullopt;
        check_files(directory, records, contents, directory + "/" + STAMPS, "delete the cache");
        for (const std::string& name : wanted) {
            if (name != WEIGHTS) check_locations(directory, name, records);
        }
    } catch (const Error&) {  // there is none, or it is damaged: the portable engines are always there
        return std::nullopt;
    }
    return directory;
}

}  // namespace dipgo::impl
