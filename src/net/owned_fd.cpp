#include "sluice/net/owned_fd.hpp"

#include "sluice/base/check.hpp"

#include <unistd.h>

#include <cerrno>

namespace sluice {

void OwnedFd::close() noexcept {
    if (fd_ < 0) return;
    // Never repeated on EINTR: Linux has released the number by then (close(2), "Dealing with error
    // returns").
    const int result = ::close(std::exchange(fd_, -1));
    SLUICE_CHECK(result == 0 || errno != EBADF);
}

}  // namespace sluice
