// What a unit test needs: conditions that must hold, and a way to say which did not.
#pragma once

#include <cstdlib>
#include <iostream>
#include <string>

#define CHECK(condition)                                                                     \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            std::cerr << __FILE__ << ":" << __LINE__ << ": not true: " << #condition << "\n"; \
            std::exit(1);                                                                    \
        }                                                                                    \
    } while (false)

#define CHECK_EQUAL(found, expected)                                                                   \
    do {                                                                                               \
        const auto found_ = (found);                                                                   \
        const decltype(found_) expected_ = (expected);                                                 \
        if (!(found_ == expected_)) {                                                                  \
            std::cerr << __FILE__ << ":" << __LINE__ << ": " << #found << " is " << found_ << ", not " \
                      << expected_ << "\n";                                                            \
            std::exit(1);                                                                              \
        }                                                                                              \
    } while (false)

// The message of what `body` throws; "" where it throws nothing.
template <class Body>
std::string message_of(Body body) {
    try {
        body();
    } catch (const std::exception& error) {
        return error.what();
    }
    return "";
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
