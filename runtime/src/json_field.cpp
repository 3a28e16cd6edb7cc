#include "json_field.h"

#include <cmath>

namespace dipgo::impl {

namespace {

// Goes over a text before it becomes values, and stops at the first thing that readers could disagree on.
class Strict : public nlohmann::json_sax<Json> {
 public:
    std::string problem;

    bool null() override { return true; }
    bool boolean(bool) override { return true; }
    bool number_integer(number_integer_t) override { return true; }
    bool number_unsigned(number_unsigned_t) override { return true; }
    bool string(string_t&) override { return true; }
    bool binary(binary_t&) override { return true; }
    bool end_object() override { return leave(); }
    bool end_array() override { return leave(); }
    bool start_object(std::size_t) override { return enter(); }
    bool start_array(std::size_t) override { return enter(); }

    bool number_float(number_float_t, const string_t& literal) override {
        if (literal.find_first_of(".eE") != std::string::npos) return true;
        const std::string shown = literal.size() <= 40 ? literal : literal.substr(0, 20) + "...";
        return fail(shown + " is beyond 64 bits");
    }

    bool key(string_t& name) override {
        return names_.back().insert(name).second || fail("the name " + impl::quoted(name) + " is given twice");
    }

    bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
        const std::string text = error.what();
        return fail(text.substr(text.find("] ") + 2));  // "[json.exception.parse_error.101] "
    }

 private:
    bool enter() {
        names_.emplace_back();
        return names_.size() <= MAX_DEPTH ||
               fail("it is nested more than " + std::to_string(MAX_DEPTH) + " levels deep");
    }

    bool leave() {
        names_.pop_back();
        return true;
    }

    bool fail(const std::string& what) {
        problem = what;
        return false;
    }

    std::vector<std::set<std::string>> names_;  // that the objects around the current place have so far
};

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
    Strict strict;
    if (text.substr(0, 3) == "\xef\xbb\xbf") {
        strict.problem = "it begins with a byte order mark";
    } else if (text.find('\0') != std::string_view::npos) {  // to the parser, the end of the text
        strict.problem = "there is a NUL in it";
    } else if (Json::sax_parse(text.begin(), text.end(), &strict)) {
        return Json::parse(text.begin(), text.end());
    }
    throw bundle_error("plan.json is not valid JSON: " + strict.problem).where(where).mend(REBUILD);
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
