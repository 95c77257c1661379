#pragma once

#include <utility>

namespace sluice {

// A descriptor with one owner, closed when the owner dies. A bare `int` elsewhere is a loan for one call.
class OwnedFd {
  public:
    OwnedFd() = default;
    explicit OwnedFd(int fd) noexcept : fd_(fd) {}
    ~OwnedFd() { close(); }
    OwnedFd(OwnedFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    OwnedFd& operator=(OwnedFd&& other) noexcept {
        if (this != &other) {
            close();
            fd_ = std::exchange(other.fd_, -1);
        }
        return *this;
    }
    OwnedFd(const OwnedFd&) = delete;
    OwnedFd& operator=(const OwnedFd&) = delete;

    bool valid() const noexcept { return fd_ >= 0; }
    int get() const noexcept { return fd_; }

    // Hands the descriptor to the caller, who must close it.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }

    // Closes now. A descriptor that was already closed by somebody else is a broken promise: its number may
    // name another client's socket by then.
    void close() noexcept;

  private:
    int fd_ = -1;
};

}  // namespace sluice
