#include "bundle.h"

#include <filesystem>
#include <set>

#include "error.h"
#include "onnx_locations.h"
#include "plan_reader.h"
#include "verifier.h"

namespace dipgo::impl {
namespace {

namespace fs = std::filesystem;

constexpr const char* PLAN = "plan.json";
constexpr const char* CONSTANTS = "constants.bin";
constexpr std::size_t MAX_PLAN_BYTES = std::size_t{1} << 26;  // a plan of a thousand calls has a few MB

[[noreturn]] void refuse_place(const std::string& path) {
    std::error_code ignored;
    const fs::path parent = fs::absolute(path, ignored).parent_path();
    std::vector<std::string> bundles;
    for (const auto& entry : fs::directory_iterator(parent, ignored)) {
        if (entry.path().extension() == ".dipgo") bundles.push_back(entry.path().string());
    }
    throw bundle_error(fs::exists(path, ignored) ? path + " is not a bundle: it has no " + PLAN
                                                 : "there is no bundle at " + path)
        .available(bundles)
        .mend("make one with: dipgo-compile build --mask mask.json");
}

// A bundle's files lie in it, listed or not: engines name weight files too, and a link could lead those anywhere.
void check_links(const std::string& path) {
    std::error_code failed;
    const std::string inside = fs::canonical(path, failed).string() + "/";
    for (const auto& entry : fs::directory_iterator(path, failed)) {
        if (!entry.is_symlink(failed)) continue;
        const std::string leads = fs::weakly_canonical(entry.path(), failed).string();
        if (failed || leads.compare(0, inside.size(), inside) != 0) {
            throw bundle_error(entry.path().filename().string() + " is a link that leaves the bundle")
                .where(entry.path().string())
                .mend("copy the bundle with its files instead of links: cp -rL");
        }
    }
}

}  // namespace

Bundle open_bundle(const std::string& path, bool contents) {
    Bundle bundle;
    bundle.path = path;
    const std::string where = bundle.file(PLAN);
    std::error_code ignored;
    if (!fs::is_regular_file(where, ignored)) refuse_place(path);
    check_links(path);
    const MappedFile text(bundle.file(PLAN));
    if (text.size() > MAX_PLAN_BYTES) {
        throw bundle_error("plan.json has " + std::to_string(text.size()) + " bytes, which no plan has")
            .where(where)
            .mend(REBUILD);
    }
    const Json document = parse_document(text.text(), where);
    const FileRecords files = read_files(document, where);
    if (files.count(CONSTANTS) == 0) {
        throw bundle_error(std::string("the plan does not list ") + CONSTANTS).where(where).mend(REBUILD);
    }
    const std::string cache = cache_directory(path);
    check_files(path, files, contents, cache.empty() ? "" : cache + "/" + STAMPS, REBUILD);
    bundle.constants = MappedFile(path_within(path, CONSTANTS, REBUILD));
    bundle.plan = read_plan(document, bundle.constants.size(), where);
    verify_program(bundle.plan);
    verify_memory(bundle.plan);
    verify_interface(bundle.plan);
    std::set<std::string> models;
    for (const Engine& engine : bundle.plan.engines) models.insert(engine.file);
    for (const auto* part : {&bundle.plan.text_encoder, &bundle.plan.image_decoder}) {
        if (*part) models.insert((*part)->file);
    }
    for (const std::string& model : models) check_locations(path, model, bundle.plan.files);
    return bundle;
}

std::string cache_directory(const std::string& bundle) {
    std::error_code ignored;
    const std::string directory = bundle + "/cache";
    return fs::is_symlink(directory, ignored) ? "" : directory;
}

void check_locations(const std::string& directory, const std::string& name, const FileRecords& records) {
    const std::string file = directory + "/" + name;
    const MappedFile model(file);
    for (const std::string& location : external_locations(model.data(), model.size(), file)) {
        if (records.count(location) == 0) {
            std::vector<std::string> names;
            for (const auto& record : records) names.push_back(record.first);
            throw bundle_error("the engine file " + name + " refers to " + quoted(location) +
                               ", which is no file of the bundle")
                .where(file)
                .available(names)
                .mend(REBUILD);
        }
    }
}

}  // namespace dipgo::impl
