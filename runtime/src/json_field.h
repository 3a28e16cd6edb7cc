// Reading untrusted JSON: every access checks the type and names the path of what is wrong, as
// dipgo_compile/formats/fields.py does.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "error.h"

namespace dipgo::impl {

using Json = nlohmann::json;

inline constexpr std::uint64_t MAX_INT = std::uint64_t{1} << 48;  // 256 TiB: larger sizes are damage
inline constexpr std::size_t MAX_DEPTH = 64;                      // of nested arrays and objects

// Text to JSON, by the rules of dipgo_compile/formats/strict_json.py: no name twice in an object, no number beyond a double, no
// integer beyond 64 bits, no half of a surrogate pair, no byte order mark, not too deep. Throws Error (bundle).
Json parse_json(std::string_view text, const std::string& where);

// A JSON value and its path, such as `plan.json: tensors[3].shape[0]`. The value outlives the field.
class Field {
 public:
    Field(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

    Error error(const std::string& problem) const;

    Field get(const std::string& key) const;  // a required member of an object
    bool has(const std::string& key) const { return value_->is_object() && value_->contains(key); }
    bool null() const { return value_->is_null(); }
    bool list() const { return value_->is_array(); }
    const Json& value() const { return *value_; }

    std::vector<Field> items() const;
    std::vector<std::pair<std::string, Field>> members() const;
    const Json& mapping() const;
    const std::string& text() const;
    std::vector<std::string> texts() const;
    bool boolean() const;
    std::uint64_t integer(std::uint64_t low = 0, std::uint64_t high = MAX_INT) const;
    double number() const;

 private:
    Error expected(const std::string& kind) const;

    const Json* value_;
    std::string path_;
};

}  // namespace dipgo::impl
