// Numbers and strings as Python's json.dumps writes them: the expected texts are Python's.
#include "canonical_json.h"

#include <limits>

#include "check.h"

using dipgo::impl::canonical_json;
using dipgo::impl::Json;

int main() {
    CHECK_EQUAL(canonical_json(Json::parse(R"({"b": [1, -2, true, null], "a": {}, "ä": "x", "z": []})")),
                R"({"a":{},"b":[1,-2,true,null],"z":[],"\u00e4":"x"})");
    CHECK_EQUAL(canonical_json(Json::parse(R"("\"\\\/\n\r\t\f\b\u0001\u007f~ é€😀")")),
                R"("\"\\/\n\r\t\f\b\u0001\u007f~ \u00e9\u20ac\ud83d\ude00")");
    const std::pair<double, const char*> floats[] = {
        {0.0, "0.0"},
        {-0.0, "-0.0"},
        {1.0, "1.0"},
        {-7.5, "-7.5"},
        {0.1, "0.1"},
        {1.0 / 3.0, "0.3333333333333333"},
        {0.0001, "0.0001"},
        {0.00001, "1e-05"},
        {1.5e-7, "1.5e-07"},
        {1e15, "1000000000000000.0"},
        {9999999999999998.0, "9999999999999998.0"},
        {1e16, "1e+16"},
        {1.2345e100, "1.2345e+100"},
        {123456.789, "123456.789"},
        {5e-324, "5e-324"},
        {std::numeric_limits<double>::max(), "1.7976931348623157e+308"},
    };
    for (const auto& [number, text] : floats) CHECK_EQUAL(canonical_json(Json(number)), text);
    CHECK_EQUAL(canonical_json(Json::parse("[18446744073709551615, -9223372036854775808, 1e2, -0]")),
                "[18446744073709551615,-9223372036854775808,100.0,0]");
}
