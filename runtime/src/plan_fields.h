// What several parts of plan.json have: tensors and names of files.
#pragma once

#include <string>

#include "json_field.h"
#include "plan.h"

namespace dipgo::impl {

// A name without directories. Throws Error (bundle).
std::string plain_name(const Field& field, const std::string& name);

// 64 hexadecimal digits. Throws Error (bundle).
std::string sha256_of(const Field& field);

// The name of one of the bundle's files. Throws Error (bundle).
std::string file_of(const Field& field, const FileRecords& files);

// `name`, `dtype` and `shape` of a tensor. Throws Error (bundle).
TensorSpec read_spec(const Field& item);

}  // namespace dipgo::impl
