#pragma once

// Readers of log lines as they should not be.

#include "sluice/base/clock.hpp"
#include "sluice/net/owned_fd.hpp"

#include "tests/support/doctest.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

namespace sluice {

// Far more than the second that an output may wait, far less than the rescue below.
inline constexpr std::chrono::seconds output_time_max{5};

// A reader in a thread of its own, that takes up to `bytes` and then rests; after `rescue` it takes all there
// is, so that an output that waits for it without end fails its test instead of hanging it.
class SlowReader {
  public:
    SlowReader(int fd, std::size_t bytes, Milliseconds rest)
        : thread_([this, fd, bytes, rest] { read(fd, bytes, rest); }) {}
    ~SlowReader() {
        stopping_ = true;
        thread_.join();
    }
    SlowReader(const SlowReader&) = delete;
    SlowReader& operator=(const SlowReader&) = delete;

  private:
    static constexpr std::chrono::seconds rescue{12};

    void read(int fd, std::size_t bytes, Milliseconds rest) {
        std::string buffer(64 * 1024, '\0');
        const Time start = Clock::now();
        while (!stopping_) {
            const bool rescuing = Clock::now() - start > rescue;
            std::this_thread::sleep_for(rescuing ? Milliseconds(1) : rest);
            pollfd question{fd, POLLIN, 0};
            if ((bytes > 0 || rescuing) && ::poll(&question, 1, 0) == 1)
                (void)!::read(fd, buffer.data(), rescuing ? buffer.size() : bytes);
        }
    }
    std::atomic<bool> stopping_{false};
    std::thread thread_;
};

// A named pipe whose reader takes a page, rests, and takes a page.
class SlowPipe {
  public:
    SlowPipe(const std::string& path, Milliseconds rest)
        : path_(path), pipe_(open(path)), reader_(pipe_.get(), 4096, rest) {}
    const std::string& path() const { return path_; }

  private:
    static OwnedFd open(const std::string& path) {
        REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
        return OwnedFd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    }
    std::string path_;
    OwnedFd pipe_;
    SlowReader reader_;
};

}  // namespace sluice
