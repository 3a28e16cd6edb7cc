#include "json_field.h"

#include <cmath>

namespace dipgo::impl {

Json parse_json(std::string_view text, const std::string& where) {
    const auto limited = [](int depth, Json::parse_event_t, const Json&) {
        if (depth >= MAX_DEPTH) throw bundle_error("it is nested too deeply");
        return true;
    };
    std::string problem = "it begins with a byte order mark";
    if (text.substr(0, 3) != "\xef\xbb\xbf") {
        try {
            return Json::parse(text.begin(), text.end(), limited);
        } catch (const Json::exception& error) {
            problem = error.what();
            problem.erase(0, problem.find("] ") + 2);  // "[json.exception.parse_error.101] "
        } catch (const Error& error) {
            problem = error.what();
        }
    }
    throw bundle_error("plan.json is not valid JSON: " + problem).where(where).mend(REBUILD);
}

Error Field::error(const std::string& problem) const {
    return bundle_error(problem).where(path_).mend(REBUILD);
}

Error Field::expected(const std::string& kind) const {
    std::string shown = value_->is_structured() ? std::string(value_->type_name()) + " of " +
                                                      std::to_string(value_->size()) + " values"
                                                : value_->dump(-1, ' ', true, Json::error_handler_t::replace);
    if (shown.size() > 60) shown = shown.substr(0, 57) + "...";
    return error("expected " + kind + ", found " + shown);
}

Field Field::get(const std::string& key) const {
    const Json& object = mapping();
    const auto found = object.find(key);
    if (found == object.end()) {
        std::vector<std::string> keys;
        for (const auto& item : object.items()) keys.push_back(item.key());
        throw bundle_error("the field " + quoted(key) + " is missing")
            .where(path_)
            .available(keys)
            .mend("build the bundle again");
    }
    const bool root = path_.size() > 1 && path_.compare(path_.size() - 2, 2, ": ") == 0;
    return Field(*found, path_ + (root ? "" : ".") + key);
}

std::vector<Field> Field::items() const {
    if (!value_->is_array()) throw expected("an array");
    std::vector<Field> fields;
    fields.reserve(value_->size());
    for (std::size_t i = 0; i < value_->size(); ++i) {
        fields.emplace_back((*value_)[i], path_ + "[" + std::to_string(i) + "]");
    }
    return fields;
}

std::vector<std::pair<std::string, Field>> Field::members() const {
    std::vector<std::pair<std::string, Field>> fields;
    for (const auto& item : mapping().items()) fields.emplace_back(item.key(), get(item.key()));
    return fields;
}

const Json& Field::mapping() const {
    if (!value_->is_object()) throw expected("an object");
    return *value_;
}

const std::string& Field::text() const {
    if (!value_->is_string()) throw expected("a string");
    return value_->get_ref<const std::string&>();
}

std::vector<std::string> Field::texts() const {
    std::vector<std::string> found;
    for (const Field& item : items()) found.push_back(item.text());
    return found;
}

bool Field::boolean() const {
    if (!value_->is_boolean()) throw expected("true or false");
    return value_->get<bool>();
}

std::uint64_t Field::integer(std::uint64_t low, std::uint64_t high) const {
    if (!value_->is_number_integer()) throw expected("an integer");
    const bool negative = !value_->is_number_unsigned() && value_->get<std::int64_t>() < 0;
    const auto number = value_->get<std::uint64_t>();
    if (negative || number < low || number > high) {
        throw expected("an integer from " + std::to_string(low) + " to " + std::to_string(high));
    }
    return number;
}

double Field::number() const {
    if (!value_->is_number()) throw expected("a number");
    const auto number = value_->get<double>();
    if (!std::isfinite(number)) throw expected("a finite number");
    return number;
}

}  // namespace dipgo::impl
