// JSON as Python's json.dumps(document, sort_keys=True, separators=(",", ":")) writes it: what a plan's checksum is
// taken of.
#pragma once

#include <string>

#include "json_field.h"

namespace dipgo::impl {

std::string canonical_json(const Json& value);

}  // namespace dipgo::impl
