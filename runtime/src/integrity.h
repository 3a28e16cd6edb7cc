// Whether files are what they were when they were written: sizes always, SHA-256 when asked.
//
// Hashing gigabytes takes seconds, so a file that was once found right is hashed again only when its size, its inode
// or one of its times has changed. That is written down beside the files, in the same form as
// dipgo_compile/formats/integrity.py does; where nothing can be written, every check hashes.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace dipgo::impl {

inline constexpr const char* STAMPS = "verified.json";

struct FileRecord {
    std::uint64_t bytes = 0;
    std::string sha256;
};

using FileRecords = std::map<std::string, FileRecord>;

// Whether a name has no directory in it and isn't hidden.
bool is_plain(const std::string& name);

// The path of a file of `directory`, which must be there, and not be a link to another place. Throws Error (bundle).
std::string path_within(const std::string& directory, const std::string& name, const std::string& mend);

// Throws Error (bundle) for a file of `directory` that is missing, lies elsewhere or has another size; with `contents`
// also for one with another SHA-256. `stamps` is where files found right are written down; empty: nowhere.
void check_files(const std::string& directory, const FileRecords& records, bool contents, const std::string& stamps,
                 const std::string& mend);

}  // namespace dipgo::impl
