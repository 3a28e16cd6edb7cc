// The one exception of the library: a status, and a message that says what happened, where, what was available and
// how to mend it. c_api.cpp turns it into a return value; nothing else reaches a caller.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "dipgo/dipgo.h"

namespace dipgo::impl {

class Error : public std::exception {
 public:
    Error(dipgo_status status, const std::string& what) : status_(status), text_(what) {}

    Error&& where(const std::string& place) &&;
    Error&& available(const std::vector<std::string>& names) &&;
    Error&& mend(const std::string& advice) &&;

    dipgo_status status() const { return status_; }
    const char* what() const noexcept override { return text_.c_str(); }

 private:
    dipgo_status status_;
    std::string text_;
};

inline Error bundle_error(const std::string& what) { return Error(DIPGO_ERROR_BUNDLE, what); }
inline Error backend_error(const std::string& what) { return Error(DIPGO_ERROR_BACKEND, what); }
inline Error input_error(const std::string& what) { return Error(DIPGO_ERROR_INPUT, what); }

inline constexpr const char* REBUILD = "build the bundle again, or copy it again from its source";

// 'name', as messages quote it.
std::string quoted(const std::string& name);

// Names with commas between them.
std::string joined(const std::vector<std::string>& names);

}  // namespace dipgo::impl
