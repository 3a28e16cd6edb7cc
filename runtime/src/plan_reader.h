// plan.json to a Plan. Everything read is checked before use, in the way dipgo_compile/formats/plan_json.py does.
#pragma once

#include <string>
#include <string_view>

#include "json_field.h"
#include "plan.h"

namespace dipgo::impl {

// Check format, version and checksum. Throws Error (bundle).
Json parse_document(std::string_view text, const std::string& where);

// The bundle's other files. Throws Error (bundle).
FileRecords read_files(const Json& document, const std::string& where);

// Read a checked document; `constants_bytes` is the size of constants.bin. Throws Error (bundle), naming the path of a
// field that is missing, ill-typed or out of range. The program itself is for verifier.h.
Plan read_plan(const Json& document, std::uint64_t constants_bytes, const std::string& where);

}  // namespace dipgo::impl
