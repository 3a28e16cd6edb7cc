#include "canonical_json.h"

#include <charconv>

namespace dipgo::impl {
namespace {

void write_escape(std::string& out, unsigned unit) {
    out += "\\u";
    for (int shift = 12; shift >= 0; shift -= 4) out += "0123456789abcdef"[unit >> shift & 15];
}

// The code point that begins at text[at], which is valid UTF-8; moves `at` behind it.
unsigned code_point(const std::string& text, std::size_t& at) {
    const auto lead = static_cast<unsigned char>(text[at++]);
    if (lead < 0x80) return lead;
    const int following = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    unsigned point = lead & (0x3fu >> following);
    for (int i = 0; i < following; ++i) point = point << 6 | (static_cast<unsigned char>(text[at++]) & 0x3f);
    return point;
}

void write_string(std::string& out, const std::string& text) {
    out += '"';
    for (std::size_t at = 0; at < text.size();) {
        const unsigned point = code_point(text, at);
        switch (point) {
            case '"': out += "\\\""; break;
            case '\\': out += "\\\\"; break;
            case '\n': out += "\\n"; break;
            case '\r': out += "\\r"; break;
            case '\t': out += "\\t"; break;
            case '\f': out += "\\f"; break;
            case '\b': out += "\\b"; break;
            default:
                if (point >= ' ' && point <= '~') {
                    out += static_cast<char>(point);
                } else if (point < 0x10000) {
                    write_escape(out, point);
                } else {  // a surrogate pair
                    write_escape(out, 0xd800 + ((point - 0x10000) >> 10));
                    write_escape(out, 0xdc00 + ((point - 0x10000) & 0x3ff));
                }
        }
    }
    out += '"';
}

// Python's repr of a float: the shortest digits that read back to it, with an exponent below 1e-4 and from 1e16.
void write_float(std::string& out, double number) {
    char buffer[32];
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific).ptr;
    std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
    if (text.front() == '-') {
        out += '-';
        text.remove_prefix(1);
    }
    const std::size_t mark = text.find('e');
    int exponent = 0;
    const char* digits_of_exponent = text.data() + mark + (text[mark + 1] == '+' ? 2 : 1);
    std::from_chars(digits_of_exponent, end, exponent);
    std::string digits(1, text[0]);
    if (mark > 2) digits += text.substr(2, mark - 2);
    if (exponent < -4 || exponent >= 16) {
        out += digits.substr(0, 1);
        if (digits.size() > 1) out += "." + digits.substr(1);
        out += exponent < 0 ? "e-" : "e+";
        const std::string power = std::to_string(exponent < 0 ? -exponent : exponent);
        out += power.size() < 2 ? "0" + power : power;
    } else if (exponent < 0) {
        out += "0." + std::string(static_cast<std::size_t>(-exponent - 1), '0') + digits;
    } else {
        const auto whole = static_cast<std::size_t>(exponent) + 1;
        if (digits.size() < whole) digits.append(whole - digits.size(), '0');
        out += digits.substr(0, whole) + ".";
        out += digits.size() > whole ? digits.substr(whole) : "0";
    }
}

void write(std::string& out, const Json& value) {
    if (value.is_object()) {  // nlohmann's objects are sorted by bytes, which for UTF-8 is by code point
        out += '{';
        bool first = true;
        for (const auto& item : value.items()) {
            if (!first) out += ',';
            first = false;
            write_string(out, item.key());
            out += ':';
            write(out, item.value());
        }
        out += '}';
    } else if (value.is_array()) {
        out += '[';
        bool first = true;
        for (const Json& item : value) {
            if (!first) out += ',';
            first = false;
            write(out, item);
        }
        out += ']';
    } else if (value.is_string()) {
        write_string(out, value.get_ref<const std::string&>());
    } else if (value.is_number_float()) {
        write_float(out, value.get<double>());
    } else {
        out += value.dump();
    }
}

}  // namespace

std::string canonical_json(const Json& value) {
    std::string out;
    write(out, value);
    return out;
}

}  // namespace dipgo::impl
