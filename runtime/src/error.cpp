#include "error.h"

#include <utility>

namespace dipgo::impl {

Error&& Error::where(const std::string& place) && {
    text_ += "\n  where: " + place;
    return std::move(*this);
}

Error&& Error::available(const std::vector<std::string>& names) && {
    text_ += "\n  available: " + (names.empty() ? "nothing" : joined(names));
    return std::move(*this);
}

Error&& Error::mend(const std::string& advice) && {
    text_ += "\n  to mend it: " + advice;
    return std::move(*this);
}

std::string quoted(const std::string& name) { return "'" + name + "'"; }

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

}  // namespace dipgo::impl
