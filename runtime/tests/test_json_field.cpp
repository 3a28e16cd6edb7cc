// Every access to untrusted JSON names the path of what is wrong.
#include "json_field.h"

#include "check.h"

using namespace dipgo::impl;

int main() {
    const Json document = parse_json(
        R"({"a": {"list": [1, -1, 2.5, "x", true, null]}, "big": 281474976710657})", "f");
    const Field root(document, "f: "), list = root.get("a").get("list");
    CHECK_EQUAL(list.items()[0].integer(), 1u);
    CHECK_EQUAL(list.items()[2].number(), 2.5);
    CHECK_EQUAL(list.items()[3].text(), "x");
    CHECK(list.items()[4].boolean());
    CHECK(list.items()[5].null());
    CHECK(root.has("a") && !root.has("b") && !list.has("a"));

    CHECK(contains(message_of([&] { list.items()[1].integer(); }), "where: f: a.list[1]"));
    CHECK(contains(message_of([&] { list.items()[2].integer(); }), "expected an integer, found 2.5"));
    CHECK(contains(message_of([&] { list.items()[4].integer(); }), "expected an integer, found true"));
    CHECK(contains(message_of([&] { list.items()[4].number(); }), "expected a number"));
    CHECK(contains(message_of([&] { list.items()[0].integer(2); }), "an integer from 2 to"));
    CHECK(contains(message_of([&] { root.get("big").integer(); }), "an integer from 0 to 281474976710656"));
    CHECK(contains(message_of([&] { root.get("b"); }), "available: a, big"));
    CHECK(contains(message_of([&] { list.get("a"); }), "expected an object, found array of 6 values"));
    CHECK(contains(message_of([&] { root.items(); }), "expected an array"));

    for (const char* text : {"", "{", "[1,]", "{\"a\": NaN}", "\"\xff\"", "\xef\xbb\xbf{}", "[\"\\ud800\"]", "1 2"}) {
        CHECK(contains(message_of([&] { parse_json(text, "f"); }), "is not valid JSON"));
    }
    CHECK(contains(message_of([&] { parse_json("[18446744073709551616]", "f"); }), "is beyond 64 bits"));
    CHECK(contains(message_of([&] { parse_json("[1e999]", "f"); }), "is not valid JSON"));
    CHECK(contains(message_of([&] { parse_json(R"({"a": {"b": 1, "b": 2}})", "f"); }), "'b' is given twice"));
    CHECK_EQUAL(message_of([&] { parse_json(R"({"a": {"b": 1}, "b": 2})", "f"); }), "");
    CHECK(contains(message_of([&] { parse_json(std::string("[1]\0", 4), "f"); }), "there is a NUL in it"));
    const auto nested = [](std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); };
    CHECK_EQUAL(message_of([&] { parse_json(nested(MAX_DEPTH), "f"); }), "");
    CHECK(contains(message_of([&] { parse_json(nested(MAX_DEPTH + 1), "f"); }), "nested more than 64 levels"));
    CHECK(contains(message_of([&] { parse_json(std::string(1'000'000, '['), "f"); }), "nested more than 64 levels"));
}
