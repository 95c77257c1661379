#include "sluice/net/file.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

namespace sluice {

namespace {

// As the umask allows.
constexpr mode_t new_file_mode = 0666;

}  // namespace

std::expected<OwnedFd, SystemError> open_file(const Endpoint& endpoint) noexcept {
    // NONBLOCK only so that opening a FIFO does not wait for its other end; it means nothing to a regular
    // file.
    int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    flags |= endpoint.is_sink() ? O_WRONLY : O_RDONLY;
    // Looked at before it is opened, because opening a device or a FIFO is already an act; and again after.
    struct stat found{};
    if (::stat(endpoint.path.c_str(), &found) == 0 && !S_ISREG(found.st_mode))
        return std::unexpected(SystemError{"open", S_ISDIR(found.st_mode) ? EISDIR : ENOTSUP});
    // With O_APPEND every write goes to the end even while others write; splice(2) refuses such files.
    if (endpoint.append) flags |= O_APPEND;
    if (endpoint.create) flags |= O_CREAT;
    OwnedFd fd(::open(endpoint.path.c_str(), flags, new_file_mode));
    if (!fd.valid()) return std::unexpected(SystemError{"open", errno});
    if (::fstat(fd.get(), &found) != 0) return std::unexpected(SystemError{"fstat", errno});
    if (!S_ISREG(found.st_mode)) return std::unexpected(SystemError{"open", ENOTSUP});
    return fd;
}

int claim_file(int fd) noexcept {
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return errno;
    return ::lseek(fd, 0, SEEK_END) < 0 ? errno : 0;
}

void release_file(int fd) noexcept {
    ::flock(fd, LOCK_UN);
}

bool still_named(int fd, const Endpoint& endpoint) noexcept {
    struct stat opened{};
    struct stat named{};
    if (::fstat(fd, &opened) != 0 || ::stat(endpoint.path.c_str(), &named) != 0) return false;
    return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

std::uint64_t size_of_file(int fd) noexcept {
    struct stat found{};
    return ::fstat(fd, &found) == 0 ? static_cast<std::uint64_t>(found.st_size) : 0;
}

}  // namespace sluice
