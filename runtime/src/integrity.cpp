#include "integrity.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "error.h"
#include "json_field.h"
#include "mapped_file.h"
#include "sha256.h"

namespace dipgo::impl {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t SETTLED_NANOSECONDS = 1'000'000'000;  // a file may change twice within a tick of the clock

std::int64_t nanoseconds(const timespec& time) {
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

// What a file looks like from outside. The inode's change time can't be set back by a user.
Json stamp(const std::string& file, const FileRecord& expected) {
    struct stat found {};
    if (::stat(file.c_str(), &found) != 0) return nullptr;
    return Json::array({expected.sha256, found.st_size, found.st_ino, nanoseconds(found.st_mtim),
                        nanoseconds(found.st_ctim)});
}

bool settled(const std::string& file) {
    struct stat found {};
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    return ::stat(file.c_str(), &found) == 0 && nanoseconds(now) - nanoseconds(found.st_ctim) > SETTLED_NANOSECONDS;
}

Json read_stamps(const std::string& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) return Json::object();
    std::ostringstream text;
    text << stream.rdbuf();
    try {
        Json found = parse_json(text.str(), file);
        if (found.is_object()) return found;
    } catch (const Error&) {  // somebody else's, or half written: everything is hashed again
    }
    return Json::object();
}

void write_stamps(const std::string& file, const Json& content) {
    const fs::path target(file);
    const fs::path staging = target.parent_path() / ("." + target.filename().string() + "." + std::to_string(::getpid()));
    std::error_code ignored;  // a read-only place: the next check hashes again
    fs::create_directory(target.parent_path(), ignored);
    fs::remove(staging, ignored);  // not written through, should it be a link
    std::ofstream stream(staging, std::ios::binary);
    stream << content.dump(1, ' ', true, Json::error_handler_t::replace) << '\n';
    stream.close();
    if (stream) fs::rename(staging, target, ignored);
    if (!stream || ignored) fs::remove(staging, ignored);
}

}  // namespace

bool is_plain(const std::string& name) {
    return !name.empty() && name.front() != '.' && name.find_first_of(std::string("/\\:\0", 4)) == std::string::npos;
}

std::string path_within(const std::string& directory, const std::string& name, const std::string& mend) {
    const std::string file = directory + "/" + name;
    std::error_code failed;
    if (!fs::is_regular_file(file, failed)) {
        throw bundle_error(name + " is missing from the bundle").where(file).mend(mend);
    }
    const fs::path found = fs::canonical(file, failed);
    if (failed || found.parent_path() != fs::canonical(directory, failed)) {
        throw bundle_error(name + " is a link to a file outside the bundle").where(file).mend(mend);
    }
    return file;
}

void check_files(const std::string& directory, const FileRecords& records, bool contents, const std::string& stamps,
                 const std::string& mend) {
    for (const auto& [name, expected] : records) {
        const std::string file = path_within(directory, name, mend);
        std::error_code failed;
        const std::uint64_t size = fs::file_size(file, failed);
        if (failed || size != expected.bytes) {
            throw bundle_error(name + " was " + (size < expected.bytes ? "truncated" : "altered") + ": expected " +
                               std::to_string(expected.bytes) + " bytes, found " + std::to_string(size))
                .where(file)
                .mend(mend);
        }
    }
    if (!contents) return;
    Json known = stamps.empty() ? Json::object() : read_stamps(stamps);
    bool learned = false;
    for (const auto& [name, expected] : records) {
        const std::string file = directory + "/" + name;
        const auto noted = known.find(name);
        if (noted != known.end() && *noted == stamp(file, expected)) continue;
        const std::string found = sha256(MappedFile(file).text());
        if (found != expected.sha256) {
            throw bundle_error(name + " was altered: expected SHA-256 " + expected.sha256 + ", found " + found)
                .where(file)
                .mend(mend);
        }
        if (!settled(file)) continue;
        known[name] = stamp(file, expected);
        learned = true;
    }
    if (learned && !stamps.empty()) write_stamps(stamps, known);
}

}  // namespace dipgo::impl
