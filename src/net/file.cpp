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
    // With O_APPEND every write goes to the end even while others write; splice(2) refuses such files.
    if (endpoint.append) flags |= O_APPEND;
    if (endpoint.create) flags |= O_CREAT;
    OwnedFd fd(::open(endpoint.path.c_str(), flags, new_file_mode));
    if (!fd.valid()) return std::unexpected(SystemError{"open", errno});
    struct stat found{};
    if (::fstat(fd.get(), &found) != 0) return std::unexpected(SystemError{"fstat", errno});
    if (S_ISDIR(found.st_mode)) return std::unexpected(SystemError{"open", EISDIR});
    if (!S_ISREG(found.st_mode)) return std::unexpected(SystemError{"open", ENOTSUP});
    return fd;
}

int claim_file(int fd) noexcept {
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0) return errno;
    return ::lseek(fd, 0, SEEK_END) < 0 ? errno : 0;
}

}  // namespace sluice
