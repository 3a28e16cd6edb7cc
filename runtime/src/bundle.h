// An opened bundle: a checked plan, the mapped constants, and where the other files are.
#pragma once

#include <string>

#include "mapped_file.h"
#include "plan.h"

namespace dipgo::impl {

inline constexpr const char* WEIGHTS = "weights.bin";

struct Bundle {
    std::string path;
    Plan plan;
    MappedFile constants;

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
