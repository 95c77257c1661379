#pragma once

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

// Which of our addresses a datagram was sent to, as far as it was told (PKTINFO): replies leave from there.
struct ReachedAddress {
    in6_addr host{};              // IPv4 as a mapped address; all zero: not told
    std::uint32_t interface = 0;  // of a link-local address: it means nothing without

    bool told() const noexcept { return !IN6_IS_ADDR_UNSPECIFIED(&host); }
    bool is_v4() const noexcept { return IN6_IS_ADDR_V4MAPPED(&host); }
    bool operator==(const ReachedAddress& other) const noexcept {
        return IN6_ARE_ADDR_EQUAL(&host, &other.host) && interface == other.interface;
    }
};

// One received message: a datagram, or (UDP_GRO) several of one size behind each other, of which the last may
// be shorter. Lies in the batch until the next receive().
struct DatagramMessage {
    std::span<const std::byte> bytes;
    std::uint32_t segment = 0;          // the size of each datagram but the last; 0: one that is empty
    bool truncated = false;             // it was longer than its memory
    std::span<const std::byte> sender;  // its sockaddr; empty: nameless
    ReachedAddress reached;

    std::uint32_t datagrams() const noexcept {
        return segment == 0 ? 1 : static_cast<std::uint32_t>((bytes.size() + segment - 1) / segment);
    }
};

// The place where one worker receives: memory for many datagrams, filled by one system call. Nothing in it
// outlives the next receive().
class DatagramBatch {
  public:
    static constexpr std::size_t messages_max = 64;
    // No UDP datagram is longer, and neither is what UDP_GRO puts together.
    static constexpr std::size_t udp_bytes_max = 65536;

    // Reserves the memory; pages that no datagram ever reached cost nothing. Throws std::bad_alloc.
    explicit DatagramBatch(std::size_t message_bytes_max);
    ~DatagramBatch();
    // The headers point at their neighbours.
    DatagramBatch(const DatagramBatch&) = delete;
    DatagramBatch& operator=(const DatagramBatch&) = delete;

    enum class Room : std::uint8_t {
        many,  // up to messages_max messages of udp_bytes_max
        one,   // one message of message_bytes_max
    };
    struct Received {
        std::span<const DatagramMessage> messages;
        // Nothing is left: what comes later brings an event of its own. Not when a call stopped for an error,
        // which is then told, or when there was no room for more.
        bool drained = false;
        int error = 0;  // errno, and then no message
    };
    // What waits in the socket, without waiting for it. `named`: with senders and reached addresses.
    Received receive(int fd, Room room, bool named) noexcept;

  private:
    // Room for what a listener asked for: PKTINFO (of both families) and the size of GRO's segments.
    static constexpr std::size_t control_bytes =
        CMSG_SPACE(sizeof(in_pktinfo)) + CMSG_SPACE(sizeof(in6_pktinfo)) + CMSG_SPACE(sizeof(int));
    struct Place {
        sockaddr_un sender;  // the largest kind
        alignas(cmsghdr) std::byte control[control_bytes];
    };

    // Not 64 KiB: the beginnings of all messages would share a few cache lines (sets).
    static constexpr std::size_t stride = udp_bytes_max + 1344;

    void describe(std::size_t index, const mmsghdr& header, bool named) noexcept;

    std::byte* memory_;
    std::size_t bytes_;
    std::size_t message_bytes_max_;
    std::array<mmsghdr, messages_max> headers_{};
    std::array<iovec, messages_max> pieces_{};
    std::array<Place, messages_max> places_;
    std::array<DatagramMessage, messages_max> messages_;
};

}  // namespace sluice
