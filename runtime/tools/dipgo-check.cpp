// dipgo-check BUNDLE...: whether bundles can be run here.
//
// For each, a line with its status and its path, and below it, indented, what is wrong. A bundle that opens gets a
// session of each shape, so that its engines are known to fit its plans; nothing is computed. Leaves with 1 if one was
// refused.
#include <cstdio>
#include <string>

#include "dipgo/dipgo.h"

namespace {

dipgo_status check_shape(const dipgo_plan* plan, size_t index) {
    dipgo_shape shape{};
    dipgo_plan* selected = nullptr;
    dipgo_session* session = nullptr;
    dipgo_status status = dipgo_plan_get_shape(plan, index, &shape);
    if (status == DIPGO_OK) status = dipgo_plan_select(plan, &shape, &selected);
    if (status == DIPGO_OK) status = dipgo_session_create(selected, nullptr, &session);
    dipgo_session_free(session);
    dipgo_plan_free(selected);
    return status;
}

dipgo_status check(const char* path) {
    dipgo_plan_params params = dipgo_plan_default_params();
    params.threads = 1;
    params.provider = "cpu";
    dipgo_plan* plan = nullptr;
    dipgo_status status = dipgo_plan_load(path, &params, &plan);
    for (size_t i = 0; status == DIPGO_OK && i < dipgo_plan_shape_count(plan); ++i) status = check_shape(plan, i);
    dipgo_plan_free(plan);
    return status;
}

std::string indented(const std::string& text) {
    std::string shown = "    ";
    for (const char character : text) {
        shown += character;
        if (character == '\n') shown += "    ";
    }
    return shown;
}

}  // namespace

int main(int count, char** paths) {
    if (count < 2) {
        std::fprintf(stderr, "usage: %s BUNDLE...\n", paths[0]);
        return 2;
    }
    bool refused = false;
    for (int i = 1; i < count; ++i) {
        const dipgo_status status = check(paths[i]);
        std::printf("%s %s\n", dipgo_status_name(status), paths[i]);
        if (status != DIPGO_OK) {
            refused = true;
            std::printf("%s\n", indented(dipgo_last_error()).c_str());
        }
        std::fflush(stdout);  // what comes after may crash
    }
    return refused ? 1 : 0;
}
