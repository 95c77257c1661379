#pragma once

#include "sluice/net/datagram_batch.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

// Where messages go: to the peer of a connected socket, or to an address, from an address of ours.
struct DatagramTarget {
    const sockaddr* to = nullptr;  // null: the socket is connected
    socklen_t to_length = 0;
    ReachedAddress from{};  // not told: the kernel's choice
};

// Sends datagrams as they came, many in one system call: runs of equal size as one message that the kernel
// cuts up (UDP_SEGMENT), the rest by sendmmsg. One per worker.
class DatagramSender {
  public:
    struct Outcome {
        std::uint32_t sent = 0;  // datagrams
        std::uint64_t sent_bytes = 0;
        std::uint32_t lost = 0;       // not taken at the second try either
        std::uint32_t oversized = 0;  // of those: longer than the way or the buffer allows
        std::uint32_t refused = 0;    // errors about earlier datagrams (ICMP), consumed here
        int error = 0;                // the last errno
        // What the messages begin with now: fewer than all only when a target that must wait is full.
        std::size_t messages_done = 0;
        std::uint64_t calls = 0;  // system calls made
    };

    enum class WhenFull : std::uint8_t {
        lose,  // UDP promises nothing: what the kernel cannot take is lost
        stop,  // unix: the caller keeps the rest and tries again
    };

    // `segment_max` is what was learned of this target: the largest size for which the kernel cuts up runs.
    // Starts as segment_unlimited.
    static constexpr std::uint16_t segment_unlimited = UINT16_MAX;
    Outcome send(int fd, std::span<const DatagramMessage> messages, const DatagramTarget& target,
                 WhenFull when_full, std::uint16_t& segment_max) noexcept;

  private:
    // UDP_MAX_SEGMENTS was 64 before Linux 6.9.
    static constexpr std::size_t segments_max = 64;
    static constexpr std::size_t run_bytes_max = 65507;  // an IPv4 datagram's
    static constexpr std::size_t entries_max = 64;
    static constexpr std::size_t pieces_max = 128;

    // A place in the messages: the datagram that begins there is the next one to be sent.
    struct Cursor {
        std::size_t message = 0;
        std::size_t offset = 0;
    };
    // One message of sendmmsg.
    struct Entry {
        Cursor begin;
        Cursor end;
        std::uint32_t datagrams = 0;
        std::uint32_t segment = 0;
        std::uint64_t bytes = 0;
    };
    struct Control {
        alignas(cmsghdr)
            std::array<std::byte, CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(std::uint16_t))> bytes;
    };

    int submit(int fd, std::size_t first, std::size_t count) noexcept;
    std::size_t prepare(std::span<const DatagramMessage> messages, Cursor begin, const DatagramTarget& target,
                        std::uint16_t segment_max) noexcept;
    Entry take_one(std::span<const DatagramMessage> messages, Cursor begin) noexcept;
    Entry take_run(std::span<const DatagramMessage> messages, Cursor begin) noexcept;
    void add_piece(const DatagramMessage& message, std::size_t offset, std::size_t bytes) noexcept;
    void address(std::size_t entry, const DatagramTarget& target) noexcept;

    std::array<Entry, entries_max> entries_;
    std::array<mmsghdr, entries_max> headers_{};
    std::array<iovec, pieces_max> pieces_{};
    std::array<Control, entries_max> controls_{};
    std::size_t pieces_used_ = 0;
};

}  // namespace sluice
