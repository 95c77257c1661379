#pragma once

#include "sluice/net/owned_fd.hpp"

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <string>
#include <vector>

namespace sluice {

// The bytes of the demo's bulk streams: a stream repeats them from its start to its end. They lie in a file
// in memory, so that sendfile(2) sends them without a copy, and the cost seen is the relay's.
class DemoPayload {
  public:
    static constexpr std::size_t size = std::size_t{4} << 20;

    static std::expected<DemoPayload, std::string> make();

    // Sends what comes at `position` of a stream, as much as the socket takes; waits if it takes nothing.
    // The bytes sent, or -1 with errno.
    ssize_t send(int socket, std::uint64_t position) const noexcept;

    const std::vector<std::uint8_t>& bytes() const noexcept { return bytes_; }

  private:
    OwnedFd file_;
    std::vector<std::uint8_t> bytes_;  // the same, to compare with
};

// The receiving end of one stream. Most bytes are counted and dropped in the kernel (MSG_TRUNC, tcp(7)); the
// first MiB, and then 64 KiB of every 16 MiB, are read and compared with what was sent.
class DemoReader {
  public:
    explicit DemoReader(const DemoPayload& payload) : payload_(&payload), buffer_(compared_bytes) {}

    // As recv(2).
    ssize_t receive(int socket) noexcept;

    std::uint64_t position() const noexcept { return position_; }
    bool intact() const noexcept { return intact_; }

  private:
    static constexpr std::size_t compared_bytes = 64 * 1024;
    static constexpr std::uint64_t compared_every = std::uint64_t{16} << 20;
    static constexpr std::uint64_t compared_at_first = std::uint64_t{1} << 20;

    const DemoPayload* payload_;
    std::vector<std::uint8_t> buffer_;
    std::uint64_t position_ = 0;
    bool intact_ = true;
};

}  // namespace sluice
