#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "error.h"

namespace dipgo::impl {
namespace {

[[noreturn]] void fail(const std::string& path) {
    throw bundle_error(std::string("cannot read the bundle: ") + std::strerror(errno)).where(path);
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(path);
    struct stat found {};
    void* mapped = nullptr;
    const bool known = ::fstat(file, &found) == 0;
    if (known && found.st_size > 0) {  // an empty file cannot be mapped
        mapped = ::mmap(nullptr, static_cast<std::size_t>(found.st_size), PROT_READ, MAP_PRIVATE, file, 0);
    }
    const int reason = errno;
    ::close(file);
    errno = reason;
    if (!known || mapped == MAP_FAILED) fail(path);
    data_ = static_cast<const std::uint8_t*>(mapped);
    size_ = static_cast<std::size_t>(found.st_size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

MappedFile::~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::uint8_t*>(data_), size_);
}

}  // namespace dipgo::impl
