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

Json read_document(const std::string& path, const std::string& name) {
    const std::string where = path + "/" + name;
    const MappedFile text(where);
    if (text.size() > MAX_PLAN_BYTES) {
        throw bundle_error(name + " has " + std::to_string(text.size()) + " bytes, which no plan has")
            .where(where)
            .mend(REBUILD);
    }
    return parse_document(text.text(), where);
}

Plan verified(Plan plan) {
    verify_program(plan);
    verify_memory(plan);
    verify_interface(plan);
    return plan;
}

// The plan of a further shape, whose files must be those of plan.json.
Plan read_other(const Bundle& bundle, const std::string& name, const FileRecords& files) {
    const std::string where = bundle.file(name);
    path_within(bundle.path, name, REBUILD);
    Plan plan = verified(read_plan(read_document(bundle.path, name), bundle.constants->size(), where));
    for (const auto& [file, expected] : plan.files) {
        const auto listed = files.find(file);
        if (listed == files.end() || listed->second.bytes != expected.bytes || listed->second.sha256 != expected.sha256) {
            throw bundle_error(name + " was made with another " + file + " than " + PLAN).where(where).mend(REBUILD);
        }
    }
    return plan;
}

}  // namespace

Shapes Bundle::shapes() const {
    std::vector<Shape> all;
    for (const Plan& plan : *plans) all.push_back(plan.shape());
    const Plan& first = plans->front();
    std::uint64_t upscaling = first.upscaling;
    if (first.shapes.empty() && first.image_decoder) {  // it doesn't say, but its image decoder does
        upscaling = static_cast<std::uint64_t>(first.image_decoder->outputs[0].shape[1]) / first.shape().height;
    }
    return Shapes(std::move(all), upscaling);
}

Bundle open_bundle(const std::string& path, bool contents) {
    Bundle bundle;
    bundle.path = path;
    const std::string where = bundle.file(PLAN);
    std::error_code ignored;
    if (!fs::is_regular_file(where, ignored)) refuse_place(path);
    check_links(path);
    const Json document = read_document(path, PLAN);
    const FileRecords files = read_files(document, where);
    if (files.count(CONSTANTS) == 0) {
        throw bundle_error(std::string("the plan does not list ") + CONSTANTS).where(where).mend(REBUILD);
    }
    const std::string cache = cache_directory(path);
    check_files(path, files, contents, cache.empty() ? "" : cache + "/" + STAMPS, REBUILD);
    bundle.constants = std::make_shared<const MappedFile>(path_within(path, CONSTANTS, REBUILD));
    std::vector<Plan> plans{verified(read_plan(document, bundle.constants->size(), where))};
    const auto listed = plans.front().shapes;
    for (const auto& [shape, name] : listed) {
        plans.push_back(read_other(bundle, name, files));
        verify_shapes(plans.front(), shape, plans.back());
    }
    std::set<std::string> models;
    for (const Plan& plan : plans) {
        for (const Engine& engine : plan.engines) models.insert(engine.file);
        for (const auto* part : {&plan.text_encoder, &plan.image_decoder}) {
            if (*part) models.insert((*part)->file);
        }
    }
    for (const std::string& model : models) check_locations(path, model, files);
    bundle.plans = std::make_shared<const std::vector<Plan>>(std::move(plans));
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
