// An opened bundle: checked plans, the mapped constants, and where the other files are.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "mapped_file.h"
#include "plan.h"
#include "shapes.h"

namespace dipgo::impl {

inline constexpr const char* WEIGHTS = "weights.bin";

// Seen as one of a single shape, `at`; the rest is shared by all copies.
struct Bundle {
    std::string path;
    std::shared_ptr<const std::vector<Plan>> plans;  // of all shapes, that of plan.json first
    std::shared_ptr<const MappedFile> constants;
    std::size_t at = 0;

    const Plan& plan() const { return (*plans)[at]; }
    Shapes shapes() const;  // in the order of `plans`
    std::string file(const std::string& name) const { return path + "/" + name; }
};

// The bundle's directory for what can be made again; empty where it is a link, which could lead anywhere.
std::string cache_directory(const std::string& bundle);

// Open a bundle and check it: format, version, every size, every name and offset, the program and its memory, and
// where its engines look for weights. Without `contents` the SHA-256 of the files is not compared. Throws Error
// (bundle).
Bundle open_bundle(const std::string& path, bool contents);

// Throws Error (bundle) unless the ONNX file `name` of `directory` keeps its weights in `records`' files.
void check_locations(const std::string& directory, const std::string& name, const FileRecords& records);

}  // namespace dipgo::impl
